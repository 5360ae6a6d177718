"""How Pillow weighs the pixels of a window when it resamples, computed on the host in Pillow's own order.

The kernels that resample on a GPU take these weights, so that their pixels are Pillow's bit by bit.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

Resampling = Literal["pillow-bilinear", "box"]
"""The filters: a triangle as wide as the factor of shrinking, and the mean."""

_PRECISION = 22  # bits behind the point of Pillow's weights for uint8


class Taps(NamedTuple):
    """How one side of a window is resampled to `size` pixels.

    Attributes:
        spans: The first old pixel and the number of old pixels of each new one (size, 2) int32.
        weights: The weights of these old pixels (size, taps): int32 fixed-point numbers for uint8, else float64.
    """

    spans: NDArray[np.int32]
    weights: NDArray[np.int32] | NDArray[np.float64]


@lru_cache(maxsize=64)
def taps(side: int, size: int, resampling: Resampling, integer: bool) -> Taps:
    """Compute Pillow's weights along one side: `precompute_coeffs` of its Resample.c.

    Args:
        side: Length of the side in pixels.
        size: Its length after resampling.
        resampling: The filter.
        integer: Whether the pixels are uint8, for which Pillow's weights are integers.

    Returns:
        Spans and weights.
    """
    if side == size:  # Pillow leaves such an axis out
        spans = np.stack([np.arange(size), np.ones(size)], axis=1)
        return Taps(spans.astype(np.int32), _fixed(np.ones((size, 1))) if integer else np.ones((size, 1)))
    scale = side / size
    stretch = max(scale, 1.0)
    support = (0.5 if resampling == "box" else 1.0) * stretch
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum(np.trunc(centre - support + 0.5), 0)
    count = np.minimum(np.trunc(centre + support + 0.5), side) - first
    tap = np.arange(int(count.max()))
    distance = (tap + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch)
    if resampling == "box":
        weights = ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)
    else:
        weights = np.maximum(1.0 - np.abs(distance), 0.0)
    weights[tap >= count[:, None]] = 0.0
    total = np.cumsum(weights, axis=1)[:, -1:]  # one after the other, as Pillow adds them
    weights = np.divide(weights, total, out=weights, where=total != 0)
    return Taps(np.stack([first, count], axis=1).astype(np.int32), _fixed(weights) if integer else weights)


def _fixed(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    """Weights as fixed-point numbers."""
    return np.trunc(0.5 + weights * (1 << _PRECISION)).astype(np.int32)


def columns_first(height: int, width: int, size: int) -> bool:
    """Whether Pillow resamples along columns before rows: from 13.0 on, where that makes much less of a window.

    Args:
        height: Height of the window in pixels.
        width: Its width.
        size: Both after resampling.

    Returns:
        Whether columns come first.
    """
    less = height - size
    return int(PIL.__version__.split(".")[0]) >= 13 and less > max(0, 2 * (width - size))
