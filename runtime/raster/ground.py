"""How large the pixels of a raster are on the ground."""

from __future__ import annotations

import logging
import math

from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.warp import transform as to_coordinates

from .georeference import Georeference
from .source import RasterSource

log = logging.getLogger(__name__)

_RADIUS = 6_378_137.0  # of the earth at the equator, in metres
_ECCENTRICITY = 0.00669437999014  # squared, of the ellipsoid WGS 84
_POINTS = "EPSG:4326"
ALIKE = 1.5
"""The ratio of distances up to which classes are not at risk."""


def ground_distance(georeference: Georeference, height: int, width: int) -> float | None:
    """Metres on the ground from one pixel to the next at a raster's centre, whatever the units of its coordinates.

    Args:
        georeference: Where the raster lies.
        height: Its rows.
        width: Its columns.

    Returns:
        The geometric mean over both directions, so that its square is the area of a pixel; None where the raster has no
        transform or no coordinate reference system, or one that is tied to no place on the earth.
    """
    crs, transform = georeference.crs, georeference.transform
    if transform is None or not crs:
        return None
    x, y = width / 2, height / 2
    a, b, c, d, e, f = tuple(transform)[:6]
    corners = [(a * u + b * v + c, d * u + e * v + f) for u, v in ((x, y), (x + 1, y), (x, y + 1))]
    try:
        longitudes, latitudes = to_coordinates(crs, _POINTS, *(list(axis) for axis in zip(*corners, strict=True)))
    except (RasterioError, CPLE_BaseError):  # rasterio lets GDAL's own errors through here
        return None
    if not all(map(math.isfinite, (*longitudes, *latitudes))) or abs(latitudes[0]) >= 90:
        return None
    flat = 1 - _ECCENTRICITY * math.sin(math.radians(latitudes[0])) ** 2
    northward = _RADIUS * (1 - _ECCENTRICITY) / flat**1.5
    eastward = _RADIUS / math.sqrt(flat) * math.cos(math.radians(latitudes[0]))
    steps = [
        (
            math.radians(math.remainder(longitudes[index] - longitudes[0], 360)) * eastward,
            math.radians(latitudes[index] - latitudes[0]) * northward,
        )
        for index in (1, 2)
    ]
    area = abs(steps[0][0] * steps[1][1] - steps[0][1] * steps[1][0])
    return math.sqrt(area) or None


def warn_of_distance(source: RasterSource, trained: float | None) -> None:
    """Warn where a raster's pixels are much larger or smaller than those that a network was trained on.

    Args:
        source: The open raster.
        trained: Metres per pixel of the training images; None where it is not known, and nothing is said.
    """
    found = ground_distance(source.georeference, source.height, source.width) if trained else None
    if not trained or not found or max(found / trained, trained / found) <= ALIKE:
        return
    factor, what = (found / trained, "larger") if found > trained else (trained / found, "smaller")
    log.warning(
        "%s: a pixel is %.3g m on the ground, and was %.3g m where the network was trained: %.2g times %s, so that "
        "classes may be wrong; work at another `resolution`, such as %.3g",
        source.name, found, trained, factor, what, trained,
    )  # fmt: skip
