"""Windows of an image that lies on a GPU; they are cut there when a graph needs them."""

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
    """An image on a GPU. Where floats have no data, the kernels see it: they cut 0, and mask the pixel in the end.

    Attributes:
        image: Array (height, width, bands) in the GPU's memory.
        name: What messages call the image.
        implausible: None are counted, for values beyond 1e30 are not told from NaN.
    """

    image: DeviceArray
    name: str = "the image"
    implausible: int = 0

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.image.shape[0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.image.shape[1]

    def read(self, window: Window) -> NDArray[np.generic]:
        """Raise NotImplementedError: nobody reads the image on the host."""
        raise NotImplementedError("an image on a GPU is cut by its kernels")

    def valid(self, window: Window) -> None:
        """Nothing is masked on the host."""
        return

    def stack(self, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> DeviceWindows:
        """Windows (count, bands, side, side) that are cut and shrunk later, see `Source.stack`."""
        return DeviceWindows(self, tuple(windows), side, resampling, count, UPRIGHT)


@dataclass(frozen=True, slots=True)
class DeviceWindows:
    """Windows that are still to be cut: `DeviceSource.stack` with these arguments, then turned."""

    source: DeviceSource
    windows: tuple[Window, ...]
    side: int
    resampling: Resampling
    count: int
    turn: Turn

    @classmethod
    def joined(cls, parts: Sequence[DeviceWindows]) -> DeviceWindows:
        """The windows of several as one."""
        windows = tuple(window for part in parts for window in part.windows)
        return replace(parts[0], windows=windows, count=len(windows))

    def turned(self, turn: Turn) -> DeviceWindows:
        """The same windows, turned from upright."""
        return replace(self, turn=turn)

    def __len__(self) -> int:
        return self.count
