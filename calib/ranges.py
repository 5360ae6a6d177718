"""How far int8 activations reach: one number per tensor, `amax`, from a histogram of |x|.

int8 is symmetric here: zero point 0, scale amax / 127, one for the whole tensor. What lies beyond amax is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.errors import BundleError, InputError

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

BINS = 2048
LARGEST = 127  # of int8, both ways

_LEVELS = 128  # of |x| in int8
_STRIDE = 8  # bins between two ranges that entropy tries: 0.4 % of the peak
_SPREAD = 1e-4  # of a distribution, over all of its bins
_FINEST = 1.01  # ratio of two ranges that mse tries
_SMALLEST = LARGEST * float(np.finfo(np.float32).tiny)  # below it the scale is no normal number of fp32

Counts = NDArray[np.int64]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Of |x| where x is not 0.

    counts: (BINS,), bin i holds peak * [i, i+1) / BINS, the last one its end too. peak: max |x|; where counts are of a
    sample, it need not be among them.

    Zeros are left out: every scale holds them exactly, so they neither cost nor say anything. Counted, the many that a
    ReLU makes would be most of what a percentile is a share of, and hide all else from entropy.
    """

    counts: Counts
    peak: float


def count(values: NDArray[Any], peak: float) -> Counts:
    """(BINS,): how many |values| other than 0 are in each bin; those beyond the peak are in the last one."""
    sizes = np.abs(values[values != 0]).astype(np.float64)
    if not peak:
        return np.zeros(BINS, np.int64)
    return np.bincount(np.minimum(sizes * (BINS / peak), BINS - 1).astype(np.intp), minlength=BINS).astype(np.int64)


def amax(histogram: Histogram, method: Method, percentile: float = 99.99, name: str = "tensor") -> float:
    """The range of a tensor: finite, positive, and scale amax / 127 a normal number of fp32.

    minmax: the peak. percentile: below it lie that many % of the values other than 0. entropy: the least
    Kullback-Leibler divergence, as in TensorRT's calibration. mse: the least squared error of rounding and clipping.

    A tensor without values other than 0, or with none that fp32 could scale, gets 1: it is held exactly by any scale,
    and 1 is one that fp16 holds too. name: what errors call the tensor. Raises BundleError for a peak that is not
    finite, InputError for a percentile out of (0, 100].
    """
    counts, peak = histogram.counts, finite(histogram.peak, name)
    if not 0 < percentile <= 100:
        raise InputError(f"expected a percentile above 0 and up to 100, found {percentile:g}")
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
    """The peak itself. Raises BundleError where it is infinite or NaN."""
    if not math.isfinite(peak):
        raise BundleError(
            f"{name}: int8 needs a finite range, found {peak}: check the weights, and the images with fp32 graphs"
        )
    return peak


# Ranges in bins.


def _entropy(counts: Counts) -> float:
    """The range whose 128 levels tell most of the distribution; of several, the widest.

    The first bin counts as much as the second: tails of GELU and the like crowd in it, and whatever the range they
    become 0. NVIDIA's own tools do the same.
    """
    counts = np.concatenate([counts[1:2], counts[1:]])
    ranges = np.arange(BINS, _LEVELS - 1, -_STRIDE)
    return float(ranges[np.argmin([_divergence(counts, int(bins)) for bins in ranges])])


def _divergence(counts: Counts, bins: int) -> float:
    """Of `bins` bins, the last one with all that is clipped to it, from the same bins at 128 levels.

    A level's values are spread over those of its bins that hold any.
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
    """As shares, of which a 10,000th is spread over all bins: what is clipped to an empty one costs much, not all."""
    shares: Array = counts / counts.sum()
    return (1 - _SPREAD) * shares + _SPREAD / len(shares)


def _mse(counts: Counts) -> float:
    """The range of the least squared error, between the peak and a 128th of it."""
    ranges = BINS * _FINEST ** -np.arange(math.log(_LEVELS) / math.log(_FINEST))
    return float(ranges[np.argmin([_squared_error(counts, bins / LARGEST) for bins in ranges])])


def _squared_error(counts: Counts, scale: float) -> float:
    """Of all values, taken as spread evenly inside their bins: the integral of (x - q(x))^2 over each, exactly.

    From 0 to x, which is rounded to k: k whole steps from -1/2 to 1/2 of scale^3 / 12 each but for the first's lower
    and the last's upper part, (x - k scale)^3 / 3. It holds beyond the range too, where k stays 127.
    """
    edges = np.arange(BINS + 1.0)
    steps = np.minimum(np.rint(edges / scale), LARGEST)
    integral = steps * scale**3 / 12 + (edges - steps * scale) ** 3 / 3
    return float(counts @ np.diff(integral))
