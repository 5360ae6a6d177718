"""Patches with their contexts, cut from a source, as a network takes them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context, Manifest
from ..tiling.contexts import Extent, cell_positions
from ..tiling.lattice import Lattice
from ..tiling.resampling import Resampling
from ..tiling.shrunken import SIDE, Shrunken, covering, divides
from ..tiling.sources import HostSource, Source
from ..tiling.turns import UPRIGHT, Turn, Windows
from ..tiling.windows import Grid, Window

Positions = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScenePatches:
    """Patches that cover a window, for a network that encodes it with what they know.

    Attributes:
        grid: Where they lie, in pixels of the window: patches in reading order.
        pixels: The raw patches (n, bands, P, P).
    """

    grid: Grid
    pixels: Windows


@dataclass(frozen=True, eq=False)
class SharedWindow:
    """A window that is cut and encoded once for all patches that need it.

    Attributes:
        window: The window, in pixels of the raster.
        pixels: Its pixels (1, bands, size, size), resampled; None where an earlier batch of the raster had them.
        serial: A number that no other shared window has, of whatever image.
        patches: The patches in it, where it is encoded with what they know.
        black: Whether it is black altogether, as one that lies beyond the raster: then it looks like any other such.
    """

    window: Window
    pixels: Windows | None
    serial: int = field(default_factory=itertools.count().__next__)
    patches: ScenePatches | None = None
    black: bool = False


Scenes = Mapping[tuple[str, Window], Windows]
"""Pixels (1, bands, size, size) of windows of shared contexts, by the context's name and the window."""


@dataclass(frozen=True, slots=True)
class LatticeWindows:
    """The windows of one context's lattice that a batch needs.

    Attributes:
        lattice: Where they lie, along either axis.
        windows: The windows, by their numbers along rows and columns.
    """

    lattice: Lattice
    windows: dict[tuple[int, int], SharedWindow]


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchBatch:
    """N patches, each with all of its contexts.

    The last batch of a raster holds fewer patches than the network takes at once; black fills it up, so that the
    engine always sees N.

    Attributes:
        tiles: Where the patches lie in the raster; at most N.
        patch: Raw patches (N, bands, P, P); black where the network does not look at them (`Manifest.sees_patch`).
        contexts: By name, the raw windows (N, bands, S, S) of contexts that are centred on their patch.
        shared: By name, the windows of shared contexts: one for each tile, the same object for tiles that share it.
        positions: By name, where the cells of each patch lie in a shared context, (N, 2, h) float32 (§3.3).
        lattices: By name, the windows from whose cells those of centred contexts are cut, where contexts are encoded
            once a raster (docs/shared-contexts.md).
    """

    tiles: tuple[Window, ...]
    patch: Windows
    contexts: dict[str, Windows]
    shared: dict[str, tuple[SharedWindow, ...]]
    positions: dict[str, Positions]
    lattices: dict[str, LatticeWindows] = field(default_factory=dict)

    @property
    def scenes(self) -> dict[str, tuple[Window, ...]]:
        """By name, where the windows of shared contexts lie: one for each tile, in pixels of the raster."""
        return {name: tuple(scene.window for scene in scenes) for name, scenes in self.shared.items()}

    def pixels_of(self, name: str) -> NDArray[np.generic]:
        """The raw windows (N, bands, S, S) of any context of a batch on the host, one for each patch."""
        if name in self.contexts:
            return on_host(self.contexts[name])
        scenes = [_cut_pixels(scene) for scene in self.shared[name]]
        scenes += scenes[-1:] * (len(self.patch) - len(scenes))
        return scenes[0] if len(scenes) == 1 else np.concatenate(scenes)


def _cut_pixels(scene: SharedWindow) -> NDArray[np.generic]:
    assert scene.pixels is not None, "windows of a context that is not encoded once a raster keep their pixels"
    return on_host(scene.pixels)


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
    """Cuts batches of one source in reading order; windows that patches share are cut once and kept while in use.

    Args:
        manifest: How patches and contexts are cut.
        source: The raster.
        lattices: By name, the windows of contexts that are encoded once a raster.
        turned: Whether batches will be turned.
        scenes: Windows of shared contexts that were cut before.
    """

    def __init__(
        self,
        manifest: Manifest,
        source: Source,
        lattices: Mapping[str, Lattice] | None = None,
        turned: bool = False,
        scenes: Scenes | None = None,
    ) -> None:
        self._manifest, self._source, self._given = manifest, source, scenes or {}
        self._lattices, self._turned = lattices or {}, turned
        self._scenes: dict[tuple[str, Window], SharedWindow] = {}
        self._shrunken = Shrunken(source)

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
            c.name: self._stack([c.window.around(tile, source) for tile in tiles], c.size, c.resampling, size)
            for c in manifest.contexts
            if not c.window.shared and c.name not in self._lattices
        }
        lattices = {c.name: self._lattice(c, tiles) for c in manifest.contexts if c.name in self._lattices}
        patch = self._patch(tiles, size)
        batch = PatchBatch(
            tiles=tiles, patch=patch, contexts=contexts, shared=shared, positions={}, lattices=lattices
        )  # fmt: skip
        return replace(batch, positions=_positions(manifest, batch, UPRIGHT))

    def _patch(self, tiles: tuple[Window, ...], size: int) -> Windows:
        """Cut patches; where the network does not look at them, nothing is read."""
        spec, tile = self._manifest.input, self._manifest.tile
        if self._manifest.sees_patch:
            return self._source.stack(tiles, tile, "box", size)  # at its own size: nothing is resampled
        return np.broadcast_to(np.zeros((), spec.dtype), (size, spec.bands, tile, tile))

    def _stack(self, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> Windows:
        """Cut and shrink windows that overlap; where it makes no difference, each part of the raster is shrunk once."""
        if windows and isinstance(self._source, HostSource) and divides(windows[0], side, resampling):
            return self._shrunken.stack(windows, side, count)
        return self._source.stack(windows, side, resampling, count)

    def forget_lattices(self) -> None:
        """Forget what belongs to a region that is done with, so that the next one may begin above.

        These are shrunken pixels, and the windows of contexts that are encoded once a raster; whoever holds features of
        the latter does the same.
        """
        self._shrunken.forget()
        self._scenes = {key: scene for key, scene in self._scenes.items() if key[0] not in self._lattices}

    def _shared(self, context: Context, tiles: tuple[Window, ...]) -> tuple[SharedWindow, ...]:
        windows = [context.window.around(tile, self._source) for tile in tiles]
        self._forget_above(context, windows)
        return tuple(self._scene(context, window) for window in windows)

    def _lattice(self, context: Context, tiles: tuple[Window, ...]) -> LatticeWindows:
        """The windows whose cells some tiles need: their pixels, or None of those that were cut before."""
        assert context.sharing is not None
        lattice, size, windows = self._lattices[context.name], context.sharing.size, dict[tuple[int, int], Window]()
        for tile in tiles:
            rows, columns = (lattice.numbers((start,), flipped=self._turned) for start in (tile.y, tile.x))
            windows |= {(row, column): self._in_lattice(lattice, row, column) for row in rows for column in columns}
        self._forget_above(context, list(windows.values()))
        found = dict[tuple[int, int], SharedWindow]()
        for numbers, window in windows.items():
            key = (context.name, window)
            if key in self._scenes:
                found[numbers] = self._scenes[key]
                continue
            inside = [window] if window.within(self._source.height, self._source.width) else []
            pixels = self._stack(inside, size, context.resampling, 1)
            found[numbers] = SharedWindow(window, pixels, black=not inside or _is_black(pixels))
            self._scenes[key] = replace(found[numbers], pixels=None)
        return LatticeWindows(lattice, found)

    def _in_lattice(self, lattice: Lattice, row: int, column: int) -> Window:
        """A window of a lattice; all that lie beyond the raster are black, and one and the same."""
        height, width, side = self._source.height, self._source.width, int(lattice.span)
        window = Window(lattice.start(row), lattice.start(column), side, side)
        return window if window.within(height, width) else Window(height, width, side, side)

    def _forget_above(self, context: Context, windows: Sequence[Window]) -> None:
        """Tiles come in reading order: no later one needs a window that starts above those of the tiles at hand."""
        top = min(window.y for window in windows)
        self._scenes = {key: scene for key, scene in self._scenes.items() if key[0] != context.name or key[1].y >= top}

    def _scene(self, context: Context, window: Window) -> SharedWindow:
        key = (context.name, window)
        if key not in self._scenes:
            pixels = self._given.get(key)
            if pixels is None and context.gathering:  # which shows what that other one shows
                pixels = self._scenes[context.gathering.context, window].pixels
            if pixels is None:
                pixels = cut_scene(self._source, window, context)
            patches = cut_patches(self._source, window, context, self._manifest.tile)
            self._scenes[key] = SharedWindow(window, pixels, patches=patches)
        return self._scenes[key]


def _is_black(pixels: Windows) -> bool:
    """Whether windows are black; of those on a GPU nobody looks."""
    return isinstance(pixels, np.ndarray) and not pixels.any()


def cut_batch(
    manifest: Manifest,
    source: Source,
    tiles: tuple[Window, ...],
    size: int,
    lattices: Mapping[str, Lattice] | None = None,
    *,
    turned: bool = False,
) -> PatchBatch:
    """Cut patches and contexts of some tiles, see `BatchCutter`; for many batches of a source, keep a cutter."""
    return BatchCutter(manifest, source, lattices, turned).cut(tiles, size)


def cut_scene(source: Source, window: Window, context: Context) -> Windows:
    """Cut one window of a shared context: pixels (1, bands, size, size)."""
    return source.stack([window], context.size, context.resampling, 1)


def cut_patches(source: Source, window: Window, context: Context, tile: int) -> ScenePatches | None:
    """Cut the patches in one window of a shared context; None where it is encoded without them.

    Args:
        source: The raster.
        window: The window, in pixels of the raster.
        context: The context.
        tile: Side of a patch in pixels of the raster.

    Returns:
        The patches.
    """
    if context.gathering is None:
        return None
    grid = Grid.over(window.height, window.width, tile, context.gathering.plan)
    places = [place.moved(window.y, window.x) for place in grid]
    return ScenePatches(grid, source.stack(places, tile, "box", len(places)))


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


def span_of(manifest: Manifest, grid: Grid, raster: Extent, lattices: Mapping[str, Lattice] | None = None) -> Window:
    """The part of a raster that some tiles and the contexts that are centred on them show.

    Args:
        manifest: The bundle's manifest.
        grid: The tiles.
        raster: The raster.
        lattices: By name, the windows of contexts that are encoded once a raster.

    Returns:
        A window inside the raster.
    """
    first = Window(grid.rows[0], grid.columns[0], grid.tile, grid.tile)
    last = Window(grid.rows[-1], grid.columns[-1], grid.tile, grid.tile)
    windows = [first, last]
    windows += [
        covering(c.window.around(tile, raster), c.size, c.resampling)
        for c in manifest.contexts if not c.window.shared for tile in (first, last)
    ]  # fmt: skip
    for name, lattice in (lattices or {}).items():
        context = next(c for c in manifest.contexts if c.name == name)
        assert context.sharing is not None
        rows, columns = (lattice.numbers(starts, flipped=True) for starts in ((first.y, last.y), (first.x, last.x)))
        side = int(lattice.span)
        ends = [Window(lattice.start(rows[i]), lattice.start(columns[i]), side, side) for i in (0, -1)]
        windows += [covering(window, context.sharing.size, context.resampling) for window in ends]
    y, x = min(window.y for window in windows), min(window.x for window in windows)
    bottom, right = max(window.bottom for window in windows), max(window.right for window in windows)
    inside = Window(y, x, bottom - y, right - x).within(raster.height, raster.width)
    assert inside is not None, "tiles lie on the raster"
    return inside


def rows_in_work(manifest: Manifest, lattices: Mapping[str, Lattice] | None = None) -> int:
    """How many rows of a raster are read again and again.

    Args:
        manifest: How windows are cut.
        lattices: By name, the windows of contexts that are encoded once a raster.

    Returns:
        The rows that one row of tiles and its centred contexts, or the windows of their lattices, span.
    """
    nowhere, lattices = Grid.over(manifest.tile, manifest.tile, manifest.tile, manifest.plan), lattices or {}
    rows = [manifest.tile]
    for context in manifest.contexts:
        if context.name in lattices and context.sharing:
            rows.append(_rows(int(lattices[context.name].span), context.sharing.size, context.resampling))
        elif not context.window.shared:
            rows.append(_rows(context.window.rows(manifest.tile, nowhere), context.size, context.resampling))
    return max(rows)


def _rows(height: int, side: int, resampling: Resampling) -> int:
    """Rows that are read for windows so high, wherever they lie: a block more where they are made of blocks."""
    window = Window(0, 0, height, height)
    return height + (SIDE * height // side if divides(window, side, resampling) else 0)
