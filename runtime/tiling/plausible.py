"""Which values of a raster of floats can be measurements.

Files often hold fill values that nobody declared: NaN, -3.4e38 or -9999. Values so far from all others would spoil the
scores of a whole patch, so they count as missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST = np.float32(1e30)
"""The largest magnitude of a measurement. The kernels have the same (kernels.cu)."""

_OUTLIER = 10_000  # distance from the median, in interquartile ranges
_FILL = (100, 1000)  # the same for fill values below and above, where saturated sensors pile up too
_REPEATS = 3  # a fill value occurs again and again, to the last bit
_ENOUGH = 100  # values to judge by


@dataclass(frozen=True, eq=False)
class Plausible:
    """The values that count as measurements.

    Attributes:
        low: The lowest by band, (bands,) float32.
        high: The highest by band, (bands,) float32.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def any_finite(cls, bands: int) -> Plausible:
        """The range for arrays: all but NaN, infinity and magnitudes above `LARGEST`."""
        return cls(np.full(bands, -LARGEST), np.full(bands, LARGEST))

    @classmethod
    def of_samples(cls, samples: list[NDArray[np.generic]]) -> Plausible:
        """The range for a file, from some of its values.

        A band's range reaches 10,000 interquartile ranges to either side of the median. It reaches only 100 downwards,
        or 1,000 upwards, where the extreme value lies farther out and is repeated exactly, as a fill value is.

        Args:
            samples: For each band, values that are declared to be data, of any shape.

        Returns:
            The range.
        """
        limits = [_limits(band.ravel()) for band in samples]
        low, high = (np.array(side, np.float32) for side in zip(*limits, strict=True))
        return cls(low, high)

    def holds(self, pixels: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Which values (height, width, bands) are plausible; NaN and infinity never are."""
        found: NDArray[np.bool_] = np.greater_equal(pixels, self.low) & np.less_equal(pixels, self.high)
        return found


def _limits(values: NDArray[np.generic]) -> tuple[np.float32, np.float32]:
    """The lowest and the highest plausible value of one band."""
    finite = values[(values >= -LARGEST) & (values <= LARGEST)].astype(np.float64)
    if finite.size == 0:
        return -LARGEST, LARGEST
    extremes = finite.min(), finite.max()
    inner = finite[(finite != extremes[0]) & (finite != extremes[1])]  # fill values are at most one at either end
    if inner.size < _ENOUGH:
        return -LARGEST, LARGEST
    first, median, third = np.percentile(inner, (25, 50, 75))
    spread = third - first
    if spread == 0:
        return -LARGEST, LARGEST
    reach = []
    for extreme, fill in zip(extremes, _FILL, strict=True):
        is_fill = abs(extreme - median) > fill * spread and np.count_nonzero(finite == extreme) >= _REPEATS
        reach.append((fill if is_fill else _OUTLIER) * spread)
    low, high = max(median - reach[0], -float(LARGEST)), min(median + reach[1], float(LARGEST))
    return np.float32(low), np.float32(high)
