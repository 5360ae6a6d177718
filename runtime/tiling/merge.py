"""Overlapping tiles of scores, logits or probabilities, averaged into finished rows (§4.2).

Tiles come in reading order, so a row of the raster is finished as soon as a tile starts below it. Only as many rows
as a tile is high are held: memory grows with the width of the raster, not with its height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .windows import Band, Grid, Window

Scores = NDArray[np.float32]
Kind = Literal["logits", "probabilities"]
NODATA = 255  # the class id of pixels where the raster has no data, or the network gave no number


class FinishedRows(Protocol):
    """Rows of a raster that no further tile touches."""

    @property
    def y(self) -> int:
        """First row."""
        ...

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, width); 255 where a score is not finite."""
        ...

    def probabilities(self) -> Scores:
        """Probabilities (classes, rows, width) float32; NaN where a score is not finite."""
        ...


@dataclass(frozen=True, slots=True)
class Strip:
    """Finished rows in the host's memory.

    Attributes:
        y: First row.
        scores: Averaged scores (classes, rows, width) float32.
        kind: What the scores are.
    """

    y: int
    scores: Scores
    kind: Kind = "logits"

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.scores.shape[1])

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, width); of classes with equal scores, the lowest id wins.

        A pixel is 255 where the score of any class is not finite: no class can be called the best there.
        """
        best = self.scores[0].copy()
        ids = np.zeros(best.shape, np.uint8)
        finite = np.isfinite(best)
        for index in range(1, len(self.scores)):  # class by class: argmax over the first axis is several times slower
            better = self.scores[index] > best
            ids[better] = index
            finite &= np.isfinite(self.scores[index])
            np.maximum(best, self.scores[index], out=best)
        ids[~finite] = NODATA
        return ids

    def probabilities(self) -> Scores:
        """Probabilities (classes, rows, width) float32: the softmax of logits, or the scores themselves.

        They are NaN where the score of any class is not finite.
        """
        lost = ~np.isfinite(self.scores).all(axis=0)
        scores = np.where(lost, np.float32(np.nan), self.scores) if lost.any() else self.scores
        if self.kind == "probabilities":
            return scores
        exponential = np.exp(scores - scores.max(axis=0))
        normalised: Scores = exponential / exponential.sum(axis=0)
        return normalised


class Merger:
    """Adds tiles of scores, and hands out strips as they are finished.

    Args:
        grid: The tiles of the raster.
        classes: Number of classes.
        rule: How pixels of a tile are weighed, a key of `WEIGHTS`.
        kind: What the scores are.
        band: The part of the raster whose rows are handed out; None for all of it.
    """

    def __init__(self, grid: Grid, classes: int, rule: str, kind: Kind = "logits", band: Band | None = None) -> None:
        self._grid, self._kind, self._band = grid, kind, band or grid.all_rows()
        self._weight = WEIGHTS[rule](grid.tile)
        self._columns = covered(grid.columns, grid.width, self._weight)
        self._rows = covered(grid.rows, grid.height, self._weight)
        self._sums = np.zeros((classes, grid.tile, grid.width), np.float32)
        self._y = self._band.tile_rows[0]  # row of the raster that the first row of the sums holds

    def add(self, tiles: Sequence[Window], scores: Scores) -> Iterator[Strip]:
        """Add the scores of a batch of tiles.

        Args:
            tiles: The tiles, in reading order, none from before an earlier one.
            scores: Scores (N, classes, tile, tile) float32 of at least as many tiles; further ones are padding.

        Yields:
            The rows above the tiles, which are finished.
        """
        for tile, tile_scores in zip(tiles, scores, strict=False):  # the padding of the last batch is dropped
            yield from self._advance(tile.y)
            self._add(tile, tile_scores)

    def _add(self, tile: Window, scores: Scores) -> None:
        rows = min(tile.height, self._grid.height - tile.y)
        columns = min(tile.width, self._grid.width - tile.x)
        weight = np.outer(self._weight[:rows], self._weight[:columns])
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays so, and shows in the strip
            self._sums[:, :rows, tile.x : tile.x + columns] += scores[:, :rows, :columns] * weight

    def flush(self) -> Iterator[Strip]:
        """The rows of the band that are left after its last tile."""
        yield from self._advance(self._band.bottom)

    def _advance(self, y: int) -> Iterator[Strip]:
        """Move on to a row of the raster; rows above the band were computed for its sake and are dropped."""
        for until in (min(y, self._band.y), y):
            if until > self._y:
                strip = self._finish(until - self._y)
                if strip.y >= self._band.y:
                    yield strip

    def _finish(self, rows: int) -> Strip:
        total = np.outer(self._rows[self._y : self._y + rows], self._columns)
        strip = Strip(self._y, self._sums[:, :rows] / total, self._kind)
        kept = self._sums.shape[1] - rows
        self._sums[:, :kept] = self._sums[:, rows:]
        self._sums[:, kept:] = 0
        self._y += rows
        return strip


def uniform(tile: int) -> NDArray[np.float32]:
    """Weights (tile,) float32 that are 1 everywhere."""
    return np.ones(tile, np.float32)


def cosine(tile: int) -> NDArray[np.float32]:
    """Weights (tile,) float32: a raised cosine at pixel centres, highest in the middle and above 0 at the border."""
    return np.square(np.sin(np.pi * (np.arange(tile) + 0.5) / tile)).astype(np.float32)


WEIGHTS: dict[str, Callable[[int], NDArray[np.float32]]] = {"uniform": uniform, "cosine": cosine}


def covered(starts: tuple[int, ...], side: int, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sum of the weights over every pixel of a side.

    The grid is a product of both sides, so that one line for each side is enough.

    Args:
        starts: First pixel of each tile along the side.
        side: Side of the raster in pixels.
        weight: Weights (tile,) of a tile's pixels.

    Returns:
        Sums (side,) float32.
    """
    total = np.zeros(side, np.float32)
    for start in starts:
        end = min(start + len(weight), side)
        total[start:end] += weight[: end - start]
    return total
