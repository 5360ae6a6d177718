"""Windows of pixels, shrunk to the size that a network takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.generic]
"""Pixels (height, width, bands) in the dtype of their raster."""
Resampling = Literal["pillow-bilinear", "box"]

_FILTERS = {"pillow-bilinear": Image.Resampling.BILINEAR, "box": Image.Resampling.BOX}


def resample(pixels: Pixels, size: int, resampling: Resampling) -> Pixels:
    """Shrink or enlarge pixels to a square.

    Both filters are Pillow's, and low-pass when they shrink: "box" takes the mean of the pixels that fall into each new
    one, "pillow-bilinear" weighs them by a triangle as wide as the factor, as the public release did. uint8 is rounded
    after each axis.

    Args:
        pixels: Pixels (height, width, bands).
        size: Side of the square in pixels.
        resampling: The filter.

    Returns:
        Pixels (size, size, bands) in the same dtype; integers are rounded.
    """
    return shrunk(pixels, size, size, resampling)


def shrunk(pixels: Pixels, height: int, width: int, resampling: Resampling) -> Pixels:
    """Shrink or enlarge pixels to a rectangle, see `resample`.

    Args:
        pixels: Pixels (rows, columns, bands).
        height: New number of rows.
        width: New number of columns.
        resampling: The filter.

    Returns:
        Pixels (height, width, bands) in the same dtype; integers are rounded.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    shrink = _shrinker(height, width, resampling)
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return shrink(Image.fromarray(np.ascontiguousarray(pixels)))
    bands = [_resample_band(pixels[:, :, band], shrink) for band in range(pixels.shape[2])]
    return np.stack(bands, axis=2)


def _resample_band(band: Pixels, shrink: Callable[[Image.Image], Pixels]) -> Pixels:
    if band.dtype == np.uint8:
        return shrink(Image.fromarray(np.ascontiguousarray(band)))
    resampled = shrink(Image.fromarray(np.ascontiguousarray(band, dtype=np.float32)))
    return (resampled.round() if band.dtype.kind in "iu" else resampled).astype(band.dtype)


def _shrinker(height: int, width: int, resampling: Resampling) -> Callable[[Image.Image], Pixels]:
    def shrink(image: Image.Image) -> Pixels:
        return np.asarray(image.resize((width, height), _FILTERS[resampling]))

    return shrink
