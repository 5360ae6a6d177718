from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fctl.runtime.tiling.merge import WEIGHTS, Merger, Strip, cosine, uniform
from fctl.runtime.tiling.windows import Grid, TilePlan, Window

KINDS: tuple[Literal["stride", "even"], ...] = ("stride", "even")


@dataclass(frozen=True)
class Case:
    """A grid, a rule, and random logits (classes, tile, tile) for every tile."""

    grid: Grid
    rule: str
    tiles: list[tuple[Window, NDArray[np.float32]]]

    @property
    def classes(self) -> int:
        return len(self.tiles[0][1])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tile = draw(st.integers(2, 20))
    plan = TilePlan(kind=draw(st.sampled_from(KINDS)), overlap=draw(st.integers(0, tile * 3 // 4)))
    grid = Grid.over(draw(st.integers(1, 60)), draw(st.integers(1, 60)), tile, plan)
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(2, 6))
    tiles = [(window, random.normal(size=(classes, tile, tile)).astype(np.float32)) for window in grid]
    return Case(grid, draw(st.sampled_from(sorted(WEIGHTS))), tiles)


def strips_of(case: Case) -> list[Strip]:
    merger = Merger(case.grid.region(), case.classes, case.rule)
    strips = [strip for tile, logits in case.tiles for strip in merger.add([tile], logits[None])]
    return strips + list(merger.flush())


def whole_average(case: Case) -> NDArray[np.float64]:
    """The weighted average with everything in memory at once: (classes, height, width)."""
    side = case.grid.tile
    line = np.ones(side) if case.rule == "uniform" else np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    weight = line[:, None] * line[None, :]
    sums = np.zeros((case.classes, case.grid.height + side, case.grid.width + side))
    total = np.zeros(sums.shape[1:])
    for tile, logits in case.tiles:
        area = (slice(tile.y, tile.bottom), slice(tile.x, tile.right))
        sums[(slice(None), *area)] += logits * weight
        total[area] += weight
    crop = (slice(case.grid.height), slice(case.grid.width))
    return sums[(slice(None), *crop)] / total[crop]


@settings(deadline=None, max_examples=60)
@given(cases())
def test_streamed_rows_equal_the_average_of_everything_at_once(case: Case) -> None:
    streamed = np.concatenate([strip.scores for strip in strips_of(case)], axis=1)
    assert streamed.dtype == np.float32
    np.testing.assert_allclose(streamed, whole_average(case), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_agreement_is_the_weight_of_the_tiles_that_vote_for_the_class_of_the_pixel(case: Case) -> None:
    merger = Merger(case.grid.region(), case.classes, case.rule, votes=True)
    strips = [strip for tile, logits in case.tiles for strip in merger.add([tile], logits[None])]
    strips += merger.flush()
    plain = strips_of(case)
    assert [strip.scores.tobytes() for strip in strips] == [strip.scores.tobytes() for strip in plain]
    assert all(strip.agreement is None for strip in plain)
    votes = [(tile, (np.arange(case.classes)[:, None, None] == logits.argmax(axis=0))) for tile, logits in case.tiles]
    shares = whole_average(Case(case.grid, case.rule, [(tile, vote.astype(np.float32)) for tile, vote in votes]))
    found = np.concatenate([strip.agreement for strip in strips if strip.agreement is not None])
    ids = np.concatenate([strip.ids() for strip in strips])
    expected = np.take_along_axis(shares, ids[None].astype(np.intp), axis=0)[0] * 254
    np.testing.assert_allclose(found, expected, atol=0.51)
    assert found.max() == 254


def test_where_a_score_is_not_finite_nothing_agrees() -> None:
    grid = Grid.over(4, 4, 4, TilePlan(kind="stride", overlap=0))
    scores = np.zeros((1, 2, 4, 4), np.float32)
    scores[0, 1, 2, 3] = np.nan
    merger = Merger(grid.region(), 2, "uniform", votes=True)
    [strip] = [*merger.add([Window(0, 0, 4, 4)], scores), *merger.flush()]
    assert strip.agreement is not None
    assert strip.agreement[2, 3] == 255 and np.delete(strip.agreement, 11).tolist() == [254] * 15


@settings(deadline=None, max_examples=60)
@given(cases())
def test_ids_are_the_best_class_at_every_pixel(case: Case) -> None:
    ids = np.concatenate([strip.ids() for strip in strips_of(case)])
    average = whole_average(case)
    runner_up, best = np.partition(average, -2, axis=0)[-2:]
    decided = best - runner_up > 1e-5  # closer than that is a tie in fp32
    np.testing.assert_array_equal(ids[decided], average.argmax(axis=0)[decided])
    assert decided.mean() > 0.99


@settings(deadline=None, max_examples=60)
@given(cases())
def test_strips_hold_every_row_once_in_order(case: Case) -> None:
    strips = strips_of(case)
    rows = [row for strip in strips for row in range(strip.y, strip.window.bottom)]
    assert rows == list(range(case.grid.height))
    assert all(strip.scores.shape == (case.classes, strip.window.height, case.grid.width) for strip in strips)


@settings(deadline=None, max_examples=30)
@given(cases())
def test_no_strip_is_higher_than_a_tile(case: Case) -> None:
    assert max(strip.window.height for strip in strips_of(case)) <= case.grid.tile


@settings(deadline=None, max_examples=30)
@given(cases())
def test_softmax_is_that_of_the_average(case: Case) -> None:
    shares = np.concatenate([strip.probabilities() for strip in strips_of(case)], axis=1)
    powers = np.exp(whole_average(case))
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(shares, powers / powers.sum(axis=0), rtol=1e-3)


def test_softmax_of_large_logits_is_finite() -> None:
    shares = Strip(0, 0, np.array([[[1e4]], [[0]], [[-1e4]]], np.float32)).probabilities()
    np.testing.assert_array_equal(shares[:, 0, 0], [1, 0, 0])


@given(st.integers(1, 4096))
def test_cosine_is_above_zero_everywhere_and_symmetric(tile: int) -> None:
    weight = cosine(tile)
    assert (weight > 0).all()
    np.testing.assert_allclose(weight, weight[::-1], rtol=1e-3, atol=1e-12)
    assert weight.argmax() in (tile // 2, (tile - 1) // 2)


def test_uniform_is_one_everywhere() -> None:
    np.testing.assert_array_equal(uniform(5), np.ones(5))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [((2, 2, 2), 0), ((1, 2, 2), 1), ((1, 1, 2), 2), ((2, 1, 2), 0), ((-3, -1, -1), 1)],
)
def test_the_lowest_id_wins_a_tie(logits: tuple[float, ...], expected: int) -> None:
    strip = Strip(0, 0, np.array(logits, np.float32)[:, None, None])
    assert strip.ids().tolist() == [[expected]]


def test_ids_reach_the_highest_class() -> None:
    logits = np.eye(255, dtype=np.float32).reshape(255, 1, 255)
    np.testing.assert_array_equal(Strip(0, 0, logits).ids(), [np.arange(255)])


def test_one_tile_is_handed_back_as_it_is(rng: np.random.Generator) -> None:
    grid = Grid.over(5, 3, 8, TilePlan(kind="stride", overlap=0))
    logits = rng.normal(size=(4, 8, 8)).astype(np.float32)
    merger = Merger(grid.region(), 4, "uniform")
    assert list(merger.add([Window(0, 0, 8, 8)], logits[None])) == []
    (strip,) = merger.flush()
    np.testing.assert_array_equal(strip.scores, logits[:, :5, :3])
