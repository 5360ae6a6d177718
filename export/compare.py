"""Two ways to run a bundle, compared on whole images: pixels that keep their class, and mIoU where there are labels."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fctl.calib.sample import find_images
from fctl.calib.stand_in import open_image
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.bundle.verdicts import Compared
from fctl.runtime.engines.base import RunPrecision
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import InputError
from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import Run
from fctl.runtime.progress import StageProgress
from fctl.runtime.segment.batches import grid_of, rows_in_work
from fctl.runtime.segment.network import EngineNetwork
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.merge import NODATA

_BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedOn:
    """On what two ways are compared.

    Attributes:
        images: Images, or folders of images.
        labelled: Labelled images, which are taken instead and also tell how much mIoU is lost; None for none.
    """

    images: Sequence[Path] = ()
    labelled: Dataset | None = None

    @property
    def source(self) -> str:
        """The images in words."""
        if self.labelled:
            return f"{self.labelled.description.name}, {len(self.labelled.samples)} images"
        return ", ".join(Path(place).name for place in self.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to run a bundle.

    Attributes:
        engine: The engine's name.
        precision: In what precision.
        once: Whether contexts that can be are encoded once a raster.
    """

    engine: str
    precision: RunPrecision = "fp32"
    once: bool = False

    def network(self, bundle: Bundle) -> EngineNetwork:
        """The bundle, loaded to run so."""
        engine = choose_engine(self.engine, self.precision, bundle, batch=_BATCH)
        return load_network(bundle, engine, _BATCH, once=self.once)

    def run(self, bundle: Bundle) -> Run:
        """The same, as an evaluation takes it."""
        label = f"{self.precision}, {'shared' if self.once else 'exact'} contexts"
        return Run(
            bundle=bundle, label=label, backend=self.engine, precision=self.precision, tta=False, black=(),
            batch=_BATCH, once=self.once,
        )  # fmt: skip


def difference(
    bundle: Bundle, ways: tuple[Way, Way], on: ComparedOn, progress: StageProgress | None = None
) -> Compared:
    """Compare two ways to run a bundle.

    Args:
        bundle: The bundle.
        ways: The exact way, and the other one.
        on: The images.
        progress: Called with the patches of each run.

    Returns:
        How they differ.

    Raises:
        InputError: There are no images, or none with data.
        RasterError: An image cannot be read, or does not fit the bundle.
        EngineError: An engine is not installed, or cannot run so on this machine.
    """
    if on.labelled:
        return _on_labels(bundle, ways, on, on.labelled, progress)
    return _on_images(bundle, ways, on, progress)


def _on_images(bundle: Bundle, ways: tuple[Way, Way], on: ComparedOn, progress: StageProgress | None) -> Compared:
    """Masks of both ways, compared row by row."""
    same = total = 0
    images = find_images(on.images)
    with ExitStack() as stack:
        networks = [stack.enter_context(closing(way.network(bundle))) for way in ways]
        for image in images:
            with ExitStack() as opened:
                runs = []
                for network in networks:
                    rows = rows_in_work(bundle.manifest, network.lattices)
                    source = opened.enter_context(open_image(image, bundle.manifest, rows))
                    tiles = len(grid_of(bundle.manifest, source.height, source.width))
                    runs.append(segment_rows(network, source))
                for exact, other in zip(*runs, strict=True):
                    found = exact.ids != NODATA
                    same += int(np.count_nonzero((exact.ids == other.ids) & found))
                    total += int(np.count_nonzero(found))
            if progress:
                progress(f"both ways, {Path(image).name}", tiles, tiles)
    if not total:
        raise InputError(f"no pixel of {', '.join(map(str, on.images))} has data", remedy="choose other images")
    return Compared(agreement=same / total, lost=None, pixels=total, source=on.source, engine=ways[1].engine)


def _on_labels(
    bundle: Bundle, ways: tuple[Way, Way], on: ComparedOn, dataset: Dataset, progress: StageProgress | None
) -> Compared:
    """What ``fctl-eval`` tells of both ways."""
    with tempfile.TemporaryDirectory(prefix="fctl-compared-") as folder:
        exact, other = evaluate(dataset, [way.run(bundle) for way in ways], Path(folder), progress=progress).results
    scores = [100 * result.confusion.miou(dataset.description.counted) for result in (exact, other)]
    return Compared(
        agreement=other.agreement, lost=scores[0] - scores[1], pixels=sum(image.compared for image in other.images),
        source=on.source, engine=ways[1].engine,
    )  # fmt: skip
