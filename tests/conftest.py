"""Fixtures that several test files share. Nothing here imports torch: the runtime's tests run without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

SHARED = Path(__file__).parents[2] / "shared"
"""Imagery that only the developers have; tests that need it skip without it."""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the developers' shared imagery")
    return SHARED / "data"


def write_geotiff(path: Path, pixels: NDArray[np.generic], **profile: object) -> Path:
    """A small GeoTIFF of (height, width, bands) in UTM zone 40 north, 0.5 m a pixel."""
    height, width, bands = pixels.shape
    settings = {"crs": "EPSG:32640", "transform": from_origin(300000, 2780000, 0.5, 0.5), **profile}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=pixels.dtype, **settings
    ) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))
    return path
