"""Coarse masks in runs of a refiner: whether there is one where there must be, and the image with its bands."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..bundle.manifest import Manifest
from ..errors import InputError
from ..raster.access import Access
from ..raster.coarse import CoarseFile, open_coarse
from ..raster.files import open_any
from ..raster.fingerprint import fingerprint
from ..raster.resolution import Resolution
from ..raster.source import RasterSource
from .jobs import FileJob
from .outputs import ASKED, COARSE, PRECISION


def check_refiner(manifest: Manifest, coarse: object) -> None:
    """See that a bundle that refines masks has one, and that no other bundle has.

    Args:
        manifest: The bundle's manifest.
        coarse: The mask, or None.

    Raises:
        InputError: It has none, or cannot use it.
    """
    if manifest.refines and coarse is None:
        raise InputError(
            f"bundle {manifest.name} refines the mask that another bundle made of an image",
            remedy="give that mask with `coarse`, or name this bundle with `refine` beside the other one",
        )
    if coarse is not None and not manifest.refines:
        raise InputError(
            f"bundle {manifest.name} makes masks itself, and refines none", subject="`coarse`", remedy="leave it out"
        )


def check_pair(coarse: Manifest, refiner: Manifest) -> None:
    """See that one bundle can refine the masks of another.

    Args:
        coarse: The manifest of the bundle that makes masks.
        refiner: That of the one that refines them.

    Raises:
        InputError: The second one refines none, the first one makes none, or their classes are others.
    """
    if not refiner.refines:
        raise InputError(f"bundle {refiner.name} makes masks itself, and refines none", subject="`refine`")
    if coarse.refines:
        raise InputError(
            f"bundle {coarse.name} refines masks, and makes none", subject="`bundle`",
            remedy="name the bundle that makes them",
        )  # fmt: skip
    if coarse.class_names != refiner.class_names:
        raise InputError(
            subject=f"`refine`: bundle {refiner.name}",
            expected=f"the classes of bundle {coarse.name}: {', '.join(coarse.class_names)}",
            found=", ".join(refiner.class_names),
        )  # fmt: skip


def check_refining(manifest: Manifest, job: FileJob) -> None:
    """See that a job asks of a bundle what it can do with a coarse mask, or without one.

    Args:
        manifest: The bundle's manifest.
        job: What is asked.

    Raises:
        InputError: It cannot.
    """
    check_refiner(manifest, job.coarse)
    if job.coarse is None:
        return
    if Resolution.parsed(job.resolution).kind == "metres":
        raise InputError(
            f"bundle {manifest.name} refines a mask pixel by pixel, at the image's own resolution",
            subject="`resolution`", remedy="leave it out",
        )  # fmt: skip
    if job.keep.votes:
        raise InputError(
            f"bundle {manifest.name} passes over tiles without borders, which have no votes",
            subject="`confidence_type`", remedy="choose probability",
        )  # fmt: skip


@contextlib.contextmanager
def coarse_of(job: FileJob, manifest: Manifest, raster: RasterSource) -> Iterator[CoarseFile | None]:
    """Open the coarse mask of a job.

    Args:
        job: What is asked.
        manifest: The bundle's manifest.
        raster: The open image.

    Yields:
        The open mask; None where the bundle takes none.

    Raises:
        InputError: There is none where there must be one, or the other way round.
        RasterError: The mask does not fit the image or the bundle.
    """
    check_refining(manifest, job)
    if job.coarse is None:
        yield None
        return
    size = raster.height, raster.width
    with open_coarse(str(job.coarse), size, raster.georeference, manifest.class_names, job.access) as coarse:
        yield coarse


def coarse_tags(coarse: Path | None, access: Access) -> dict[str, str]:
    """What a refined mask says of the coarse one.

    Args:
        coarse: The coarse mask; None where none was refined.
        access: Which files may be opened.

    Returns:
        Text by the name of a tag; nothing where no mask was refined.

    Raises:
        RasterError: The coarse mask is gone.
    """
    if coarse is None:
        return {}
    with open_any(str(coarse), access) as mask:
        found = mask.tags()
    made = {name: found[name] for name in ASKED if name in found}
    return told_of(made) if made else {COARSE: fingerprint(coarse).sha256}


def told_of(tags: Mapping[str, str]) -> dict[str, str]:
    """What a refined mask says of a coarse one that fctl made, from the tags of that.

    In what precision it was made is not part of it: "auto" may be another one each time.
    """
    return {COARSE: json.dumps({name: text for name, text in sorted(tags.items()) if name != PRECISION})}
