"""Regions of one class in a strip of a mask: which pixels hang together, and their outlines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import Affine

from ..tiling.merge import NODATA
from ..tiling.windows import Window
from .areas import STEP, PixelAreas

Ring = list[tuple[float, float]]
"""Corners (column, row) of a ring, the first one again at the end."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """Regions of pixels with the same class that share an edge with each other, by number.

    Attributes:
        numbers: The number of each pixel's region, (rows, columns) int32; also where there is no data.
        ids: Class id of each region, 255 without data.
        pixels: How many pixels each has.
        metres: Their square metres; as many as pixels in a raster that lies nowhere.
        confidence: The sum of their confidence, in 254ths.
    """

    numbers: NDArray[np.int32]
    ids: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    metres: NDArray[np.float64]
    confidence: NDArray[np.float64]

    def outlines(self, y: int) -> Iterator[tuple[int, list[Ring]]]:
        """The outline of each region that has data.

        Args:
            y: The row of the raster in which the strip begins.

        Yields:
            The region's number, and its rings: the outer one, then its holes.
        """
        valid = (self.ids != NODATA)[self.numbers]
        if valid.any():
            for shape, number in shapes(self.numbers, valid, connectivity=4, transform=Affine.translation(0, y)):
                yield int(number), shape["coordinates"]


def regions_of(ids: NDArray[np.uint8], confidence: NDArray[np.uint8], y: int, areas: PixelAreas) -> Regions:
    """Find the regions of a strip of a mask.

    Args:
        ids: Class ids (rows, columns) of the strip.
        confidence: The highest probabilities (rows, columns), in 254ths.
        y: The row of the raster in which the strip begins.
        areas: Areas of the raster's pixels.

    Returns:
        The regions.
    """
    height, width = ids.shape
    begins = np.ones(ids.shape, np.bool_)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(begins)  # of runs: pixels of the same class in one row
    runs = (np.cumsum(begins, dtype=np.int64) - 1).reshape(ids.shape)
    touching = (ids[1:] == ids[:-1]) & (begins[1:] | begins[:-1])  # where one of the two begins, each pair is met once
    members = connected(len(starts), runs[:-1][touching], runs[1:][touching])
    first, number = np.unique(members, return_inverse=True)
    lengths = np.diff(starts, append=ids.size)
    sums = np.add.reduceat(confidence.ravel(), starts, dtype=np.float64)
    return Regions(
        numbers=number.astype(np.int32)[runs],
        ids=ids.ravel()[starts[first]],
        pixels=np.bincount(number, weights=lengths).astype(np.int64),
        metres=_summed(number, lengths * _area(starts + lengths // 2, y, (height, width), areas)),
        confidence=_summed(number, sums),
    )


def _summed(number: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of values by number."""
    return np.bincount(number, weights=values).astype(np.float64, copy=False)


def _area(places: NDArray[np.intp], y: int, size: tuple[int, int], areas: PixelAreas) -> NDArray[np.float64]:
    """The area of the pixels at some places of a strip, counted row by row."""
    height, width = size
    if areas.uniform is not None or not areas.known:
        return np.full(len(places), areas.uniform or 1.0)
    table = np.stack([areas.of_rows(Window(y, x, height, min(STEP, width - x))) for x in range(0, width, STEP)], 1)
    return table[places // width, places % width // STEP]


def connected(count: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of some things hang together.

    Args:
        count: How many things there are.
        one: One end of each link between two of them.
        other: Its other end.

    Returns:
        For each thing, the first one that it hangs together with.
    """
    first = np.arange(count)
    while True:
        ends = first[one], first[other]
        low, high = np.minimum(*ends), np.maximum(*ends)
        if np.array_equal(low, high):
            return first
        np.minimum.at(first, high, low)
        while not np.array_equal(first, first[first]):
            first = first[first]
