"""How well each class keeps its pixels where a network computes in another precision.

Agreement over all pixels hides a rare class: where it covers 0.7 % of the pixels, all of it may be lost and more than
99 % still agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.parity import ClassIou
from fctl.runtime.evaluate.metrics import Confusion

RARE = 0.001
"""Proportion of the pixels below which a class is too rare to be held to a floor."""

MIN_CLASS_IOU = 0.85
"""The least IoU with fp32 that a class must keep, unless another is asked for; docs/int8.md says what was measured."""


def confusion_of(reference: NDArray[np.integer], ids: NDArray[np.integer], classes: int) -> Confusion:
    """Count which class becomes which.

    Args:
        reference: Class ids of the reference; ids that are no class, such as 255, count as one more.
        ids: Class ids of the same shape.
        classes: How many classes there are.

    Returns:
        Counts (classes + 1, classes + 1): the reference by row. The last row and column are pixels without a class.
    """
    return Confusion.of(np.minimum(reference, classes), np.minimum(ids, classes), classes + 1)


def ious_of(confusion: Confusion, names: Sequence[str]) -> tuple[ClassIou, ...]:
    """Read the IoU of every class from counts.

    Args:
        confusion: What `confusion_of` counted.
        names: Names of the classes, by id.

    Returns:
        The classes that either side has, in the order of their ids.
    """
    rows, pixels, ious = confusion.counts.sum(1), max(1, confusion.pixels), confusion.iou()
    return tuple(
        ClassIou(name=name, share=float(rows[index] / pixels), iou=float(ious[index]))
        for index, name in enumerate(names)
        if not np.isnan(ious[index])
    )


def class_ious(reference: NDArray[np.integer], ids: NDArray[np.integer], names: Sequence[str]) -> tuple[ClassIou, ...]:
    """Compare class ids with those of a reference, class by class.

    Args:
        reference: Class ids of the reference, of any shape.
        ids: Class ids of the same shape.
        names: Names of the classes, by id.

    Returns:
        The classes that either side has, in the order of their ids.
    """
    return ious_of(confusion_of(reference, ids, len(names)), names)


def weakest(found: Iterable[ClassIou]) -> ClassIou | None:
    """The class that keeps least, of those with at least 0.1 % of the reference's pixels; None where there is none."""
    return min((one for one in found if one.share >= RARE), key=lambda one: one.iou, default=None)


def shortfall(one: ClassIou, least: float, here: float | None = None) -> str:
    """Say in words that a class keeps less than it must.

    Args:
        one: The class.
        least: The least IoU that it must keep.
        here: The least IoU on these patches, where that is more, so that the class keeps enough on others too.

    Returns:
        Its name, its share of the pixels, and all figures.
    """
    wanted = f"{least:.2%} or more" if here is None else f"{least:.2%} or more, {here:.2%} here"
    return (
        f"class {one.name!r}, {one.share:.2%} of the pixels: expected an IoU with fp32 of {wanted}, found {one.iou:.2%}"
    )
