"""A raster on disk -> its outputs on disk, shard by shard (docs/jobs.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ..raster.cache import decoded_cache
from ..raster.source import open_raster
from ..raster.spool import spooled
from .assemble import Subject, report_of, warn_of, write_outputs
from .foresight import foresee
from .frame import frame_of
from .jobs import FileJob, Worker, maker_of, request_of
from .outputs import check_outputs
from .parts import folder_of_part
from .results import Report
from .shards.folder import RunFolder, run_folder
from .shards.plan import ShardPlan
from .shards.share import Share
from .shardwork import FileSource, segment_shards

log = logging.getLogger(__name__)


def run_file(worker: Worker, job: FileJob) -> Report:
    """Segment one raster into files.

    Args:
        worker: Whoever owns the network.
        job: What is asked.

    Returns:
        What came of it.

    Raises:
        FctlError: What `Segmenter.segment_file` raises.
    """
    manifest, maker = worker.bundle.manifest, maker_of(worker)

    def assemble(made: _Made) -> None:
        with made.folder.writing(), job.stopwatch.stage("write"):
            parts = made.folder.parts(made.subject.windows(made.plan))
            write_outputs(manifest, maker, job, made.subject, parts, made.folder)

    return _run(worker, job, None, assemble)


def run_part(worker: Worker, job: FileJob, share: Share) -> Report:
    """Segment some shards of one raster, and leave them beside the mask for `assemble_parts`.

    What an earlier job made of the same part is kept.

    Args:
        worker: Whoever owns the network.
        job: What is asked of all parts together.
        share: Which part it is.

    Returns:
        What came of this part; its pixels are those of the part alone.

    Raises:
        FctlError: What `Segmenter.segment_file` raises.
    """
    return _run(worker, replace(job, resume=True), share, lambda made: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """Shards that are done.

    Attributes:
        folder: Where they lie.
        plan: How the raster is cut into them.
        subject: The raster.
    """

    folder: RunFolder
    plan: ShardPlan
    subject: Subject


def _run(worker: Worker, job: FileJob, share: Share | None, then: Callable[[_Made], None]) -> Report:
    """Segment all shards or some, and do with them what is to be done."""
    started, manifest = time.monotonic(), worker.bundle.manifest
    skipped, left = list[int](), 0
    job.paths.options.classes(manifest.classes)  # raises where a colour is for no class
    check_outputs(job.image, job.paths, overwrite=job.overwrite, resume=job.resume, remote=job.remote)
    with ExitStack() as stack:
        reading = stack.enter_context(ExitStack())
        raster = reading.enter_context(open_raster(
            job.image, manifest.input, job.bands, access=job.access, cache=0, on_bad_block=job.on_bad_block,
            scale_range=job.scale_range, stopwatch=job.stopwatch,
        ))  # fmt: skip
        frame = frame_of(job, manifest, raster)
        wanted = ShardPlan.spread(frame.grid, share.count) if share else None
        foreseen, subject = foresee(worker, job, raster, frame, wanted), Subject.of(raster, frame)
        request, numbers = (
            request_of(maker_of(worker), manifest, job),
            foreseen.plan.numbers() | {"batch": worker.batch},
        )
        place = folder_of_part(job.paths.mask, share) if share else None
        folder = stack.enter_context(run_folder(job.paths.mask, request, numbers, resume=job.resume, path=place))
        worker.resume_batch(folder.journal.plan.get("batch", worker.batch))
        plan = foreseen.plan.as_in(folder.journal.plan)
        if plan != foreseen.plan:  # of the run to resume, which may have had another limit
            foreseen = foresee(worker, job, raster, frame, plan)
        source: FileSource = raster
        total = len(plan.shards)
        others = frozenset(range(total)).difference(share.of(total)) if share else frozenset()
        if len(folder.done | others) < total:
            if foreseen.spool:
                log.info("%s: copied into small blocks first, for its own are awkward to read", job.image)
                with job.stopwatch.stage("read"):
                    source = reading.enter_context(spooled(raster, folder.temporary, part=foreseen.part))
            reading.enter_context(decoded_cache(foreseen.cache))
            left = plan.left(folder.done | others)
            worker.retried(
                lambda network: skipped.append(
                    segment_shards(network, source, worker.turns, folder, job, frame, foreseen, others=others)
                )
            )
        copied = source.implausible if source is not raster else 0  # told when it was copied, not shard by shard
        reading.close()  # what GDAL holds of the image makes room for the outputs
        then(_Made(folder=folder, plan=plan, subject=subject))
        done = folder.journal.done.values()
    report = replace(
        report_of(job, manifest.class_names, frame, done, copied),
        seconds=time.monotonic() - started,
        skipped=sum(skipped),
        computed=left - sum(skipped),
    )
    warn_of(report)
    return report
