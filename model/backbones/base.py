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
    Crops and relative positions are computed from these two numbers; a test compares them with centroids of gradients.

    Attributes:
        name: Its name.
        channels: Channels of the published network.
        stride: Distance of two cells in pixels.
        offset: Centre of the first cell in pixels.
    """

    name: str
    channels: int
    stride: int
    offset: float


class Backbone(nn.Module, ABC):
    """A feature extractor.

    Args:
        bands: Bands of the image.
        last: The deepest stage that is built.
        width: Multiplies every number of channels; 1 is the published network.

    Attributes:
        stages: All stages, finest first.
        lattice_scale: How many times as large as a context the windows are in which one is encoded once a raster.
        lattice_limit: How many times as large they may be to suit rasters of a known size.
        lattice_margin: How many of their cells are dropped at each border, for they see it.
        resumes: Whether deeper stages can be computed from the features of any stage.
        channels: Channels of the stages that were built, by name.
        bands: Bands of the image.
    """

    stages: ClassVar[tuple[Stage, ...]]
    lattice_scale: ClassVar[int] = 2
    lattice_limit: ClassVar[int] = 3
    lattice_margin: ClassVar[int] = 2
    resumes: ClassVar[bool] = True
    channels: dict[str, int]

    def __init__(self, *, bands: int, last: str, width: float = 1.0) -> None:
        super().__init__()
        self.bands = bands

    @abstractmethod
    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Compute features.

        Args:
            x: Normalised pixels (N, bands, H, W).
            last: The deepest stage that is computed; None for as deep as built.

        Returns:
            Features (N, C, h, w) by stage.
        """

    def inside(self, x: Tensor, last: str) -> dict[str, Tensor]:
        """Compute features of a window of a larger image, whose outer cells will be dropped.

        Args:
            x: Normalised pixels (N, bands, H, W).
            last: The deepest stage that is computed.

        Returns:
            Features (N, C, h, w) by stage. Their cells lie at `inside_grid`.
        """
        features: dict[str, Tensor] = self(x, last)
        return features

    @abstractmethod
    def resume(self, x: Tensor, stage: str) -> dict[str, Tensor]:
        """Compute the deeper stages from features of one stage.

        Args:
            x: Features (N, C, h, w) of the stage.
            stage: Name of the stage.

        Returns:
            Features (N, C, h, w) by stage, of those that follow it, as deep as built.

        Raises:
            ConfigError: This backbone does not resume (`resumes`).
        """

    @classmethod
    @abstractmethod
    def check_size(cls, size: int) -> None:
        """Check that images of a size can be taken.

        Args:
            size: Side in pixels.

        Raises:
            ConfigError: They cannot; the error names the nearest size that can.
        """

    @classmethod
    @abstractmethod
    def grid(cls, size: int, stage: Stage) -> int:
        """The number of cells of a stage.

        Args:
            size: Side of the image in pixels.
            stage: The stage.

        Returns:
            Cells per side.
        """

    @classmethod
    def inside_grid(cls, size: int, stage: Stage) -> tuple[int, float]:
        """The cells of a stage that `inside` gives.

        Args:
            size: Side of the window in pixels.
            stage: The stage.

        Returns:
            Cells per side, and the centre of the first one in pixels.
        """
        return cls.grid(size, stage), stage.offset

    @abstractmethod
    def freeze(self, stage: str) -> None:
        """Freeze the weights of every layer up to a stage.

        Args:
            stage: Name of the last stage that is frozen.
        """

    @abstractmethod
    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load published ImageNet weights, strictly.

        Args:
            state: The weights. Only the classifier, and stages that are not built, may be left over.

        Raises:
            ConfigError: This backbone does not have three bands.
            RuntimeError: The weights do not fit.
            KeyError: The weights do not fit.
        """


def scaled(channels: int, width: float) -> int:
    """A number of channels times a width, rounded to a multiple of 8."""
    return max(8, round(channels * width / 8) * 8)
