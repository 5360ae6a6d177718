"""Rasters at another size: which pixels belong together, and what working pixels are made of."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fctl.runtime.tiling import rescale, rescaled
from fctl.runtime.tiling.merge import Strip
from fctl.runtime.tiling.rescale import Axis, Rescale, nearest, resampled
from fctl.runtime.tiling.rescaled import RescaledSource
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window

SIDES = st.integers(1, 60)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 200))
def test_a_pixel_belongs_to_the_working_pixel_in_which_its_centre_lies(side: int, working: int) -> None:
    centres = [Fraction(2 * index + 1, 2 * side) for index in range(side)]
    assert nearest(0, side, side, working).tolist() == [int(centre * working) for centre in centres]


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60)))
def test_windows_that_cover_the_working_grid_cover_the_raster_once(
    height: int, width: int, rows: int, columns: int, down: set[int], across: set[int]
) -> None:
    scale, covered = Rescale(height, width, rows, columns), np.zeros((height, width), np.int64)
    belongs = nearest(0, height, height, rows)[:, None], nearest(0, width, width, columns)[None]
    for top, bottom in pairwise(sorted({0, rows, *(y for y in down if y < rows)})):
        for left, right in pairwise(sorted({0, columns, *(x for x in across if x < columns)})):
            inside = (belongs[0] >= top) & (belongs[0] < bottom) & (belongs[1] >= left) & (belongs[1] < right)
            window = scale.raster_window(Window(top, left, bottom - top, right - left))
            found = np.zeros_like(covered)
            if window:
                found[window.y : window.bottom, window.x : window.right] = 1
                assert window.height <= scale.down(bottom - top) and window.width <= scale.across(right - left)
            np.testing.assert_array_equal(found, inside)
            covered += found
    assert (covered == 1).all()


def shares(side: int, working: int) -> NDArray[np.float64]:
    """The share of each pixel of a side in each working pixel, (working, side): by area, or by distance of centres."""
    table = np.zeros((working, side))
    for index in range(working):
        if working > side:
            place = (index + 0.5) * side / working - 0.5
            low = int(np.floor(place))
            for pixel, share in ((low, 1 - place + low), (low + 1, place - low)):
                table[index, min(max(pixel, 0), side - 1)] += share
        else:
            start, stop = Fraction(index * side, working), Fraction((index + 1) * side, working)
            for pixel in range(side):
                table[index, pixel] = max(Fraction(0), min(stop, pixel + 1) - max(start, pixel)) / (stop - start)
    return table


@pytest.mark.once
@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.booleans(), st.integers(0, 1000))
def test_working_pixels_are_means_of_pixels_that_have_data(
    height: int, width: int, rows: int, columns: int, masked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 65536, (height, width, 2)).astype(np.float32)
    valid = rng.random((height, width)) < 0.6 if masked else None
    y, x = int(rng.integers(rows)), int(rng.integers(columns))
    down, across = Axis(y, rows - y, height, rows), Axis(x, columns - x, width, columns)
    inside = np.s_[down.first : down.first + down.needed, across.first : across.first + across.needed]
    found, has_data = resampled(pixels[inside], None if valid is None else valid[inside], down, across)
    present = np.ones((height, width)) if valid is None else valid.astype(float)
    weight = shares(height, rows) @ present @ shares(width, columns).T
    expected = np.einsum("iy,yxb,jx->ijb", shares(height, rows), pixels * present[:, :, None], shares(width, columns))
    expected = (expected / np.where(weight > 1e-12, weight, 1)[:, :, None])[y:, x:]
    if valid is None:
        assert has_data is None
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        return
    assert has_data is not None
    if rows <= height and columns <= width:
        np.testing.assert_array_equal(has_data, weight[y:, x:] > 1e-12)
    np.testing.assert_allclose(found[has_data], expected[has_data], rtol=1e-5)
    assert not found[~has_data].any()


@settings(deadline=None)
@given(SIDES, SIDES, st.floats(0.05, 8), st.integers(0, 1000))
def test_pixels_with_data_lie_in_working_pixels_with_data(height: int, width: int, factor: float, seed: int) -> None:
    valid = np.random.default_rng(seed).random((height, width)) < 0.3
    scale = Rescale.by(height, width, factor)
    _, found = resampled(
        np.ones((height, width, 1), np.uint8), valid,
        Axis(0, scale.rows, height, scale.rows), Axis(0, scale.columns, width, scale.columns),
    )  # fmt: skip
    assert found is not None
    seen = found[nearest(0, height, height, scale.rows)][:, nearest(0, width, width, scale.columns)]
    assert seen[valid].all()


def test_integers_are_rounded_and_exact() -> None:
    pixels = np.array([[1, 2], [3, 4]], np.uint8)[:, :, None].repeat(8, 0).repeat(8, 1)
    found, _ = resampled(pixels, None, Axis(0, 3, 16, 3), Axis(0, 2, 16, 2))
    assert found[:, :, 0].tolist() == [[1, 2], [2, 3], [3, 4]]  # the middle ones are 2 and 3 to the last bit
    high = np.full((7, 5, 1), 65535, np.uint16)
    assert (resampled(high, None, Axis(0, 2, 7, 2), Axis(0, 3, 5, 3))[0] == 65535).all()


class Holes(ArraySource):
    """Pixels of which some have no data."""

    def __init__(self, pixels: NDArray[np.generic], present: NDArray[np.bool_]) -> None:
        super().__init__(pixels)
        self.present = present

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        found = self.present[window.y : window.bottom, window.x : window.right]
        return None if found.all() else found


@pytest.mark.parametrize("factor", [0.23, 0.5, 1.7])
@pytest.mark.parametrize("held", [0, 1 << 20])
def test_bytes_do_not_depend_on_the_windows(monkeypatch: pytest.MonkeyPatch, factor: float, held: int) -> None:
    rng = np.random.default_rng(1)
    source = Holes(rng.random((150, 170, 3), np.float32), np.arange(150)[:, None] + np.arange(170) > 100)
    scale = Rescale.by(150, 170, factor)
    monkeypatch.setattr(rescaled, "SIDE", 16)
    everything = Window(0, 0, scale.rows, scale.columns)
    whole = RescaledSource(source, scale, 1 << 30)
    pixels, present = whole.read(everything), whole.valid(everything)
    assert present is not None and 0 < present.mean() < 1
    monkeypatch.setattr(rescaled, "_PIXELS", 900)
    some = RescaledSource(source, scale, held)
    for _ in range(20):
        y, x = int(rng.integers(scale.rows)), int(rng.integers(scale.columns))
        window = Window(y, x, int(rng.integers(scale.rows - y)) + 1, int(rng.integers(scale.columns - x)) + 1)
        inside = np.s_[y : window.bottom, x : window.right]
        assert some.read(window).tobytes() == pixels[inside].tobytes()
        valid = some.valid(window)
        assert (present[inside] == (True if valid is None else valid)).all()


def test_finished_pixels_are_those_of_the_nearest_working_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescale, "HANDED_OUT", 20_000)
    scores = np.random.default_rng(2).normal(size=(3, 5, 7)).astype(np.float32)
    strip, scale = Strip(4, 2, scores), Rescale(40, 30, 12, 9)
    pieces = list(scale.in_raster(strip, probabilities=True))
    rows, columns = nearest(0, 40, 40, 12), nearest(0, 30, 30, 9)
    window = scale.raster_window(strip.window)
    assert window and len(pieces) > 1
    assert pieces[0].window.y == window.y and pieces[-1].window.bottom == window.bottom
    ids = np.concatenate([piece.ids() for piece in pieces])
    found = np.concatenate([piece.probabilities() for piece in pieces], axis=1)
    for y in range(window.height):
        for x in range(window.width):
            place = rows[window.y + y] - 4, columns[window.x + x] - 2
            assert ids[y, x] == strip.ids()[place]
            assert (found[:, y, x] == strip.probabilities()[:, place[0], place[1]]).all()
