"""Scores of a mask against a labelled one: mIoU, F1 and accuracy (§4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""The class id of pixels that count for nothing."""


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix. The sum of two pools their images.

    Means take in the classes `counted`, or all where it is None; a class that neither side has scores NaN, and is left
    out.

    Attributes:
        counts: Pixels (classes, classes): truth by row, prediction by column.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> Confusion:
        """Count the pixels of two masks.

        Args:
            truth: Labelled class ids.
            predicted: Predicted class ids of the same shape; 255 (IGNORE) on either side is left out.
            classes: How many classes there are.

        Returns:
            The counts.
        """
        known = (truth != IGNORE) & (predicted != IGNORE)
        index = truth[known].astype(np.int64) * classes + predicted[known]
        return cls(np.bincount(index, minlength=classes * classes).reshape(classes, classes))

    @classmethod
    def empty(cls, classes: int) -> Confusion:
        """No pixels yet."""
        return cls(np.zeros((classes, classes), np.int64))

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    @property
    def pixels(self) -> int:
        """How many pixels were counted."""
        return int(self.counts.sum())

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class, (classes,); NaN for a class that neither side has."""
        hits = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        return _ratio(hits, union)

    def f1(self) -> NDArray[np.float64]:
        """F1 score per class, (classes,); NaN for a class that neither side has."""
        return _ratio(2 * np.diag(self.counts), self.counts.sum(0) + self.counts.sum(1))

    def precision(self) -> NDArray[np.float64]:
        """Share of the predicted pixels of each class that are right, (classes,); NaN where none was predicted."""
        return _ratio(np.diag(self.counts), self.counts.sum(0))

    def recall(self) -> NDArray[np.float64]:
        """Share of the labelled pixels of each class that were found, (classes,); NaN where none is labelled."""
        return _ratio(np.diag(self.counts), self.counts.sum(1))

    def miou(self, counted: Sequence[int] | None = None) -> float:
        """Mean of the per-class IoU over classes that occur; NaN where none does."""
        return _mean(self.iou(), counted)

    def mean_f1(self, counted: Sequence[int] | None = None) -> float:
        """Mean of the per-class F1 over classes that occur; NaN where none does."""
        return _mean(self.f1(), counted)

    def accuracy(self) -> float:
        """Share of pixels that are right, of all classes; NaN where there are none."""
        return float(np.trace(self.counts) / self.pixels) if self.pixels else float("nan")


def _ratio(part: NDArray[np.int64], total: NDArray[np.int64]) -> NDArray[np.float64]:
    """A ratio per class; NaN where the total is 0."""
    ratio: NDArray[np.float64] = np.divide(part, total, out=np.full(len(total), np.nan), where=total > 0)
    return ratio


def _mean(scores: NDArray[np.float64], counted: Sequence[int] | None) -> float:
    """The mean of some classes' scores without NaN."""
    chosen = scores if counted is None else scores[list(counted)]
    found = chosen[~np.isnan(chosen)]
    return float(found.mean()) if found.size else float("nan")
