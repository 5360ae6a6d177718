"""A model of what a run that is spread takes, from what its parts take."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from fctl.runtime.segment.shards.plan import ShardPlan
from fctl.runtime.tiling.windows import Grid, Window

_COPYING = 8  # shards that the leader fetches from a store at a time
_MEGA = 1e6


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the parts of a run take, in seconds where nothing else is said.

    Attributes:
        fixed: To start, open the bundle, and end.
        tile: For which a worker reads, infers, merges and writes a tile.
        assemble: To make the outputs of the shards of a megapixel, in one process.
        shard: Of the leader for each shard: its line in the journal, and to open its file.
        task: Of the scheduler for each shard.
        get: To fetch a shard from a store, beside its bytes; 0 where shards lie in a folder.
        bandwidth: Bytes a second that the leader fetches from a store.
        kept: Bytes of a shard for each pixel.
    """

    fixed: float
    tile: float
    assemble: float
    shard: float
    task: float
    get: float = 0.0
    bandwidth: float = float("inf")
    kept: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run takes, in seconds.

    Attributes:
        fixed: To start and to end.
        shards: Until all shards are made.
        scheduler: Of the scheduler and of the leader for all shards, at the same time.
        fetch: To bring all shards to the leader.
        assemble: To make the outputs, in one process; 0 where workers make them, which is in `shards` then.
        count: How many shards there are.
    """

    fixed: float
    shards: float
    scheduler: float
    fetch: float
    assemble: float
    count: int

    @property
    def total(self) -> float:
        """All of it."""
        return self.fixed + max(self.shards, self.scheduler) + self.fetch + self.assemble


def one_mask(rates: Rates, grid: Grid, workers: int, cores: int | None = None) -> Cost:
    """A run whose outputs one process assembles, as `fctl-run` makes it.

    Args:
        rates: What its parts take.
        grid: The tiles.
        workers: How many workers there are.
        cores: How many cores they share; None for one for each.

    Returns:
        What it takes.
    """
    shards = _sizes(ShardPlan.spread(grid, workers))
    pixels = grid.height * grid.width
    slower = max(1.0, min(workers, len(shards)) / cores) if cores else 1.0
    return Cost(
        fixed=rates.fixed,
        shards=rates.tile * slower * _makespan(shards, workers),
        scheduler=(rates.task + rates.shard) * len(shards),
        fetch=rates.get * len(shards) / _COPYING + rates.kept * pixels / rates.bandwidth,
        assemble=rates.assemble * pixels / _MEGA,
        count=len(shards),
    )


def blocks(rates: Rates, grid: Grid, workers: int, side: int) -> Cost:
    """A run for each block of a raster (`--window`), whose masks one VRT shows as one: workers assemble them.

    Args:
        rates: What the parts of a run take.
        grid: The tiles of the whole raster.
        workers: How many workers there are.
        side: Height and width of a block in pixels.

    Returns:
        What it takes.
    """
    down, across = -(-grid.height // side), -(-grid.width // side)
    inner = grid.touching(Window(down // 2 * side, across // 2 * side, side, side))  # as nearly all of them
    block = rates.fixed + rates.tile * len(inner) + rates.assemble * side**2 / _MEGA + rates.shard
    return Cost(
        fixed=0.0, shards=block * -(-down * across // workers), scheduler=rates.task * down * across, fetch=0.0,
        assemble=0.0, count=down * across,
    )  # fmt: skip


def _sizes(plan: ShardPlan) -> list[int]:
    """How many tiles are computed for each shard; all of a band have the same rows, all of a panel the same columns."""
    rows = {shard.first: len(shard.tile_rows) for shard in plan.shards if not shard.left}
    columns = {shard.left: len(shard.tile_columns) for shard in plan.shards if not shard.first}
    return [rows[shard.first] * columns[shard.left] for shard in plan.shards]


def _makespan(sizes: Sequence[int], workers: int) -> int:
    """Tiles that the worker does who ends last, where each takes the next shard once it is ready."""
    ends = [0] * min(workers, len(sizes))
    for size in sizes:
        heapq.heapreplace(ends, ends[0] + size)
    return max(ends)
