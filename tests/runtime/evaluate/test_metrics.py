from __future__ import annotations

import numpy as np
import pytest

from fctl.runtime.evaluate.metrics import IGNORE, Confusion

TRUTH = np.array([[0, 0, 1], [1, 1, IGNORE]], np.uint8)
PREDICTED = np.array([[0, 1, 1], [1, 0, 2]], np.uint8)


def test_counts_are_truth_by_prediction() -> None:
    assert Confusion.of(TRUTH, PREDICTED, 3).counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_scores_by_hand() -> None:
    confusion = Confusion.of(TRUTH, PREDICTED, 3)
    np.testing.assert_allclose(confusion.iou(), [1 / 3, 2 / 4, np.nan])
    np.testing.assert_allclose(confusion.f1(), [2 / 4, 4 / 6, np.nan])
    assert confusion.miou() == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert confusion.accuracy() == pytest.approx(3 / 5)


def test_a_perfect_prediction_scores_one(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 4, (20, 20), np.uint8)
    confusion = Confusion.of(truth, truth, 4)
    assert (confusion.miou(), confusion.accuracy()) == (1, 1)


def test_pooling_images_equals_counting_them_at_once(rng: np.random.Generator) -> None:
    truth, predicted = rng.integers(0, 3, (2, 20, 20), np.uint8)
    pooled = Confusion.of(truth[:7], predicted[:7], 3) + Confusion.of(truth[7:], predicted[7:], 3)
    np.testing.assert_array_equal(pooled.counts, Confusion.of(truth, predicted, 3).counts)
