"""Shards of one raster -> their files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from PIL import Image

from ..progress import TileProgress
from ..raster.cache import decoded_cache
from ..raster.source import RasterSource
from ..raster.spool import SpooledSource, spooled
from ..stopwatch import Stopwatch
from ..tiling.merge import NODATA
from ..tiling.turns import Turn
from .batches import Scenes
from .frame import Frame
from .jobs import FileJob
from .levels import Keep
from .memory import Footprint, check_limit
from .network import Network
from .picture import PictureScale
from .pipeline import Block, Pipeline
from .shards.journal import Done
from .shards.parts import PartWriter, WriterBehind

FileSource: TypeAlias = RasterSource | SpooledSource
"""A raster on disk, or the copy of one."""

_NO_SCENES: Scenes = {}

log = logging.getLogger(__name__)


class ShardTarget(Protocol):
    """Where finished shards go."""

    @property
    def done(self) -> frozenset[int]:
        """Indices of the shards that are done."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into OutputError, where files are written."""
        ...

    def writer(self, shard: int, keep: Keep, stopwatch: Stopwatch) -> PartWriter:
        """Start the file of a shard; raises OSError where that fails."""
        ...

    def add(self, done: Done) -> None:
        """Note that a shard is done, once its file is complete; raises OSError where that fails."""
        ...


def source_of(raster: RasterSource, foreseen: Footprint, scratch: Path, job: FileJob, stack: ExitStack) -> FileSource:
    """Make a raster ready to be read in shards: copied into small blocks where its own are awkward, blocks held.

    Args:
        raster: The open raster.
        foreseen: What is read of it, and what that takes.
        scratch: A folder for the copy.
        job: What is asked.
        stack: What ends it.

    Returns:
        The raster, or the copy.

    Raises:
        RasterError: The raster cannot be read.
        OutputError: There is no room for the copy.
    """
    source: FileSource = raster
    if foreseen.spool:
        log.info("%s: copied into small blocks first, for its own are awkward to read", job.image)
        with job.stopwatch.stage("read"):
            source = stack.enter_context(spooled(raster, scratch, part=foreseen.part))
    stack.enter_context(decoded_cache(foreseen.cache))
    return source


def segment_shards(
    network: Network,
    source: FileSource,
    turns: tuple[Turn, ...],
    target: ShardTarget,
    job: FileJob,
    frame: Frame,
    foreseen: Footprint,
    *,
    wanted: Sequence[int] | None = None,
    scenes: Scenes = _NO_SCENES,
) -> int:
    """Segment the shards of a raster that are not done yet, one after the other.

    Args:
        network: The network.
        source: The raster, or a copy of it.
        turns: The ways in which each patch is segmented.
        target: Where finished shards go.
        job: What is asked.
        frame: How the raster is worked at.
        foreseen: How it is cut, and the memory that this takes.
        wanted: Indices of the shards that are made here, in order; None for all.
        scenes: Windows of contexts that were cut before.

    Returns:
        How many tiles had no data.

    Raises:
        RasterError: The raster cannot be read, or was changed.
        EngineError: The engine failed.
        OutputError: A file cannot be written.
        InputError: The process takes more memory than it may.
    """
    scale = PictureScale.of(frame.area.box) if job.picture else None
    pipeline = Pipeline(
        network, frame.source(source, foreseen.working), probabilities=job.probabilities, turns=turns,
        votes=job.keep.votes, picture=scale, stopwatch=job.stopwatch, scenes=scenes,
    )  # fmt: skip
    plan, done = foreseen.plan, target.done
    shards, runs = plan.shards, list(plan.runs(done, wanted))
    left = plan.left(done, wanted)
    total = max(len(plan.grid), left) if wanted is None else left
    before = total - left
    for run in runs:
        region = plan.region(run)
        with closing(pipeline.blocks(region, _shifted(job.progress, before, total))) as blocks:
            bottoms = {index: frame.rescale.row_at(shards[index].finished.bottom) for index in run}
            _keep_shards(blocks, source, target, bottoms, job)
        before += len(region)
    return pipeline.skipped


def _keep_shards(
    blocks: Iterator[Block], source: FileSource, target: ShardTarget, bottoms: Mapping[int, int], job: FileJob
) -> None:
    """Write blocks that come top to bottom into the files of their shards."""
    with ThreadPoolExecutor(1, "fctl-write") as thread:
        following = next(blocks, None)
        for shard, bottom in bottoms.items():
            with target.writing():
                writer = WriterBehind(target.writer(shard, job.keep, job.stopwatch), thread)
            pixels, not_finite, implausible = np.zeros(NODATA + 1, np.int64), 0, 0
            try:
                while following and following.y < bottom:
                    with target.writing():
                        writer.add(following)
                    pixels += Image.fromarray(following.ids).histogram()  # NumPy would make int64 of all ids
                    not_finite += following.not_finite
                    implausible += following.implausible
                    following = next(blocks, None)
                source.check_unchanged()
                with target.writing():
                    size = writer.finish()
            except BaseException:
                writer.abandon()
                raise
            done = Done(
                shard=shard, size=size, not_finite=not_finite, implausible=implausible,
                pixels={index: int(count) for index, count in enumerate(pixels[:NODATA].tolist()) if count},
                bad_blocks=tuple((w.y, w.x, w.height, w.width) for w in source.bad_blocks),
            )  # fmt: skip
            with target.writing():
                target.add(done)
            check_limit(job.memory)


def _shifted(progress: TileProgress | None, before: int, total: int) -> TileProgress | None:
    """What takes the progress on one region and passes on the progress on all of them."""
    return (lambda done, _: progress(before + done, total)) if progress else None
