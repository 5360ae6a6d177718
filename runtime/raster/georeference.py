"""Where a raster lies on the ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import Affine


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
