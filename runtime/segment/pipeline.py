"""Raster -> tiles -> batches -> logits -> finished rows: the only composition, and the only place with threads.

One thread reads and resamples the next batch while the engine works on this one; it is also the only one that
touches the source, so a source need not be thread-safe.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context, Manifest
from ..progress import TileProgress
from ..tiling.contexts import scene_starts
from ..tiling.merge import NODATA, FinishedRows
from ..tiling.sources import Source, Stack
from ..tiling.turns import UPRIGHT, Turn
from ..tiling.windows import Grid, Window
from .batches import PatchBatch, cut_batch, cut_scene, grid_of, turned
from .network import Merges, Network

log = logging.getLogger(__name__)

@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Finished rows of a mask.

    y: first row. ids: class ids (rows, width) uint8, 255 where the raster has no data. probabilities: (classes, rows,
    width) float32, NaN where the raster has no data; None unless asked for.
    """

    y: int
    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None


def segment_rows(
    network: Network[Any, Any],
    source: Source,
    *,
    probabilities: bool = False,
    turns: tuple[Turn, ...] = (UPRIGHT,),
    progress: TileProgress | None = None,
) -> Iterator[Rows]:
    """Segment a source and yield its rows, top to bottom.

    turns: each patch is segmented once turned in each of these ways, with its contexts, and the scores are averaged.
    progress: called with tiles done and tiles in all.
    """
    manifest = network.manifest
    grid = grid_of(manifest, source.height, source.width)
    merger = network.merger(grid, probabilities)
    with ThreadPoolExecutor(1, "fctl-read") as reader:
        for strip in segment_strips(network, source, grid, merger, reader, turns, progress):
            window = Window(strip.y, 0, strip.rows, source.width)
            shares = strip.shares() if probabilities else None
            yield _rows(strip, reader.submit(source.valid, window).result(), shares)


def _tell_scene_blocks(manifest: Manifest, source: Source) -> None:
    for context in manifest.contexts:
        sides = (source.height, source.width)
        rows, columns = (len(scene_starts(manifest.tile, side, context.scene)) for side in sides)
        if rows * columns > 1:
            log.warning(
                "warning: context %s was the whole of images of about %d pixels, this raster is %d x %d: it is cut "
                "into %d x %d scene blocks (--scene-size)",
                context.name, context.scene, *sides, rows, columns,
            )  # fmt: skip


def segment_strips(
    network: Network[Any, Any],
    source: Source,
    grid: Grid,
    merger: Merges[Any],
    reader: ThreadPoolExecutor,
    turns: tuple[Turn, ...],
    progress: TileProgress | None,
) -> Iterator[FinishedRows]:
    """Finished rows of a source, top to bottom.

    They are handed out one batch late: on a GPU, the next batch is under way while somebody waits for them.
    """
    _tell_scene_blocks(network.manifest, source)
    scenes = _Scenes(network, source, reader)
    done, ready = 0, list[FinishedRows]()
    for batch in _batches(network.manifest, source, grid, network.batch, reader):
        scores = network.averaged(turns, partial(_infer, network, batch, scenes))
        finished, ready = ready, list(merger.add(batch.tiles, scores))
        yield from finished
        done += len(batch.tiles)
        if progress:
            progress(done, len(grid))
    yield from ready
    yield from merger.flush()


class _Scenes:
    """Features of contexts that move: each window is encoded once per turn, and forgotten when tiles have left it."""

    def __init__(self, network: Network[Any, Any], source: Source, reader: ThreadPoolExecutor) -> None:
        self._network, self._source, self._reader = network, source, reader
        self._pixels: dict[tuple[str, Window], Stack] = {}
        self._features: dict[tuple[str, Window, Turn], Any] = {}

    def features(self, context: Context, batch: PatchBatch, turn: Turn) -> Any:
        """(N, C, H, W) for the patches of a batch."""
        windows = batch.scenes[context.name]
        self._forget(context, min(window.y for window in windows))
        found = [self._encoded(context, window, turn) for window in windows]
        return self._network.join(context, found + found[-1:] * (self._network.batch - len(found)))

    def _encoded(self, context: Context, window: Window, turn: Turn) -> Any:
        cut, encoded = (context.name, window), (context.name, window, turn)
        if cut not in self._pixels:
            self._pixels[cut] = self._reader.submit(cut_scene, self._source, window, context).result()
        if encoded not in self._features:
            self._features[encoded] = self._network.encode(context, turn.pixels(self._pixels[cut]))
        return self._features[encoded]

    def _forget(self, context: Context, y: int) -> None:
        """Tiles come in reading order: windows of a context that start above those in use are done with."""
        self._pixels = {key: value for key, value in self._pixels.items() if key[0] != context.name or key[1].y >= y}
        self._features = {
            key: value for key, value in self._features.items() if key[0] != context.name or key[1].y >= y
        }


def _infer(network: Network[Any, Any], batch: PatchBatch, scenes: _Scenes, turn: Turn) -> Any:
    """Scores (N, classes, P, P) of a batch that is turned."""
    batch = turned(network.manifest, batch, turn)
    features = {}
    for context in network.manifest.contexts:
        if context.window.moves:
            features[context.name] = scenes.features(context, batch, turn)
        else:
            features[context.name] = network.encode(context, batch.contexts[context.name])
    return network.segment(batch.patch, features, batch.positions)


def _batches(manifest: Manifest, source: Source, grid: Grid, size: int, reader: ThreadPoolExecutor) -> Iterator[PatchBatch]:
    """Batches in reading order, one ahead of the one in work."""
    tiles = iter(grid)
    following: Future[PatchBatch] | None = None
    while group := tuple(islice(tiles, size)):
        current, following = following, reader.submit(cut_batch, manifest, source, group, size)
        if current:
            yield current.result()
    if following:
        yield following.result()


def _rows(strip: FinishedRows, valid: NDArray[np.bool_] | None, shares: NDArray[np.float32] | None) -> Rows:
    ids = strip.ids()
    if valid is not None:
        ids[~valid] = NODATA
        if shares is not None:
            shares[:, ~valid] = np.nan
    return Rows(y=strip.y, ids=ids, probabilities=shares)
