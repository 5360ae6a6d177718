"""Bundles against labelled images: what they score, through the runtime, and how far runs agree (§4).

Images go row by row through the pipeline and masks are read along, so that neither is ever whole in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FctlError, InputError, OutputError
from ..progress import StageProgress, TileProgress
from ..raster.source import Georeference, open_raster
from ..raster.writer import RasterSpec, RasterWriter, create_raster
from ..segment.batches import grid_of, rows_in_work
from ..segment.blackout import WithoutContexts
from ..segment.network import Network
from ..segment.opening import open_network
from ..segment.pipeline import segment_rows
from ..tiling.merge import NODATA
from ..tiling.turns import DIHEDRAL, UPRIGHT
from .datasets import Dataset, class_ids
from .description import Description
from .labels import listed, open_ids, open_mask
from .metrics import IGNORE, Confusion
from .results import Evaluation, ImageResult, Pick, RunResult
from .runs import Run

_NOWHERE = Georeference(crs=None, transform=None, gcps=((), None))


def check_masks(dataset: Dataset, progress: StageProgress | None = None) -> tuple[int, ...]:
    """Read all masks once; labelled pixels by class.

    Raises InputError for pixels that the description does not know, RasterError for a mask that cannot be read: better
    now than after hours.
    """
    classes = len(dataset.description.classes)
    total = np.zeros(classes, np.int64)
    for index, sample in enumerate(dataset.samples):
        with open_mask(sample.mask, dataset.description.labels) as mask:
            census = mask.census(classes)
        if census.unknown:
            pixels = sum(count for _, count in census.unknown)
            raise InputError(
                f"{sample.mask}: expected the ids or colours of {dataset.description.name}, found {pixels} pixels of "
                f"others: {listed(census.unknown)}; add them to a class or to ignore in a description "
                "(docs/evaluation.md)"
            )
        total += census.pixels
        if progress:
            progress("reading masks", index + 1, len(dataset.samples))
    return tuple(map(int, total))


def check_images(dataset: Dataset, runs: Sequence[Run], bands: Sequence[int] | None) -> tuple[tuple[int, int], ...]:
    """Open all images once; their sizes (height, width).

    Raises RasterError for one that does not fit a bundle, InputError where its mask's size differs.
    """
    bundles = {run.bundle.folder: run.bundle for run in runs}
    sizes = []
    for sample in dataset.samples:
        with open_mask(sample.mask, dataset.description.labels) as mask:
            sizes.append((mask.height, mask.width))
        for bundle in bundles.values():
            with open_raster(sample.image, bundle.manifest.input, bands, 0) as source:
                if (source.height, source.width) != sizes[-1]:
                    raise InputError(
                        f"{sample.mask}: expected {source.height} x {source.width} pixels as {sample.image}, found "
                        f"{mask.height} x {mask.width}; get the mask anew, or leave it out with --split"
                    )
    return tuple(sizes)


def evaluate(
    dataset: Dataset,
    runs: Sequence[Run],
    kept: Path,
    *,
    split: str | None = None,
    bands: Sequence[int] | None = None,
    pick: Pick | None = None,
    progress: StageProgress | None = None,
) -> Evaluation:
    """Segment all images in every run, one run after the other, and score them.

    kept: a folder for masks (`mask_file`) that later runs are compared with and pictures are drawn from. bands: as in
    `Segmenter.segment_file`. split: only noted down. progress: called with the run, patches done and patches in all.
    Raises InputError, RasterError, EngineError or BundleError.
    """
    tables = [class_ids(dataset, run.bundle) for run in runs]
    sizes = check_images(dataset, runs, bands)
    check_masks(dataset, progress)
    results: list[RunResult] = []
    pictured: tuple[int, ...] = ()
    for index, (run, table) in enumerate(zip(runs, tables, strict=True)):
        wanted = set(pictured)
        if index == 0:
            wanted = set(range(len(dataset.samples))) if pick or len(runs) > 1 else set()
        job = _Job(
            dataset=dataset, sizes=sizes, run=run, table=table, bands=bands, kept=kept, index=index, wanted=wanted
        )
        results.append(_run(job, progress))
        if index == 0 and pick:
            pictured = _picked(results[0], dataset.description, pick)
    return Evaluation(dataset=dataset, split=split, results=tuple(results), pictured=pictured)


def mask_file(kept: Path, run: int, sample: int) -> Path:
    """Where a run's mask of a sample is kept, both by index."""
    return kept / f"{run}_{sample}.tif"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One run over a data set. table: `class_ids`; wanted: indices of the samples whose masks are kept."""

    dataset: Dataset
    sizes: tuple[tuple[int, int], ...]
    run: Run
    table: NDArray[np.uint8]
    bands: Sequence[int] | None
    kept: Path
    index: int
    wanted: set[int]

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the data set."""
        return self.dataset.description.class_names


def _run(job: _Job, progress: StageProgress | None) -> RunResult:
    run, images, done = job.run, list[ImageResult](), 0
    with _network(run) as network:
        engine = network.engine
        started, tiles = time.monotonic(), [len(grid_of(network.manifest, *size)) for size in job.sizes]
        for index in range(len(job.sizes)):
            images.append(_segment(job, network, index, _beyond(progress, run.label, done, sum(tiles))))
            done += tiles[index]
        seconds = time.monotonic() - started
    return RunResult(run=run, engine=engine.name, device=engine.device, seconds=seconds, images=tuple(images))


def _segment(job: _Job, network: Network[Any, Any], index: int, progress: TileProgress | None) -> ImageResult:
    """Segment one image row by row, and count what comes."""
    sample, manifest, labels = job.dataset.samples[index], network.manifest, job.dataset.description.labels
    height, width = job.sizes[index]
    tally = _Tally(len(job.classes))
    with ExitStack() as stack:
        source = stack.enter_context(open_raster(sample.image, manifest.input, job.bands, rows_in_work(manifest)))
        mask = stack.enter_context(open_mask(sample.mask, labels))
        first = stack.enter_context(open_ids(mask_file(job.kept, 0, index), len(job.classes))) if job.index else None
        writer = stack.enter_context(_keep(job, index)) if index in job.wanted else None
        turns = DIHEDRAL if job.run.tta else (UPRIGHT,)
        for rows in segment_rows(network, source, turns=turns, progress=progress):
            ids = job.table[rows.ids]
            tally.add(ids, mask.read(rows.y, len(ids)), first.read(rows.y, len(ids)) if first else ids)
            if writer:
                writer.write(ids[None])
    tiles = len(grid_of(manifest, height, width))
    return ImageResult(
        name=sample.name, height=height, width=width, tiles=tiles, nodata=tally.nodata, confusion=tally.confusion,
        same=tally.same, compared=tally.compared,
    )  # fmt: skip


class _Tally:
    """Counts pixels of one image, strip by strip."""

    def __init__(self, classes: int) -> None:
        self._classes, self.confusion = classes, Confusion.empty(classes)
        self.nodata = self.same = self.compared = 0

    def add(self, ids: NDArray[np.uint8], truth: NDArray[np.uint8], first: NDArray[np.uint8]) -> None:
        """Predicted, labelled and the first run's class ids (rows, width)."""
        self.confusion += Confusion.of(truth, ids, self._classes)
        without = ids == NODATA
        self.nodata += int(np.count_nonzero(without & (truth != IGNORE)))
        both = ~without & (first != NODATA)
        self.compared += int(np.count_nonzero(both))
        self.same += int(np.count_nonzero(both & (ids == first)))


@contextmanager
def _keep(job: _Job, index: int) -> Iterator[RasterWriter]:
    """A mask to come back to. Raises OutputError where it cannot be written."""
    height, width = job.sizes[index]
    spec = RasterSpec(
        height=height, width=width, dtype="uint8", descriptions=("class",), nodata=None, colours=None, tags={}
    )
    try:
        with create_raster(mask_file(job.kept, job.index, index), spec, _NOWHERE) as writer:
            yield writer
    except FctlError:
        raise
    except OSError as error:
        reason = error.strerror or error.__cause__ or error
        raise OutputError(f"cannot keep masks in {job.kept}: {reason}; name another folder in TMPDIR") from error


@contextmanager
def _network(run: Run) -> Iterator[Network[Any, Any]]:
    """The run's network, loaded."""
    network = open_network(run.bundle, run.backend, run.precision, run.batch, run.build_engines)
    with closing(WithoutContexts(network, run.black) if run.black else network) as shown:
        yield shown


def _picked(result: RunResult, described: Description, pick: Pick) -> tuple[int, ...]:
    """Samples to draw, in the order asked for; those without a score come last."""
    scores = [image.confusion.miou(described.counted) for image in result.images]
    ordered = list(range(len(scores)))
    if pick.order != "first":
        sign = 1 if pick.order == "worst" else -1
        ordered.sort(key=lambda index: math.inf if math.isnan(scores[index]) else sign * scores[index])
    return tuple(ordered[: pick.count])


def _beyond(progress: StageProgress | None, label: str, done: int, total: int) -> TileProgress | None:
    """StageProgress over one image as progress over all."""
    return (lambda tiles, _: progress(label, done + tiles, total)) if progress else None
