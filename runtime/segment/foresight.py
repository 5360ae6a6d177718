"""What a run over a file will take: its memory, its disk space and its time."""

from __future__ import annotations

from dataclasses import replace

from ..bundle.manifest import Manifest
from ..raster.source import RasterSource, open_raster
from ..tiling.sources import Source
from ..tiling.windows import Window
from .frame import Frame, frame_of
from .jobs import FileJob, Worker
from .memory import Footprint, Load, fitting, footprint
from .network import Network
from .outputs import check_outputs
from .refining import check_refining, coarse_of
from .results import Estimate
from .shards.plan import ShardPlan
from .sinks import memory_of
from .trial import Trial, scenes_of, tried_on, try_part, warm_up, windows_of

_TRIED = 3  # batches
_TRIED_BYTES = 64 << 20  # of working pixels that a trial holds


def estimate_file(worker: Worker, job: FileJob, *, trial: bool) -> Estimate:
    """What `run_file` would take.

    Args:
        worker: Whoever owns the network.
        job: What would be asked.
        trial: Whether some batches are segmented to tell.

    Returns:
        The estimate.

    Raises:
        FctlError: What `Segmenter.estimate` raises.
    """
    manifest = worker.bundle.manifest
    check_outputs(job.image, job.paths, overwrite=job.overwrite, resume=job.resume, remote=job.remote)
    tried, windows = list[Trial](), list[int]()
    check_refining(manifest, job)
    with (
        open_raster(job.image, manifest.image, job.bands, access=job.access, scale_range=job.scale_range) as raster,
        coarse_of(job, manifest, raster) as coarse,
    ):
        frame = frame_of(job, manifest, raster, coarse)
        height, width, grid = frame.area.box.height, frame.area.box.width, frame.grid
        foreseen = foresee(worker, job, raster, frame)
        if trial:
            source = _tried(raster, frame, manifest, spool=foreseen.spool)

            def try_it(network: Network) -> None:
                extent, regions = Window(0, 0, frame.rescale.rows, frame.rescale.columns), foreseen.plan.whole
                scenes = scenes_of(network.manifest, extent, regions, worker.turns)
                windows.append(windows_of(network.lattices, extent, regions, worker.turns) + scenes)
                tried.append(try_part(network, source, worker.turns, job, grid, _TRIED))

            worker.retried(try_it)
    tiles = frame.tiles + sum(len(shard) for shard in foreseen.plan.whole) - len(grid)
    return Estimate(
        image=job.image, paths=job.paths, height=height, width=width, tiles=frame.tiles, memory=foreseen.most,
        area=frame.part,
        disk=sum(sink.disk(height, width, len(manifest.classes)) for sink, _ in job.sinks),
        process=tried[-1].memory + foreseen.most if trial else None,
        seconds=_seconds(tried[-1], tiles, windows[-1], height * width) if trial else None,
    )  # fmt: skip


def _tried(raster: RasterSource, frame: Frame, manifest: Manifest, *, spool: bool) -> Source:
    """What a trial reads, in the size in which the network sees it."""
    source = tried_on(raster, manifest.tile, spool=spool, bands=manifest.input.bands)
    return replace(frame, everything=True).source(raster, _TRIED_BYTES) if source is raster else source


def _seconds(trial: Trial, tiles: int, windows: int, pixels: int) -> float:
    """How long so many tiles, windows of contexts and pixels of outputs will take."""
    return trial.tile * tiles + trial.window * windows + trial.pixel * pixels


def foresee(
    worker: Worker, job: FileJob, raster: RasterSource, frame: Frame, plan: ShardPlan | None = None
) -> Footprint:
    """The memory that a run takes beside its engine, in panels that keep to its limit.

    Args:
        worker: Whoever owns the network.
        job: What is asked.
        raster: The open raster.
        frame: How it is worked at.
        plan: The shards of a run that is resumed, which stay as they are; None to choose them.

    Returns:
        What it takes.

    Raises:
        InputError: It cannot keep to the limit.
    """
    found, grid, share = list[Footprint](), frame.grid, job.share
    mine = share.of(len(plan.shards)) if share and plan else None

    def fit(network: Network) -> None:
        load = Load(
            manifest=network.manifest, batch=network.batch, probabilities=job.probabilities, picture=job.picture,
            votes=job.keep.votes, lattices=network.lattices, turns=len(worker.turns), area=frame.area,
            grid=plan.tiles(mine) if plan and mine else None,
            rescale=frame.rescale, outputs=sum(memory_of(sink, frame.area.box.width) for sink, _ in job.sinks),
        )  # fmt: skip
        left = None
        if job.memory is not None:
            spool = footprint(load, raster, ShardPlan.over(grid)).spool
            source = _tried(raster, frame, network.manifest, spool=spool)
            left = job.memory - warm_up(network, source, worker.turns, grid)
        found.append(fitting(load, raster, grid, left, plan))

    worker.retried(fit)
    return found[-1]
