"""Where a raster lies on the ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rasterio.warp import transform_bounds

from ..errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """Where a raster lies.

    Attributes:
        crs: The coordinate reference system; None where it has none.
        transform: Column and row to coordinates; None where it has none.
        gcps: Ground control points and their coordinate reference system, which may be unknown.
        rpcs: Rational polynomial coefficients, as satellite images have them before they are orthorectified; or None.
    """

    crs: CRS | None
    transform: Affine | None
    gcps: tuple[Sequence[GroundControlPoint], CRS | None]
    rpcs: RPC | None = None

    @property
    def is_placed(self) -> bool:
        """Whether each pixel has coordinates: a transform that can be turned around."""
        return self.transform is not None and bool(self.transform.determinant)

    def known_crs(self, subject: str) -> CRS:
        """The coordinate reference system, where something of another system is to be placed.

        Raises:
            InputError: The raster has none.
        """
        if self.crs is None:
            raise InputError(
                subject=subject, expected="an image with a coordinate reference system", found="none",
                remedy="give the image one with gdal_edit.py -a_srs, or name pixels with `window`",
            )  # fmt: skip
        return self.crs

    def moved(self, y: int, x: int) -> Georeference:
        """The georeference of a part of the raster that begins at a row and a column."""
        points = [GroundControlPoint(p.row - y, p.col - x, p.x, p.y, p.z, p.id, p.info) for p in self.gcps[0]]
        rpcs = self.rpcs
        if rpcs:
            rpcs = RPC(**{**rpcs.to_dict(), "line_off": rpcs.line_off - y, "samp_off": rpcs.samp_off - x})
        t = self.transform
        moved = Affine(t.a, t.b, t.a * x + t.b * y + t.c, t.d, t.e, t.d * x + t.e * y + t.f) if t else None
        return replace(self, transform=moved, gcps=(points, self.gcps[1]), rpcs=rpcs)

    def thinned(self, step: int) -> Georeference:
        """The georeference of every n-th pixel of every n-th row of the raster, each of which stands for its square."""
        t = self.transform
        thinned = Affine(t.a * step, t.b * step, t.c, t.d * step, t.e * step, t.f) if t else None
        return replace(self, transform=thinned)

    def window_of(self, bounds: tuple[float, float, float, float], crs: str | None = None) -> tuple[float, ...]:
        """Where a box of coordinates lies in the raster.

        Args:
            bounds: Lowest x and y, highest x and y.
            crs: The coordinate reference system of the box, such as EPSG:4326; None for the raster's own.

        Returns:
            First row, first column, last row and last column of the box around it, in pixels and their fractions; not
            finite where the box has no place in the system of the raster.

        Raises:
            InputError: Nobody knows that system, or the raster has none.
        """
        assert self.transform is not None
        if crs is not None:
            try:
                given = CRS.from_user_input(crs)
            except CRSError:
                raise InputError(subject="`bbox_crs`", expected="a system such as EPSG:4326", found=crs) from None
            try:
                bounds = transform_bounds(given, self.known_crs("`bbox_crs`"), *bounds)
            except CPLE_BaseError:
                return (math.nan,) * 4
        inverse, (left, bottom, right, top) = ~self.transform, bounds
        corners = list(product((left, right), (bottom, top)))
        columns = [inverse.a * x + inverse.b * y + inverse.c for x, y in corners]
        rows = [inverse.d * x + inverse.e * y + inverse.f for x, y in corners]
        return min(rows), min(columns), max(rows), max(columns)


NOWHERE = Georeference(crs=None, transform=None, gcps=((), None))
"""The georeference of a raster that has none."""


def georeference_of(dataset: DatasetReader) -> Georeference:
    """Where an open raster lies.

    GDAL gives the identity for the transform of a raster that has none. Written into a mask it would be one: programs
    that draw maps show rows upwards then, beside the image.

    Args:
        dataset: The open raster.

    Returns:
        Where it lies; without a transform where the raster has none, or the identity.
    """
    transform = None if dataset.transform.is_identity else dataset.transform
    return Georeference(crs=dataset.crs, transform=transform, gcps=dataset.gcps, rpcs=dataset.rpcs)
