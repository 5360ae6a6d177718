"""Polygons in columns and rows of a raster: which pixels have their centres in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.enums import MergeAlg
from rasterio.features import rasterize
from rasterio.transform import Affine

from ..tiling.windows import Window

CELL = 256
"""Side in pixels of what is drawn at once, so that a pixel does not depend on the window that it is asked for in."""

_CELLS = 512  # that are kept, 64 KiB each at most
_CORNERS = 256  # of a piece of a polygon, unless it lies in one cell
_BATCH = 10_000  # windows
_POLYGON, _COLLECTIONS = 3, (4, 5, 6, 7)  # shapely's numbers of types
_PIECE_BYTES = 1500  # of memory, beside 16 for each corner

Shapes = NDArray[np.object_]


class Outlines:
    """Polygons that lie on a raster; `outlines_on` (in `placing`) makes it.

    A pixel belongs to a polygon if its centre lies in it, as GDAL draws polygons. Polygons are cut along borders of
    cells into pieces of few corners, so that a cell costs what lies in it, however large a polygon is.

    Args:
        names: What each polygon is called.
        pieces: Polygons in columns and rows of the raster.
        owners: The number of the polygon that each piece belongs to.
        box: The window around all of them. Cells begin at its corner.
    """

    def __init__(self, names: tuple[str, ...], pieces: Shapes, owners: NDArray[np.int64], box: Window) -> None:
        self.names, self.box = names, box
        self._pieces, self._owners = _cut(pieces, owners, box)
        self._tree = shapely.STRtree(self._pieces)
        self._drawn = lru_cache(maxsize=_CELLS)(self._draw)

    @property
    def memory(self) -> int:
        """Bytes of memory that they take at most, what is drawn of them included."""
        corners = int(shapely.get_num_coordinates(self._pieces).sum())
        return _CELLS * CELL * CELL + _PIECE_BYTES * len(self._pieces) + 16 * corners

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels (rows, columns) of a window in the box lie in a polygon."""
        found = np.zeros((window.height, window.width), np.bool_)
        for cell in self.cells(window):
            whole = self._cell_of(cell)
            found[cell.inside(window)] = self._drawn(whole)[cell.inside(whole)]
        return found

    def cells(self, window: Window) -> Iterator[Window]:
        """The parts of a window in the box that lie in one cell each, in reading order."""
        box = self.box
        for y in range(window.y - (window.y - box.y) % CELL, window.bottom, CELL):
            for x in range(window.x - (window.x - box.x) % CELL, window.right, CELL):
                part = Window(y, x, CELL, CELL).shared(window)
                assert part is not None
                yield part

    def layers(self, cell: Window) -> Iterator[NDArray[np.int32]]:
        """Which polygons the pixels of a cell lie in.

        Args:
            cell: A part of a cell, as `cells` gives it.

        Yields:
            Numbers of polygons (rows, columns) from 1, and 0 where there is none: one array where polygons do not
            overlap in the cell, else one for each polygon.
        """
        met = self._tree.query(_square(cell))
        if not len(met):
            return
        whole = self._cell_of(cell)
        part = cell.inside(whole)
        owners = self._owners[met] + 1
        counts = _burnt(self._pieces[met], np.ones_like(owners), whole, MergeAlg.add)
        if counts.max() <= 1:
            yield _burnt(self._pieces[met], owners, whole)[part]
            return
        for owner in np.unique(owners):
            yield _burnt(self._pieces[met[owners == owner]], owners[owners == owner], whole)[part]

    def any_pixel(self) -> bool:
        """Whether the centre of any pixel lies in a polygon."""
        for left, top, right, bottom in shapely.bounds(self._pieces).tolist():
            y, x, stop, end = centres(top, left, bottom, right)
            if stop > y and end > x:
                window = Window(y, x, stop - y, end - x).shared(self.box)
                if window and any(self.inside(cell).any() for cell in self.cells(window)):
                    return True
        return False

    def touched(self, windows: Iterable[Window]) -> int:
        """How many of some windows the polygons touch; some may have no pixel's centre in one."""
        rest, found = iter(windows), 0
        while batch := list(islice(rest, _BATCH)):
            met = self._tree.query(np.array([_square(window) for window in batch]), predicate="intersects")
            found += len(np.unique(met[0]))
        return found

    def _cell_of(self, part: Window) -> Window:
        """The whole cell that a part lies in, cropped to the box."""
        y, x = part.y - (part.y - self.box.y) % CELL, part.x - (part.x - self.box.x) % CELL
        return Window(y, x, min(CELL, self.box.bottom - y), min(CELL, self.box.right - x))

    def _draw(self, cell: Window) -> NDArray[np.bool_]:
        met = self._tree.query(_square(cell))
        if not len(met):
            return _EMPTY[: cell.height, : cell.width]
        drawn = _burnt(self._pieces[met], np.ones(len(met), np.int64), cell) != 0
        return _FULL[: cell.height, : cell.width] if drawn.all() else drawn


_EMPTY, _FULL = np.zeros((CELL, CELL), np.bool_), np.ones((CELL, CELL), np.bool_)


def parts_of(shapes: Shapes, owners: NDArray[np.int64]) -> tuple[Shapes, NDArray[np.int64]]:
    """The polygons that some geometries hold; empty ones are left out.

    Args:
        shapes: Geometries of any type, (n,) objects, or None.
        owners: A number for each, (n,).

    Returns:
        The polygons, and the number of the geometry that each was a part of.
    """
    while np.isin(shapely.get_type_id(shapes), _COLLECTIONS).any():  # collections may hold collections
        shapes, index = shapely.get_parts(shapes, return_index=True)
        owners = owners[index]
    kept = (shapely.get_type_id(shapes) == _POLYGON) & ~shapely.is_empty(shapes)
    return shapes[kept], owners[kept]


def within(
    shapes: Shapes, owners: NDArray[np.int64], left: float, top: float, right: float, bottom: float
) -> tuple[Shapes, NDArray[np.int64]]:
    """The parts of polygons that lie in a rectangle.

    Args:
        shapes: Polygons, (n,) objects.
        owners: A number for each, (n,).
        left: Lowest x.
        top: Lowest y.
        right: Highest x.
        bottom: Highest y.

    Returns:
        Polygons, and the number of the polygon that each was a part of.
    """
    bounds = shapely.bounds(shapes)
    apart = (bounds[:, 2] <= left) | (bounds[:, 0] >= right) | (bounds[:, 3] <= top) | (bounds[:, 1] >= bottom)
    shapes, owners, bounds = shapes[~apart], owners[~apart], bounds[~apart]
    over = (bounds[:, :2] < (left, top)).any(axis=1) | (bounds[:, 2:] > (right, bottom)).any(axis=1)
    shapes = shapes.copy()
    shapes[over] = shapely.intersection(shapes[over], shapely.box(left, top, right, bottom))
    return parts_of(shapes, owners)


def centres(top: float, left: float, bottom: float, right: float) -> tuple[int, int, int, int]:
    """The pixels with their centres in a rectangle.

    Args:
        top: Lowest row, in pixels and their fractions, as all others.
        left: Lowest column.
        bottom: Highest row.
        right: Highest column.

    Returns:
        First row, first column, the row after the last one and the column after the last one.
    """
    return math.ceil(top - 0.5), math.ceil(left - 0.5), math.floor(bottom + 0.5), math.floor(right + 0.5)


def _cut(shapes: Shapes, owners: NDArray[np.int64], box: Window) -> tuple[Shapes, NDArray[np.int64]]:
    """Cut polygons of many corners in halves along borders of cells, until they have few or lie in one cell."""
    done = [(shapes[:0], owners[:0])]
    while len(shapes):
        bounds = (shapely.bounds(shapes) - (box.x, box.y, box.x, box.y)) / CELL
        first, stop = np.floor(bounds[:, :2]), np.ceil(bounds[:, 2:])
        spans = (stop - first).max(axis=1)
        small = (shapely.get_num_coordinates(shapes) <= _CORNERS) | (spans <= 1)
        done.append((shapes[small], owners[small]))
        halves = [
            half
            for index in np.flatnonzero(~small).tolist()
            for half in _halved(shapes[index : index + 1], owners[index : index + 1], first[index], stop[index], box)
        ]
        shapes = np.concatenate([half[0] for half in halves]) if halves else shapes[:0]
        owners = np.concatenate([half[1] for half in halves]) if halves else owners[:0]
    return np.concatenate([part[0] for part in done]), np.concatenate([part[1] for part in done])


def _halved(
    shape: Shapes, owner: NDArray[np.int64], first: NDArray[np.float64], stop: NDArray[np.float64], box: Window
) -> Iterator[tuple[Shapes, NDArray[np.int64]]]:
    """Both halves of one polygon, along its longer side; first, stop: its cells, columns and rows."""
    axis = int(np.argmax(stop - first))
    middle = (first[axis] + stop[axis]) // 2
    corner = np.array([box.x, box.y])
    for start, end in ((first[axis], middle), (middle, stop[axis])):
        low, high = first.copy(), stop.copy()
        low[axis], high[axis] = start, end
        yield within(shape, owner, *(low * CELL + corner).tolist(), *(high * CELL + corner).tolist())


def _square(window: Window) -> shapely.Polygon:
    return shapely.box(window.x, window.y, window.right, window.bottom)


def _burnt(
    shapes: Shapes, values: NDArray[np.int64], window: Window, rule: MergeAlg = MergeAlg.replace
) -> NDArray[np.int32]:
    """Polygons drawn into a window, (rows, columns), each with its value; 0 where there is none."""
    found: NDArray[np.int32] = rasterize(
        zip(shapes, values.tolist(), strict=True), out_shape=(window.height, window.width), dtype="int32",
        transform=Affine.translation(window.x, window.y), merge_alg=rule,
    )  # fmt: skip
    return found
