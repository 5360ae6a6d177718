"""Polygons of a mask that comes strip by strip: those that cross strips are joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from ...raster.areas import PixelAreas
from ...raster.regions import Regions, Ring, connected, regions_of
from ...tiling.merge import NODATA
from ..levels import LEVELS

_PIXELS = 1 << 20  # of a strip at most: they take up to 100 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A polygon of one class.

    Attributes:
        outline: The polygon, in columns and rows of the raster.
        id: Class id.
        pixels: How many pixels it covers.
        metres: Their square metres; as many as pixels in a raster that lies nowhere.
        confidence: The mean of their highest probability.
    """

    outline: shapely.Polygon
    id: int
    pixels: int
    metres: float
    confidence: float


@dataclass(slots=True)
class _Open:
    """A region that reaches the last row seen so far."""

    id: int
    pixels: int = 0
    metres: float = 0.0
    confidence: float = 0.0
    pieces: list[shapely.Polygon] = field(default_factory=list)

    def take(self, other: _Open) -> None:
        """Take in a region that turned out to be a part of this one."""
        self.pixels += other.pixels
        self.metres += other.metres
        self.confidence += other.confidence
        self.pieces += other.pieces

    def feature(self) -> Feature:
        """The whole region."""
        outline = self.pieces[0] if len(self.pieces) == 1 else _joined(self.pieces)
        mean = self.confidence / self.pixels / LEVELS
        return Feature(outline=outline, id=self.id, pixels=self.pixels, metres=self.metres, confidence=mean)


class Polygons:
    """Makes polygons of strips, from top to bottom.

    Memory grows with the width of the raster and with the polygons that reach the last row, not with all of them.

    Args:
        areas: Areas of the raster's pixels.
        min_area: Polygons of less than so many square metres are left out.
    """

    def __init__(self, areas: PixelAreas, min_area: float = 0.0) -> None:
        self._areas, self._min_area, self._y = areas, min_area, 0
        self._open: list[_Open] = []
        self._row: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None  # ids and open regions of the last row

    def add(self, ids: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> Iterator[Feature]:
        """Take the next rows of the mask.

        Args:
            ids: Class ids (rows, columns), 255 without data.
            confidence: The highest probabilities (rows, columns), in 254ths.

        Yields:
            Polygons that are complete.
        """
        rows = max(1, _PIXELS // ids.shape[1])
        for top in range(0, len(ids), rows):
            yield from self._strip(ids[top : top + rows], confidence[top : top + rows])

    def finish(self) -> Iterator[Feature]:
        """The polygons that reach the last row."""
        found, self._open, self._row = self._open, [], None
        yield from self._wanted(found)

    def _strip(self, ids: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> Iterator[Feature]:
        regions = regions_of(ids, confidence, self._y, self._areas)
        outlines = dict(regions.outlines(self._y))
        self._y += len(ids)
        before = len(self._open)
        groups = connected(before + len(regions.ids), *self._links(ids, regions))
        parts = self._open + [_piece(regions, number, outlines) for number in range(len(regions.ids))]
        whole: dict[int, _Open] = {}
        for group, part in zip(groups.tolist(), parts, strict=True):
            if group in whole:
                whole[group].take(part)
            elif part.id != NODATA:
                whole[group] = part
        bottom = groups[before + regions.numbers[-1]]
        reaching = np.unique(bottom[ids[-1] != NODATA]).tolist()
        self._open = [whole.pop(group) for group in reaching]
        self._row = ids[-1].copy(), np.searchsorted(reaching, bottom)
        yield from self._wanted(list(whole.values()))

    def _links(self, ids: NDArray[np.uint8], regions: Regions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which open regions go on in which of a strip, whose numbers follow those of the open ones."""
        if self._row is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        same = (self._row[0] == ids[0]) & (ids[0] != NODATA)
        pairs = np.unique(np.stack([self._row[1][same], regions.numbers[0][same].astype(np.int64)]), axis=1)
        return pairs[0], pairs[1] + len(self._open)

    def _wanted(self, regions: list[_Open]) -> Iterator[Feature]:
        for region in regions:
            if region.metres >= self._min_area:
                yield region.feature()


def _piece(regions: Regions, number: int, outlines: dict[int, list[Ring]]) -> _Open:
    if number not in outlines:
        return _Open(NODATA)
    outer, *holes = outlines[number]
    return _Open(
        int(regions.ids[number]), int(regions.pixels[number]), float(regions.metres[number]),
        float(regions.confidence[number]), [shapely.Polygon(outer, holes)],
    )  # fmt: skip


def _joined(pieces: list[shapely.Polygon]) -> shapely.Polygon:
    """The union of polygons that share edges, without corners where they met."""
    union = shapely.union_all(pieces)
    assert isinstance(union, shapely.Polygon), "regions share edges"
    return shapely.Polygon(_corners(union.exterior), [_corners(ring) for ring in union.interiors])


def _corners(ring: shapely.LinearRing) -> NDArray[np.float64]:
    """The points of a ring at which it turns."""
    points: NDArray[np.float64] = shapely.get_coordinates(ring)[:-1]
    to, away = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corners: NDArray[np.float64] = points[to[:, 0] * away[:, 1] != to[:, 1] * away[:, 0]]
    return corners
