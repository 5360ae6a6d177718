"""Probabilities as bytes: whole numbers of 254ths, and 255 where there is no data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..choices import ProbabilityType
from ..tiling.merge import NODATA

LEVELS = 254
"""The byte that stands for 1; 0 stands for 0, and 255 for no data."""


def as_bytes(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities of any shape, NaN where there is no data, as bytes; off by at most 1/508."""
    scaled = np.rint(probabilities * np.float32(LEVELS))
    return np.where(np.isnan(scaled), np.float32(NODATA), scaled.clip(0, LEVELS)).astype(np.uint8)


def as_floats(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The probabilities that bytes stand for, NaN where there is no data."""
    return _FLOATS[levels]


_FLOATS = np.where(np.arange(256) == NODATA, np.nan, np.arange(256) / LEVELS).astype(np.float32)


def confidence_of(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The highest of the probabilities (classes, rows, columns) as bytes (rows, columns)."""
    return as_bytes(probabilities.max(axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What shards keep of the probabilities that a network gives: no more than the outputs need.

    Attributes:
        probabilities: How they are kept; None where no output shows them.
        confidence: Whether the confidence of each pixel is needed. The highest probability follows from those that are
            kept themselves.
        votes: Whether confidence is how far overlapping tiles agree, and not the highest probability.
    """

    probabilities: ProbabilityType | None = "float32"
    confidence: bool = False
    votes: bool = False

    @property
    def needed(self) -> bool:
        """Whether the network's probabilities are needed at all."""
        return self.probabilities is not None or (self.confidence and not self.votes)


KEEP_ALL = Keep()
"""Probabilities as they are."""
