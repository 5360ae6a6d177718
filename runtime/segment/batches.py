"""Patches with their contexts, cut from a source, as a network takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context, Manifest
from ..tiling.contexts import cell_positions
from ..tiling.sources import Source, Stack
from ..tiling.turns import UPRIGHT, Turn
from ..tiling.windows import Grid, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchBatch:
    """Patches (N, bands, P, P) of `tiles`, and by name contexts (N, bands, S, S) or, of those that move, the windows
    `scenes` of each patch and positions (N, 2, h).

    The last batch of a raster holds fewer tiles than N: the rest is black, so that the engine always sees N.
    """

    tiles: tuple[Window, ...]
    patch: Stack
    contexts: dict[str, Stack]
    scenes: dict[str, tuple[Window, ...]]
    positions: dict[str, NDArray[np.float32]]


def grid_of(manifest: Manifest, height: int, width: int) -> Grid:
    """The tiles of a raster of that size."""
    return Grid.over(height, width, manifest.tile, manifest.plan)


def rows_in_work(manifest: Manifest) -> int:
    """Rows of a raster that one row of tiles and its contexts span."""
    factors = [context.factor for context in manifest.contexts if context.factor != "global"]
    return round(max([1.0, *factors]) * manifest.tile)


def cut_batch(manifest: Manifest, source: Source, tiles: tuple[Window, ...], size: int) -> PatchBatch:
    """Cut patches and contexts of some tiles, padded with black to a batch of `size`."""
    moving = [context for context in manifest.contexts if context.window.moves]
    scenes = {context.name: tuple(context.window.around(tile, source) for tile in tiles) for context in moving}
    contexts = {
        context.name: source.stack(
            [context.window.around(tile, source) for tile in tiles], context.size, context.resampling, size
        )
        for context in manifest.contexts
        if context not in moving
    }
    patch = source.stack(tiles, manifest.tile, "box", size)  # at its own size: nothing is resampled
    positions = _positions(manifest, tiles, scenes, size, UPRIGHT)
    return PatchBatch(tiles=tiles, patch=patch, contexts=contexts, scenes=scenes, positions=positions)


def cut_scene(source: Source, window: Window, context: Context) -> Stack:
    """One window of a context that moves: (1, bands, S, S)."""
    return source.stack([window], context.size, context.resampling, 1)


def turned(manifest: Manifest, batch: PatchBatch, turn: Turn) -> PatchBatch:
    """A batch with patches and contexts turned together, and positions measured in the turned geometry.

    Contexts that share the patch's centre need nothing more: turned, they still do.
    """
    if turn == UPRIGHT:
        return batch
    return replace(
        batch,
        patch=turn.pixels(batch.patch),
        contexts={name: turn.pixels(windows) for name, windows in batch.contexts.items()},
        positions=_positions(manifest, batch.tiles, batch.scenes, len(batch.patch), turn),
    )


def _positions(
    manifest: Manifest, tiles: tuple[Window, ...], scenes: dict[str, tuple[Window, ...]], size: int, turn: Turn
) -> dict[str, NDArray[np.float32]]:
    """Where each patch's cells lie in the contexts that move, (N, 2, h) by name, for the graphs that need it."""
    positions = {}
    for context in manifest.contexts:
        if context.cells:
            found = []
            for tile, scene in zip(tiles, scenes[context.name], strict=True):
                place, frame = turn.within(tile, scene)
                found.append(cell_positions(place, frame, context.cells.patch, context.cells.context, context.size))
            positions[context.name] = np.stack(found + found[-1:] * (size - len(tiles)))
    return positions
