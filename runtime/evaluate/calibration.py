"""How far a network's probabilities can be trusted: what share of the pixels is right at each confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..segment.levels import LEVELS
from ..tiling.merge import NODATA
from .metrics import IGNORE

BINS = 15
"""Bins of the expected calibration error, of equal width, as in Guo et al. 2017."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Labelled pixels by confidence.

    Attributes:
        pixels: How many pixels have each confidence in 254ths, (255,) int64.
        right: How many of them have the labelled class, (255,) int64.
    """

    pixels: NDArray[np.int64]
    right: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Calibration:
        """No pixels yet."""
        return cls(np.zeros(LEVELS + 1, np.int64), np.zeros(LEVELS + 1, np.int64))

    @classmethod
    def of(cls, truth: NDArray[np.uint8], ids: NDArray[np.uint8], confidence: NDArray[np.uint8]) -> Calibration:
        """Count pixels.

        Args:
            truth: Labelled class ids, 255 where there is no label.
            ids: Predicted class ids of the same shape, 255 where there is no data.
            confidence: The highest probabilities of the same shape, in 254ths.

        Returns:
            The counts of pixels that have a label and data.
        """
        counted = (truth != IGNORE) & (ids != NODATA)
        levels, right = confidence[counted], (truth == ids)[counted]
        return cls(np.bincount(levels, minlength=LEVELS + 1), np.bincount(levels[right], minlength=LEVELS + 1))

    def __add__(self, other: Calibration) -> Calibration:
        return Calibration(self.pixels + other.pixels, self.right + other.right)

    def bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Pixels in bins of equal width.

        Returns:
            The mean confidence of each bin, the share of its pixels that are right, both (15,) and NaN where there are
            no pixels, and how many there are.
        """
        levels = np.arange(LEVELS + 1)
        places = np.minimum(levels * BINS // LEVELS, BINS - 1)
        pixels = np.bincount(places, weights=self.pixels, minlength=BINS)
        none = np.where(pixels > 0, pixels, np.nan)
        confidence = np.bincount(places, weights=self.pixels * levels / LEVELS, minlength=BINS) / none
        right = np.bincount(places, weights=self.right, minlength=BINS) / none
        return confidence, right, pixels.astype(np.int64)

    def error(self) -> float:
        """The expected calibration error: how far shares and confidences differ, on average over pixels; or NaN."""
        confidence, right, pixels = self.bins()
        total = int(pixels.sum())
        return float(np.nansum(np.abs(confidence - right) * pixels) / total) if total else float("nan")
