"""The outputs of a run: which sinks they go to, whether they can be written, and what they say of themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path

from ..bundle.manifest import Manifest
from ..errors import InputError, OutputError, RasterError
from ..raster.classnames import names_tag
from ..raster.files import open_any
from ..raster.places import Place, Scene, check_place, file_of, members_of, place_of
from ..raster.resolution import Resolution
from ..storage.destination import DISK, Destination
from ..storage.states import state_of
from .maker import Maker
from .options import OPTIONS
from .results import Paths
from .shards.folder import unfinished_commit
from .sinks import SINKS, Sink, check_sink, companions_of
from .where import AREA, EVERYWHERE, Where


def sinks_of(paths: Paths) -> list[tuple[Sink, Path]]:
    """The sinks of the outputs that are wanted, in the order in which they are opened.

    Raises:
        InputError: No sink has the name of an output.
    """
    wanted = paths.by_sink()
    if unknown := wanted.keys() - SINKS.keys():
        raise InputError(subject="outputs", expected=" or ".join(SINKS), found=", ".join(sorted(unknown)))
    return [(sink, wanted[name]) for name, sink in SINKS.items() if name in wanted]


def files_of(paths: Paths) -> list[Path]:
    """All files that a run writes: the outputs, and what its sinks make beside them.

    Raises:
        InputError: No sink has the name of an output, or a sink could not make it.
    """
    beside = list[Path]()
    for sink, path in sinks_of(paths):
        check_sink(sink, path)
        beside += companions_of(sink, path)
    return [*paths.wanted(), *beside]


def deliver(paths: Paths, destination: Destination) -> None:
    """Take the outputs of one image where they go, once all of them are made: the mask last, which completes them.

    Args:
        paths: The outputs, as `Segmenter.segment_file` made them.
        destination: Where they go, as an `Upload`.

    Raises:
        OutputError: One of them cannot be written there. All are kept, to be delivered later.
    """
    destination.take(sorted(files_of(paths), key=lambda path: path == paths.mask))


def check_outputs(
    image: Place,
    paths: Paths,
    *,
    overwrite: bool,
    resume: bool = False,
    remote: bool = False,
    destination: Destination = DISK,
) -> None:
    """Refuse outputs that could not be written, before anything is computed.

    Args:
        image: The image that is to be segmented.
        paths: The files to write.
        overwrite: Whether files that exist are replaced.
        resume: Whether an earlier run is to go on, which may have been killed while it moved its outputs.
        remote: Whether the image may lie on a server or in an archive.
        destination: Where the outputs go.

    Raises:
        RasterError: The image is missing.
        InputError: An output is the image itself, or the name of another output.
        OutputError: A file exists already, or the name is that of a folder.
    """
    check_place(image, remote=remote)
    overwrite = overwrite or (resume and not destination.staged and unfinished_commit(paths.mask))
    paths.options.check()
    files = files_of(paths)
    places, members = [path.resolve() for path in files], {file_of(member).resolve() for member in members_of(image)}
    for path, place in zip(files, places, strict=True):
        if not _is_unicode(path):
            raise OutputError(f"cannot write {path}: GDAL takes names in Unicode alone", remedy="choose another `out`")
        if place in members:
            what = "one of the images" if isinstance(image, Scene) else "the image itself"
            raise InputError(f"{path} is {what}", remedy="choose another `out`")
        if places.count(place) > 1:
            raise InputError(f"{path} is the name of two outputs", remedy="give each a name of its own")
        if path.is_dir():
            raise OutputError(subject=path, expected="a file to write", found="a folder", remedy="choose another `out`")
        if not overwrite and destination.changed(path) is not None:
            raise OutputError(f"{destination.named(path)} exists already", remedy="use `overwrite` to replace it")


def _is_unicode(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def made_tags(manifest: Manifest, maker: Maker) -> dict[str, str]:
    """What made an output, beside what was asked, and what its numbers mean: GeoTIFF has no other place for names.

    Args:
        manifest: The bundle's manifest.
        maker: What ran it.

    Returns:
        Text by the name of a tag.
    """
    return {
        "FCTL_ENGINE": maker.engine,
        "FCTL_DEVICE": maker.device,
        **names_tag(manifest.class_names),
    }


def asked_tags(
    manifest: Manifest,
    precision: str,
    turns: int,
    bands: Sequence[int] | None,
    scale_range: str | None = None,
    *,
    where: Where = EVERYWHERE,
    resolution: str = "auto",
    once: bool = False,
) -> dict[str, str]:
    """What was asked, whichever engine did it.

    Args:
        manifest: The bundle's manifest.
        precision: In what precision it runs; for `is_finished`, "auto" for any that the bundle was validated for.
        turns: In how many ways each patch is segmented.
        bands: Numbers of the bands that were named, or None.
        scale_range: Which values became the lowest and the highest of the network's, or None.
        where: Which part of the image was wanted.
        resolution: At which distance from pixel to pixel the network was to work.
        once: Whether contexts were encoded once a raster.

    Returns:
        Text by the name of a tag.
    """
    scenes = {context.name: context.scene for context in manifest.contexts if context.scene}
    tags = {
        "FCTL_BUNDLE": manifest.name,
        "FCTL_CHECKPOINT_SHA256": manifest.provenance.checkpoint_sha256,
        PRECISION: precision,
        "FCTL_TURNS": str(turns),
    }
    tags |= {"FCTL_SCENE_SIZE": json.dumps(scenes)} if scenes else {}
    tags |= {"FCTL_CONTEXTS": "shared"} if once else {}
    tags |= {"FCTL_SCALE_RANGE": scale_range} if scale_range else {}
    tags |= {"FCTL_TEMPERATURE": f"{manifest.temperature:.9g}"} if manifest.temperature else {}
    told = Resolution.parsed(resolution).told(manifest.input.ground_sample_distance)
    tags |= {"FCTL_RESOLUTION": told} if told else {}
    tags |= where.tags()
    return tags | ({"FCTL_BANDS": ",".join(map(str, bands))} if bands else {})


_SCENE = "FCTL_MOSAIC"
COARSE = "FCTL_COARSE"
"""The tag in which a refined mask says what made the coarse one."""

PRECISION = "FCTL_PRECISION"
"""The tag in which a mask says in what precision its bundle ran."""

ASKED = (
    "FCTL_BUNDLE", "FCTL_CHECKPOINT_SHA256", PRECISION, "FCTL_TURNS", "FCTL_SCENE_SIZE", "FCTL_BANDS",
    "FCTL_SCALE_RANGE", "FCTL_RESOLUTION", "FCTL_TEMPERATURE", "FCTL_CONTEXTS", AREA,
)  # fmt: skip
"""The tags in which a mask says what was asked of its bundle."""


def scene_tags(image: Place) -> dict[str, str]:
    """What outputs say of the images that were segmented as one: how many, and a digest of their names."""
    if not isinstance(image, Scene):
        return {}
    names = "\n".join(str(file_of(member).absolute()) for member in image.members)
    digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
    return {_SCENE: f"{len(image.members)} images, {digest}"}


def is_finished(
    image: Place,
    paths: Paths,
    asked: Mapping[str, str],
    *,
    remote: bool = False,
    destination: Destination = DISK,
    coarse: Path | None = None,
) -> bool:
    """Whether all outputs of an image are there, newer than the image, and made as is asked now.

    Args:
        image: The image.
        paths: The outputs that are wanted.
        asked: What `asked_tags` gives.
        remote: Whether a server may be asked when it got the image.
        destination: Where the outputs go.
        coarse: The mask that is refined, where one is given.

    Returns:
        Whether there is nothing to do. Where a server does not say when it got the image, there is.

    Raises:
        OutputError: A destination that is no folder cannot be read.
    """
    read = [*members_of(image), *([coarse] if coarse else [])]
    changed = max(_changed(member, remote) for member in read)
    try:
        if any((destination.changed(path) or -inf) < changed for path in files_of(paths)):
            return False
        with destination.fetched(paths.mask) as copy, open_any(copy) as mask:
            found = mask.tags()
    except OutputError:
        raise
    except (OSError, RasterError):
        return False
    wanted = {**asked, **paths.options.tags(), **scene_tags(image)}
    names = {*ASKED, COARSE, OPTIONS, _SCENE} - ({PRECISION} if asked.get(PRECISION) == "auto" else set())
    return all(found.get(name) == wanted.get(name) for name in names)


def _changed(member: str | Path, remote: bool) -> float:
    """When an image was last changed, in seconds since 1970; infinite where nobody says."""
    try:
        return file_of(member).stat().st_mtime
    except (OSError, ValueError):
        state = state_of(str(place_of(member))) if remote else None
        return inf if state is None or state.changed is None else state.changed
