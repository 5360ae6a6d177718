"""Classes compared with those of a reference, on ids that are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fctl.calib.classes import class_ious, confusion_of, ious_of, shortfall, weakest
from fctl.runtime.bundle.parity import ClassIou

NAMES = ("land", "kelp", "ice", "sand")


def one(name: str, share: float, iou: float) -> ClassIou:
    return ClassIou(name=name, share=share, iou=iou)


def test_each_class_has_its_share_and_its_iou() -> None:
    reference = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], np.uint8)
    ids = np.array([[0, 0, 0, 0, 1], [0, 1, 1, 0, 3]], np.uint8)
    assert class_ious(reference, ids, NAMES) == (
        one("land", 0.6, 5 / 7), one("kelp", 0.4, 2 / 5), one("sand", 0.0, 0.0)
    )  # fmt: skip
    assert class_ious(reference.astype(np.int64), ids.astype(np.int64), NAMES) == class_ious(reference, ids, NAMES)


def test_a_lost_class_is_told_though_nearly_all_pixels_agree() -> None:
    reference = np.zeros((100, 100), np.uint8)
    reference[:8, :8] = 1
    lost = np.zeros_like(reference)
    assert (reference == lost).mean() == 0.9936
    assert class_ious(reference, lost, NAMES)[1] == one("kelp", 0.0064, 0.0)
    assert class_ious(reference, reference, NAMES) == (one("land", 0.9936, 1.0), one("kelp", 0.0064, 1.0))


def test_pixels_without_a_class_are_no_class_and_yet_lost() -> None:
    """255 is what a network gives that is not finite."""
    reference, ids = np.array([0, 0, 1, 255], np.uint8), np.array([0, 255, 1, 255], np.uint8)
    assert class_ious(reference, ids, NAMES) == (one("land", 0.5, 0.5), one("kelp", 0.25, 1.0))
    assert confusion_of(reference, ids, len(NAMES)).accuracy() == 0.75


def test_counts_of_patches_add_up() -> None:
    rng = np.random.default_rng(5)
    reference, ids = rng.integers(0, 4, (2, 6, 50, 50))
    total = sum((confusion_of(a, b, 4) for a, b in zip(reference, ids, strict=True)), confusion_of(ids[:0], ids[:0], 4))
    assert ious_of(total, NAMES) == class_ious(reference, ids, NAMES)


def test_the_weakest_is_the_one_that_keeps_least_unless_it_is_too_rare() -> None:
    land, kelp = one("land", 0.9, 0.99), one("kelp", 0.001, 0.7)
    assert weakest([land, kelp, one("ice", 0.000999, 0.1)]) == kelp
    assert weakest([land]) == land
    assert weakest([one("ice", 0.000999, 0.1)]) is None and weakest([]) is None


@pytest.mark.parametrize(("here", "wanted"), [(None, "80.00% or more"), (0.84, "80.00% or more, 84.00% here")])
def test_a_shortfall_has_the_class_and_all_figures(here: float | None, wanted: str) -> None:
    assert shortfall(one("kelp", 0.0067, 0.76), 0.8, here) == (
        f"class 'kelp', 0.67% of the pixels: expected an IoU with fp32 of {wanted}, found 76.00%"
    )
