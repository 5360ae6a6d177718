from __future__ import annotations

import pytest

pytest.importorskip("torch")

from fctl.model.train.recipe import class_weights


def test_balanced_weights_are_1_on_average_and_larger_for_rare_classes() -> None:
    weights = class_weights("balanced", ("a", "b", "c"), (100, 400, 0))
    assert weights == pytest.approx((4 / 3, 2 / 3, 1.0))
    assert class_weights({"b": 3.0}, ("a", "b"), (1, 1)) == (1.0, 3.0)
