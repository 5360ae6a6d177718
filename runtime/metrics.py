"""What a mask scores against a labelled one (§4: mIoU, F1, accuracy)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORE = 255


@dataclass(frozen=True)
class Confusion:
    """Counts of pixels, (classes, classes): truth by row, prediction by column. Add them to pool images."""

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> Confusion:
        """Count two arrays of class ids of the same shape; truth 255 (IGNORE) is left out."""
        known = truth != IGNORE
        index = truth[known].astype(np.int64) * classes + predicted[known]
        return cls(np.bincount(index, minlength=classes * classes).reshape(classes, classes))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class, (classes,); NaN for a class that neither side has."""
        hits = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return _ratio(hits, union)

    def f1(self) -> NDArray[np.float64]:
        """F1 score per class, (classes,); NaN for a class that neither side has."""
        return _ratio(2 * np.diag(self.counts), self.counts.sum(0) + self.counts.sum(1))

    def miou(self) -> float:
        """Mean of the per-class IoU over classes that occur."""
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Share of pixels that are right."""
        return float(np.trace(self.counts) / self.counts.sum())


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return ratio
