"""Where windows are cut from: the protocol of every raster, and rasters in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .resampling import Pixels, Resampling, resample
from .windows import Window

Stack = Any  # windows (N, bands, side, side): an array, or on a GPU `cuda.windows.DeviceStack`, cut when it is needed


class Source(Protocol):
    """Something to cut windows from."""

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window that lies inside."""
        ...

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where it has data (height, width); None: everywhere."""
        ...

    def stack(self, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> Stack:
        """Windows, black beyond the raster, resampled: (count, bands, side, side), black where there are fewer."""
        ...


class HostSource:
    """What sources on the host share."""

    def stack(self: Source, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> NDArray[Any]:
        """Windows, black beyond the raster, resampled: (count, bands, side, side), black where there are fewer."""
        images = [resample(read_padded(self, window), side, resampling) for window in windows]
        stacked = np.zeros((count, images[0].shape[2], side, side), images[0].dtype)
        for index, image in enumerate(images):
            stacked[index] = image.transpose(2, 0, 1)
        return stacked


@dataclass(frozen=True)
class ArraySource(HostSource):
    """A raster in memory: (height, width, bands)."""

    pixels: Pixels

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands): a view."""
        return self.pixels[window.y : window.bottom, window.x : window.right]

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """An array has data everywhere."""
        return None


def read_padded(source: Source, window: Window) -> Pixels:
    """The pixels of a window, black (0) where it reaches beyond the raster: (height, width, bands)."""
    inside = window.within(source.height, source.width)
    if inside == window:
        return source.read(window)
    if inside is None:
        raise InputError(f"{window} lies outside a raster of {source.height} x {source.width} pixels")
    pixels = source.read(inside)
    canvas = np.zeros((window.height, window.width, pixels.shape[2]), pixels.dtype)
    top, left = inside.y - window.y, inside.x - window.x
    canvas[top : top + inside.height, left : left + inside.width] = pixels
    return canvas
