"""Bundles scored on labelled images, through the runtime, and how far their runs agree (§4).

Images are segmented row by row while their masks are read along, so that neither is ever held in memory in full.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..atomic import as_output_error
from ..progress import StageProgress, TileProgress
from ..raster.georeference import NOWHERE
from ..raster.source import open_raster
from ..raster.writer import RasterSpec, RasterWriter, create_raster
from ..segment.batches import grid_of, rows_in_work
from ..segment.blackout import BlackoutNetwork
from ..segment.levels import confidence_of
from ..segment.network import Network
from ..segment.opening import open_network
from ..segment.pipeline import segment_rows
from ..tiling.merge import NODATA
from ..tiling.turns import DIHEDRAL, UPRIGHT
from .calibration import Calibration
from .checks import check_images, check_masks
from .datasets import Dataset, class_ids
from .description import Description
from .labels import open_ids
from .metrics import IGNORE, Confusion
from .pairs import open_labels
from .results import Evaluation, ImageResult, Pick, RunResult
from .runs import Run
from .temperature import TemperatureFit


def evaluate(
    dataset: Dataset,
    runs: Sequence[Run],
    mask_folder: Path,
    *,
    split: str | None = None,
    bands: Sequence[int] | None = None,
    scale_range: str | None = None,
    pick: Pick | None = None,
    calibration: bool = False,
    fit_temperature: bool = False,
    progress: StageProgress | None = None,
) -> Evaluation:
    """Segment all images in every run, one run after the other, and score them.

    Args:
        dataset: The labelled images.
        runs: The runs; the others are compared with the first.
        mask_folder: A folder, made if need be, for masks that are needed again (`mask_file`): later runs are compared
            with those of the first, and pictures are drawn from them.
        split: How the images were selected, for the report.
        bands: Numbers of the bands to use, from 1, in the bundles' order; None for all but alpha.
        scale_range: Which values become the lowest and the highest of the bundles', see `Segmenter.segment_file`.
        pick: Which images to draw; None for none.
        calibration: Whether to count how often each confidence is right; it needs probabilities and takes longer.
        fit_temperature: Whether to find the temperature with which probabilities fit the labels best.
        progress: Called with the label of the run, patches that are done and patches in all.

    Returns:
        The scores.

    Raises:
        InputError: The images do not fit the description or a bundle's classes.
        RasterError: An image or a mask cannot be read, or does not fit a bundle.
        EngineError: An engine failed.
        BundleError: A bundle lacks graphs of a precision.
        OutputError: Masks cannot be written.
    """
    tables = [class_ids(dataset, run.bundle) for run in runs]
    sizes = check_images(dataset, runs, bands, scale_range)
    check_masks(dataset, progress)
    results: list[RunResult] = []
    pictured: tuple[int, ...] = ()
    for index, (run, table) in enumerate(zip(runs, tables, strict=True)):
        written = set(pictured)
        if index == 0 and (pick or len(runs) > 1):
            written = set(range(len(dataset.samples)))
        job = _Job(
            dataset=dataset, sizes=sizes, run=run, table=table, bands=bands, mask_folder=mask_folder, index=index,
            written=written, calibration=calibration, fit_temperature=fit_temperature, scale_range=scale_range,
        )  # fmt: skip
        results.append(_run(job, progress))
        if index == 0 and pick:
            pictured = _samples_to_draw(results[0], dataset.description, pick)
    return Evaluation(dataset=dataset, split=split, results=tuple(results), pictured=pictured)


def mask_file(folder: Path, run: int, sample: int) -> Path:
    """Where the mask that a run made of a sample is written, both given by index."""
    return folder / f"{run}_{sample}.tif"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One run over a data set.

    Attributes:
        dataset: The labelled images.
        sizes: The size (height, width) of each image.
        run: The run.
        table: The data set's class id by the bundle's, see `class_ids`.
        bands: Numbers of the bands to use.
        mask_folder: Where masks are written.
        index: The number of the run.
        written: Indices of the samples whose masks are written.
        calibration: Whether confidence is compared with the labels.
        fit_temperature: Whether a temperature is fitted.
        scale_range: Which values become the lowest and the highest of the bundle's, or None.
    """

    dataset: Dataset
    sizes: tuple[tuple[int, int], ...]
    run: Run
    table: NDArray[np.uint8]
    bands: Sequence[int] | None
    mask_folder: Path
    index: int
    written: set[int]
    calibration: bool
    fit_temperature: bool
    scale_range: str | None

    @property
    def classes(self) -> int:
        """How many classes the data set has."""
        return len(self.dataset.description.classes)


def _run(job: _Job, progress: StageProgress | None) -> RunResult:
    """Segment and score all images."""
    run, images, done = job.run, list[ImageResult](), 0
    with closing(
        open_network(run.bundle, run.backend, run.precision, run.batch, run.build_engines, once=run.once)
    ) as loaded:
        engine = loaded.engine
        network = BlackoutNetwork(loaded, run.black) if run.black else loaded
        started, tiles = time.monotonic(), [len(grid_of(network.manifest, *size)) for size in job.sizes]
        for index in range(len(job.sizes)):
            images.append(_segment(job, network, index, _over_all_images(progress, run.label, done, sum(tiles))))
            done += tiles[index]
        return RunResult(
            run=run, engine=engine.name, device=engine.device, notes=tuple(engine.notes),
            seconds=time.monotonic() - started, images=tuple(images),
        )  # fmt: skip


def _segment(job: _Job, network: Network, index: int, progress: TileProgress | None) -> ImageResult:
    """Segment one image row by row, and count its pixels."""
    sample, manifest, labels = job.dataset.samples[index], network.manifest, job.dataset.description.labels
    height, width = job.sizes[index]
    tally = _Tally(job.classes)
    with ExitStack() as stack:
        source = stack.enter_context(open_raster(
            sample.image, manifest.input, job.bands, rows_in_work(manifest, network.lattices),
            scale_range=job.scale_range,
        ))  # fmt: skip
        mask = stack.enter_context(open_labels(sample, labels))
        first = stack.enter_context(open_ids(mask_file(job.mask_folder, 0, index), job.classes)) if job.index else None
        writer = stack.enter_context(_mask_writer(job, index)) if index in job.written else None
        turns = DIHEDRAL if job.run.tta else (UPRIGHT,)
        probabilities = job.calibration or job.fit_temperature
        for rows in segment_rows(network, source, probabilities=probabilities, turns=turns, progress=progress):
            ids, truth = job.table[rows.ids], mask.read(rows.y, len(rows.ids))
            tally.add(ids, truth, first.read(rows.y, len(ids)) if first else ids)
            if rows.probabilities is not None:
                tally.calibration += Calibration.of(truth, ids, confidence_of(rows.probabilities))
                if job.fit_temperature:
                    tally.temperature += TemperatureFit.of(truth, rows.probabilities, job.table)
            if writer:
                writer.write(ids[None], rows.y)
    tiles = len(grid_of(manifest, height, width))
    return ImageResult(
        name=sample.name, height=height, width=width, tiles=tiles, nodata=tally.nodata, confusion=tally.confusion,
        same=tally.same, compared=tally.compared, calibration=tally.calibration if job.calibration else None,
        temperature=tally.temperature if job.fit_temperature else None,
    )  # fmt: skip


class _Tally:
    """Counts pixels of one image, strip by strip; its attributes are those of `ImageResult`."""

    def __init__(self, classes: int) -> None:
        self._classes, self.confusion = classes, Confusion.empty(classes)
        self.nodata = self.same = self.compared = 0
        self.calibration, self.temperature = Calibration.empty(), TemperatureFit.empty()

    def add(self, ids: NDArray[np.uint8], truth: NDArray[np.uint8], first: NDArray[np.uint8]) -> None:
        """Count a strip: predicted class ids, labelled ones, and those of the first run, each (rows, width)."""
        self.confusion += Confusion.of(truth, ids, self._classes)
        without = ids == NODATA
        self.nodata += int(np.count_nonzero(without & (truth != IGNORE)))
        both = ~without & (first != NODATA)
        self.compared += int(np.count_nonzero(both))
        self.same += int(np.count_nonzero(both & (ids == first)))


@contextmanager
def _mask_writer(job: _Job, index: int) -> Iterator[RasterWriter]:
    """Write the mask of a sample. Raises OutputError where that fails."""
    height, width = job.sizes[index]
    spec = RasterSpec(
        height=height, width=width, dtype="uint8", descriptions=("class",), nodata=None, colours=None, tags={}
    )
    with as_output_error(f"cannot keep masks in {job.mask_folder}", lambda _: "name another folder in TMPDIR"):
        job.mask_folder.mkdir(parents=True, exist_ok=True)
        with create_raster(mask_file(job.mask_folder, job.index, index), spec, NOWHERE) as writer:
            yield writer


def _samples_to_draw(result: RunResult, described: Description, pick: Pick) -> tuple[int, ...]:
    """Indices of the samples to draw, in the order asked for; those without a score come last."""
    scores = [image.confusion.miou(described.counted) for image in result.images]
    ordered = list(range(len(scores)))
    if pick.order != "first":
        sign = 1 if pick.order == "worst" else -1
        ordered.sort(key=lambda index: math.inf if math.isnan(scores[index]) else sign * scores[index])
    return tuple(ordered[: pick.count])


def _over_all_images(progress: StageProgress | None, label: str, done: int, total: int) -> TileProgress | None:
    """What takes the progress on one image and passes on the progress on all of them."""
    return (lambda tiles, _: progress(label, done + tiles, total)) if progress else None
