"""A raster at another size: which pixels belong together, in integers, and means of pixels that have data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .merge import PIECE, FinishedRows
from .resampling import Pixels
from .windows import Window

HANDED_OUT = 1 << 20
"""Pixels of the raster that are handed out at once, about."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """A raster's own grid, and the grid of the same extent in which a network works.

    Attributes:
        height: Rows of the raster.
        width: Columns of the raster.
        rows: Rows of the working grid.
        columns: Columns of the working grid.
    """

    height: int
    width: int
    rows: int
    columns: int

    @classmethod
    def by(cls, height: int, width: int, factor: float) -> Rescale:
        """The working grid whose sides have so many times the pixels of a raster's."""
        return cls(height, width, max(1, round(height * factor)), max(1, round(width * factor)))

    @property
    def is_identity(self) -> bool:
        """Whether both grids are the same."""
        return (self.height, self.width) == (self.rows, self.columns)

    def across(self, pixels: int) -> int:
        """How many columns of the raster so many columns of the working grid span, at most."""
        return -(-pixels * self.width // self.columns) + 1

    def down(self, pixels: int) -> int:
        """How many rows of the raster so many rows of the working grid span, at most."""
        return -(-pixels * self.height // self.rows) + 1

    def row_at(self, row: int) -> int:
        """The first row of the raster whose centre does not lie above a row of the working grid."""
        return _first_centre(row, self.height, self.rows)

    def raster_window(self, window: Window) -> Window | None:
        """The pixels of the raster whose centres lie in a window of the working grid; None where there is none.

        Windows that cover the working grid once give windows that cover the raster once.
        """
        top, bottom = (_first_centre(y, self.height, self.rows) for y in (window.y, window.bottom))
        left, right = (_first_centre(x, self.width, self.columns) for x in (window.x, window.right))
        return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None

    def working_window(self, window: Window) -> Window:
        """The working pixels in which any pixel of a window of the raster lies, with its centre."""
        if self.is_identity:
            return window
        y, bottom = nearest(window.y, window.height, self.height, self.rows)[[0, -1]]
        x, right = nearest(window.x, window.width, self.width, self.columns)[[0, -1]]
        return Window(int(y), int(x), int(bottom - y) + 1, int(right - x) + 1)

    def covering(self, window: Window) -> Window:
        """The pixels of the raster that working pixels of a window inside the working grid are made of."""
        if self.is_identity:
            return window
        rows = Axis(window.y, window.height, self.height, self.rows)
        columns = Axis(window.x, window.width, self.width, self.columns)
        return Window(rows.first, columns.first, rows.needed, columns.needed)

    def in_raster(self, strip: FinishedRows, *, probabilities: bool) -> Iterator[FinishedRows]:
        """Finished pixels of the working grid as pixels of the raster: each is that of the working pixel it lies in.

        Args:
            strip: Pixels of the working grid.
            probabilities: Whether their probabilities are wanted.

        Yields:
            Pixels of the raster, top to bottom. How many rows each has depends on the rows of the strip alone.
        """
        window = self.raster_window(strip.window)
        if window is None:
            return
        ids, found = strip.ids(), strip.probabilities() if probabilities else None
        columns = nearest(window.x, window.width, self.width, self.columns) - strip.window.x
        step = max(1, HANDED_OUT // self.across(PIECE))
        for y in range(window.y, window.bottom, step):
            height = min(step, window.bottom - y)
            rows = nearest(y, height, self.height, self.rows) - strip.window.y
            yield _Nearest(Window(y, window.x, height, window.width), ids, found, rows, columns, strip.agreement)


@dataclass(frozen=True, slots=True, eq=False)
class _Nearest:
    """Some pixels of a raster, each the copy of one of the working grid; see `FinishedRows`."""

    window: Window
    working_ids: NDArray[np.uint8]
    working_probabilities: NDArray[np.float32] | None
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    working_agreement: NDArray[np.uint8] | None

    @property
    def agreement(self) -> NDArray[np.uint8] | None:
        """How far overlapping tiles agree, (rows, columns); None unless votes were counted."""
        if self.working_agreement is None:
            return None
        return self.working_agreement.take(self.rows, axis=0).take(self.columns, axis=1)

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, columns)."""
        return self.working_ids.take(self.rows, axis=0).take(self.columns, axis=1)

    def probabilities(self) -> NDArray[np.float32]:
        """Probabilities (classes, rows, columns) float32."""
        assert self.working_probabilities is not None, "nobody asked for them"
        return self.working_probabilities.take(self.rows, axis=1).take(self.columns, axis=2)


def nearest(start: int, length: int, side: int, working: int) -> NDArray[np.intp]:
    """The working pixel in which the centre of each of some pixels of a side lies.

    Args:
        start: The first of the pixels.
        length: How many there are.
        side: Pixels of the raster's side.
        working: Pixels of the same side of the working grid.

    Returns:
        Indices (length,).
    """
    return (2 * np.arange(start, start + length) + 1) * working // (2 * side)


def _first_centre(start: int, side: int, working: int) -> int:
    """The first pixel of a side whose centre does not lie before the working pixel `start`."""
    return max(0, -((working - 2 * side * start) // (2 * working)))


@dataclass(frozen=True, slots=True)
class Axis:
    """Some working pixels of one side, and the pixels of the raster that make them.

    Where the working grid is coarser, a working pixel is the mean of what it covers, by the share that it covers. Where
    it is finer, it is interpolated between the two pixels whose centres lie around its own.

    Attributes:
        start: The first working pixel.
        length: How many there are.
        side: Pixels of the raster's side.
        working: Pixels of the same side of the working grid.
    """

    start: int
    length: int
    side: int
    working: int

    @property
    def finer(self) -> bool:
        """Whether working pixels are smaller than those of the raster."""
        return self.working > self.side

    @property
    def first(self) -> int:
        """The first pixel of the raster that is needed."""
        if self.finer:
            return int(self._between()[0][0])
        return self.start * self.side // self.working

    @property
    def needed(self) -> int:
        """How many pixels of the raster are needed."""
        if self.finer:
            return int(self._between()[1][-1]) + 1 - self.first
        return -(-(self.start + self.length) * self.side // self.working) - self.first

    def middles(self) -> NDArray[np.intp]:
        """The needed pixel, counted from the first, in which the centre of each working pixel lies."""
        return nearest(self.start, self.length, self.working, self.side) - self.first

    def sums(self, values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Weighted sums of values of the needed pixels along an axis, an entry for each working pixel.

        The weights are whole numbers, so that sums of integers are exact.
        """
        if self.finer:
            low, high, weight = self._between()
            low, high, weight = low - self.first, high - self.first, _along(weight, axis, values.ndim)
            return values.take(low, axis) * (2 * self.working - weight) + values.take(high, axis) * weight
        begins = np.arange(self.start, self.start + self.length + 1) * self.side
        starts, ends = begins[:-1] // self.working, -(-begins[1:] // self.working)
        covered = np.stack([starts, ends], axis=1).ravel()[:-1] - self.first  # the last sum ends with the values
        found: NDArray[np.float64] = np.add.reduceat(values, covered, axis=axis)
        found = found.take(np.arange(0, len(covered), 2), axis) * self.working
        if self.side % self.working:  # pixels at both ends are covered in part
            before, beyond = begins[:-1] - starts * self.working, ends * self.working - begins[1:]
            found -= values.take(starts - self.first, axis) * _along(before, axis, values.ndim)
            found -= values.take(ends - 1 - self.first, axis) * _along(beyond, axis, values.ndim)
        return found

    def _between(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """The pixels whose centres lie before and beyond that of each working pixel, and the weight of the latter."""
        places = (2 * np.arange(self.start, self.start + self.length) + 1) * self.side - self.working
        low = places // (2 * self.working)
        weight = places - low * 2 * self.working
        last = self.side - 1
        return np.clip(low, 0, last), np.clip(low + 1, 0, last), weight


def _along(values: NDArray[np.intp], axis: int, dimensions: int) -> NDArray[np.intp]:
    """Values of one axis, to be multiplied with an array of several."""
    return values.reshape([-1 if index == axis else 1 for index in range(dimensions)])


def resampled(
    pixels: Pixels, valid: NDArray[np.bool_] | None, rows: Axis, columns: Axis
) -> tuple[Pixels, NDArray[np.bool_] | None]:
    """Working pixels, each the mean of the pixels of the raster that have data.

    Args:
        pixels: The needed pixels (height, width, bands) of the raster.
        valid: Where they have data, (height, width); None for everywhere.
        rows: The rows that are wanted.
        columns: The columns that are wanted.

    Returns:
        Working pixels (rows, columns, bands) in the same dtype, integers rounded, 0 where there is no data; and where
        they have data, None for everywhere. A coarser pixel has data where any pixel that it covers has; a finer one
        where the pixel has in which its centre lies.
    """
    if valid is not None and valid.all():  # which is quicker, and gives the same
        return resampled(pixels, None, rows, columns)[0], np.ones((rows.length, columns.length), np.bool_)
    values = pixels.astype(np.float64)
    if valid is None:
        weights = np.float64(_total(rows) * _total(columns))
        return _rounded(columns.sums(rows.sums(values, 0), 1) / weights, pixels.dtype), None
    values *= valid[:, :, None]
    weight = columns.sums(rows.sums(valid.astype(np.float64), 0), 1)
    if rows.finer or columns.finer:
        found: NDArray[np.bool_] = valid.take(rows.middles(), 0).take(columns.middles(), 1)
    else:
        found = weight > 0
    means = columns.sums(rows.sums(values, 0), 1) / np.where(weight > 0, weight, 1)[:, :, None]
    means *= found[:, :, None]
    return _rounded(means, pixels.dtype), found


def _total(axis: Axis) -> int:
    """The sum of the weights of every working pixel."""
    return 2 * axis.working if axis.finer else axis.side


def _rounded(means: NDArray[np.float64], dtype: np.dtype[np.generic]) -> Pixels:
    return (np.rint(means, out=means) if dtype.kind in "iu" else means).astype(dtype)
