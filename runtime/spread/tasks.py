"""What a worker does. It opens a bundle and a raster once, and keeps them until it is asked for others.

Everything happens in one thread of the worker's process, whoever calls: what GDAL and engines keep belongs to a thread,
and an engine uses all of a worker's cores anyway.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..atomic import as_output_error
from ..engines.processor import limit_cores
from ..errors import EngineError, FctlError, OutputError
from ..raster.source import open_raster
from ..segment.batches import Scenes, cut_scene, on_host
from ..segment.filerun import run_file
from ..segment.foresight import foresee
from ..segment.frame import Frame, frame_of
from ..segment.jobs import FileJob, maker_of, request_of
from ..segment.levels import Keep
from ..segment.maker import Maker
from ..segment.memory import Footprint
from ..segment.refining import coarse_of
from ..segment.results import Report
from ..segment.segmenter import Segmenter
from ..segment.shards.folder import check_same
from ..segment.shards.journal import Done, shard_name
from ..segment.shards.parts import PartWriter
from ..segment.shards.plan import ShardPlan
from ..segment.shardwork import FileSource, segment_shards, source_of
from ..stopwatch import Stopwatch
from ..storage.places import is_remote_place, storage_of
from ..tiling.windows import Window
from ..warned import kept_warnings
from .bundles import bundle_here
from .orders import Computed, Failure, Introduction, Orders, Outcome, Setup

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

SHARED = "name a folder that all machines see under the same path, or a store such as s3://bucket/folder"
"""What to do where a worker does not see what others put."""

_ALIKE = "install the same version of fctl for all workers"
_SAME = "let all workers have the same engine, version and kind of processor, or name those that have"


def guarded(worker: str, cores: int | None, task: Callable[..., _Result], *arguments: object) -> Outcome[_Result]:
    """Do a task in the worker's thread.

    Args:
        worker: What messages call the worker.
        cores: Most cores to use; None for all.
        task: One of the functions below.
        arguments: Its arguments.

    Returns:
        What the task returns, or one line about what went wrong; with what was warned of meanwhile.
    """
    if cores:
        limit_cores(cores)
    with kept_warnings() as warnings:  # the leader tells them
        result = _tried(worker, task, *arguments)
    return Outcome(result, tuple(warnings))


def _tried(worker: str, task: Callable[..., _Result], *arguments: object) -> _Result | Failure:
    try:
        return _THREAD.submit(task, *arguments).result()
    except FctlError as error:
        return Failure(type(error).__name__, str(error), worker)
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        return Failure("", f"{type(error).__name__}: {error}", worker)


def introduce(setup: Setup) -> Introduction:
    """Open a bundle, and tell what it is in which engine."""
    segmenter = _HELD.segmenter(setup)
    return Introduction(maker=maker_of(segmenter), batch=segmenter.batch)


def get_ready(orders: Orders, probe: str) -> str:
    """Open bundle and raster, and see that this worker sees and makes the same as others.

    Args:
        orders: What is to be done.
        probe: The name of a file at the place of the shards.

    Returns:
        The name under which the content of the file was put there once more.
    """
    _HELD.run(orders)
    storage, name = storage_of(orders.place), f"{probe}-{socket.gethostname()}-{os.getpid()}"
    try:
        storage.write(name, storage.read(probe))
    except FileNotFoundError:
        raise OutputError(f"cannot see {orders.place}", remedy=SHARED) from None
    return name


def cut(orders: Orders, context: str, window: Window) -> tuple[str, Window, NDArray[np.generic]]:
    """Cut one window of a context that many shards need.

    Args:
        orders: What is to be done.
        context: The context's name.
        window: The window.

    Returns:
        The context, the window, and its pixels (1, bands, size, size).
    """
    run = _HELD.run(orders)
    chosen = next(c for c in run.segmenter.manifest.contexts if c.name == context)
    source = run.frame.source(run.source, run.foreseen.working)
    return context, window, on_host(cut_scene(source, window, chosen))


def compute(orders: Orders, shard: int) -> Computed:
    """Make one shard, and put it where all shards go."""
    run, target = _HELD.run(orders), _Target(orders, shard)
    skipped = list[int]()
    with target:
        run.segmenter.retried(
            lambda network: skipped.append(
                segment_shards(
                    network, run.source, run.segmenter.turns, target, orders.job, run.frame, run.foreseen,
                    wanted=(shard,), scenes=run.scenes,
                )
            )
        )  # fmt: skip
    assert target.made is not None
    tiles = len(run.plan.shards[shard])
    copied = run.source.implausible if run.copied else 0
    return Computed(done=target.made, skipped=sum(skipped), tiles=tiles, implausible=copied)


def segment_whole(setup: Setup, maker: Maker, number: int, job: FileJob) -> tuple[int, Report | Failure]:
    """Segment a small raster, outputs and all.

    Args:
        setup: How the bundle is opened.
        maker: What others make of it.
        number: What the caller calls the raster.
        job: What is asked.

    Returns:
        The number, and what came of the raster.
    """
    segmenter = _HELD.segmenter(setup)
    check_same(None, maker.request(), maker_of(segmenter).request(), who="the run", remedy=_SAME)
    try:
        return number, run_file(segmenter, job)
    except FctlError as error:
        return number, Failure(type(error).__name__, str(error), "")


def forget_soon() -> None:
    """Release what is held, once what is being done is done."""
    _THREAD.submit(_HELD.close)


@dataclass(slots=True)
class _Run:
    """A raster that is open for a run.

    Attributes:
        stack: What closes it.
        segmenter: What segments it.
        source: The raster, or a copy of it.
        copied: Whether it is a copy.
        frame: How it is worked at.
        foreseen: How it is cut, and the memory that takes.
        plan: Its shards.
        scenes: Windows of contexts that were cut before.
    """

    stack: ExitStack
    segmenter: Segmenter
    source: FileSource
    copied: bool
    frame: Frame
    foreseen: Footprint
    plan: ShardPlan
    scenes: Scenes = field(default_factory=dict)


class _Held:
    """What this process keeps open: one bundle, and one raster."""

    def __init__(self) -> None:
        self._setup: Setup | None = None
        self._segmenter: Segmenter | None = None
        self._token: str | None = None
        self._run: _Run | None = None

    def segmenter(self, setup: Setup) -> Segmenter:
        """The bundle in its engine."""
        if self._segmenter is None or self._setup != setup:
            self.close()
            self._segmenter, self._setup = _opened(setup), setup
        return self._segmenter

    def run(self, orders: Orders) -> _Run:
        """The raster of a run."""
        segmenter = self.segmenter(orders.setup)
        if self._run is None or self._token != orders.token:
            self._close_run()
            self._run, self._token = _begun(segmenter, orders), orders.token
        if orders.scenes and not self._run.scenes:
            self._run.scenes = _read_scenes(orders)
        return self._run

    def close(self) -> None:
        """Release all of it."""
        self._close_run()
        if self._segmenter:
            self._segmenter.close()
        self._segmenter = self._setup = None

    def _close_run(self) -> None:
        if self._run:
            self._run.stack.close()
        self._run = self._token = None


def _opened(setup: Setup) -> Segmenter:
    if version("fctl") != setup.fctl:
        raise EngineError(expected=f"fctl {setup.fctl}, as where the run is led", found=version("fctl"), remedy=_ALIKE)
    return Segmenter(
        bundle_here(setup), backend=setup.backend, precision=setup.precision, batch=setup.batch, tta=setup.tta,
        scene_size=setup.scene_size, build_engines=setup.build_engines, contexts=setup.contexts, isolate=setup.isolate,
        sources=setup.access,
    )  # fmt: skip


def _begun(segmenter: Segmenter, orders: Orders) -> _Run:
    """Open a raster, once it is known that this worker makes the same of it as others."""
    job, manifest = orders.job, segmenter.manifest
    mine = request_of(maker_of(segmenter), manifest, job) | {"outputs": orders.request["outputs"]}
    check_same(None, orders.request, mine, who="the run", remedy=_SAME)
    with ExitStack() as stack:
        raster = stack.enter_context(open_raster(
            job.image, manifest.image, job.bands, access=job.access, cache=0, on_bad_block=job.on_bad_block,
            scale_range=job.scale_range, measured=orders.measured,
        ))  # fmt: skip
        frame = frame_of(job, manifest, raster, stack.enter_context(coarse_of(job, manifest, raster)))
        plan = ShardPlan.over(frame.grid).as_in(orders.plan)
        foreseen = foresee(segmenter, job, raster, frame, plan)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="fctl-", dir=orders.scratch))
        source = source_of(raster, foreseen, Path(scratch), job, stack)
        return _Run(
            stack=stack.pop_all(), segmenter=segmenter, source=source, copied=source is not raster, frame=frame,
            foreseen=foreseen, plan=plan,
        )  # fmt: skip


def _read_scenes(orders: Orders) -> Scenes:
    """Windows of contexts that were cut before the shards, from the place of the shards."""
    assert orders.scenes is not None
    with tempfile.TemporaryDirectory(prefix="fctl-") as folder:
        file = Path(folder) / "scenes.npz"
        storage_of(orders.place).get(orders.scenes, file)
        with np.load(file, allow_pickle=False) as arrays:
            return {scene_key(name): arrays[name] for name in arrays.files}


def scene_name(context: str, window: Window) -> str:
    """What a window of a context is called in the file of all such windows."""
    return f"{window.y}-{window.x}-{window.height}-{window.width}-{context}"


def scene_key(name: str) -> tuple[str, Window]:
    """The context and the window that `scene_name` names."""
    y, x, height, width, context = name.split("-", 4)
    return context, Window(int(y), int(x), int(height), int(width))


class _Target:
    """Takes one shard, and puts it where all of them go."""

    def __init__(self, orders: Orders, shard: int) -> None:
        self._orders, self._shard = orders, shard
        self._name = shard_name(shard, orders.token)
        self._remote = is_remote_place(orders.place)
        self._stack = ExitStack()
        self._folder = Path(orders.place)
        self.made: Done | None = None

    def __enter__(self) -> None:
        if self._remote:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fctl-")))

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def done(self) -> frozenset[int]:
        """The shard, once it is done."""
        return frozenset({self._shard}) if self.made else frozenset()

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into OutputError."""
        return as_output_error(f"cannot write {self._orders.place}", lambda _: "mend that and go on with `resume`")

    def writer(self, shard: int, keep: Keep, stopwatch: Stopwatch) -> PartWriter:
        """Start the file of the shard."""
        return PartWriter(self._folder / self._name, keep, stopwatch)

    def add(self, done: Done) -> None:
        """Put the shard where it belongs."""
        if self._remote:
            storage_of(self._orders.place).put(self._folder / self._name, self._name)
        self.made = done


_THREAD = ThreadPoolExecutor(1, "fctl-worker")
_HELD = _Held()
