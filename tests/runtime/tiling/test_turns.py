from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fctl.runtime import Segmenter
from fctl.runtime.tiling.turns import DIHEDRAL, UPRIGHT, Turn
from fctl.runtime.tiling.windows import Window
from tests.runtime import naive, tiny
from tests.runtime.naive import (
    TURNINGS,
    Array,
    Turning,
    assert_segmented,
    slope_of,
    softmax,
    stride_starts,
    whole_array_scores,
)

MARGIN = 8
ALL = pytest.mark.parametrize("turn", DIHEDRAL, ids=str)


def naive_of(turn: Turn) -> Turning:
    return Turning(turn.mirrored, turn.quarters)


def upright(array: Array) -> Array:
    """(bands, height, width) -> (height, width, bands), and the other way round with .transpose(2, 0, 1)."""
    return array.transpose(1, 2, 0)


def test_there_are_eight_turns_and_the_first_changes_nothing() -> None:
    assert DIHEDRAL[0] == UPRIGHT
    square = np.arange(9).reshape(3, 3)
    assert len({turn.pixels(square).tobytes() for turn in DIHEDRAL}) == len(DIHEDRAL) == 8
    np.testing.assert_array_equal(UPRIGHT.pixels(square), square)


@ALL
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (2, 3, 5), (2, 3, 4, 4), (1, 2, 1, 7)])
def test_back_undoes_pixels(turn: Turn, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(turn.back(turn.pixels(array)), array)
    np.testing.assert_array_equal(turn.pixels(turn.back(array)), array)


@ALL
def test_pixels_are_mirrored_and_then_turned_counter_clockwise(turn: Turn) -> None:
    array = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    expected = naive_of(turn).there(upright(array)).transpose(2, 0, 1)
    np.testing.assert_array_equal(turn.pixels(array), expected)


def test_a_quarter_by_hand() -> None:
    array = np.array([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(Turn(mirrored=False, quarters=1).pixels(array), [[3, 6], [2, 5], [1, 4]])
    np.testing.assert_array_equal(Turn(mirrored=True, quarters=1).pixels(array), [[1, 4], [2, 5], [3, 6]])


@ALL
def test_pixels_are_contiguous_and_a_view_is_not_changed(turn: Turn) -> None:
    array = np.arange(24).reshape(2, 3, 4)[:, ::-1]
    before = array.copy()
    assert turn.pixels(array).flags.c_contiguous
    np.testing.assert_array_equal(array, before)


@st.composite
def places(draw: st.DrawFn) -> tuple[Window, Window]:
    """A tile, and a frame that it touches or lies in."""
    frame = Window(*(draw(st.integers(-50, 50)) for _ in range(2)), *(draw(st.integers(1, 30)) for _ in range(2)))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    y = draw(st.integers(frame.y - MARGIN, max(frame.bottom + MARGIN - height, frame.y - MARGIN)))
    x = draw(st.integers(frame.x - MARGIN, max(frame.right + MARGIN - width, frame.x - MARGIN)))
    bottom, right = min(y + height, frame.bottom + MARGIN), min(x + width, frame.right + MARGIN)
    return Window(y, x, bottom - y, right - x), frame


@settings(deadline=None)
@given(places(), st.sampled_from(DIHEDRAL))
def test_a_tile_is_found_where_its_pixels_went(case: tuple[Window, Window], turn: Turn) -> None:
    tile, frame = case
    canvas = np.zeros((frame.height + 2 * MARGIN, frame.width + 2 * MARGIN), np.uint8)
    y, x = tile.y - frame.y + MARGIN, tile.x - frame.x + MARGIN
    canvas[y : y + tile.height, x : x + tile.width] = 1
    found, turned_frame = turn.within(tile, frame)
    marked = np.zeros_like(turn.pixels(canvas))
    marked[MARGIN + found.y : MARGIN + found.bottom, MARGIN + found.x : MARGIN + found.right] = 1
    np.testing.assert_array_equal(marked, naive_of(turn).there(canvas))
    assert (turned_frame.y, turned_frame.x) == (0, 0)
    assert marked.shape == (turned_frame.height + 2 * MARGIN, turned_frame.width + 2 * MARGIN)


# Test-time augmentation


def large_is_global(manifest: dict[str, Any]) -> None:
    """A moving context whose place the network does not know, beside one that shares the patch's centre."""
    manifest["contexts"][1]["factor"] = "global"


CASES: dict[str, tuple[Path, naive.Tile, str]] = {
    "contexts": (tiny.TINY, naive.tiny_tile, "cosine"),
    "positions": (tiny.TINY_GLOBAL, naive.tiny_global_tile, "uniform"),
    "mixed": (tiny.TINY, naive.tiny_mixed_tile, "cosine"),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, naive.Tile, str]:
    bundle, tile, rule = CASES[request.param]
    if request.param == "mixed":
        bundle = tiny.variant(bundle, tmp_path, large_is_global)
    return bundle, tile, rule


@pytest.mark.parametrize("size", [(16, 16), (3, 40), (33, 50)])
def test_scores_are_averaged_over_all_turns(case: tuple[Path, naive.Tile, str], size: tuple[int, int]) -> None:
    bundle, tile, rule = case
    image = slope_of(*size)
    scores = whole_array_scores(tile, image, rule, stride_starts, TURNINGS)
    assert_segmented(bundle, image, softmax(scores), tta=True)


def test_the_networks_tell_all_turns_apart(case: tuple[Path, naive.Tile, str]) -> None:
    _, tile, rule = case
    image = slope_of(33, 50)
    turned = [whole_array_scores(tile, image, rule, stride_starts, [turning]) for turning in TURNINGS]
    assert min(np.abs(one - other).max() for one, other in combinations(turned, 2)) > 0.1


def test_augmentation_is_asked_for() -> None:
    image = slope_of(33, 50)
    with (
        Segmenter(tiny.TINY, backend="onnxruntime") as once,
        Segmenter(tiny.TINY, backend="onnxruntime", tta=True) as augmented,
    ):
        assert (once.turns, augmented.turns) == ((UPRIGHT,), DIHEDRAL)
        assert (once.segment(image).ids != augmented.segment(image).ids).any()


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL])
def test_the_batch_does_not_change_an_augmented_mask(bundle: Path) -> None:
    image = slope_of(33, 50)
    found = []
    for batch in (1, 5):
        with Segmenter(bundle, backend="onnxruntime", batch=batch, tta=True) as segmenter:
            found.append(segmenter.segment(image, probabilities=True))
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, rtol=1e-5, atol=1e-7)


def test_probabilities_are_averaged_over_the_turns_too() -> None:
    image = slope_of(33, 50, bands=4, dtype="uint16")
    scores = whole_array_scores(naive.tiny_shares_tile, image, "uniform", naive.even_starts, TURNINGS)
    assert_segmented(tiny.TINY_SHARES, image, scores, tta=True)
