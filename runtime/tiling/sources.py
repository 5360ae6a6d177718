"""Where windows are cut from: the protocol of every raster, and rasters in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .resampling import Pixels, Resampling, resample
from .turns import Windows
from .windows import Window


class Source(Protocol):
    """A raster that windows are cut from."""

    @property
    def height(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Number of columns."""
        ...

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window that lies inside the raster."""
        ...

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window has data, (height, width); None where all of it has."""
        ...

    def stack(self, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> Windows:
        """Cut and shrink several windows.

        Args:
            windows: At most `count` windows, which may reach beyond the raster.
            side: Side in pixels after resampling.
            resampling: The filter.
            count: How many entries the stack has; those beyond the windows are black.

        Returns:
            Windows (count, bands, side, side) in the raster's dtype, black beyond the raster.
        """
        ...


class HostSource:
    """What sources in the host's memory share."""

    def stack(
        self: Source, windows: Sequence[Window], side: int, resampling: Resampling, count: int
    ) -> NDArray[np.generic]:
        """Cut and shrink several windows into an array (count, bands, side, side), see `Source.stack`."""
        images = [resample(read_padded(self, window), side, resampling) for window in windows]
        stacked = np.zeros((count, images[0].shape[2], side, side), images[0].dtype)
        for index, image in enumerate(images):
            stacked[index] = image.transpose(2, 0, 1)
        return stacked


@dataclass(frozen=True)
class ArraySource(HostSource):
    """A raster in memory.

    Attributes:
        pixels: Array (height, width, bands).
    """

    pixels: Pixels

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window: a view of the array."""
        return self.pixels[window.y : window.bottom, window.x : window.right]

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """An array has data everywhere."""
        return None


def read_padded(source: Source, window: Window) -> Pixels:
    """Read a window that may reach beyond the raster.

    Args:
        source: The raster.
        window: The window; it must touch the raster.

    Returns:
        Pixels (height, width, bands), black (0) beyond the raster.

    Raises:
        InputError: The window lies outside the raster.
    """
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
