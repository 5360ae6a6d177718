"""Where windows are cut from: the protocol of every raster, and rasters in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .plausible import Plausible
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

    @property
    def name(self) -> str:
        """What messages call the raster."""
        ...

    @property
    def implausible(self) -> int:
        """Pixels that `valid` took as missing for a value that nobody declared, so far."""
        ...

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window that lies inside the raster; 0 where a band has no data."""
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

    name: str = "the image"
    implausible: int = 0

    def stack(
        self: Source, windows: Sequence[Window], side: int, resampling: Resampling, count: int
    ) -> NDArray[np.generic]:
        """Cut and shrink several windows into an array (count, bands, side, side), see `Source.stack`."""
        images = [resample(pixels, side, resampling) for pixels in _cut(self, windows)]
        return stacked(images, images[0] if images else self.read(Window(0, 0, 1, 1)), side, count)


def stacked(images: Sequence[Pixels], like: Pixels, side: int, count: int) -> NDArray[np.generic]:
    """Images as a network takes them.

    Args:
        images: At most `count` images (side, side, bands).
        like: Pixels (height, width, bands) with the same bands and dtype.
        side: Side in pixels.
        count: How many entries the stack has; those beyond the images are black.

    Returns:
        An array (count, bands, side, side).
    """
    found = np.zeros((count, like.shape[2], side, side), like.dtype)
    for index, image in enumerate(images):
        found[index] = image.transpose(2, 0, 1)
    return found


class ArraySource(HostSource):
    """A raster in memory.

    In an array of floats, a value that is not finite, or whose magnitude is beyond 1e30, has no data. The rule is that
    of files: the network sees 0 there, and the pixel has no data, whatever its other bands hold.

    Args:
        pixels: Array (height, width, bands).

    Attributes:
        pixels: The array.
        implausible: Pixels that `valid` took as missing though they are finite, so far.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.implausible = 0
        self._plausible = Plausible.any_finite(pixels.shape[2]) if pixels.dtype.kind == "f" else None

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self.pixels.shape[1])

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window, 0 where a band has no data: a view of the array if it can be."""
        pixels = self._view(window)
        if self._plausible is None:
            return pixels
        found = self._plausible.holds(pixels)
        return pixels if found.all() else np.where(found, pixels, pixels.dtype.type(0))

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window has data, (height, width); None for integers, which have data everywhere."""
        if self._plausible is None:
            return None
        pixels = self._view(window)
        found = self._plausible.holds(pixels)
        self.implausible += int(np.count_nonzero((~found & np.isfinite(pixels)).any(axis=2)))
        valid: NDArray[np.bool_] = np.logical_and.reduce(found, axis=2)
        return valid

    def _view(self, window: Window) -> Pixels:
        return self.pixels[window.y : window.bottom, window.x : window.right]


def _cut(source: Source, windows: Sequence[Window]) -> Iterator[Pixels]:
    """Pixels of windows; those side by side that touch are read in one go, for batches are rows of tiles."""
    row = list[Window]()
    for window in windows:
        if row and not (
            (row[-1].y, row[-1].height) == (window.y, window.height) and row[-1].x <= window.x <= row[-1].right
        ):
            yield from _cut_row(source, row)
            row = []
        row.append(window)
    if row:
        yield from _cut_row(source, row)


def _cut_row(source: Source, row: Sequence[Window]) -> Iterator[Pixels]:
    """Pixels of windows that follow each other from left to right."""
    first = row[0]
    around = Window(first.y, first.x, first.height, row[-1].right - first.x)
    pixels = read_padded(source, around)
    return (pixels[window.inside(around)] for window in row)


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
