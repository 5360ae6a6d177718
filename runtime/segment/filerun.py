"""A raster on disk -> its outputs on disk, shard by shard (docs/jobs.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from PIL import Image

from ..progress import TileProgress
from ..raster.cache import decoded_cache
from ..raster.georeference import Georeference
from ..raster.source import RasterSource, open_raster
from ..raster.spool import SpooledSource, spooled
from ..tiling.merge import NODATA
from ..tiling.turns import Turn
from ..tiling.windows import Window
from .foresight import foresee
from .frame import Frame, frame_of
from .jobs import FileJob, Worker, request_of
from .memory import Footprint, check_limit
from .network import Network
from .notices import warn_of_blocks, warn_of_scores, warn_of_values
from .outputs import asked_tags, check_outputs, made_tags, scene_tags
from .picture import PictureScale
from .pipeline import Block, Pipeline
from .results import Report
from .shards.folder import RunFolder, run_folder
from .shards.journal import Done
from .shards.mosaic import Mosaic
from .shards.parts import WriterBehind
from .shards.plan import ShardPlan
from .sinks import MaskedRaster, companions_of

log = logging.getLogger(__name__)

FileSource: TypeAlias = RasterSource | SpooledSource
"""A raster on disk, or the copy of one."""


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
    started, manifest, skipped, left = time.monotonic(), worker.bundle.manifest, list[int](), 0
    job.paths.options.classes(manifest.classes)  # raises where a colour is for no class
    check_outputs(job.image, job.paths, overwrite=job.overwrite, resume=job.resume, remote=job.remote)
    with ExitStack() as stack:
        reading = stack.enter_context(ExitStack())
        raster = reading.enter_context(open_raster(
            job.image, manifest.input, job.bands, access=job.access, cache=0, on_bad_block=job.on_bad_block,
            scale_range=job.scale_range, stopwatch=job.stopwatch,
        ))  # fmt: skip
        frame = frame_of(job, manifest, raster)
        foreseen, box = foresee(worker, job, raster, frame), frame.area.box
        request, numbers = request_of(worker, job), foreseen.plan.numbers() | {"batch": worker.batch}
        folder = stack.enter_context(run_folder(job.paths.mask, request, numbers, resume=job.resume))
        worker.resume_batch(folder.journal.plan.get("batch", worker.batch))
        plan = foreseen.plan.as_in(folder.journal.plan)
        if plan != foreseen.plan:  # of the run to resume, which may have had another limit
            foreseen = foresee(worker, job, raster, frame, plan)
        source: FileSource = raster
        if len(folder.done) < len(plan.shards):
            if foreseen.spool:
                log.info("%s: copied into small blocks first, for its own are awkward to read", job.image)
                with job.stopwatch.stage("read"):
                    source = reading.enter_context(spooled(raster, folder.temporary, part=foreseen.part))
            reading.enter_context(decoded_cache(foreseen.cache))
            left = plan.left(folder.done)
            worker.retried(
                lambda network: skipped.append(
                    _segment_shards(network, source, worker.turns, folder, job, frame, foreseen)
                )
            )
        georeference = raster.georeference.moved(box.y, box.x)
        bounds = {"FCTL_SCALE_BOUNDS": str(raster.scaling)} if raster.scaling else {}
        copied = source.implausible if source is not raster else 0  # told when it was copied, not shard by shard
        reading.close()  # what GDAL holds of the image makes room for the outputs
        with folder.writing(), job.stopwatch.stage("write"):
            _write_outputs(worker, georeference, frame, job, folder, plan, bounds)
        done = folder.journal.done.values()
    report = replace(
        _report(job, manifest.class_names, frame, plan, done, copied),
        seconds=time.monotonic() - started,
        skipped=sum(skipped),
        computed=left - sum(skipped),
    )
    warn_of_values(str(job.image), report.implausible)
    warn_of_scores(str(job.image), report.not_finite)
    warn_of_blocks(str(job.image), report.bad_blocks)
    return report


def _segment_shards(
    network: Network,
    source: FileSource,
    turns: tuple[Turn, ...],
    folder: RunFolder,
    job: FileJob,
    frame: Frame,
    foreseen: Footprint,
) -> int:
    """Segment the shards that are not done yet, one after the other; returns how many tiles had no data."""
    scale = PictureScale.of(frame.area.box) if job.picture else None
    pipeline = Pipeline(
        network, frame.source(source, foreseen.working), probabilities=job.probabilities, turns=turns,
        votes=job.keep.votes, picture=scale, stopwatch=job.stopwatch,
    )  # fmt: skip
    plan = foreseen.plan
    shards, runs = plan.shards, list(plan.runs(folder.done))
    left = plan.left(folder.done)
    total = max(len(plan.grid), left)
    before = total - left
    for run in runs:
        region = plan.region(run)
        with closing(pipeline.blocks(region, _shifted(job.progress, before, total))) as blocks:
            bottoms = {index: frame.rescale.row_at(shards[index].finished.bottom) for index in run}
            _keep_shards(blocks, source, folder, bottoms, job)
        before += len(region)
    return pipeline.skipped


def _keep_shards(
    blocks: Iterator[Block], source: FileSource, folder: RunFolder, bottoms: Mapping[int, int], job: FileJob
) -> None:
    """Write blocks that come top to bottom into the files of their shards."""
    with ThreadPoolExecutor(1, "fctl-write") as thread:
        following = next(blocks, None)
        for shard, bottom in bottoms.items():
            with folder.writing():
                writer = WriterBehind(folder.writer(shard, job.keep, job.stopwatch), thread)
            pixels, not_finite, implausible = np.zeros(NODATA + 1, np.int64), 0, 0
            try:
                while following and following.y < bottom:
                    with folder.writing():
                        writer.add(following)
                    pixels += Image.fromarray(following.ids).histogram()  # NumPy would make int64 of all ids
                    not_finite += following.not_finite
                    implausible += following.implausible
                    following = next(blocks, None)
                source.check_unchanged()
                with folder.writing():
                    size = writer.finish()
            except BaseException:
                writer.abandon()
                raise
            done = Done(
                shard=shard, size=size, not_finite=not_finite, implausible=implausible,
                pixels={index: int(count) for index, count in enumerate(pixels[:NODATA].tolist()) if count},
                bad_blocks=tuple((w.y, w.x, w.height, w.width) for w in source.bad_blocks),
            )  # fmt: skip
            with folder.writing():
                folder.add(done)
            check_limit(job.memory)


def _write_outputs(
    worker: Worker,
    georeference: Georeference,
    frame: Frame,
    job: FileJob,
    folder: RunFolder,
    plan: ShardPlan,
    bounds: dict[str, str],
) -> None:
    """Make all outputs of the finished shards, and move them to their places together."""
    manifest, box = worker.bundle.manifest, frame.area.box
    finished = [frame.rescale.raster_window(shard.finished) for shard in plan.shards]
    mosaic = Mosaic(box, [folder.part(n, window) for n, window in enumerate(finished) if window])
    scale = PictureScale.of(box)
    raster = MaskedRaster(
        height=box.height, width=box.width, georeference=georeference, area=frame.area,
        classes=job.paths.options.classes(manifest.classes), options=job.paths.options,
        tags=asked_tags(
            manifest, worker.engine.precision, len(worker.turns), job.bands, job.scale_range, where=job.where,
            resolution=job.resolution, once=worker.once,
        )
        | made_tags(manifest, worker.engine)
        | bounds
        | scene_tags(job.image)
        | job.paths.options.tags(),
        picture=lambda: scale.picture(mosaic.picture(), manifest.input.dtype),
    )  # fmt: skip
    with ExitStack() as stack:
        places = [(sink, folder.place(sink.name, path)) for sink, path in job.sinks]
        writers = [stack.enter_context(sink.open(place, raster)) for sink, place in places]
        for block in mosaic.blocks(probabilities=job.keep.probabilities is not None, confidence=job.keep.confidence):
            for write in writers:
                write(block)
    beside = {sink.name: companions_of(sink, path) for sink, path in job.sinks}
    folder.commit({sink.name: path for sink, path in job.sinks}, beside)


def _report(
    job: FileJob, names: Sequence[str], frame: Frame, plan: ShardPlan, done: Collection[Done], implausible: int
) -> Report:
    """What came of all shards, those of earlier runs included."""
    bad = {window for shard in done for window in shard.bad_blocks}
    return Report(
        image=job.image, paths=job.paths, height=frame.area.box.height, width=frame.area.box.width,
        tiles=len(plan.grid), seconds=0, area=frame.part,
        pixels={name: sum(shard.pixels.get(index, 0) for shard in done) for index, name in enumerate(names)},
        not_finite=sum(shard.not_finite for shard in done),
        implausible=implausible + sum(shard.implausible for shard in done),
        bad_blocks=tuple(Window(*window) for window in sorted(bad)),
    )  # fmt: skip


def _shifted(progress: TileProgress | None, before: int, total: int) -> TileProgress | None:
    """What takes the progress on one region and passes on the progress on all of them."""
    return (lambda done, _: progress(before + done, total)) if progress else None
