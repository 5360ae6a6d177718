"""Who leads a run that is spread: plans it, hands out shards, notes what is done, and makes the outputs."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import islice, product
from pathlib import Path
from typing import cast

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.store import DEFAULT, Bundle, bundle_argument
from ..choices import RunPrecision
from ..errors import FctlError, OutputError
from ..progress import TileProgress
from ..raster.places import Scene
from ..raster.source import open_raster
from ..segment.assemble import Subject, report_of, warn_of, write_outputs
from ..segment.frame import Frame, frame_of
from ..segment.jobs import FileJob, request_of
from ..segment.opening import bundle_of
from ..segment.outputs import check_outputs
from ..segment.refining import check_refining
from ..segment.results import Report
from ..segment.shards.folder import Elsewhere, RunFolder, run_folder
from ..segment.shards.journal import token_of
from ..segment.shards.plan import ShardPlan
from ..stopwatch import STOPPED
from ..storage.places import storage_of
from ..tiling.windows import Window
from . import tasks
from .bundles import has_bundle, packed
from .crew import Crew, as_error
from .orders import Computed, Orders, Setup

_SCENES = 64  # windows of contexts that are cut before the shards; where there are more, each shard needs but a few
_SMALL = 1024  # tiles of a raster that one worker segments where there are others to segment


class Lead:
    """Leads runs with one crew and one bundle.

    Args:
        crew: Who works.
        setup: How the bundle is opened.

    Raises:
        FctlError: The bundle cannot be opened, by workers neither.

    Attributes:
        bundle: The bundle.
        introduction: What a worker says of itself; all are alike.
    """

    def __init__(self, crew: Crew, setup: Setup) -> None:
        self._crew = crew
        self.bundle = bundle_of(setup.bundle, setup.scene_size)
        setup = replace(setup, bundle=_named(self.bundle), digest=self.bundle.digest, fctl=version("fctl"))
        self._bring(setup)
        self.introduction = crew.any(tasks.introduce, setup)
        maker = self.introduction.maker
        self._setup = replace(
            setup, backend=maker.engine, precision=cast(RunPrecision, maker.precision), batch=self.introduction.batch,
            contexts="shared" if maker.once else "exact",
        )  # fmt: skip

    def segment_file(self, job: FileJob, shared: str | None = None) -> Report:
        """Segment one raster, whose shards the crew makes.

        Args:
            job: What is asked.
            shared: Where workers put their shards: the URL of a folder; None for the folder of the run beside the mask.

        Returns:
            What came of it.

        Raises:
            FctlError: What `Segmenter.segment_file` raises; or workers cannot do it.
        """
        started, manifest, maker = time.monotonic(), self.bundle.manifest, self.introduction.maker
        job.paths.options.classes(manifest.classes)  # raises where a colour is for no class
        check_refining(manifest, job)
        check_outputs(job.image, job.paths, overwrite=job.overwrite, resume=job.resume, remote=job.remote)
        asked, job = job, _absolute(job)
        with open_raster(
            asked.image, manifest.image, job.bands, access=job.access, cache=0, scale_range=job.scale_range
        ) as raster:
            frame, measured = frame_of(job, manifest, raster), raster.measured
            subject = Subject.of(raster, frame)
        request = request_of(maker, manifest, job)
        numbers = ShardPlan.spread(frame.grid, self._crew.size).numbers() | {"batch": self.introduction.batch}
        shards = Elsewhere(store=storage_of(shared)) if shared else None
        with run_folder(job.paths.mask, request, numbers, resume=job.resume, shards=shards) as folder:
            plan = ShardPlan.over(frame.grid).as_in(folder.journal.plan)
            orders = Orders(
                setup=self._setup, job=replace(job, progress=None, stopwatch=STOPPED), request=request,
                plan=folder.journal.plan, token=token_of(request, folder.journal.plan),
                place=shared or str(folder.path.resolve()), measured=measured,
                scratch=None if self._crew.elsewhere else str(folder.temporary.resolve()),
            )  # fmt: skip
            made = self._make(orders, folder, plan, frame, job.progress)
            with folder.writing():
                write_outputs(manifest, maker, job, subject, folder.parts(subject.windows(plan)), folder)
            done = folder.journal.done.values()
        report = replace(
            report_of(asked, manifest.class_names, frame, done, max((one.implausible for one in made), default=0)),
            seconds=time.monotonic() - started,
            skipped=sum(one.skipped for one in made),
            computed=sum(one.tiles - one.skipped for one in made),
        )
        warn_of(report)
        return report

    def segment_whole(self, jobs: Mapping[int, FileJob]) -> Iterator[tuple[int, Report | FctlError]]:
        """Segment many small rasters, each by one worker, which writes its outputs too.

        Args:
            jobs: What is asked, by any number.

        Yields:
            The number of a raster, and its report or what went wrong with it, as they come.

        Raises:
            FctlError: Those who could do it are gone.
        """
        bare = {number: replace(_absolute(job), progress=None, stopwatch=STOPPED) for number, job in jobs.items()}
        items = ((self._setup, self.introduction.maker, number, job) for number, job in bare.items())
        for number, outcome in self._crew.each(tasks.segment_whole, items):
            if isinstance(outcome, Report):
                yield number, replace(outcome, image=jobs[number].image, paths=jobs[number].paths)
            else:
                line = outcome.line.replace(str(bare[number].image), str(jobs[number].image))
                yield number, as_error(replace(outcome, line=line))

    def is_small(self, job: FileJob) -> bool:
        """Whether a raster had better be segmented whole, where there are others to segment at the same time."""
        manifest = self.bundle.manifest
        try:
            with open_raster(job.image, manifest.image, job.bands, access=job.access, cache=0) as raster:
                return len(frame_of(job, manifest, raster).grid) <= _SMALL
        except FctlError:
            return False  # whoever segments it tells

    def _bring(self, setup: Setup) -> None:
        """Send the bundle to workers on other machines, if any of them lacks it, or does not say."""
        if self._crew.elsewhere:
            there = self._crew.all(has_bundle, setup)
            if len(there) < self._crew.size or not all(there.values()):
                self._crew.send(setup.digest, packed(self.bundle))

    def _make(
        self, orders: Orders, folder: RunFolder, plan: ShardPlan, frame: Frame, progress: TileProgress | None
    ) -> list[Computed]:
        """Let the crew make the shards that are missing; each is noted as soon as it is there."""
        done = folder.done
        left = [shard for shard in range(len(plan.shards)) if shard not in done]
        if not left:
            return []
        if self._crew.elsewhere:
            self._see_the_same(orders)
        orders = self._with_scenes(orders, plan, frame)
        made, tiles = list[Computed](), 0
        total = sum(len(plan.shards[shard]) for shard in left)
        for computed in self._crew.each(tasks.compute, ((orders, shard) for shard in left)):
            with folder.writing():
                folder.add(computed.done)
            made.append(computed)
            tiles += computed.tiles
            if progress:
                progress(tiles, total)
        return made

    def _see_the_same(self, orders: Orders) -> None:
        """See, before anything is computed, that all workers put shards where this process finds them."""
        storage, probe = storage_of(orders.place), f"probe-{secrets.token_hex(4)}"
        storage.write(probe, orders.token.encode())
        for worker, name in self._crew.all(tasks.get_ready, orders, probe).items():
            try:
                seen = storage.read(name) == orders.token.encode()
            except FileNotFoundError:
                seen = False
            if not seen:
                raise OutputError(
                    f"puts files into another {orders.place} than this machine's", subject=f"worker {worker}",
                    remedy=tasks.SHARED,
                )  # fmt: skip
            storage.remove(name)
        storage.remove(probe)

    def _with_scenes(self, orders: Orders, plan: ShardPlan, frame: Frame) -> Orders:
        """Let the crew cut windows that many shards need, so that not each of them reads the whole raster."""
        windows = list(islice(_scenes(self.bundle.manifest, frame), _SCENES + 1))
        if not windows or len(windows) > _SCENES or len(plan.shards) == 1:
            return orders
        found = self._crew.each(tasks.cut, ((orders, name, window) for name, window in windows))
        name = f"scenes-{orders.token}.npz"
        with tempfile.TemporaryDirectory(prefix="fctl-") as folder:
            file = Path(folder) / name
            arrays = {tasks.scene_name(context, window): pixels for context, window, pixels in found}
            np.savez_compressed(file, allow_pickle=False, **arrays)
            storage_of(orders.place).put(file, name)
        return replace(orders, scenes=name)


def _scenes(manifest: Manifest, frame: Frame) -> Iterator[tuple[str, Window]]:
    """The windows of contexts that many patches share, by the context's name."""
    grid, raster = frame.grid, Window(0, 0, frame.rescale.rows, frame.rescale.columns)
    for context in manifest.contexts:
        if context.window.shared:
            tiles = [Window(y, grid.columns[0], grid.tile, grid.tile) for y in grid.rows]
            rows = {(w.y, w.height) for w in (context.window.around(tile, raster) for tile in tiles)}
            tiles = [Window(grid.rows[0], x, grid.tile, grid.tile) for x in grid.columns]
            columns = {(w.x, w.width) for w in (context.window.around(tile, raster) for tile in tiles)}
            for (y, height), (x, width) in product(sorted(rows), sorted(columns)):
                yield context.name, Window(y, x, height, width)


def _named(bundle: Bundle) -> str:
    """How workers find a bundle: that which comes with fctl lies elsewhere on each machine."""
    name = bundle_argument(bundle.folder)
    return name if name == DEFAULT else str(bundle.folder.resolve())


def _absolute(job: FileJob) -> FileJob:
    """A job whose paths mean the same in every folder."""
    image, paths, where = job.image, job.paths, job.where
    if isinstance(image, Scene):
        image = replace(image, members=tuple(_placed(member) for member in image.members))
    coarse = job.coarse and job.coarse.absolute()
    others = {name: Path(path).absolute() for name, path in paths.others.items()}
    return replace(
        job, image=image if isinstance(image, Scene) else _placed(image), coarse=coarse,
        paths=replace(
            paths, mask=paths.mask.absolute(), others=others,
            probabilities=paths.probabilities and paths.probabilities.absolute(),
            preview=paths.preview and paths.preview.absolute(),
        ),
        where=where if where.aoi is None else replace(where, aoi=Path(where.aoi).absolute()),
    )  # fmt: skip


def _placed(member: Path | str) -> Path | str:
    return member.absolute() if isinstance(member, Path) else member
