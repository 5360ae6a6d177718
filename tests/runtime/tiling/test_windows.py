from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fctl.runtime.errors import InputError
from fctl.runtime.tiling.windows import Grid, TilePlan, Window

Kind = Literal["stride", "even"]
KINDS: tuple[Kind, ...] = ("stride", "even")


@st.composite
def plans(draw: st.DrawFn) -> tuple[TilePlan, int, int]:
    """A plan, a tile it allows, and a side."""
    tile = draw(st.integers(1, 300))
    plan = TilePlan(kind=draw(st.sampled_from(KINDS)), overlap=draw(st.integers(0, tile - 1)))
    return plan, tile, draw(st.integers(1, 2000))


@given(plans())
def test_every_pixel_of_a_side_is_covered(case: tuple[TilePlan, int, int]) -> None:
    plan, tile, side = case
    covered = {pixel for start in plan.starts(side, tile) for pixel in range(start, start + tile)}
    assert covered >= set(range(side))


@given(plans())
def test_starts_are_sorted_distinct_and_the_last_is_flush(case: tuple[TilePlan, int, int]) -> None:
    plan, tile, side = case
    starts = plan.starts(side, tile)
    assert list(starts) == sorted(set(starts))
    assert starts[0] == 0
    assert starts[-1] == max(side - tile, 0)


@given(plans())
def test_neighbours_overlap_by_at_least_the_overlap(case: tuple[TilePlan, int, int]) -> None:
    plan, tile, side = case
    starts = plan.starts(side, tile)
    assert all(first + tile - second >= plan.overlap for first, second in pairwise(starts))


@given(plans())
def test_no_fewer_tiles_would_do(case: tuple[TilePlan, int, int]) -> None:
    plan, tile, side = case
    count = len(plan.starts(side, tile))
    reach_of_one_less = tile + (count - 2) * (tile - plan.overlap)
    assert count == 1 or reach_of_one_less < side


@given(plans())
def test_stride_keeps_its_stride_but_for_the_last_tile(case: tuple[TilePlan, int, int]) -> None:
    plan, tile, side = case
    starts = TilePlan(kind="stride", overlap=plan.overlap).starts(side, tile)
    assert list(starts[:-1]) == [index * (tile - plan.overlap) for index in range(len(starts) - 1)]


@given(plans())
def test_even_spreads_the_tiles_to_within_a_pixel(case: tuple[TilePlan, int, int]) -> None:
    plan, tile, side = case
    starts = TilePlan(kind="even", overlap=plan.overlap).starts(side, tile)
    strides = {second - first for first, second in pairwise(starts)}
    assert len(starts) == 1 or max(strides) - min(strides) <= 1


def test_even_plan_of_the_release_on_deepglobe() -> None:
    assert TilePlan(kind="even", overlap=50).starts(2448, 508) == (0, 388, 776, 1164, 1552, 1940)


def test_even_plan_of_the_release_on_inria() -> None:
    assert len(TilePlan(kind="even", overlap=50).starts(5000, 508)) == 11


def test_stride_plan_of_388_on_inria() -> None:
    starts = TilePlan(kind="stride", overlap=120).starts(5000, 508)
    assert len(starts) == 13
    assert starts[:3] == (0, 388, 776)
    assert starts[-1] == 5000 - 508


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [1, 15, 16])
def test_a_side_no_longer_than_the_tile_takes_one(kind: Kind, side: int) -> None:
    assert TilePlan(kind=kind, overlap=4).starts(side, 16) == (0,)


@pytest.mark.parametrize("overlap", [-1, 16, 17])
def test_an_overlap_that_never_advances_is_refused(overlap: int) -> None:
    with pytest.raises(InputError, match=f"from 0 to 15 .* found {overlap}"):
        TilePlan(kind="stride", overlap=overlap).starts(100, 16)


def test_grid_is_in_reading_order() -> None:
    grid = Grid.over(20, 40, 16, TilePlan(kind="stride", overlap=4))
    expected = [(0, 0), (0, 12), (0, 24), (4, 0), (4, 12), (4, 24)]
    assert [(tile.y, tile.x) for tile in grid] == expected
    assert len(grid) == len(expected)


def test_within_keeps_what_is_inside() -> None:
    assert Window(-3, 5, 10, 10).within(20, 12) == Window(0, 5, 7, 7)
    assert Window(2, 3, 4, 5).within(20, 12) == Window(2, 3, 4, 5)


@pytest.mark.parametrize("window", [Window(20, 0, 3, 3), Window(0, 12, 3, 3), Window(-3, 0, 3, 3), Window(0, -3, 3, 3)])
def test_within_is_none_where_they_do_not_touch(window: Window) -> None:
    assert window.within(20, 12) is None


def test_centred_keeps_the_centre() -> None:
    assert Window(10, 20, 4, 6).centred(8, 12) == Window(8, 17, 8, 12)
    assert Window(0, 0, 4, 4).centred(8, 8) == Window(-2, -2, 8, 8)


@pytest.mark.parametrize("size", [(9, 8), (8, 9)])
def test_centred_refuses_half_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="must be even"):
        Window(0, 0, 4, 4).centred(*size)


@pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 3)])
def test_an_empty_window_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        Window(0, 0, *size)
