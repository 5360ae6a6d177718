from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fctl.runtime.tiling.plausible import Plausible
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.windows import Window


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6), st.floats(-100, 100), st.floats(0, 0.9))
def test_a_repeated_value_far_outside_is_implausible_and_all_else_is_not(
    seed: int, scale: float, middle: float, share: float
) -> None:
    random = np.random.default_rng(seed)
    values = (random.normal(middle, 1, 2000) * scale).astype(np.float32)
    fill = np.float32((middle - 1000) * scale)
    holes = random.random(2000) < max(share, 0.01)
    found = Plausible.of_samples([np.where(holes, fill, values)]).holds(np.r_[values, fill][:, None])[:, 0]
    assert found[:-1].all()
    assert not found[-1]


def test_each_band_has_a_range_of_its_own() -> None:
    small, large = np.linspace(0, 1, 500, dtype=np.float32), np.linspace(0, 1e6, 500, dtype=np.float32)
    found = Plausible.of_samples([small, large]).holds(np.array([[[2e5, 2e5]]], np.float32))
    assert found.tolist() == [[[False, True]]]


@pytest.mark.parametrize("values", [[], [1.0], [np.nan] * 500, [5.0] * 500])
def test_too_little_to_judge_by_leaves_all_but_the_impossible(values: list[float]) -> None:
    found = Plausible.of_samples([np.array(values, np.float32)])
    pixels = np.array([-9999, 1e29, -3.4e38, np.nan, np.inf], np.float32)[:, None]
    assert found.holds(pixels)[:, 0].tolist() == [True, True, False, False, False]


def test_an_array_of_floats_shows_no_value_without_data(rng: np.random.Generator) -> None:
    pixels = rng.random((20, 30, 3)).astype(np.float32)
    clean = pixels.copy()
    for (y, x, band), value in {(2, 3, 0): np.nan, (4, 5, 1): np.inf, (6, 7, 2): -3.4e38, (6, 7, 0): np.nan}.items():
        pixels[y, x, band], clean[y, x, band] = value, 0
    before, source = pixels.copy(), ArraySource(pixels)
    window = Window(-4, -4, 40, 40)
    np.testing.assert_array_equal(read_padded(source, window)[4:24, 4:34], clean)
    valid = source.valid(Window(0, 0, 20, 30))
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[2, 3], [4, 5], [6, 7]]
    assert source.implausible == 1
    np.testing.assert_array_equal(pixels, before)


def test_an_array_without_holes_is_read_as_a_view(rng: np.random.Generator) -> None:
    for pixels in (rng.random((20, 30, 3)).astype(np.float32), rng.integers(0, 256, (20, 30, 3), np.uint8)):
        assert np.shares_memory(ArraySource(pixels).read(Window(1, 2, 3, 4)), pixels)
    assert ArraySource(np.zeros((2, 2, 1), np.uint8)).valid(Window(0, 0, 2, 2)) is None
