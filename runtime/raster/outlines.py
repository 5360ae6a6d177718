"""Polygons in columns and rows of a raster: which pixels have their centres in them."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import MergeAlg
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from ..errors import InputError
from ..tiling.windows import Window
from .georeference import Georeference
from .vectors import Features

log = logging.getLogger(__name__)

CELL = 256
"""Side in pixels of what is drawn at once, so that a pixel does not depend on the window that it is asked for in."""

_CELLS = 512  # that are kept, 64 KiB each at most
_CORNERS = 256  # of a piece of a polygon, unless it lies in one cell
_BATCH = 10_000  # windows
_POLYGON, _COLLECTIONS = 3, (4, 5, 6, 7)  # shapely's numbers of types
_PIECE_BYTES = 1500  # of memory, beside 16 for each corner
_FARTHEST = 1e12  # pixels; beyond, nothing is where it seems
_AOI = "`aoi`"

Shapes = NDArray[np.object_]


class Outlines:
    """Polygons that lie on a raster; `outlines_on` makes it.

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
            drawn = self._drawn(whole)[
                cell.y - whole.y : cell.bottom - whole.y, cell.x - whole.x : cell.right - whole.x
            ]
            found[cell.y - window.y : cell.bottom - window.y, cell.x - window.x : cell.right - window.x] = drawn
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
        part = np.s_[cell.y - whole.y : cell.bottom - whole.y, cell.x - whole.x : cell.right - whole.x]
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
            y, x, stop, end = _centres(top, left, bottom, right)
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


def outlines_on(features: Features, place: Georeference, height: int, width: int) -> Outlines:
    """Place the polygons of a file on a raster.

    Args:
        features: What the file holds. What is no polygon is left out, and invalid polygons are made valid.
        place: Where the raster lies; its pixels must have coordinates.
        height: Height of the raster in pixels.
        width: Width of the raster in pixels.

    Returns:
        The polygons.

    Raises:
        InputError: None of them touches the raster, or their system and the raster's do not go together.
    """
    shapes, owners = _polygons(features)
    total = len(np.unique(owners))
    shapes, kept = _placed(shapes, features.crs, place)
    if lost := total - len(np.unique(owners[kept])):
        log.warning("%s of %d without a place in the system of the image: left out", _counted(lost), total)
    owners = owners[kept]
    bad = ~shapely.is_valid(shapes)
    if bad.any():
        log.warning("%s crosses itself, and is mended", _counted(len(np.unique(owners[bad]))))
        shapes[bad] = shapely.make_valid(shapes[bad])
    shapes, owners = _within(shapes, owners, 0.0, 0.0, float(width), float(height))
    if not len(shapes):
        raise InputError(
            subject=_AOI, expected="polygons on the image", found=f"{_counted(total)}, beside it",
            remedy="see where both lie, and in which coordinate reference system",
        )  # fmt: skip
    left, top, right, bottom = shapely.total_bounds(shapes).tolist()
    y, x, stop, end = _centres(top, left, bottom, right)
    box = Window(y, x, stop - y, end - x).within(height, width) if stop > y and end > x else None
    outlines = Outlines(features.names, shapes, owners, box) if box else None
    if outlines is None or not outlines.any_pixel():
        found = f"{_counted(len(np.unique(owners)))} between the centres of its pixels"
        raise InputError(subject=_AOI, expected="polygons that hold a pixel of the image", found=found)
    return outlines


def _counted(number: int) -> str:
    return f"{number} polygon{'s' * (number != 1)}"


def _polygons(features: Features) -> tuple[Shapes, NDArray[np.int64]]:
    """The polygons of all features, and the number of the feature that each belongs to."""
    try:
        shapes: Shapes = np.asarray(shapely.from_wkb(features.outlines, on_invalid="fix"), np.object_)
    except (shapely.errors.ShapelyError, TypeError) as error:
        raise InputError(subject=_AOI, expected="geometries that can be read", found=f"{error}") from None
    found, owners = _parts(shapes, np.arange(len(shapes)))
    if not len(found):
        raise InputError(subject=_AOI, expected="a file with polygons", found="none in it")
    if others := len(shapes) - len(np.unique(owners)):
        log.warning("%d of %d features hold no polygon, and are left out", others, len(shapes))
    return found, owners


def _parts(shapes: Shapes, owners: NDArray[np.int64]) -> tuple[Shapes, NDArray[np.int64]]:
    """The polygons that some geometries hold, and their owners; empty ones are left out."""
    while np.isin(shapely.get_type_id(shapes), _COLLECTIONS).any():  # collections may hold collections
        shapes, index = shapely.get_parts(shapes, return_index=True)
        owners = owners[index]
    kept = (shapely.get_type_id(shapes) == _POLYGON) & ~shapely.is_empty(shapes)
    return shapes[kept], owners[kept]


def _placed(shapes: Shapes, system: str | None, place: Georeference) -> tuple[Shapes, NDArray[np.bool_]]:
    """Polygons in columns and rows of a raster, without those that have no place in its system; and which remain."""
    corners, index = shapely.get_coordinates(shapes, return_index=True)
    if system is None:
        log.warning("the polygons name no coordinate reference system: that of the image is taken")
    else:
        corners = _reprojected(corners, index, system, place.known_crs(_AOI))
    assert place.transform is not None
    inverse, (x, y) = ~place.transform, corners.T
    with np.errstate(over="ignore", invalid="ignore"):
        across, down = inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f
    lost = ~((np.abs(across) < _FARTHEST) & (np.abs(down) < _FARTHEST))  # NaN is not below anything
    kept = np.ones(len(shapes), np.bool_)
    kept[index[lost]] = False
    found: Shapes = shapely.set_coordinates(shapes[kept], np.stack([across, down], axis=1)[kept[index]])
    return found, kept


def _reprojected(corners: NDArray[np.float64], index: NDArray[np.int64], system: str, ours: CRS) -> NDArray[np.float64]:
    """Corners (n, 2) in the system of a raster; NaN for polygons that PROJ refuses, numbered by `index`."""
    try:
        theirs = CRS.from_user_input(system)
    except CRSError as error:
        raise InputError(subject=_AOI, expected="a system that PROJ knows", found=f"{error}") from None
    if theirs == ours:
        return corners
    try:
        return np.stack(transform_points(theirs, ours, *corners.T.tolist()), axis=1)
    except CPLE_BaseError:  # it refuses all where it refuses one
        found = np.full_like(corners, np.nan)
    for part in np.split(np.arange(len(corners)), np.flatnonzero(np.diff(index)) + 1):
        with contextlib.suppress(CPLE_BaseError):
            found[part] = np.stack(transform_points(theirs, ours, *corners[part].T.tolist()), axis=1)
    return found


def _within(
    shapes: Shapes, owners: NDArray[np.int64], left: float, top: float, right: float, bottom: float
) -> tuple[Shapes, NDArray[np.int64]]:
    """The parts of polygons that lie in a rectangle."""
    bounds = shapely.bounds(shapes)
    apart = (bounds[:, 2] <= left) | (bounds[:, 0] >= right) | (bounds[:, 3] <= top) | (bounds[:, 1] >= bottom)
    shapes, owners, bounds = shapes[~apart], owners[~apart], bounds[~apart]
    over = (bounds[:, :2] < (left, top)).any(axis=1) | (bounds[:, 2:] > (right, bottom)).any(axis=1)
    shapes = shapes.copy()
    shapes[over] = shapely.intersection(shapes[over], shapely.box(left, top, right, bottom))
    return _parts(shapes, owners)


def _centres(top: float, left: float, bottom: float, right: float) -> tuple[int, int, int, int]:
    """First row and column, and those after the last, of the pixels with their centres in a rectangle."""
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
        yield _within(shape, owner, *(low * CELL + corner).tolist(), *(high * CELL + corner).tolist())


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
