"""Features of patches, shrunk and pasted together to one map of the window that the patches cover.

Cells share a side among them: each owns the pixels that lie nearest to its centre. What a cell of the whole window gets
is the mean of the patches' cells, weighed by the pixels that both own; where patches overlap, all of them count. That
is separable, so it is one matrix for each row of patches and one for each column. Pixels are counted in whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from .contexts import Cells

Shares = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pasting:
    """How one map of patches becomes a map of a window, along one axis.

    Attributes:
        cells: Cells of a patch.
        size: Side in pixels of the patch that they are computed from.
        tile: Side of the patch in pixels of the raster.
        whole: Cells of the window.
        whole_size: Side in pixels of the window that they are computed from.
        window: Side of the window in pixels of the raster.
    """

    cells: Cells
    size: int
    tile: int
    whole: Cells
    whole_size: int
    window: int

    def shares(self, starts: Sequence[int]) -> Shares:
        """What each cell of the window takes of each cell of some patches.

        Args:
            starts: First pixels of the patches, in pixels of the raster from the window's first. Together the patches
                cover the window; they may reach beyond it.

        Returns:
            Shares (patches, cells of the window, cells of a patch) float32. Those of a cell of the window add up to 1.
        """
        own = [edge * self.tile / self.size for edge in _edges(self.cells, self.size)]
        wanted = [edge * self.window / self.whole_size for edge in _edges(self.whole, self.whole_size)]
        unit = math.lcm(*(edge.denominator for edge in (*own, *wanted)))
        ours, theirs = (np.array([int(edge * unit) for edge in edges], np.int64) for edges in (own, wanted))
        found = np.stack([_overlaps(theirs, ours + start * unit) for start in starts])
        total = found.sum(axis=(0, 2), keepdims=True)  # 0 only for cells that own no pixel
        shares: Shares = (found / np.maximum(total, 1)).astype(np.float32)
        return shares


class Pasted:
    """A map of a window, to which patches are added one after the other.

    Args:
        rows: Shares (rows of patches, H, h), see `Pasting`.
        columns: Shares (columns of patches, W, w).
        channels: Channels of the map.
    """

    def __init__(self, rows: Shares, columns: Shares, channels: int) -> None:
        self._rows, self._columns = [_reach(one) for one in rows], [_reach(one) for one in columns]
        self.map = np.zeros((1, channels, rows.shape[1], columns.shape[1]), np.float32)

    def add(self, row: int, column: int, features: NDArray[np.generic]) -> None:
        """Add one patch.

        Args:
            row: Its number among the rows of patches.
            column: Its number among the columns.
            features: Its features (C, h, w).
        """
        (down, rows), (across, columns) = self._rows[row], self._columns[column]
        self.map[0, :, down, across] += rows @ (features.astype(np.float32) @ columns.T)


def _reach(shares: Shares) -> tuple[slice, Shares]:
    """The cells that take anything of a patch, and what they take."""
    taking = np.flatnonzero(shares.any(axis=1))
    reach = slice(int(taking[0]), int(taking[-1]) + 1) if len(taking) else slice(0, 0)
    return reach, np.ascontiguousarray(shares[reach])


def _edges(cells: Cells, side: int) -> list[Fraction]:
    """Where the part of each cell begins, and where that of the last one ends: from 0 to the side in pixels."""
    first = Fraction(cells.offset) + Fraction(1 - cells.stride, 2)  # half a stride before the centre of the first
    inner = [min(max(first + cells.stride * index, Fraction(0)), Fraction(side)) for index in range(1, cells.count)]
    return [Fraction(0), *inner, Fraction(side)]


def _overlaps(theirs: NDArray[np.int64], ours: NDArray[np.int64]) -> NDArray[np.int64]:
    """How much each part between two of their edges shares with each part between two of ours."""
    ends = np.minimum(theirs[1:, None], ours[None, 1:])
    starts = np.maximum(theirs[:-1, None], ours[None, :-1])
    shared: NDArray[np.int64] = np.maximum(ends - starts, 0)
    return shared
