"""A few batches of a raster, run and written to foresee the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..raster.georeference import Georeference
from ..tiling.sources import Source
from ..tiling.turns import Turn
from .batches import cut_batch, grid_of
from .memory import resident
from .network import Network
from .pipeline import Block, Pipeline
from .sinks import MaskedRaster, Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a part of a raster took.

    Attributes:
        tile: Seconds for each tile, once the engine is warm.
        pixel: Seconds for each pixel of the outputs.
        memory: Most bytes of memory that the process took.
    """

    tile: float
    pixel: float
    memory: int


def warm_up(network: Network, source: Source, turns: tuple[Turn, ...]) -> int:
    """Segment one batch of a raster.

    Returns:
        Bytes of memory that the process takes then, its engine included.

    Raises:
        RasterError: The raster cannot be read.
        EngineError: The engine failed.
    """
    grid = grid_of(network.manifest, source.height, source.width)
    tiles = tuple(grid.region(rows=(0, 1)))[: network.batch]
    batch = cut_batch(network.manifest, source, tiles, network.batch)
    for turn in turns:
        network.on_host(network.run(batch, turn))
    return resident()


def try_part(
    network: Network, source: Source, turns: tuple[Turn, ...], sinks: Sequence[tuple[Sink, Path]], batches: int
) -> Trial:
    """Segment some tiles from the middle of a raster, and write their pixels to outputs that are thrown away.

    Args:
        network: The network.
        source: The raster.
        turns: The ways in which each patch is segmented.
        sinks: The outputs that are wanted.
        batches: How many batches to run after the first one, which warms the engine up.

    Returns:
        What it took.

    Raises:
        RasterError: The raster cannot be read.
        EngineError: The engine failed.
        OSError: The temporary folder is full.
    """
    memory = warm_up(network, source, turns)
    grid, probabilities = grid_of(network.manifest, source.height, source.width), _any_probabilities(sinks)
    row, column = len(grid.rows) // 2, len(grid.columns) // 2
    columns = (column, min(column + max(1, batches * network.batch // 2), len(grid.columns)))
    region = grid.region(rows=(row, row + 1), columns=columns)
    pipeline, started = Pipeline(network, source, probabilities=probabilities, turns=turns), time.monotonic()
    blocks = list(pipeline.blocks(region))
    segmenting = time.monotonic() - started
    memory, started = max(memory, resident()), time.monotonic()
    pixels = _write(blocks, network, sinks)
    return Trial(tile=segmenting / len(region), pixel=(time.monotonic() - started) / pixels, memory=memory)


def _write(blocks: Sequence[Block], network: Network, sinks: Sequence[tuple[Sink, Path]]) -> int:
    """Write blocks of the same rows as outputs of their own; returns how many pixels they have."""
    nowhere = Georeference(crs=None, transform=None, gcps=([], None))
    written = [(sink, path) for sink, path in sinks if not sink.needs_picture]  # a picture does not grow
    with TemporaryDirectory(prefix="fctl-") as folder:
        for index, block in enumerate(blocks):
            height, width = block.ids.shape
            raster = MaskedRaster(
                height=height, width=width, georeference=nowhere, classes=network.manifest.classes, tags={},
                picture=lambda: np.zeros((1, 1, 3), np.uint8),
            )  # fmt: skip
            with ExitStack() as stack:
                for sink, path in written:
                    write = stack.enter_context(sink.open(Path(folder) / f"{index}-{sink.name}{path.suffix}", raster))
                    write(replace(block, y=0, x=0))
    return sum(block.ids.size for block in blocks)


def _any_probabilities(sinks: Sequence[tuple[Sink, Path]]) -> bool:
    return any(sink.needs_probabilities for sink, _ in sinks)
