"""How a raster is cut for several workers, and how shards are shared out among parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fctl.runtime.errors import InputError
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.segment.shards.plan import PANEL, ShardPlan
from fctl.runtime.segment.shards.share import Share
from fctl.runtime.tiling.windows import Grid, TilePlan

SIDES = st.integers(1, 60_000)


def grid(height: int, width: int) -> Grid:
    return Grid.over(height, width, 508, TilePlan(kind="stride", overlap=120))


@pytest.fixture(autouse=True)
def small_shards() -> None:
    """Shards here are those of users."""


@given(shards=st.integers(0, 400), count=st.integers(1, 500))
def test_every_shard_is_in_one_part_and_parts_are_in_order(shards: int, count: int) -> None:
    shares = [Share(index, count).of(shards) for index in range(1, count + 1)]
    assert [shard for share in shares for shard in share] == list(range(shards))
    sizes = {len(share) for share in shares}
    assert max(sizes) - min(sizes) <= 1  # so that all take as long


@given(shards=st.integers(1, 200), count=st.integers(1, 100), data=st.data())
def test_the_parts_that_hold_shards_are_named(shards: int, count: int, data: st.DataObject) -> None:
    wanted = data.draw(st.sets(st.integers(0, shards - 1)))
    named = Share(1, count).holding(wanted, shards)
    assert named == sorted(set(named))
    for part in range(1, count + 1):
        assert (part in named) == bool(wanted & set(Share(part, count).of(shards)))


@pytest.mark.parametrize(
    "text", ["", "3", "x", "x/3", "3/", "/3", "0/3", "21/20", "-1/3", "1/0", "1.5/3", "1/2/3", "٣/٣"]
)
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(InputError, match=r"^`part`: expected a .*, found "):
        Share.parsed(text)


def test_a_part_is_read_as_it_is_written() -> None:
    assert Share.parsed(" 3/20 ") == Share(3, 20)
    assert str(Share.parsed("007/010")) == "7/10"


@given(height=SIDES, width=SIDES, workers=st.integers(1, 64))
def test_a_spread_run_computes_each_tile_row_of_each_panel_once_and_keeps_all_workers_busy(
    height: int, width: int, workers: int
) -> None:
    tiles = grid(height, width)
    plan = ShardPlan.spread(tiles, workers)
    panels, rows = tiles.panels(PANEL), len(tiles.rows)
    assert len(plan.shards) == len(panels) * -(-rows // plan.rows)
    assert 1 <= plan.rows <= min(rows, 64)
    covered = [(shard.left, shard.first, shard.stop) for shard in plan.shards]
    for left, _ in panels:
        bands = [(first, stop) for start, first, stop in covered if start == left]
        assert [row for band in bands for row in range(*band)] == list(range(rows))

    def rounds(height: int) -> int:
        """Rows of tiles that the busiest worker computes, those above its shards included."""
        return -(-len(panels) * -(-rows // height) // workers) * (height + 1)

    best = min(map(rounds, range(1, min(rows, plans._HIGHEST) + 1)))
    assert rounds(plan.rows) <= 1.05 * best
    assert ShardPlan.over(tiles).as_in(plan.numbers()) == plan
