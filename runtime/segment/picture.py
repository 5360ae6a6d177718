"""A small picture of a raster, made of the pixels that pass by, so that the raster is not decoded once more for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..tiling.resampling import Pixels
from ..tiling.windows import Window

_SIDE = 1600  # of the picture, in pixels
_BANDS = 3  # that are shown


@dataclass(frozen=True, slots=True, eq=False)
class PicturePart:
    """What some pixels of a raster add to its picture.

    Attributes:
        y: First row in the picture.
        x: First column in the picture.
        sums: Sums (rows, columns, bands) float32 of the pixels that have data, by the share that falls into each.
        weights: The sums of the shares, (rows, columns) float32.
    """

    y: int
    x: int
    sums: NDArray[np.float32]
    weights: NDArray[np.float32]

    @classmethod
    def nothing(cls) -> PicturePart:
        """The part that changes no pixel."""
        return cls(0, 0, np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32))


@dataclass(frozen=True, slots=True)
class PictureScale:
    """How a raster is shrunk to a picture of at most 1600 pixels a side: each pixel is the mean of what it covers.

    Attributes:
        height: Height of the raster in pixels, or of the part of it that is shown.
        width: Width of the raster in pixels, or of that part.
        y: First row of the raster that is shown.
        x: First column of the raster that is shown.
    """

    height: int
    width: int
    y: int = 0
    x: int = 0

    @classmethod
    def of(cls, box: Window) -> PictureScale:
        """A picture of a part of a raster."""
        return cls(box.height, box.width, box.y, box.x)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        scale = min(1.0, _SIDE / max(self.height, self.width))
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))

    def part(self, pixels: Pixels, window: Window, valid: NDArray[np.bool_] | None) -> PicturePart:
        """Shrink some pixels.

        Args:
            pixels: Pixels (height, width, bands) of the window; the first three bands are shown.
            window: Where they lie in the raster.
            valid: Where they have data, (height, width); None for everywhere.

        Returns:
            What they add to the picture; nothing where they lie beside what is shown.
        """
        part = window.shared(Window(self.y, self.x, self.height, self.width))
        if part is None:
            return PicturePart.nothing()
        rows = _Bins.of(part.y - self.y, part.height, self.height, self.size[0])
        columns = _Bins.of(part.x - self.x, part.width, self.width, self.size[1])
        here = part.inside(window)
        shown = pixels[:, :, :_BANDS][here].astype(np.float32, order="C")
        if valid is None:
            weights = columns.sums(np.ones((1, part.width), np.float32), 1).repeat(part.height, axis=0)
        else:
            has_data = valid[here].astype(np.float32)
            shown *= has_data[:, :, None]
            weights = columns.sums(has_data, 1)
        return PicturePart(rows.first, columns.first, rows.sums(columns.sums(shown, 1), 0), rows.sums(weights, 0))

    def picture(self, parts: Iterable[PicturePart], dtype: str) -> Pixels:
        """Put the parts of a picture together.

        Args:
            parts: Parts that together cover the raster once.
            dtype: The dtype of the raster.

        Returns:
            Pixels (height, width, bands) of that dtype, 0 where no pixel has data.
        """
        sums, weights = np.zeros((*self.size, 0), np.float32), np.zeros(self.size, np.float32)
        for part in parts:
            if sums.shape[2] < part.sums.shape[2]:  # what came before, if anything, was nothing
                sums = np.zeros((*self.size, part.sums.shape[2]), np.float32)
            here = np.s_[part.y : part.y + part.weights.shape[0], part.x : part.x + part.weights.shape[1]]
            sums[here] += part.sums
            weights[here] += part.weights
        means = np.divide(sums, np.where(weights > 0, weights, 1)[:, :, None], out=sums)
        return (np.rint(means, out=means) if np.dtype(dtype).kind in "iu" else means).astype(dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Bins:
    """The rows or columns of a picture that those of a window fall into, by the share of each.

    A row of the raster is no higher than one of the picture, so it lies in one of them or reaches into the next.

    Attributes:
        first: The first row of the picture.
        starts: For each row of the picture, the first row of the window that begins in it.
        here: The share of each row of the window in the row of the picture in which it begins, float32.
        next: Its share in the following one.
    """

    first: int
    starts: NDArray[np.intp]
    here: NDArray[np.float32]
    next: NDArray[np.float32]

    @classmethod
    def of(cls, start: int, length: int, side: int, small: int) -> _Bins:
        """The rows of a window that starts at a row, in a picture of `small` rows of a raster of `side` rows."""
        begins = np.arange(start, start + length) * small
        bins = begins // side
        here = np.minimum((bins + 1) * side - begins, small) / small
        return cls(
            int(bins[0]), np.flatnonzero(np.diff(bins, prepend=-1)), here.astype(np.float32),
            (1 - here).astype(np.float32),
        )  # fmt: skip

    def sums(self, values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Sums of values along an axis, one more than there are rows in `starts` where the last one reaches beyond.

        The values are overwritten: only the last row in each one of the picture may reach into the next.
        """
        last = np.append(self.starts[1:], len(self.here)) - 1
        along = [1] * values.ndim
        along[axis] = -1
        ends = values.take(last, axis)
        np.moveaxis(values, axis, 0)[last] = np.moveaxis(ends * self.here[last].reshape(along), axis, 0)
        inside = np.add.reduceat(values, self.starts, axis=axis)
        shape = list(inside.shape)
        shape[axis] += bool(self.next[-1] > 0)
        total = np.zeros(shape, np.float32)
        found, beyond = np.moveaxis(total, axis, 0), np.moveaxis(ends * self.next[last].reshape(along), axis, 0)
        found[: len(last)] = np.moveaxis(inside, axis, 0)
        found[1:] += beyond[: len(found) - 1]
        return total
