"""Maps of patches pasted together: against samples of pixels that are counted one by one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fctl.runtime.tiling.contexts import Cells
from fctl.runtime.tiling.pasting import Pasted, Pasting
from fctl.runtime.tiling.turns import DIHEDRAL
from fctl.runtime.tiling.windows import TilePlan, Window


@st.composite
def pastings(draw: st.DrawFn) -> tuple[Pasting, tuple[int, ...]]:
    """Any grids of a patch and of a window, and patches that cover the window."""
    grids = []
    for _ in range(2):
        stride, count = draw(st.sampled_from((1, 2, 4))), draw(st.integers(1, 6))
        offset = draw(st.sampled_from((0.0, 0.5, 1.0, -0.5)))
        grids.append((Cells(stride=stride, offset=offset, count=count), stride * count))
    (cells, size), (whole, whole_size) = grids
    tile, window = draw(st.integers(2, 12)), draw(st.integers(1, 30))
    plan = TilePlan(kind=draw(st.sampled_from(("stride", "even"))), overlap=draw(st.integers(0, tile - 1)))
    found = Pasting(cells=cells, size=size, tile=tile, whole=whole, whole_size=whole_size, window=window)
    return found, plan.starts(window, tile)


def owner(cells: Cells, pixel: Fraction) -> int:
    """The cell whose centre lies nearest to a place in pixels; the later one of two."""
    place = pixel - Fraction(1, 2) - Fraction(cells.offset)
    return int(np.clip(int(place / cells.stride + Fraction(1, 2) + 1000) - 1000, 0, cells.count - 1))


@settings(max_examples=20, deadline=None)
@given(pastings())
def test_shares_are_the_pixels_that_two_cells_own(case: tuple[Pasting, tuple[int, ...]]) -> None:
    one, starts = case
    found = one.shares(starts)
    expected, samples = np.zeros(found.shape), 500
    for index in range(samples):
        place = Fraction(2 * index + 1, 2 * samples) * one.window
        theirs = owner(one.whole, place * one.whole_size / one.window)
        for number, start in enumerate(starts):
            if start <= place < start + one.tile:
                expected[number, theirs, owner(one.cells, (place - start) * one.size / one.tile)] += 1
    owned = expected.sum(axis=(0, 2), keepdims=True)
    large = owned[0, :, 0] > 20  # of cells that own enough samples to tell
    share = expected / np.maximum(owned, 1)
    np.testing.assert_allclose(found[:, large], share[:, large], atol=0.15)


@given(pastings())
def test_shares_of_a_cell_add_up_to_one(case: tuple[Pasting, tuple[int, ...]]) -> None:
    one, starts = case
    total = one.shares(starts).sum(axis=(0, 2))
    inside = [0 <= one.whole.stride * u + one.whole.offset < one.whole_size for u in range(one.whole.count)]
    np.testing.assert_allclose(total[inside], 1, rtol=1e-5)


def test_one_patch_on_a_grid_of_its_own_is_pasted_as_it_is() -> None:
    cells = Cells(stride=4, offset=1.5, count=8)
    pasting = Pasting(cells=cells, size=32, tile=32, whole=cells, whole_size=32, window=32)
    np.testing.assert_array_equal(pasting.shares((0,)), np.eye(8, dtype=np.float32)[None])


def test_patches_beside_each_other_are_means_of_squares() -> None:
    """A window of 2 x 3 patches, shrunk to half the cells: `pasted` is what a pool of 2 x 2 would give."""
    random, cells = np.random.default_rng(0), Cells(stride=2, offset=0.5, count=4)
    maps = random.integers(0, 99, (2, 3, 5, 4, 4)).astype(np.float32)
    axes = []
    for count in (2, 3):
        whole = Cells(stride=2, offset=0.5, count=2 * count)
        pasting = Pasting(cells=cells, size=8, tile=8, whole=whole, whole_size=4 * count, window=8 * count)
        axes.append(pasting.shares([8 * index for index in range(count)]))
    pasted = Pasted(*axes, channels=5)
    for row in range(2):
        for column in range(3):
            pasted.add(row, column, maps[row, column])
    joined = maps.transpose(2, 0, 3, 1, 4).reshape(5, 8, 12)
    np.testing.assert_array_equal(pasted.map[0], joined.reshape(5, 4, 2, 6, 2).mean(axis=(2, 4)))


def test_what_is_turned_is_pasted_where_it_lies() -> None:
    """Patches, window and places are turned; with cells in the middle of their pixels, so is what is pasted."""
    random, cells = np.random.default_rng(1), Cells(stride=2, offset=0.5, count=4)
    frame, plan = Window(0, 0, 20, 28), TilePlan(kind="stride", overlap=2)
    tiles = [Window(y, x, 8, 8) for y in plan.starts(20, 8) for x in plan.starts(28, 8)]
    maps = random.random((len(tiles), 3, 4, 4)).astype(np.float32)

    def pasted(places: list[Window], sides: tuple[int, int], features: NDArray[np.float32]) -> Pasted:
        ys, xs = sorted({place.y for place in places}), sorted({place.x for place in places})
        whole = Cells(stride=2, offset=0.5, count=5)
        rows, columns = (
            Pasting(cells=cells, size=8, tile=8, whole=whole, whole_size=10, window=side).shares(starts)
            for side, starts in zip(sides, (ys, xs), strict=True)
        )
        found = Pasted(rows, columns, channels=3)
        for place, one in zip(places, features, strict=True):
            found.add(ys.index(place.y), xs.index(place.x), one)
        return found

    upright = pasted(tiles, (20, 28), maps).map
    for turn in DIHEDRAL:
        places = [turn.within(tile, frame)[0] for tile in tiles]
        turned_frame = turn.within(frame, frame)[1]
        found = pasted(places, (turned_frame.height, turned_frame.width), turn.pixels(maps)).map
        np.testing.assert_allclose(turn.back(found), upright, rtol=1e-4)
