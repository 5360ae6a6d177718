"""Where a raster lies on the ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.io import DatasetReader
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
