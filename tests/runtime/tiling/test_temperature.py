from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.runtime.tiling.temperature import tempered


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=0))
    return (powers / powers.sum(axis=0)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.3, 0.69, 1.0, 2.5])
def test_it_is_the_softmax_of_divided_logits(rng: np.random.Generator, temperature: float) -> None:
    logits = rng.normal(0, 3, (4, 30, 20))
    found = tempered(softmax(logits), temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(logits / temperature), atol=2e-6)
    np.testing.assert_array_equal(found.argmax(axis=0), logits.argmax(axis=0))


def test_what_has_no_probabilities_gets_none_and_certainty_stays() -> None:
    probabilities = np.array([[1, np.nan, 0.5], [0, np.nan, 0.5]], np.float32)[:, None]
    found = tempered(probabilities, 3.0)
    assert found[:, 0, 0].tolist() == [1, 0] and found[:, 0, 2].tolist() == [0.5, 0.5]
    assert np.isnan(found[:, 0, 1]).all()
    assert tempered(probabilities, None) is probabilities
