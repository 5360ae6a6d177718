"""Windows of an image that lies on a GPU: they are cut there when a graph needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...cuda.arrays import DeviceArray
from ...tiling.resampling import Resampling
from ...tiling.turns import UPRIGHT, Turn
from ...tiling.windows import Window


@dataclass(frozen=True)
class DeviceSource:
    """An image (height, width, bands) on a GPU; it has data everywhere."""

    image: DeviceArray

    @property
    def height(self) -> int:
        """Rows."""
        return self.image.shape[0]

    @property
    def width(self) -> int:
        """Columns."""
        return self.image.shape[1]

    def read(self, window: Window) -> NDArray[np.generic]:
        """Nobody reads it on the host."""
        raise NotImplementedError("an image on a GPU is cut by its kernels")

    def valid(self, window: Window) -> None:
        """It has data everywhere."""
        return

    def stack(self, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> DeviceStack:
        """Windows, black beyond the image, resampled: (count, bands, side, side), black where there are fewer."""
        return DeviceStack(self, tuple(windows), side, resampling, count, UPRIGHT)


@dataclass(frozen=True, slots=True)
class DeviceStack:
    """Windows that are still to be cut: `source.stack` of these arguments, turned."""

    source: DeviceSource
    windows: tuple[Window, ...]
    side: int
    resampling: Resampling
    count: int
    turn: Turn

    @classmethod
    def joined(cls, stacks: Sequence[DeviceStack]) -> DeviceStack:
        """One stack of the windows of several."""
        windows = tuple(window for stack in stacks for window in stack.windows)
        return replace(stacks[0], windows=windows, count=len(windows))

    def turned(self, turn: Turn) -> DeviceStack:
        """Turned, from upright."""
        return replace(self, turn=turn)

    def __len__(self) -> int:
        return self.count
