"""Overlapping tiles of scores, logits or probabilities, averaged into finished rows (§4.2).

Tiles come in reading order, so a row is finished as soon as a tile starts below it. Only as many rows as a tile is
high are held: memory grows with the width of the region that is merged, not with its height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .windows import Region, Window

Scores = NDArray[np.float32]
Kind = Literal["logits", "probabilities"]
NODATA = 255  # the class id of pixels where the raster has no data, or the network gave no number
_ALL = 254  # 255 is for no data
PIECE = 2048  # columns that are handed out at once, so that what is made of them takes little memory


class FinishedRows(Protocol):
    """Pixels of a raster that no further tile touches: some columns of some rows."""

    @property
    def window(self) -> Window:
        """Where they lie in the raster."""
        ...

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, columns); 255 where a score is not finite."""
        ...

    def probabilities(self) -> Scores:
        """Probabilities (classes, rows, columns) float32; NaN where a score is not finite."""
        ...

    @property
    def agreement(self) -> NDArray[np.uint8] | None:
        """How far overlapping tiles agree, see `Strip.agreement`; None unless votes were counted."""
        ...


@dataclass(frozen=True, slots=True)
class Strip:
    """Finished pixels in the host's memory.

    Attributes:
        y: First row.
        x: First column.
        scores: Averaged scores (classes, rows, columns) float32.
        kind: What the scores are.
        agreement: The weight of the tiles whose own best class is that of the pixel, in 254ths of the weight of all
            tiles that cover it, (rows, columns) uint8; None unless votes were counted.
    """

    y: int
    x: int
    scores: Scores
    kind: Kind = "logits"
    agreement: NDArray[np.uint8] | None = None

    @property
    def window(self) -> Window:
        """Where the pixels lie in the raster."""
        return Window(self.y, self.x, *self.scores.shape[1:])

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, columns); of classes with equal scores, the lowest id wins.

        A pixel is 255 where the score of any class is not finite: no class can be called the best there.
        """
        return best_classes(self.scores)

    def probabilities(self) -> Scores:
        """Probabilities (classes, rows, columns) float32: the softmax of logits, or the scores themselves.

        They are NaN where the score of any class is not finite.
        """
        lost = ~np.isfinite(self.scores).all(axis=0)
        scores = np.where(lost, np.float32(np.nan), self.scores) if lost.any() else self.scores
        if self.kind == "probabilities":
            return scores
        exponential = np.exp(scores - scores.max(axis=0))
        normalised: Scores = exponential / exponential.sum(axis=0)
        return normalised


def best_classes(scores: Scores) -> NDArray[np.uint8]:
    """The id of the class with the highest of the scores (classes, rows, columns), see `Strip.ids`."""
    best = scores[0].copy()
    ids = np.zeros(best.shape, np.uint8)
    for index in range(1, len(scores)):  # class by class: argmax over the first axis is several times slower
        better = scores[index] > best
        np.maximum(ids, better.view(np.uint8) * np.uint8(index), out=ids)  # ids rise, so the last better one is highest
        np.maximum(best, scores[index], out=best)
    if not (np.isfinite(scores.min()) and np.isfinite(scores.max())):  # NaN is handed on by both
        ids[~np.isfinite(scores).all(axis=0)] = NODATA
    return ids


class Merger:
    """Adds tiles of scores, and hands out strips as they are finished.

    Args:
        region: The part of the raster that is wanted, and its tiles.
        classes: Number of classes.
        rule: How pixels of a tile are weighed, a key of `WEIGHTS`.
        kind: What the scores are.
        votes: Whether to count how far tiles agree, which takes as much memory again.
    """

    def __init__(self, region: Region, classes: int, rule: str, kind: Kind = "logits", *, votes: bool = False) -> None:
        grid, computed = region.grid, region.computed
        self._region, self._kind, self._finished = region, kind, region.finished
        self._weight = WEIGHTS[rule](grid.tile)
        self._columns = covered(grid.columns, grid.width, self._weight)
        self._rows = covered(grid.rows, grid.height, self._weight)
        self._sums = np.zeros((classes, grid.tile, computed.width), np.float32)
        self._votes = np.zeros_like(self._sums) if votes else None
        self._y, self._x = computed.y, computed.x  # the pixel of the raster that the first one of the sums holds

    def add(self, tiles: Sequence[Window], scores: Scores) -> Iterator[Strip]:
        """Add the scores of a batch of tiles.

        Args:
            tiles: Tiles of the region, in reading order, none from before an earlier one. Tiles may be left out where
                nobody looks at their pixels, whose scores are then 0.
            scores: Scores (N, classes, tile, tile) float32 of at least as many tiles; further ones are padding.

        Yields:
            What lies above the tiles, which is finished, in pieces from left to right.
        """
        for tile, tile_scores in zip(tiles, scores, strict=False):  # the padding of the last batch is dropped
            yield from self._advance(tile.y)
            self._add(tile, tile_scores)

    def _add(self, tile: Window, scores: Scores) -> None:
        rows = min(tile.height, self._region.grid.height - tile.y)
        columns = min(tile.width, self._region.grid.width - tile.x)
        x, weight = tile.x - self._x, np.outer(self._weight[:rows], self._weight[:columns])
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays so, and shows in the strip
            self._sums[:, :rows, x : x + columns] += scores[:, :rows, :columns] * weight
        if self._votes is not None:
            best = best_classes(scores[:, :rows, :columns])
            for index, votes in enumerate(self._votes):
                votes[:rows, x : x + columns] += weight * (best == index)

    def flush(self) -> Iterator[Strip]:
        """What is left of the region after its last tile."""
        yield from self._advance(self._finished.bottom)

    def _advance(self, y: int) -> Iterator[Strip]:
        """Move on to a row of the raster; rows above the region were computed for its sake and are dropped."""
        for until in self._region.steps(self._y, y):  # rows of tiles may have been left out
            if self._y >= self._finished.y:
                for x in range(self._finished.x, self._finished.right, PIECE):
                    yield self._strip(until - self._y, x, min(x + PIECE, self._finished.right))
            self._drop(until - self._y)

    def _strip(self, rows: int, x: int, right: int) -> Strip:
        """The averages of the first rows of the sums, from one column of the raster to another."""
        total = np.outer(self._rows[self._y : self._y + rows], self._columns[x:right])
        inside = np.s_[:, :rows, x - self._x : right - self._x]
        strip = Strip(self._y, x, self._sums[inside] / total, self._kind)
        return strip if self._votes is None else replace(strip, agreement=_agreement(strip, self._votes[inside], total))

    def _drop(self, rows: int) -> None:
        """Make room for as many rows below, where some of the sums are done with."""
        kept = self._sums.shape[1] - rows
        for planes in (self._sums,) if self._votes is None else (self._sums, self._votes):
            for plane in planes:  # one by one: NumPy copies what overlaps
                plane[:kept] = plane[rows:]
            planes[:, kept:] = 0
        self._y += rows


def _agreement(strip: Strip, votes: Scores, total: Scores) -> NDArray[np.uint8]:
    """The share of the votes that each pixel's class has, in 254ths; 255 where it has none."""
    ids = strip.ids()
    known = ids != NODATA
    won = np.take_along_axis(votes, np.where(known, ids, 0)[None].astype(np.intp), axis=0)[0]
    shares = np.rint(won / total * np.float32(_ALL)).clip(0, _ALL).astype(np.uint8)
    return np.where(known, shares, np.uint8(NODATA))


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
