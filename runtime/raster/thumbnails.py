"""Whole rasters at a small size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from ..tiling.resampling import Pixels
from ..tiling.windows import Window
from .files import open_any


def read_thumbnail(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """Read band 1 of a raster of class ids (uint8) at another size.

    Args:
        path: The file.
        height: Height in pixels.
        width: Width in pixels.

    Returns:
        Class ids (height, width), each that of the nearest pixel.

    Raises:
        RasterError: The file is missing, or no image.
    """
    with open_any(path) as dataset:
        ids: NDArray[np.uint8] = dataset.read(1, out_shape=(height, width), resampling=Resampling.nearest)
    return ids


def means(read: Callable[[Window], Pixels], shape: tuple[int, int], height: int, width: int) -> Pixels:
    """The means of a raster's pixels at another size, read window by window from the top.

    Args:
        read: Gives the pixels (height, width, bands) of a window.
        shape: Rows and columns of the raster.
        height: Height in pixels.
        width: Width in pixels.

    Returns:
        Pixels (height, width, bands) in the raster's dtype; integers are rounded.
    """
    tops, lefts = np.arange(height) * shape[0] // height, np.arange(width) * shape[1] // width
    columns = np.maximum(np.diff([*lefts, shape[1]]), 1)[:, None]
    rows = []
    for top, stop in zip(tops, [*tops[1:], shape[0]], strict=True):
        pixels = read(Window(int(top), 0, max(1, int(stop - top)), shape[1]))
        rows.append(np.add.reduceat(pixels.mean(axis=0, dtype=np.float64), lefts, axis=0) / columns)
    found = np.stack(rows)
    return (found if pixels.dtype.kind == "f" else found.round()).astype(pixels.dtype)
