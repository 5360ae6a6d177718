"""The range of an int8 activation: one number per tensor, `amax`, from a histogram of |x|.

int8 is symmetric here: the zero point is 0, and one scale of amax / 127 holds for all of a tensor. Values beyond amax
are clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.errors import BundleError, InputError

from . import choices

Method = choices.Method
METHODS: tuple[Method, ...] = get_args(Method)

BINS = 2048
LARGEST = 127  # of int8, both ways

_LEVELS = 128  # of |x| in int8
_STRIDE = 8  # bins between two ranges that entropy tries: 0.4 % of the peak
_SPREAD = 1e-4  # of a distribution, over all of its bins
_FINEST = 1.01  # ratio of neighbouring ranges that mse tries
_SMALLEST = LARGEST * float(np.finfo(np.float32).tiny)  # below it the scale is no normal number of fp32

Counts = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """A histogram of |x| where x is not 0.

    Zeros are left out, because every scale holds them exactly. Counted, the many zeros of a ReLU would dominate a
    percentile, and hide all other values from entropy.

    Attributes:
        counts: (BINS,) int64. Bin i counts peak * [i, i+1) / BINS; the last bin includes its upper end.
        peak: max |x|. Where counts are of a sample, the peak need not be among them.
    """

    counts: Counts
    peak: float


def count(values: NDArray[np.generic], peak: float) -> Counts:
    """Count values for a histogram.

    Args:
        values: Numbers, in an array of any shape.
        peak: The upper end of the last bin.

    Returns:
        (BINS,) int64: how many |values| other than 0 are in each bin; those beyond the peak are in the last one.
    """
    sizes = np.abs(values[values != 0]).astype(np.float64)
    if not peak:
        return np.zeros(BINS, np.int64)
    return np.bincount(np.minimum(sizes * (BINS / peak), BINS - 1).astype(np.intp), minlength=BINS).astype(np.int64)


def amax(histogram: Histogram, method: Method, percentile: float = 99.99, name: str = "tensor") -> float:
    """Find the range of a tensor.

    Args:
        histogram: The tensor's values on real patches.
        method: "minmax" takes the peak. "percentile" takes the number below which so many % of the values other than 0
            lie. "entropy" takes the least Kullback-Leibler divergence, as TensorRT's calibration does. "mse" takes the
            least squared error of rounding and clipping.
        percentile: For "percentile", above 0 and up to 100.
        name: The name of the tensor in error messages.

    Returns:
        A finite, positive range whose scale amax / 127 is a normal number of fp32. A tensor of zeros, or of values too
        small for fp32 to scale, gets 1: any scale holds it exactly, and fp16 holds a scale of 1 / 127 too.

    Raises:
        BundleError: The peak is not finite.
        InputError: The percentile is out of range.
    """
    counts, peak = histogram.counts, finite(histogram.peak, name)
    if not 0 < percentile <= 100:
        raise InputError(expected="a percentile above 0 and up to 100", found=f"{percentile:g}")
    if peak < _SMALLEST:
        return 1.0
    if method == "minmax" or not counts.any():
        return peak
    if method == "percentile":
        bins = float(np.interp(percentile / 100 * counts.sum(), np.cumsum([0, *counts]), np.arange(BINS + 1)))
    else:
        bins = _entropy(counts) if method == "entropy" else _mse(counts)
    return max(peak * bins / BINS, _SMALLEST)


def finite(peak: float, name: str) -> float:
    """Check a peak.

    Args:
        peak: max |x| of a tensor.
        name: The name of the tensor in error messages.

    Returns:
        The peak itself.

    Raises:
        BundleError: The peak is infinite or NaN.
    """
    if not math.isfinite(peak):
        raise BundleError(
            f"int8 needs a finite range, found {peak}: check the weights, and the images with fp32 graphs",
            subject=name,
        )
    return peak


# Ranges in bins.


def _entropy(counts: Counts) -> float:
    """The range, in bins, whose 128 levels preserve most of the distribution; of equal ranges, the widest.

    The first bin counts as much as the second. The tails of GELU and similar functions crowd in it, and they become 0
    whatever the range is. NVIDIA's own tools do the same.
    """
    counts = np.concatenate([counts[1:2], counts[1:]])
    ranges = np.arange(BINS, _LEVELS - 1, -_STRIDE)
    return float(ranges[np.argmin([_divergence(counts, int(bins)) for bins in ranges])])


def _divergence(counts: Counts, bins: int) -> float:
    """The divergence of the first `bins` bins, with all clipped values in the last one, from the same at 128 levels.

    The values of a level are spread evenly over those of its bins that are not empty.
    """
    inside = counts[:bins].astype(np.float64)
    if not inside.any():
        return math.inf
    level, filled = np.arange(bins) * _LEVELS // bins, inside > 0
    sums, parts = np.bincount(level, inside, _LEVELS), np.bincount(level, filled, _LEVELS)
    levels = _smoothed(np.where(filled, (sums / np.maximum(parts, 1))[level], 0.0))
    inside[-1] += counts[bins:].sum()
    reference = _smoothed(inside)
    return float(np.sum(reference * np.log(reference / levels)))


def _smoothed(counts: Array) -> Array:
    """Counts as fractions, a 10,000th of which is spread over all bins, so that no divergence is infinite."""
    fractions: Array = counts / counts.sum()
    return (1 - _SPREAD) * fractions + _SPREAD / len(fractions)


def _mse(counts: Counts) -> float:
    """The range, in bins, of the least squared error, between the peak and a 128th of it."""
    ranges = BINS * _FINEST ** -np.arange(math.log(_LEVELS) / math.log(_FINEST))
    return float(ranges[np.argmin([_squared_error(counts, bins / LARGEST) for bins in ranges])])


def _squared_error(counts: Counts, scale: float) -> float:
    """The squared error of all values, which are taken as spread evenly inside their bins.

    It is the exact integral of (x - q(x))^2 over each bin. From 0 to an x that is rounded to k, that integral is
    k scale^3 / 12 + (x - k scale)^3 / 3: a full step from -1/2 to 1/2 contributes scale^3 / 12, the lower half of the
    first step and the upper part of the last one make up the rest. It holds beyond the range too, where k stays 127.
    """
    edges = np.arange(BINS + 1.0)
    steps = np.minimum(np.rint(edges / scale), LARGEST)
    integral = steps * scale**3 / 12 + (edges - steps * scale) ** 3 / 3
    return float(counts @ np.diff(integral))
