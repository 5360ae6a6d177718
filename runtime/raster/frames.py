"""Where a raster lies on a web map, whose tiles are squares of the Mercator plane (EPSG:3857)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from .georeference import Georeference, georeference_of

TILE = 256
"""Side of a tile in pixels."""
DEGREES = "EPSG:4326"
"""The system of longitudes and latitudes."""

_MERCATOR = CRS.from_epsg(3857)
_WORLD = 2 * math.pi * 6_378_137.0  # side of the Mercator plane in its metres
_NORTHMOST = 85.05  # degrees; the plane ends there
_PIXEL_ZOOM = 18  # of the plane on which rasters without a place are laid
_DEEPEST = 24  # zoom
_DIGITS = 0.02  # of zoom: an image made for a zoom is not shown at the next one


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Where a raster is shown on a web map.

    A raster without a place is laid on the plane at the equator, one of its pixels to a pixel of a tile, so that
    nothing is distorted.

    Attributes:
        height: Rows of the raster.
        width: Columns of the raster.
        georeference: Where it is shown; a system and a transform are always there.
        is_placed: Whether that is where it lies on the ground.
        bounds: Longitudes and latitudes of what it covers: west, south, east, north.
        depth: The zoom at which pixels of tiles are as large as the raster's.
    """

    height: int
    width: int
    georeference: Georeference
    is_placed: bool
    bounds: tuple[float, float, float, float]
    depth: float

    @property
    def zoom(self) -> int:
        """The lowest zoom at which pixels of tiles are not larger than the raster's, so that none is lost."""
        return min(max(math.ceil(self.depth - _DIGITS), 0), _DEEPEST)

    @property
    def nearest_zoom(self) -> int:
        """The zoom at which pixels of tiles are about as large as the raster's: enough for an image."""
        return min(max(round(self.depth), 0), _DEEPEST)

    @property
    def system(self) -> str:
        """What its coordinates are called, such as "EPSG:32640"; "pixels" where it lies nowhere."""
        crs = self.georeference.crs
        assert crs is not None
        if not self.is_placed:
            return "pixels"
        authority = crs.to_authority()
        return ":".join(authority) if authority else "a system without a number"

    def pixel_at(self, longitude: float, latitude: float) -> tuple[int, int] | None:
        """The row and the column of the pixel at a place; None beside the raster."""
        try:
            column, row = _applied(~self._transform, *self.coordinates_at(longitude, latitude))
        except CPLE_BaseError:  # no place in the raster's system
            return None
        if not (0 <= row < self.height and 0 <= column < self.width):  # NaN is not either
            return None
        return math.floor(row), math.floor(column)

    def coordinates_at(self, longitude: float, latitude: float) -> tuple[float, float]:
        """The place in the raster's own system, x and y."""
        crs = self.georeference.crs
        xs, ys = transform_points(CRS.from_string(DEGREES), crs, [longitude], [latitude])
        return float(xs[0]), float(ys[0])

    @property
    def _transform(self) -> Affine:
        assert self.georeference.transform is not None
        return self.georeference.transform


def frame_of(dataset: DatasetReader) -> Frame:
    """Where a raster is shown: where it lies, if it has a place that the Mercator plane has too.

    Control points and coefficients alone place no pixel.

    Args:
        dataset: The open raster.

    Returns:
        The frame.
    """
    place = georeference_of(dataset)
    if place.crs is not None and place.is_placed:
        try:
            return _ground_frame(dataset, place)
        except (CPLE_BaseError, ValueError, OverflowError):  # a local grid, or beyond the plane
            pass
    return _pixel_frame(int(dataset.height), int(dataset.width))


def _ground_frame(dataset: DatasetReader, place: Georeference) -> Frame:
    west, south, east, north = transform_bounds(place.crs, CRS.from_string(DEGREES), *dataset.bounds)
    bounds = (west, max(south, -_NORTHMOST), east, min(north, _NORTHMOST))
    if not all(map(math.isfinite, bounds)) or bounds[1] >= bounds[3]:
        raise ValueError("beyond the plane")
    return Frame(dataset.height, dataset.width, place, True, bounds, _depth(_step(dataset, place)))


def _step(dataset: DatasetReader, place: Georeference) -> float:
    """The shorter side of the pixel at a raster's middle, in metres of the plane."""
    assert place.transform is not None
    row, column = dataset.height / 2, dataset.width / 2
    points = (column, row), (column + 1, row), (column, row + 1)
    corners = [_applied(place.transform, *point) for point in points]
    xs, ys = transform_points(place.crs, _MERCATOR, *map(list, zip(*corners, strict=True)))
    return min(math.hypot(xs[end] - xs[0], ys[end] - ys[0]) for end in (1, 2))


def _applied(transform: Affine, column: float, row: float) -> tuple[float, float]:
    t = transform
    return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f


def _depth(step: float) -> float:
    return math.log2(_WORLD / TILE / step)


def _pixel_frame(height: int, width: int) -> Frame:
    """A raster laid around the middle of the plane, its first pixel at the corner of a tile."""
    step = _WORLD / TILE / 2**_PIXEL_ZOOM
    left, top = (-round(side / 2 / TILE) * TILE * step for side in (width, height))
    transform = Affine(step, 0, left, 0, -step, -top)
    place = Georeference(crs=_MERCATOR, transform=transform, gcps=((), None))
    (west, east), (south, north) = transform_points(
        _MERCATOR, CRS.from_string(DEGREES), [left, left + width * step], [-top - height * step, -top]
    )
    return Frame(height, width, place, False, (west, south, east, north), _PIXEL_ZOOM)


@contextmanager
def shown(dataset: DatasetReader, frame: Frame) -> Iterator[DatasetReader]:
    """An open raster as one that lies where it is shown.

    Args:
        dataset: The open raster.
        frame: Where it is shown.

    Yields:
        The raster itself, or a view of it with the place of the frame.
    """
    place = frame.georeference
    if frame.is_placed and dataset.crs == place.crs and dataset.transform == place.transform:
        yield dataset
        return
    with WarpedVRT(
        dataset, src_crs=place.crs, src_transform=place.transform, crs=place.crs, transform=place.transform,
        height=frame.height, width=frame.width, resampling=Resampling.nearest,
    ) as view:  # fmt: skip
        yield view


def samples_at(dataset: DatasetReader, frame: Frame, longitude: float, latitude: float) -> NDArray[np.generic] | None:
    """The samples of one pixel, (bands,); None beside the raster."""
    pixel = frame.pixel_at(longitude, latitude)
    if pixel is None:
        return None
    found: NDArray[np.generic] = dataset.read(window=Window(pixel[1], pixel[0], 1, 1))[:, 0, 0]
    return found
