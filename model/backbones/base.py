"""What every backbone declares about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a backbone and where its cells lie.

    Cell u is centred at pixel ``stride * u + offset`` of the input, pixel 0 being the centre of the first pixel.
    Crops and relative positions are computed from these two; a test finds them from centroids of gradients.
    """

    name: str
    channels: int
    stride: int
    offset: float


class Backbone(nn.Module, ABC):
    """A feature extractor, built up to and including stage `last`.

    width multiplies every number of channels; 1 is the published network. channels: by stage, as built.
    """

    stages: ClassVar[tuple[Stage, ...]]
    channels: dict[str, int]

    def __init__(self, *, bands: int, last: str, width: float = 1.0) -> None:
        super().__init__()
        self.bands = bands

    @abstractmethod
    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """(N, bands, H, W) float -> {stage name: (N, C, h, w)}, up to stage `last` (None: as deep as built)."""

    @abstractmethod
    def resume(self, x: Tensor, stage: str) -> dict[str, Tensor]:
        """Features of `stage` (N, C, h, w) -> those of the stages that follow it, as deep as built."""

    @classmethod
    @abstractmethod
    def check_size(cls, size: int) -> None:
        """Raise ConfigError, naming the nearest size that works, unless an input may be `size` pixels a side."""

    @classmethod
    @abstractmethod
    def grid(cls, size: int, stage: Stage) -> int:
        """Cells per side of `stage` for an input of `size` pixels a side."""

    @abstractmethod
    def freeze(self, stage: str) -> None:
        """Take the weights of every layer up to and including `stage` out of training."""

    @abstractmethod
    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load published ImageNet weights, strictly: only known leftovers (the classifier) may stay behind."""


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, to a multiple of 8."""
    return max(8, round(channels * width / 8) * 8)
