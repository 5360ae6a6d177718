"""Lattices: what is cut from the cells of their windows lies where the patch expects it, exactly."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fctl.runtime.errors import InputError
from fctl.runtime.tiling.contexts import Cells
from fctl.runtime.tiling.lattice import Lattice
from fctl.runtime.tiling.turns import DIHEDRAL, Turn

VGG16 = Lattice(  # of factor 2: cells begin well outside of a patch's window, and inside those of the lattice
    tile=508, window=1016, size=508, cells=Cells(stride=32, offset=-83.5, count=23),
    side=1026, own=Cells(stride=32, offset=15.5, count=33), first=2, kept=28,
)  # fmt: skip


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    """Any lattice whose windows start at whole pixels."""
    stride, count, ratio = draw(st.sampled_from((2, 4, 16))), draw(st.integers(1, 6)), draw(st.integers(1, 5))
    first, kept, last = draw(st.integers(0, 3)), draw(st.integers(1, 9)), draw(st.integers(0, 3))
    size, reach = stride * count, draw(st.integers(0, 20))
    offset, own = (draw(st.integers(-9, 9)) + 0.5 for _ in range(2))
    window = size * ratio
    return Lattice(
        tile=max(1, window - 2 * reach) if window > 2 * reach else window, window=window, size=size,
        cells=Cells(stride=stride, offset=offset, count=count), side=stride * (first + kept + last),
        own=Cells(stride=stride, offset=own, count=first + kept + last), first=first, kept=kept,
        begin=draw(st.integers(0, 9)),
    )  # fmt: skip


def centres(lattice: Lattice, cells: Cells, start: Fraction, side: Fraction, flipped: bool) -> list[Fraction]:
    """Where the centres of cells lie in the raster; of a mirrored window they are counted from its end."""
    ratio = Fraction(lattice.window, lattice.size)
    found = [ratio * (Fraction(cells.offset) + cells.stride * index + Fraction(1, 2)) for index in range(cells.count)]
    return [start + side - one if flipped else start + one for one in found]


@given(lattice=lattices(), start=st.integers(0, 5000), flipped=st.booleans())
def test_interpolated_cells_lie_where_the_patch_expects_them(lattice: Lattice, start: int, flipped: bool) -> None:
    place = lattice.place(start, flipped=flipped)
    found: list[Fraction] = []
    for piece in place.pieces:
        assert lattice.first <= piece.first and piece.first + piece.count <= lattice.first + lattice.kept
        window = centres(lattice, lattice.own, Fraction(lattice.start(piece.number)), lattice.span, flipped)
        found += window[piece.first : piece.first + piece.count]
    share = place.beyond
    assert 0 <= share < 1 and len(found) == lattice.cells.count + (share > 0)
    if share:
        found = [near + (far - near) * share for near, far in itertools.pairwise(found)]
    context = start - Fraction(lattice.window - lattice.tile, 2)
    assert found == centres(lattice, lattice.cells, context, Fraction(lattice.window), flipped)


@given(lattice=lattices(), starts=st.lists(st.integers(0, 3000), min_size=1, max_size=4))
def test_the_windows_that_tiles_need_are_those_of_their_places(lattice: Lattice, starts: list[int]) -> None:
    upright, both = (lattice.numbers(starts, flipped=flipped) for flipped in (False, True))
    places = [lattice.place(start, flipped=flipped) for start in starts for flipped in (False, True)]
    assert set(both) == {piece.number for place in places for piece in place.pieces}
    assert set(upright) <= set(both) and list(both) == sorted(both)


def test_whole_cells_where_the_step_divides() -> None:
    assert [VGG16.place(start).beyond for start in (0, 64, 388)] == [0, 0, Fraction(1, 16)]


def test_the_lattice_of_vgg16_is_the_same_one_when_it_is_mirrored() -> None:
    """Else test-time augmentation would interpolate where an upright run does not."""
    assert VGG16.place(640, flipped=True).beyond == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"window": 1015}, "whole pixels"),
        ({"own": Cells(stride=16, offset=15.5, count=33)}, "cells 32 pixels apart, found 16"),
        ({"first": 10}, "cells to keep among 33, found 28 from 10 on"),
    ],
)
def test_what_is_no_lattice_is_refused(changed: dict[str, object], message: str) -> None:
    values = {name: getattr(VGG16, name) for name in VGG16.__slots__}
    with pytest.raises(InputError, match=message):
        Lattice(**{**values, **changed})


@pytest.mark.parametrize("turn", DIHEDRAL)
def test_axes_tell_where_rows_and_columns_of_a_turned_square_come_from(turn: Turn) -> None:
    square = np.stack(np.mgrid[:3, :3])
    turned = np.stack([turn.pixels(square[0]), turn.pixels(square[1])])
    for axis, (origin, flipped) in enumerate(turn.axes):
        line = turned[origin, :, 0] if axis == 0 else turned[origin, 0, :]
        assert line.tolist() == ([2, 1, 0] if flipped else [0, 1, 2])
