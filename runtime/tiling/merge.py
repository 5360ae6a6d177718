"""Overlapping tiles of scores, logits or probabilities -> finished rows, averaged (§4.2).

Tiles come in reading order, so a row of the raster is finished as soon as a tile starts below it. Only as many rows
as a tile is high are held: memory grows with the width of the raster, not with its height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .windows import Grid, Window

Scores = NDArray[np.float32]
Kind = Literal["logits", "probabilities"]
NODATA = 255  # the class id of pixels where the raster has no data


class FinishedRows(Protocol):
    """Rows that no further tile touches. y: first row; rows: how many."""

    @property
    def y(self) -> int:
        """First row."""
        ...

    @property
    def rows(self) -> int:
        """How many rows."""
        ...

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, width)."""
        ...

    def shares(self) -> Scores:
        """Probabilities (classes, rows, width)."""
        ...


@dataclass(frozen=True, slots=True)
class Strip:
    """Finished rows on the host: first row, averaged scores (classes, rows, width) float32, and what they are."""

    y: int
    scores: Scores
    kind: Kind = "logits"

    @property
    def rows(self) -> int:
        """How many rows."""
        return int(self.scores.shape[1])

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, width); the lowest id wins a tie."""
        best = self.scores[0].copy()
        ids = np.zeros(best.shape, np.uint8)
        for index in range(1, len(self.scores)):  # class by class: argmax over the first axis is several times slower
            better = self.scores[index] > best
            ids[better] = index
            np.maximum(best, self.scores[index], out=best)
        return ids

    def shares(self) -> Scores:
        """Probabilities (classes, rows, width) float32: the softmax of logits, or the scores themselves."""
        if self.kind == "probabilities":
            return self.scores
        exponential = np.exp(self.scores - self.scores.max(axis=0))
        normalised: Scores = exponential / exponential.sum(axis=0)
        return normalised


class Merger:
    """Adds tiles of scores and hands out strips as they are finished."""

    def __init__(self, grid: Grid, classes: int, rule: str, kind: Kind = "logits") -> None:
        self._grid, self._kind = grid, kind
        self._weight = WEIGHTS[rule](grid.tile)
        self._columns = covered(grid.columns, grid.width, self._weight)
        self._rows = covered(grid.rows, grid.height, self._weight)
        self._sums = np.zeros((classes, grid.tile, grid.width), np.float32)
        self._y = 0  # row of the raster that the first row of the sums holds

    def add(self, tiles: Sequence[Window], scores: Scores) -> Iterator[Strip]:
        """Add the scores (N, classes, tile, tile) of at most N tiles; yields the rows that lie above them."""
        for tile, tile_scores in zip(tiles, scores, strict=False):  # the padding of the last batch is dropped
            if tile.y > self._y:
                yield self._finish(tile.y - self._y)
            self._add(tile, tile_scores)

    def _add(self, tile: Window, scores: Scores) -> None:
        rows = min(tile.height, self._grid.height - tile.y)
        columns = min(tile.width, self._grid.width - tile.x)
        weight = np.outer(self._weight[:rows], self._weight[:columns])
        self._sums[:, :rows, tile.x : tile.x + columns] += scores[:, :rows, :columns] * weight

    def flush(self) -> Iterator[Strip]:
        """The rows that are left after the last tile."""
        yield self._finish(self._grid.height - self._y)

    def _finish(self, rows: int) -> Strip:
        total = np.outer(self._rows[self._y : self._y + rows], self._columns)
        strip = Strip(self._y, self._sums[:, :rows] / total, self._kind)
        kept = self._sums.shape[1] - rows
        self._sums[:, :kept] = self._sums[:, rows:]
        self._sums[:, kept:] = 0
        self._y += rows
        return strip


def uniform(tile: int) -> NDArray[np.float32]:
    """Weight 1 everywhere: (tile,)."""
    return np.ones(tile, np.float32)


def cosine(tile: int) -> NDArray[np.float32]:
    """Raised cosine sampled at pixel centres: (tile,), highest in the middle and above 0 at the border."""
    return np.square(np.sin(np.pi * (np.arange(tile) + 0.5) / tile)).astype(np.float32)


WEIGHTS: dict[str, Callable[[int], NDArray[np.float32]]] = {"uniform": uniform, "cosine": cosine}


def covered(starts: tuple[int, ...], side: int, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum of the weights over every pixel of a side: the grid is a product of both sides, so one line is enough."""
    total = np.zeros(side, np.float32)
    for start in starts:
        end = min(start + len(weight), side)
        total[start:end] += weight[: end - start]
    return total
