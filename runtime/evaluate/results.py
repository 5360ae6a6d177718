"""What an evaluation measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..choices import Order
from .calibration import Calibration
from .datasets import Dataset
from .description import Description
from .metrics import Confusion
from .runs import Run
from .temperature import TemperatureFit


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """What one run made of one image.

    Attributes:
        name: The name of the sample.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        tiles: How many tiles were segmented.
        nodata: Labelled pixels where the image has no data; they count for nothing.
        confusion: The confusion matrix.
        same: Pixels that have the class of the first run.
        compared: Pixels that have a class in both runs.
        calibration: Labelled pixels by confidence; None unless it was asked for.
        temperature: How well each temperature fits; None unless it was asked for.
    """

    name: str
    height: int
    width: int
    tiles: int
    nodata: int
    confusion: Confusion
    same: int
    compared: int
    calibration: Calibration | None = None
    temperature: TemperatureFit | None = None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one run made of all images.

    Attributes:
        run: The run.
        engine: The engine that ran.
        device: Its device.
        notes: What the engine noted about the run, such as why it is slow; a sentence each.
        seconds: How long segmenting took, without loading.
        images: What came of each image.
    """

    run: Run
    engine: str
    device: str
    notes: tuple[str, ...]
    seconds: float
    images: tuple[ImageResult, ...]

    @cached_property
    def confusion(self) -> Confusion:
        """The confusion matrix over all images."""
        return sum((image.confusion for image in self.images[1:]), self.images[0].confusion)

    @cached_property
    def calibration(self) -> Calibration | None:
        """Labelled pixels of all images by confidence; None unless it was asked for."""
        found = [image.calibration for image in self.images if image.calibration is not None]
        return sum(found, Calibration.empty()) if found else None

    @cached_property
    def fit(self) -> TemperatureFit | None:
        """How well each temperature fits the labels of all images; None unless it was asked for."""
        found = [image.temperature for image in self.images if image.temperature is not None]
        return sum(found, TemperatureFit.empty()) if found else None

    @property
    def temperature(self) -> float:
        """The temperature that the bundle should have; NaN where there are no pixels or it was not asked for."""
        own = self.run.bundle.manifest.temperature or 1.0
        return own * self.fit.best()[0] if self.fit else float("nan")

    @property
    def agreement(self) -> float:
        """The share of pixels that have the class of the first run, from 0 to 1; NaN where none can be compared."""
        compared = sum(image.compared for image in self.images)
        return sum(image.same for image in self.images) / compared if compared else float("nan")

    @property
    def speed(self) -> float:
        """Patches per second."""
        return sum(image.tiles for image in self.images) / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What all runs scored on a data set.

    Attributes:
        dataset: The images.
        split: How they were selected, as it was given; None for all.
        results: What came of each run.
        pictured: Indices of the samples to draw.
    """

    dataset: Dataset
    split: str | None
    results: tuple[RunResult, ...]
    pictured: tuple[int, ...]

    @property
    def description(self) -> Description:
        """What the data set states about itself."""
        return self.dataset.description


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Which images to draw.

    Attributes:
        count: How many at most.
        order: Which come first: "worst" or "best" by their mIoU in the first run, or "first" as in the data set.
    """

    count: int
    order: Order
