"""How much ground the pixels of a raster cover."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as transform_points

from ..tiling.windows import Window
from .georeference import Georeference

STEP = 256
"""Columns for which one area a row is good enough, also in a raster that is turned."""

_SPHEROID = re.compile(r'SPHEROID\["[^"]*",\s*([\d.]+),\s*([\d.]+)')
_MERCATOR = re.compile(r'PROJECTION\["Mercator')
_DEGREES = CRS.from_epsg(4326)


class PixelAreas:
    """Areas of pixels in square metres.

    Where coordinates are angles, or lie on a Mercator map, whose metres grow with the distance from the equator, areas
    are those on the ellipsoid. Elsewhere they are those on the map.

    Args:
        georeference: Where the raster lies. Control points alone give no areas.

    Attributes:
        uniform: The area of each pixel, where all have the same; else None.
    """

    def __init__(self, georeference: Georeference) -> None:
        crs, transform = georeference.crs, georeference.transform
        self.uniform: float | None = None
        self._ground: _Ellipsoid | None = None
        if crs is None or transform is None or transform.is_identity:
            return
        if crs.is_geographic or _MERCATOR.search(crs.wkt):
            self._ground = _Ellipsoid(crs, transform)
        elif crs.is_projected:
            self.uniform = abs(transform.determinant) * crs.linear_units_factor[1] ** 2

    @property
    def known(self) -> bool:
        """Whether pixels have areas at all: the raster must lie somewhere."""
        return self.uniform is not None or self._ground is not None

    def of_rows(self, window: Window) -> NDArray[np.float64]:
        """The area of one pixel in each row of a window, at its middle column.

        Args:
            window: The window, at most 256 pixels wide.

        Returns:
            Square metres, (rows,); 1 for each pixel of a raster that lies nowhere.
        """
        if self._ground is None:
            return np.full(window.height, self.uniform or 1.0)
        return self._ground.areas(
            np.arange(window.y, window.bottom, dtype=np.float64) + 0.5, window.x + window.width / 2
        )


class _Ellipsoid:
    """Areas on the ellipsoid of a coordinate reference system.

    A pixel is so small that its area is that of a parallelogram on the plane that touches the ellipsoid at its middle.
    """

    def __init__(self, crs: CRS, transform: Affine) -> None:
        self._crs, self._transform = crs, transform
        spheroid = _SPHEROID.search(crs.wkt)
        self._axis, inverse = map(float, spheroid.groups() if spheroid else ("6378137", "298.257223563"))
        self._squared = (2 - 1 / inverse) / inverse if inverse else 0.0  # eccentricity; a sphere has none

    def areas(self, rows: NDArray[np.float64], column: float) -> NDArray[np.float64]:
        """Square metres of the pixels whose middles lie at some rows and one column."""
        latitude = self._places(rows, column)[1]
        if self._crs.is_geographic:
            cells = np.float64(abs(self._transform.determinant) * self._crs.units_factor[1] ** 2)
        else:
            across = self._places(rows, column + 0.5) - self._places(rows, column - 0.5)
            down = self._places(rows + 0.5, column) - self._places(rows - 0.5, column)
            cells = np.abs(across[0] * down[1] - across[1] * down[0])
        root = 1 - self._squared * np.sin(latitude) ** 2
        found: NDArray[np.float64] = cells * self._axis**2 * (1 - self._squared) * np.cos(latitude) / root**2
        return found

    def _places(self, rows: NDArray[np.float64], column: float) -> NDArray[np.float64]:
        """Longitudes and latitudes in radians, (2, rows)."""
        t = self._transform
        places = np.stack([t.a * column + t.b * rows + t.c, t.d * column + t.e * rows + t.f])
        if self._crs.is_geographic:
            return places * float(self._crs.units_factor[1])
        degrees: NDArray[np.float64] = np.array(transform_points(self._crs, _DEGREES, *places.tolist()), np.float64)
        return np.radians(degrees)
