"""A few batches of a raster, run to foresee the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

from ..tiling.sources import Source
from ..tiling.turns import Turn
from .batches import BatchCutter, grid_of
from .memory import resident
from .network import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What some batches took.

    Attributes:
        seconds: Seconds for each tile, once the engine is warm.
        memory: Most bytes of memory that the process took.
    """

    seconds: float
    memory: int


def try_batches(network: Network, source: Source, turns: tuple[Turn, ...], batches: int) -> Trial:
    """Segment some tiles from the middle row of a raster's grid.

    Args:
        network: The network.
        source: The raster.
        turns: The ways in which each patch is segmented.
        batches: How many batches to run after the first one, which warms the engine up.

    Returns:
        What they took.

    Raises:
        RasterError: The raster cannot be read.
        EngineError: The engine failed.
    """
    grid, cutter = grid_of(network.manifest, source.height, source.width), BatchCutter(network.manifest, source)
    middle = len(grid.rows) // 2
    tiles = iter(grid.region(rows=(middle, middle + 1)))
    tiles = (tile for tile in tiles if tile.y == grid.rows[middle])
    memory, started, done = resident(), time.monotonic(), 0
    for index in range(batches + 1):
        group = tuple(islice(tiles, network.batch))
        if not group:
            break
        if index == 1:
            started, done = time.monotonic(), 0
        batch = cutter.cut(group, network.batch)
        for turn in turns:
            network.on_host(network.run(batch, turn))
        memory, done = max(memory, resident()), done + len(group)
    return Trial(seconds=(time.monotonic() - started) / max(done, 1), memory=memory)
