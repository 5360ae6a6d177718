"""Rasters for benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

_PATCH = 50  # pixels of one colour


def write_raster(
    path: Path, rng: np.random.Generator, height: int, width: int, profile: Mapping[str, object] | None = None
) -> None:
    """Write a GeoTIFF of coloured squares with noise, in rows of blocks, so that it may be larger than memory.

    Args:
        path: The file.
        rng: Where the colours come from.
        height: Height in pixels.
        width: Width in pixels.
        profile: What differs from a tiled file of three bands of uint8, as rasterio has it.
    """
    options: dict[str, object] = {
        "driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8", "compress": "deflate",
        "tiled": True, "blockxsize": 256, "blockysize": 256, "crs": "EPSG:32640", "bigtiff": "if_safer",
        "transform": rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 2.7e6), **(profile or {}),
    }  # fmt: skip
    with rasterio.open(path, "w", **options) as dataset:
        for y in range(0, height, 256):
            rows = min(256, height - y)
            colours = rng.integers(0, 256, (3, -(-rows // _PATCH), -(-width // _PATCH)), np.uint8)
            pixels = colours.repeat(_PATCH, axis=1).repeat(_PATCH, axis=2)[:, :rows, :width]
            pixels = pixels // 2 + rng.integers(0, 64, pixels.shape, np.uint8)
            dataset.write(pixels, window=Window(0, y, width, rows))


def write_sparse(path: Path, height: int, width: int) -> None:
    """Write a GeoTIFF of three bands of uint8 without a single block: all of it is nodata, and it takes little room."""
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", nodata=0, tiled=True,
        blockxsize=256, blockysize=256, sparse_ok=True, bigtiff="yes", crs="EPSG:32640",
        transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 2.7e6),
    ):  # fmt: skip
        pass
