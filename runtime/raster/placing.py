"""Polygons of a file, placed on a raster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as transform_points

from ..errors import InputError
from ..tiling.windows import Window
from .frames import DEGREES
from .georeference import Georeference
from .outlines import Outlines, Shapes, centres, parts_of, within
from .vectors import Features

log = logging.getLogger(__name__)

_FARTHEST = 1e12  # pixels; beyond, nothing is where it seems
_AOI = "`aoi`"


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
    shapes, owners = within(shapes, owners, 0.0, 0.0, float(width), float(height))
    if not len(shapes):
        raise InputError(
            subject=_AOI, expected="polygons on the image", found=f"{_counted(total)}, beside it",
            remedy="see where both lie, and in which coordinate reference system",
        )  # fmt: skip
    left, top, right, bottom = shapely.total_bounds(shapes).tolist()
    y, x, stop, end = centres(top, left, bottom, right)
    box = Window(y, x, stop - y, end - x).within(height, width) if stop > y and end > x else None
    outlines = Outlines(features.names, shapes, owners, box) if box else None
    if outlines is None or not outlines.any_pixel():
        found = f"{_counted(len(np.unique(owners)))} between the centres of its pixels"
        raise InputError(subject=_AOI, expected="polygons that hold a pixel of the image", found=found)
    return outlines


def drawn(rings: Sequence[Sequence[tuple[float, float]]]) -> Features:
    """Polygons that somebody drew on a map.

    Args:
        rings: The corners of each, longitude and latitude; at least three, the first one need not come again.

    Returns:
        The polygons, named by their numbers from 1.
    """
    outlines = np.array([shapely.to_wkb(shapely.Polygon(ring)) for ring in rings], np.object_)
    return Features(outlines, tuple(str(number) for number in range(1, len(rings) + 1)), DEGREES)


def _counted(number: int) -> str:
    return f"{number} polygon{'s' * (number != 1)}"


def _polygons(features: Features) -> tuple[Shapes, NDArray[np.int64]]:
    """The polygons of all features, and the number of the feature that each belongs to."""
    try:
        shapes: Shapes = np.asarray(shapely.from_wkb(features.outlines, on_invalid="fix"), np.object_)
    except (shapely.errors.ShapelyError, TypeError) as error:
        raise InputError(subject=_AOI, expected="geometries that can be read", found=f"{error}") from None
    found, owners = parts_of(shapes, np.arange(len(shapes)))
    if not len(found):
        raise InputError(subject=_AOI, expected="a file with polygons", found="none in it")
    if others := len(shapes) - len(np.unique(owners)):
        log.warning("%d of %d features hold no polygon, and are left out", others, len(shapes))
    return found, owners


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
