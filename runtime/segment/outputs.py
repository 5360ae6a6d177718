"""The outputs of a run: which sinks they go to, whether they can be written, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..atomic import refuse_existing
from ..bundle.manifest import Manifest
from ..engines.base import Engine
from ..errors import InputError, OutputError
from ..raster.places import Place, check_place, file_of
from ..tiling.turns import Turn
from .results import Paths
from .sinks import SINKS, Sink


def sinks_of(paths: Paths) -> list[tuple[Sink, Path]]:
    """The sinks of the outputs that are wanted, in the order in which they are opened.

    Raises:
        InputError: No sink has the name of an output.
    """
    wanted = paths.by_sink()
    if unknown := wanted.keys() - SINKS.keys():
        raise InputError(subject="outputs", expected=" or ".join(SINKS), found=", ".join(sorted(unknown)))
    return [(sink, wanted[name]) for name, sink in SINKS.items() if name in wanted]


def check_outputs(image: Place, paths: Paths, overwrite: bool) -> None:
    """Refuse outputs that could not be written, before anything is computed.

    Args:
        image: The image that is to be segmented.
        paths: The files to write.
        overwrite: Whether files that exist are replaced.

    Raises:
        RasterError: The image is missing.
        InputError: An output is the image itself, or the name of another output.
        OutputError: A file exists already, or the name is that of a folder.
    """
    check_place(image)
    places = [path.resolve() for path in paths.wanted()]
    for path, place in zip(paths.wanted(), places, strict=True):
        if place == file_of(image).resolve():
            raise InputError(f"{path} is the image itself", remedy="choose another `out`")
        if places.count(place) > 1:
            raise InputError(f"{path} is the name of two outputs", remedy="give each a name of its own")
        if path.is_dir():
            raise OutputError(subject=path, expected="a file to write", found="a folder", remedy="choose another `out`")
        if not overwrite:
            refuse_existing(path, remedy="use `overwrite` to replace it")


def tags_of(manifest: Manifest, engine: Engine, turns: Sequence[Turn]) -> dict[str, str]:
    """What made an output, and what its numbers mean: GeoTIFF has no other place for class names.

    Args:
        manifest: The bundle's manifest.
        engine: What runs it.
        turns: The ways in which each patch is segmented.

    Returns:
        Text by the name of a tag.
    """
    scenes = {context.name: context.scene for context in manifest.contexts if context.scene}
    tags = {
        "FCTL_BUNDLE": manifest.name,
        "FCTL_CHECKPOINT_SHA256": manifest.provenance.checkpoint_sha256,
        "FCTL_ENGINE": engine.name,
        "FCTL_DEVICE": engine.device,
        "FCTL_PRECISION": engine.precision,
        "FCTL_TURNS": str(len(turns)),
        "FCTL_CLASSES": json.dumps(dict(enumerate(manifest.class_names))),
    }
    return tags | ({"FCTL_SCENE_SIZE": json.dumps(scenes)} if scenes else {})
