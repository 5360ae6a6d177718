"""The model of cost (benchmarks/parts/cost_model.py) counts what a run does."""

from __future__ import annotations

from dataclasses import replace
from math import isclose

import pytest

from benchmarks.parts.cost_model import Rates, blocks, one_mask
from fctl.runtime.segment.shards.plan import ShardPlan
from fctl.runtime.tiling.windows import Grid, TilePlan

GRID = Grid.over(20_000, 40_000, 256, TilePlan(kind="stride", overlap=64))
FREE = Rates(fixed=0, tile=0, assemble=0, shard=0, task=0)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_tile_of_every_shard_costs_once(workers: int) -> None:
    cost = one_mask(replace(FREE, tile=1.0), GRID, workers, cores=1)
    sizes = [len(shard) for shard in ShardPlan.spread(GRID, workers).shards]
    assert cost.count == len(sizes)
    # on one core it does not matter who does it, but for the last shards, while some workers are done
    assert sum(sizes) <= cost.total <= sum(sizes) + (workers - 1) * workers * max(sizes)


def test_workers_with_cores_of_their_own_share_the_work() -> None:
    alone, ten = (one_mask(replace(FREE, tile=1.0), GRID, workers).total for workers in (1, 10))
    assert alone / 10 <= ten <= 1.2 * alone / 10


def test_what_one_process_does_is_not_shared() -> None:
    serial = replace(FREE, assemble=1.0, shard=1.0, get=8.0, kept=2.0, bandwidth=1e6)
    cost = one_mask(serial, GRID, 1000)
    assert isclose(cost.assemble, 800)
    assert isclose(cost.scheduler, cost.count)
    assert isclose(cost.fetch, cost.count + 1600)
    assert isclose(cost.total, cost.scheduler + cost.fetch + cost.assemble)


def test_blocks_share_the_outputs_too() -> None:
    rates = replace(FREE, assemble=1.0)
    assert isclose(blocks(rates, GRID, 1, 10_000).total, 800)
    assert isclose(blocks(rates, GRID, 8, 10_000).total, 100)
    assert isclose(blocks(rates, GRID, 1000, 10_000).total, 100)  # there are eight
