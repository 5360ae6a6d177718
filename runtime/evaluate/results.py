"""What an evaluation measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from .datasets import Dataset
from .description import Description
from .metrics import Confusion
from .runs import Run

Order = Literal["worst", "best", "first"]
ORDERS: tuple[Order, ...] = ("worst", "best", "first")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """What one run made of one image. same, compared: pixels with the first run's class, and pixels that both have.

    nodata: labelled pixels where the image has no data; they count for nothing.
    """

    name: str
    height: int
    width: int
    tiles: int
    nodata: int
    confusion: Confusion
    same: int
    compared: int


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one run made of all images. engine, device: what ran; seconds: on segmenting, without loading."""

    run: Run
    engine: str
    device: str
    seconds: float
    images: tuple[ImageResult, ...]

    @cached_property
    def confusion(self) -> Confusion:
        """Pooled over the images."""
        return sum((image.confusion for image in self.images[1:]), self.images[0].confusion)

    @property
    def agreement(self) -> float:
        """Share of pixels with the first run's class."""
        compared = sum(image.compared for image in self.images)
        return sum(image.same for image in self.images) / compared if compared else float("nan")

    @property
    def speed(self) -> float:
        """Patches a second."""
        return sum(image.tiles for image in self.images) / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What all runs scored on a data set. split: the part of it, in words; pictured: samples to draw, by index."""

    dataset: Dataset
    split: str | None
    results: tuple[RunResult, ...]
    pictured: tuple[int, ...]

    @property
    def description(self) -> Description:
        """Classes, and which of them count."""
        return self.dataset.description


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Images to draw: `count` of them, by the first run's mIoU of each."""

    count: int
    order: Order
