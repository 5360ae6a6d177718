"""GeoTIFFs that are written window by window."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window

from ..errors import RasterError
from .cache import decoded_cache
from .files import open_any
from .silence import ignored
from .source import Georeference

BLOCK = 256
"""Side of a block of the files that are written, in pixels."""
CACHE = 8 << 20
"""Bytes of blocks that GDAL holds while files are written: they come whole, and none is needed again."""


class RasterWriter:
    """Writes windows into a tiled GeoTIFF; `create_raster` makes it.

    Args:
        dataset: The open file.
    """

    def __init__(self, dataset: DatasetWriter) -> None:
        self._dataset = dataset

    def write(self, pixels: NDArray[np.generic], y: int, x: int = 0) -> None:
        """Write a window.

        Args:
            pixels: Pixels (bands, rows, columns) in the file's dtype. Windows that consist of whole blocks of the file
                are best: a block that is written twice wastes space.
            y: First row.
            x: First column.
        """
        self._dataset.write(pixels, window=Window(x, y, pixels.shape[2], pixels.shape[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterSpec:
    """What a new GeoTIFF holds.

    Attributes:
        height: Number of rows.
        width: Number of columns.
        dtype: NumPy's name of the dtype.
        descriptions: The name of each band.
        nodata: The value of pixels without data, or None.
        colours: Red, green and blue by class id, for one band of class ids; None leaves the palette out.
        tags: Texts by name.
        scale: What a value is multiplied by to give what it means; 1 where it means itself.
    """

    height: int
    width: int
    dtype: str
    descriptions: tuple[str, ...]
    nodata: float | None
    colours: tuple[tuple[int, int, int], ...] | None
    tags: dict[str, str]
    scale: float = 1.0


@contextlib.contextmanager
def create_raster(
    path: Path, spec: RasterSpec, georeference: Georeference, *, passing: bool = False
) -> Iterator[RasterWriter]:
    """Create a tiled, compressed GeoTIFF.

    Args:
        path: The file.
        spec: What it holds.
        georeference: Where it lies.
        passing: Whether the file is read once and removed, so that it is worth little work to make it small.

    Yields:
        What takes the pixels.

    Raises:
        OSError: The file cannot be written, or the disk is full.
    """
    profile = {
        "driver": "GTiff", "height": spec.height, "width": spec.width, "count": len(spec.descriptions),
        "dtype": spec.dtype, "nodata": spec.nodata, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "predictor": 3 if spec.dtype == "float32" else 1, "bigtiff": "if_safer",
        "interleave": "band", **_placed(georeference), **({"zlevel": 1} if passing else {}),
    }  # fmt: skip
    with ignored(NotGeoreferencedWarning):  # the outputs of a PNG or JPEG have no place either
        dataset = rasterio.open(path, "w", **profile)
    with decoded_cache(CACHE), dataset:
        dataset.update_tags(**spec.tags)
        for band, description in enumerate(spec.descriptions, 1):
            dataset.set_band_description(band, description)
        if spec.scale != 1:
            dataset.scales = (spec.scale,) * len(spec.descriptions)
        if spec.colours:
            dataset.write_colormap(1, {index: (*colour, 255) for index, colour in enumerate(spec.colours)})
        yield RasterWriter(dataset)
    check_complete(path)


def _placed(georeference: Georeference) -> dict[str, object]:
    """Where a new GeoTIFF lies: it cannot hold control points beside a transform, which GDAL prefers."""
    points, points_crs = georeference.gcps
    transform = georeference.transform
    found: dict[str, object] = {"rpcs": georeference.rpcs} if georeference.rpcs else {}
    if points and (transform is None or transform.is_identity):
        return found | {"gcps": points, "crs": points_crs or CRS()}  # None would not do for an unknown one
    return found | {"crs": georeference.crs, "transform": transform}


def check_complete(path: Path) -> None:
    """Raise OSError unless every block of a GeoTIFF lies in it: closing it does not tell that the disk was full."""
    try:
        with open_any(path) as dataset:
            ends = [
                _block_end(dataset, band, *index)
                for band in dataset.indexes
                for index, _ in dataset.block_windows(band)
            ]
    except RasterError:
        ends = [None]
    if None in ends or max(end for end in ends if end) > path.stat().st_size:
        raise OSError(errno.ENOSPC, "the file is incomplete, probably no space is left")


def _block_end(dataset: DatasetReader, band: int, row: int, column: int) -> int | None:
    """Where a block of a GeoTIFF ends in its file; None where it was not written."""
    offset, size = (
        dataset.get_tag_item(f"BLOCK_{kind}_{column}_{row}", "TIFF", bidx=band) for kind in ("OFFSET", "SIZE")
    )
    return int(offset) + int(size) if offset and size else None
