"""Raster -> tiles -> batches -> logits -> finished rows: the only composition, and the only place with threads.

One thread reads and resamples the next batch while the engine works on this one; it is also the only one that
touches the source, so a source need not be thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Manifest
from .contexts import Pixels, Source, cell_positions, cut_context, read_padded
from .inference import StagedNetwork
from .merge import NODATA, Merger, Strip
from .windows import Grid, Window

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Finished rows of a mask.

    y: first row. ids: class ids (rows, width) uint8, 255 where the raster has no data. probabilities: (classes, rows,
    width) float32, NaN where the raster has no data; None unless asked for.
    """

    y: int
    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patches (N, bands, P, P) of `tiles`, and by name contexts (N, bands, S, S) or, of those that move, positions
    (N, 2, h).

    The last batch of a raster holds fewer tiles than N: the rest is black, so that the engine always sees N.
    """

    tiles: tuple[Window, ...]
    patch: NDArray[Any]
    contexts: dict[str, NDArray[Any]]
    positions: dict[str, NDArray[np.float32]]


def segment_rows(
    network: StagedNetwork, source: Source, *, probabilities: bool = False, progress: Progress | None = None
) -> Iterator[Rows]:
    """Segment a source and yield its rows, top to bottom. progress: called with tiles done and tiles in all."""
    manifest = network.manifest
    grid = grid_of(manifest, source.height, source.width)
    merger = Merger(grid, len(manifest.classes), manifest.merge)
    with ThreadPoolExecutor(1, "fctl-read") as reader:
        for strip in _strips(network, source, grid, merger, reader, progress):
            window = Window(strip.y, 0, strip.rows, source.width)
            yield _rows(strip, reader.submit(source.valid, window).result(), probabilities)


def grid_of(manifest: Manifest, height: int, width: int) -> Grid:
    """The tiles of a raster of that size."""
    return Grid.over(height, width, manifest.tile, manifest.plan)


def _strips(
    network: StagedNetwork,
    source: Source,
    grid: Grid,
    merger: Merger,
    reader: ThreadPoolExecutor,
    progress: Progress | None,
) -> Iterator[Strip]:
    windows = reader.submit(cut_moving, network.manifest, source).result()
    fixed = {c.name: network.encode(c, windows[c.name]) for c in network.manifest.contexts if c.window.moves}
    done = 0
    for batch in _batches(network.manifest, source, grid, network.batch, reader):
        logits = _infer(network, batch, fixed)
        for tile, tile_logits in zip(batch.tiles, logits, strict=False):  # the padding of the last batch is dropped
            yield from merger.add(tile, tile_logits)
        done += len(batch.tiles)
        if progress:
            progress(done, len(grid))
    yield from merger.flush()


def _infer(network: StagedNetwork, batch: Batch, fixed: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    features = dict(fixed)
    for context in network.manifest.contexts:
        if not context.window.moves:
            features[context.name] = network.encode(context, batch.contexts[context.name])
    return network.segment(batch.patch, features, batch.positions)


def _batches(manifest: Manifest, source: Source, grid: Grid, size: int, reader: ThreadPoolExecutor) -> Iterator[Batch]:
    """Batches in reading order, one ahead of the one in work."""
    tiles = iter(grid)
    following: Future[Batch] | None = None
    while group := tuple(islice(tiles, size)):
        current, following = following, reader.submit(cut_batch, manifest, source, group, size)
        if current:
            yield current.result()
    if following:
        yield following.result()


def cut_batch(manifest: Manifest, source: Source, tiles: tuple[Window, ...], size: int) -> Batch:
    """Cut patches and contexts of some tiles, padded with black to a batch of `size`."""
    contexts, positions = {}, {}
    for context in manifest.contexts:
        if context.cells:
            window = context.window.around(tiles[0], source)
            grids = (context.cells.patch, context.cells.context)
            placed = [cell_positions(tile, window, *grids, context.size) for tile in tiles]
            positions[context.name] = np.stack(placed + placed[-1:] * (size - len(tiles)))
        else:
            contexts[context.name] = _stacked([cut_context(source, tile, context.window) for tile in tiles], size)
    patch = _stacked([read_padded(source, tile) for tile in tiles], size)
    return Batch(tiles=tiles, patch=patch, contexts=contexts, positions=positions)


def cut_moving(manifest: Manifest, source: Source) -> dict[str, NDArray[Any]]:
    """Contexts that are the same for every patch, (1, bands, S, S) by name: once per raster."""
    anywhere = Window(0, 0, 1, 1)
    return {
        context.name: _stacked([cut_context(source, anywhere, context.window)], 1)
        for context in manifest.contexts
        if context.window.moves
    }


def _stacked(images: list[Pixels], size: int) -> NDArray[Any]:
    """Images (height, width, bands) -> (size, bands, height, width), black where there are fewer."""
    height, width, bands = images[0].shape
    stacked = np.zeros((size, bands, height, width), images[0].dtype)
    for index, image in enumerate(images):
        stacked[index] = image.transpose(2, 0, 1)
    return stacked


def _rows(strip: Strip, valid: NDArray[np.bool_] | None, probabilities: bool) -> Rows:
    ids = strip.ids()
    shares = strip.probabilities() if probabilities else None
    if valid is not None:
        ids[~valid] = NODATA
        if shares is not None:
            shares[:, ~valid] = np.nan
    return Rows(y=strip.y, ids=ids, probabilities=shares)
