"""The arithmetic of docs/adaptive.md: windows that nobody asks for, and what gates save."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from experiments.adaptive_gain import LITE, Parts, clairvoyant, saved
from experiments.adaptive_tiles import ALL, MEDIUM, NONE, Tiles
from experiments.adaptive_windows import asked_for, lattices_of

PARTS = Parts(alone=0.7, fusion=0.2, fusion_of_two=0.75, windows=0.1, look=0.6)


def tiles(rows: int, columns: int) -> Tiles:
    """Tiles of one scene; the first half of them changes nothing, the others by 0.1 without any context."""
    y, x = (axis.ravel() * LITE.step for axis in np.mgrid[:rows, :columns])
    count = rows * columns
    changed = np.zeros((count, 3))
    changed[count // 2 :, 0] = 0.1
    same = np.zeros((count, 3))
    return Tiles(
        scene=np.ones(count, np.int64),
        y=y,
        x=x,
        held=np.ones(count),
        changed=changed,
        margin=same,
        best=same,
        sure=same,
    )


def test_windows_are_asked_for_by_the_tiles_that_see_their_context() -> None:
    lattices = lattices_of("fctl-lite0")
    places = [(0, 0), (0, 2688)]  # three windows of the medium context apart
    every = asked_for(lattices, places, [ALL, ALL], 256)
    assert asked_for(lattices, places, [MEDIUM, MEDIUM], 256) == {"medium": every["medium"], "large": 0}
    assert asked_for(lattices, places, [NONE, NONE], 256) == {"medium": 0, "large": 0}
    one = asked_for(lattices, places, [ALL, NONE], 256)
    assert 0 < one["medium"] < every["medium"]


def test_all_is_saved_only_where_no_tile_has_contexts() -> None:
    some, count = tiles(6, 6), 36
    assert saved(PARTS, some, np.full(count, ALL), LITE) == (pytest.approx(0), 0)
    assert saved(PARTS, some, np.full(count, NONE), LITE) == (pytest.approx(0.3), 1)
    shown = np.full(count, NONE, dtype="<U6")
    shown[::5] = ALL  # scattered tiles keep all windows busy
    share, idle = saved(PARTS, some, shown, LITE)
    assert idle == 0
    assert share == pytest.approx(0.2 * 28 / 36)


def test_the_medium_context_alone_saves_its_share() -> None:
    share, idle = saved(PARTS, tiles(6, 6), np.full(36, MEDIUM), LITE)
    assert 0 < idle < 1
    assert share == pytest.approx(0.2 * 0.25 + 0.1 * idle)


@pytest.mark.parametrize(("limit", "without"), [(0.0, 18), (0.0251, 27), (0.1, 36)])
def test_a_clairvoyant_gate_saves_most_within_the_limit(limit: float, without: int) -> None:
    some = tiles(6, 6)
    some.changed[27:, 0] = 0.2  # these cost too much first
    shown, _ = clairvoyant(some, 0.3, 0.05, limit)
    assert (shown == NONE).sum() == without
    assert (shown[some.changed[:, 0] > 0] != ALL).all()  # the medium context changes nothing
    lost = np.where(shown == NONE, some.changed[:, 0], 0).mean()
    assert lost <= limit
