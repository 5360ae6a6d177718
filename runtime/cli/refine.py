"""``fctl-run --refine``: the masks of one bundle, refined by another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .reports import name_of
from .tables import progress_bars

if TYPE_CHECKING:
    from ..segment.jobs import FileJob
    from ..segment.results import Report
    from ..segment.segmenter import Segmenter
    from .spread import SpreadOptions

_SUFFIX = ".fctl-coarse.tif"


def coarse_place(mask: Path) -> Path:
    """Where the mask that is refined lies until the refined one is there, beside that."""
    return mask.with_name(mask.stem + _SUFFIX)


def check_alone(spread: SpreadOptions, *, dry_run: bool) -> None:
    """Refuse what two bundles in a row cannot do.

    Raises:
        InputError: Others are to do the work, or to foresee it.
    """
    from ..errors import InputError

    if dry_run or spread.led or spread.part or spread.assemble:
        what = "foresees nothing" if dry_run else "works in one process"
        raise InputError(
            f"`refine` {what}", remedy="make the masks with `bundle` alone first, then refine each with `coarse`"
        )


def refine(segmenter: Segmenter, refiner: Segmenter, job: FileJob) -> Report:
    """Segment an image with one bundle, and refine its mask with another.

    The coarse mask covers all of the image, whatever part of it is wanted. It lies beside the refined one until that is
    there, so that a run that ended early goes on with it.

    Args:
        segmenter: The bundle that makes masks.
        refiner: The bundle that refines them.
        job: What is asked.

    Returns:
        What came of the refined image.

    Raises:
        FctlError: What `Segmenter.segment_file` raises.
    """
    from ..segment.outputs import files_of, is_finished
    from ..segment.results import Paths

    coarse, seconds = Paths(mask=coarse_place(job.paths.mask)), 0.0
    if not (job.resume and is_finished(job.image, coarse, _asked(segmenter, job), remote=job.remote)):
        with progress_bars("patches") as advance:
            seconds = segmenter.segment_file(
                job.image, coarse, bands=job.bands, overwrite=True, resume=job.resume, memory=job.memory,
                on_bad_block=job.on_bad_block, scale_range=job.scale_range, resolution=job.resolution,
                progress=partial(advance, f"{name_of(job.image)}, coarse"),
            ).seconds  # fmt: skip
    with progress_bars("patches") as advance:
        report = refiner.segment_file(
            job.image, job.paths, bands=job.bands, overwrite=job.overwrite, resume=job.resume, memory=job.memory,
            on_bad_block=job.on_bad_block, scale_range=job.scale_range, where=job.where, coarse=coarse.mask,
            progress=partial(advance, f"{name_of(job.image)}, refined"),
        )  # fmt: skip
    for path in files_of(coarse):
        path.unlink(missing_ok=True)
    return replace(report, seconds=seconds + report.seconds)


def _asked(segmenter: Segmenter, job: FileJob) -> dict[str, str]:
    """What the tags of a coarse mask say that was made as is asked now."""
    from ..segment.outputs import asked_tags

    return asked_tags(
        segmenter.manifest, segmenter.engine.precision, len(segmenter.turns), job.bands, job.scale_range,
        resolution=job.resolution, once=segmenter.once,
    )  # fmt: skip
