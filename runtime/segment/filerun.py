"""A raster on disk -> its outputs on disk, shard by shard (docs/jobs.md)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace

from ..raster.source import open_raster
from ..storage.places import storage_of
from .assemble import Subject, report_of, warn_of, write_outputs
from .foresight import foresee
from .frame import frame_of
from .jobs import FileJob, Worker, maker_of, request_of
from .outputs import check_outputs
from .parts import folder_of_part, kept_in, parts_folder_of
from .refining import check_refining, coarse_of
from .results import Report
from .shards.folder import run_folder
from .shards.plan import ShardPlan
from .shardwork import FileSource, segment_shards, source_of


def run_file(worker: Worker, job: FileJob) -> Report:
    """Segment one raster into files, or some of its shards.

    What an earlier job made of the same part of the shards is kept.

    Args:
        worker: Whoever owns the network.
        job: What is asked.

    Returns:
        What came of it.

    Raises:
        FctlError: What `Segmenter.segment_file` raises.
    """
    if job.share:
        where = job.parts or parts_folder_of(job.paths.mask)
        return replace(_run(worker, replace(job, resume=True)), part=f"{job.share} of {job.image} in {where}")
    return _run(worker, job)


def _run(worker: Worker, job: FileJob) -> Report:
    """Segment all shards and make the outputs of them, or segment some and leave them."""
    started, manifest = time.monotonic(), worker.bundle.manifest
    skipped, left, share = list[int](), 0, job.share
    job.paths.options.classes(manifest.classes)  # raises where a colour is for no class
    check_refining(manifest, job)
    check_outputs(job.image, job.paths, overwrite=job.overwrite, resume=job.resume, remote=job.remote)
    with ExitStack() as stack:
        reading = stack.enter_context(ExitStack())
        raster = reading.enter_context(open_raster(
            job.image, manifest.image, job.bands, access=job.access, cache=0, on_bad_block=job.on_bad_block,
            scale_range=job.scale_range, stopwatch=job.stopwatch,
        ))  # fmt: skip
        frame = frame_of(job, manifest, raster, reading.enter_context(coarse_of(job, manifest, raster)))
        wanted = ShardPlan.spread(frame.grid, share.count) if share else None
        foreseen, subject = foresee(worker, job, raster, frame, wanted), Subject.of(raster, frame)
        maker = maker_of(worker)
        request = request_of(maker, manifest, job)
        numbers = foreseen.plan.numbers() | {"batch": worker.batch}
        place = folder_of_part(job.paths.mask, share) if share else None
        shards = kept_in(storage_of(job.parts), share, place) if share and place and job.parts else None
        folder = stack.enter_context(
            run_folder(job.paths.mask, request, numbers, resume=job.resume, path=place, shards=shards)
        )
        worker.resume_batch(folder.journal.plan.get("batch", worker.batch))
        plan = foreseen.plan.as_in(folder.journal.plan)
        if plan != foreseen.plan:  # of the run to resume, which may have had another limit
            foreseen = foresee(worker, job, raster, frame, plan)
        source: FileSource = raster
        mine = share.of(len(plan.shards)) if share else range(len(plan.shards))
        if not folder.done.issuperset(mine):
            source = source_of(raster, foreseen, folder.temporary, job, reading)
            left = plan.left(folder.done, mine)
            worker.retried(
                lambda network: skipped.append(segment_shards(
                    network, source, worker.turns, folder, job, frame, foreseen, wanted=mine if share else None
                ))
            )  # fmt: skip
        copied = source.implausible if source is not raster else 0  # told when it was copied, not shard by shard
        reading.close()  # what GDAL holds of the image makes room for the outputs
        if not share:
            with folder.writing(), job.stopwatch.stage("write"):
                write_outputs(manifest, maker, job, subject, folder.parts(subject.windows(plan)), folder)
        done = folder.journal.done.values()
    report = replace(
        report_of(job, manifest.class_names, frame, done, copied),
        seconds=time.monotonic() - started,
        skipped=sum(skipped),
        computed=left - sum(skipped),
    )
    warn_of(report)
    return report
