"""A few batches of a raster, run and written to foresee the rest."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..raster.georeference import NOWHERE
from ..raster.source import RasterSource
from ..tiling.contexts import Extent
from ..tiling.lattice import Lattice
from ..tiling.sources import ArraySource, Source
from ..tiling.turns import UPRIGHT, Turn
from ..tiling.windows import Grid, Region, Window
from .batches import cut_batch, grid_of
from .jobs import FileJob
from .levels import confidence_of
from .memory import resident
from .network import FeatureCache, Network
from .pipeline import Block, Pipeline
from .sinks import MaskedRaster, Sink

_TIMES = 9  # that a block is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a part of a raster took.

    Attributes:
        tile: Seconds for each tile, once the engine is warm.
        window: Seconds for each window of a context that many patches share, or that is encoded once a raster.
        pixel: Seconds for each pixel of the outputs.
        memory: Most bytes of memory that the process took.
    """

    tile: float
    window: float
    pixel: float
    memory: int


def tried_on(raster: RasterSource, tile: int, *, spool: bool, bands: int) -> Source:
    """What a trial reads: the raster, or black of its kind where the raster is to be copied before it is read."""
    return ArraySource(np.zeros((8 * tile, 8 * tile, bands), raster.dtype)) if spool else raster


def warm_up(network: Network, source: Source, turns: tuple[Turn, ...], grid: Grid) -> int:
    """Segment one batch of a raster.

    Args:
        network: The network.
        source: What `tried_on` gives.
        turns: The ways in which each patch is segmented.
        grid: The tiles of the raster that are wanted.

    Returns:
        Bytes of memory that the process takes then, its engine included.

    Raises:
        RasterError: The raster cannot be read.
        EngineError: The engine failed.
    """
    tiles = tuple(_on(source, grid, network).region(rows=(0, 1)))[: network.batch]
    batch = cut_batch(
        network.manifest, source, tiles, network.batch, network.lattices, turned=turns != (UPRIGHT,)
    )  # fmt: skip
    for turn in turns:
        network.on_host(network.run(batch, turn))
    return resident()


def try_part(
    network: Network, source: Source, turns: tuple[Turn, ...], job: FileJob, grid: Grid, batches: int
) -> Trial:
    """Segment some tiles from the middle of a raster, and write their pixels to outputs that are thrown away.

    Args:
        network: The network.
        source: The raster.
        turns: The ways in which each patch is segmented.
        job: What is asked.
        grid: The tiles of the raster that are wanted.
        batches: How many batches to run after the first one, which warms the engine up.

    Returns:
        What it took.

    Raises:
        RasterError: The raster cannot be read.
        EngineError: The engine failed.
        OSError: The temporary folder is full.
    """
    memory = warm_up(network, source, turns, grid)
    grid = _on(source, grid, network)
    row, column = len(grid.rows) // 2, len(grid.columns) // 2
    columns = (column, min(column + max(1, batches * network.batch // 2), len(grid.columns)))
    region = grid.region(rows=(row, row + 1), columns=columns)
    pipeline = Pipeline(network, source, probabilities=job.probabilities, turns=turns, votes=job.keep.votes)
    started = time.monotonic()
    blocks = list(pipeline.blocks(region))
    segmenting = time.monotonic() - started
    encoding = _seconds_of_encoding(network, source, tuple(region)[: network.batch])
    windows = windows_of(network.lattices, source, [region], turns) + scenes_of(
        network.manifest, source, [region], turns
    )
    segmenting = max(segmenting - encoding * windows, 0)
    memory = max(memory, resident())
    once, often = (_seconds_of_writing(blocks[0], times, network, job.sinks) for times in (1, _TIMES))
    pixels = (_TIMES - 1) * blocks[0].ids.size  # what a file takes however small it is does not grow with the raster
    return Trial(
        tile=segmenting / len(region), window=encoding, pixel=max(often - once, 0) / pixels, memory=memory
    )  # fmt: skip


def windows_of(
    lattices: Mapping[str, Lattice], raster: Extent, regions: Sequence[Region], turns: tuple[Turn, ...]
) -> int:
    """How many windows of contexts that are encoded once a raster some regions encode, each by itself.

    Args:
        lattices: The windows, by the name of the context.
        raster: The raster, as the network sees it. Windows beyond it are black, and encoded once for all rasters.
        regions: The regions.
        turns: The ways in which each patch is segmented; in each of them windows are encoded anew.

    Returns:
        The number of windows.
    """
    flipped, found = turns != (UPRIGHT,), 0
    for lattice in lattices.values():
        for region in regions:
            rows = lattice.touching(lattice.numbers(region.tile_rows, flipped=flipped), raster.height)
            columns = lattice.touching(lattice.numbers(region.tile_columns, flipped=flipped), raster.width)
            found += len(rows) * len(columns)
    return len(turns) * found


def scenes_of(manifest: Manifest, raster: Extent, regions: Sequence[Region], turns: tuple[Turn, ...]) -> int:
    """How many windows of contexts that patches share some regions encode, one after the other.

    Args:
        manifest: How contexts are cut.
        raster: The raster, as the network sees it.
        regions: The regions.
        turns: As in `windows_of`.

    Returns:
        The number of windows.
    """
    found, tile = 0, manifest.tile
    for context in (context for context in manifest.contexts if context.encoder and context.window.shared):
        seen = set[tuple[int, int]]()
        for region in regions:
            y, x = region.tile_rows[0], region.tile_columns[0]
            rows = {context.window.around(Window(start, x, tile, tile), raster).y for start in region.tile_rows}
            columns = {context.window.around(Window(y, start, tile, tile), raster).x for start in region.tile_columns}
            seen |= set(product(rows, columns))
        found += len(seen)
    return len(turns) * found


def _seconds_of_encoding(network: Network, source: Source, tiles: tuple[Window, ...]) -> float:
    """Seconds for each window that is encoded for more than one patch: those that a batch takes the first time."""
    shared = any(context.encoder and context.window.shared for context in network.manifest.contexts)
    if not network.lattices and not shared:
        return 0.0
    batch = cut_batch(network.manifest, source, tiles, network.batch, network.lattices)
    cache, seconds = FeatureCache(), list[float]()
    for _ in range(2):
        started = time.monotonic()
        network.on_host(network.run(batch, cache=cache))
        seconds.append(time.monotonic() - started)
    return max(seconds[0] - seconds[1], 0) / max(len(cache), 1)  # black windows are not among them


def _on(source: Source, grid: Grid, network: Network) -> Grid:
    """The tiles that are wanted, or those of what is tried in place of the raster."""
    fits = grid.height <= source.height and grid.width <= source.width
    return grid if fits else grid_of(network.manifest, source.height, source.width)


def _seconds_of_writing(block: Block, times: int, network: Network, sinks: Sequence[tuple[Sink, Path]]) -> float:
    """How long it takes to write a block, repeated some times downwards, to outputs that are thrown away."""
    height, width = times * block.ids.shape[0], block.ids.shape[1]
    raster = MaskedRaster(
        height=height, width=width, georeference=NOWHERE,
        classes=network.manifest.classes, tags={}, picture=lambda: np.zeros((1, 1, 3), np.uint8),
    )  # fmt: skip
    confidence, started = _confidence(block), time.monotonic()
    with TemporaryDirectory(prefix="fctl-") as folder:
        with ExitStack() as stack:
            writers = [
                stack.enter_context(sink.open(Path(folder) / f"{sink.name}{path.suffix}", raster))
                for sink, path in sinks
                if not sink.needs_picture  # a picture does not grow
            ]
            for index in range(times):
                for write in writers:
                    write(replace(block, y=index * block.ids.shape[0], x=0, confidence=confidence))
        return time.monotonic() - started


def _confidence(block: Block) -> NDArray[np.uint8] | None:
    if block.agreement is not None or block.probabilities is None:
        return block.agreement
    return confidence_of(block.probabilities)
