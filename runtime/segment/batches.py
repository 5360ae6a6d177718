"""Patches with their contexts, cut from a source, as a network takes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context, Manifest
from ..tiling.contexts import Extent, cell_positions
from ..tiling.sources import Source
from ..tiling.turns import UPRIGHT, Turn, Windows
from ..tiling.windows import Grid, Window

Positions = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SharedWindow:
    """The window of a shared context, which is cut once for all patches that lie in it.

    Attributes:
        window: The window, in pixels of the raster.
        pixels: Its pixels (1, bands, size, size), resampled.
        serial: A number that no other shared window has, of whatever image.
    """

    window: Window
    pixels: Windows
    serial: int = field(default_factory=itertools.count().__next__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchBatch:
    """N patches, each with all of its contexts.

    The last batch of a raster holds fewer patches than the network takes at once; black fills it up, so that the
    engine always sees N.

    Attributes:
        tiles: Where the patches lie in the raster; at most N.
        patch: Raw patches (N, bands, P, P).
        contexts: By name, the raw windows (N, bands, S, S) of contexts that are centred on their patch.
        shared: By name, the windows of shared contexts: one for each tile, the same object for tiles that share it.
        positions: By name, where the cells of each patch lie in a shared context, (N, 2, h) float32 (§3.3).
    """

    tiles: tuple[Window, ...]
    patch: Windows
    contexts: dict[str, Windows]
    shared: dict[str, tuple[SharedWindow, ...]]
    positions: dict[str, Positions]

    @property
    def scenes(self) -> dict[str, tuple[Window, ...]]:
        """By name, where the windows of shared contexts lie: one for each tile, in pixels of the raster."""
        return {name: tuple(scene.window for scene in scenes) for name, scenes in self.shared.items()}

    def pixels_of(self, name: str) -> NDArray[np.generic]:
        """The raw windows (N, bands, S, S) of any context of a batch on the host, one for each patch."""
        if name in self.contexts:
            return on_host(self.contexts[name])
        scenes = [on_host(scene.pixels) for scene in self.shared[name]]
        scenes += scenes[-1:] * (len(self.patch) - len(scenes))
        return scenes[0] if len(scenes) == 1 else np.concatenate(scenes)


def on_host(windows: Windows) -> NDArray[np.generic]:
    """Windows that were cut on the host, as the array that they are."""
    assert isinstance(windows, np.ndarray), "windows of an image on a GPU are cut by its kernels"
    return windows


def joined(batches: Sequence[PatchBatch], size: int | None = None) -> PatchBatch:
    """Several batches of one patch, on the host, as one batch.

    Args:
        batches: At least one batch of one patch; they may come from different images.
        size: How many patches the result holds; the last one is repeated as often as needed. None keeps their number.

    Returns:
        The batch. Windows that patches shared are still shared.
    """
    filled = [*batches, *[batches[-1]] * ((size or len(batches)) - len(batches))]
    first = filled[0]
    if len(filled) == 1:
        return first
    return PatchBatch(
        tiles=tuple(tile for batch in filled for tile in batch.tiles),
        patch=np.concatenate([on_host(batch.patch) for batch in filled]),
        contexts={n: np.concatenate([on_host(batch.contexts[n]) for batch in filled]) for n in first.contexts},
        shared={n: tuple(scene for batch in filled for scene in batch.shared[n]) for n in first.shared},
        positions={n: np.concatenate([batch.positions[n] for batch in filled]) for n in first.positions},
    )


class BatchCutter:
    """Cuts batches of one source in reading order; windows that patches share are cut once and kept while in use."""

    def __init__(self, manifest: Manifest, source: Source) -> None:
        self._manifest, self._source = manifest, source
        self._scenes: dict[tuple[str, Window], SharedWindow] = {}

    def cut(self, tiles: tuple[Window, ...], size: int) -> PatchBatch:
        """Cut patches and contexts of some tiles.

        Args:
            tiles: At most `size` tiles, none above those of an earlier call.
            size: N; black fills the batch up.

        Returns:
            The batch.

        Raises:
            RasterError: The raster cannot be read.
        """
        manifest, source = self._manifest, self._source
        shared = {c.name: self._shared(c, tiles) for c in manifest.contexts if c.window.shared}
        contexts = {
            c.name: source.stack([c.window.around(tile, source) for tile in tiles], c.size, c.resampling, size)
            for c in manifest.contexts
            if not c.window.shared
        }
        patch = source.stack(tiles, manifest.tile, "box", size)  # at its own size: nothing is resampled
        batch = PatchBatch(tiles=tiles, patch=patch, contexts=contexts, shared=shared, positions={})
        return replace(batch, positions=_positions(manifest, batch, UPRIGHT))

    def _shared(self, context: Context, tiles: tuple[Window, ...]) -> tuple[SharedWindow, ...]:
        windows = [context.window.around(tile, self._source) for tile in tiles]
        top = min(window.y for window in windows)
        self._scenes = {
            key: scene for key, scene in self._scenes.items() if key[0] != context.name or key[1].y >= top
        }  # tiles come in reading order: no later one lies in a window that starts above these
        return tuple(self._scene(context, window) for window in windows)

    def _scene(self, context: Context, window: Window) -> SharedWindow:
        key = (context.name, window)
        if key not in self._scenes:
            self._scenes[key] = SharedWindow(window, cut_scene(self._source, window, context))
        return self._scenes[key]


def cut_batch(manifest: Manifest, source: Source, tiles: tuple[Window, ...], size: int) -> PatchBatch:
    """Cut patches and contexts of some tiles, see `BatchCutter.cut`; for many batches of a source, keep a cutter."""
    return BatchCutter(manifest, source).cut(tiles, size)


def cut_scene(source: Source, window: Window, context: Context) -> Windows:
    """Cut one window of a shared context: pixels (1, bands, size, size)."""
    return source.stack([window], context.size, context.resampling, 1)


def turned(manifest: Manifest, batch: PatchBatch, turn: Turn) -> PatchBatch:
    """A batch whose patches and centred contexts are turned, with positions measured in the turned geometry (§4.2).

    Contexts that share the patch's centre need nothing more, for they still share it when both are turned. Shared
    windows stay as they are: whoever encodes them turns them.
    """
    if turn == UPRIGHT:
        return batch
    return replace(
        batch,
        patch=turn.windows(batch.patch),
        contexts={name: turn.windows(windows) for name, windows in batch.contexts.items()},
        positions=_positions(manifest, batch, turn),
    )


def _positions(manifest: Manifest, batch: PatchBatch, turn: Turn) -> dict[str, Positions]:
    """Where each patch's cells lie in shared contexts, (N, 2, h) by name, for the graphs that need to know."""
    positions = {}
    for context in manifest.contexts:
        if context.cells:
            found = []
            for tile, scene in zip(batch.tiles, batch.shared[context.name], strict=True):
                place, frame = turn.within(tile, scene.window)
                found.append(cell_positions(place, frame, context.cells.patch, context.cells.context, context.size))
            positions[context.name] = np.stack(found + found[-1:] * (len(batch.patch) - len(found)))
    return positions


def grid_of(manifest: Manifest, height: int, width: int) -> Grid:
    """The tiles of a raster of that size in pixels."""
    return Grid.over(height, width, manifest.tile, manifest.plan)


def span_of(manifest: Manifest, grid: Grid, raster: Extent) -> Window:
    """The part of a raster that some tiles and the contexts that are centred on them show.

    Args:
        manifest: The bundle's manifest.
        grid: The tiles.
        raster: The raster.

    Returns:
        A window inside the raster.
    """
    first = Window(grid.rows[0], grid.columns[0], grid.tile, grid.tile)
    last = Window(grid.rows[-1], grid.columns[-1], grid.tile, grid.tile)
    centred = [context.window for context in manifest.contexts if not context.window.shared]
    starts = [first, *(window.around(first, raster) for window in centred)]
    ends = [last, *(window.around(last, raster) for window in centred)]
    y, x = min(window.y for window in starts), min(window.x for window in starts)
    bottom, right = max(window.bottom for window in ends), max(window.right for window in ends)
    inside = Window(y, x, bottom - y, right - x).within(raster.height, raster.width)
    assert inside is not None, "tiles lie on the raster"
    return inside


def rows_in_work(manifest: Manifest) -> int:
    """How many rows of a raster one row of tiles and its centred contexts span: those that are read again and again."""
    nowhere = Grid.over(manifest.tile, manifest.tile, manifest.tile, manifest.plan)
    return max(
        [manifest.tile] + [c.window.rows(manifest.tile, nowhere) for c in manifest.contexts if not c.window.shared]
    )
