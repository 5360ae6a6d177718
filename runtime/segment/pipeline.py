"""Raster -> tiles -> batches -> scores -> finished blocks: the only composition, and the only place with threads.

One thread reads and resamples the next batch while the engine works on this one. Only that thread touches the source,
so a source need not be safe for several.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ..progress import TileProgress
from ..tiling.merge import NODATA, FinishedRows
from ..tiling.sources import Source
from ..tiling.turns import UPRIGHT, Turn
from ..tiling.windows import Region, Window
from .batches import BatchCutter, PatchBatch, grid_of
from .network import Accumulator, FeatureCache, Network, Scores
from .notices import warn_of_scores, warn_of_values
from .picture import PicturePart, PictureScale

log = logging.getLogger(__name__)

_SEEN = 1000  # tiles without data that are passed over before progress is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Finished pixels of a mask: some columns of some rows.

    Attributes:
        y: First row.
        x: First column.
        ids: Class ids (rows, columns) uint8, 255 where the raster has no data or a score is not finite.
        probabilities: Probabilities (classes, rows, columns) float32, NaN where the ids are 255; None unless they were
            asked for.
        confidence: The highest probability in 254ths, (rows, columns) uint8, 255 where the ids are 255; only in blocks
            that outputs are made of, None unless one of them needs it.
        picture: What the pixels add to a small picture of the raster; None unless one was asked for.
        not_finite: Pixels that have data, but scores that are not finite.
        implausible: Pixels whose values lie beyond all others, though nobody declared them; they have no data.
    """

    y: int
    x: int
    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None = None
    confidence: NDArray[np.uint8] | None = None
    picture: PicturePart | None = None
    not_finite: int = 0
    implausible: int = 0

    @property
    def window(self) -> Window:
        """Where the pixels lie in the raster."""
        return Window(self.y, self.x, *self.ids.shape)


class Pipeline:
    """Segments regions of one raster, one after the other; windows that regions share are read and encoded once.

    Args:
        network: The network.
        source: The raster.
        probabilities: Whether blocks carry probabilities.
        turns: The ways in which each patch is segmented, with its contexts, before scores are averaged (§4.2).
        picture: How the raster is shrunk to a picture, where blocks are to carry their part of one.

    Attributes:
        skipped: Tiles that were not inferred, because no pixel in them has data.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        *,
        probabilities: bool = False,
        turns: tuple[Turn, ...] = (UPRIGHT,),
        picture: PictureScale | None = None,
    ) -> None:
        self._network, self._source = network, source
        self._probabilities, self._turns, self._picture = probabilities, turns, picture
        self._cutter, self._cache, self.skipped = BatchCutter(network.manifest, source), FeatureCache(), 0
        _warn_of_scene_blocks(network, source)

    def blocks(self, region: Region, progress: TileProgress | None = None) -> Generator[Block]:
        """Segment a region.

        Args:
            region: The region, of the grid that `grid_of` makes of the raster.
            progress: Called with tiles that are done and tiles in all.

        Yields:
            Blocks, top to bottom, and those of the same rows from left to right. They hold the same bytes whether a
            region or the whole raster is run.

        Raises:
            RasterError: The raster cannot be read.
            EngineError: The engine failed.
        """
        accumulator = self._network.accumulator(region, self._turns, self._probabilities)
        with ThreadPoolExecutor(1, "fctl-read") as reader:
            for strip in self.strips(region, accumulator, reader, progress):
                yield _block(strip, reader.submit(self._look, strip.window).result(), self._probabilities)

    def strips(
        self,
        region: Region,
        accumulator: Accumulator,
        reader: ThreadPoolExecutor,
        progress: TileProgress | None = None,
    ) -> Iterator[FinishedRows]:
        """Finished pixels of a region, top to bottom.

        They are handed out one batch late: on a GPU, the next batch is under way while somebody waits for them.

        Args:
            region: The region.
            accumulator: What averages and merges; the network's own, or one that leaves pixels on a GPU.
            reader: The one thread that reads.
            progress: As in `blocks`.

        Yields:
            Finished pixels.
        """
        inferred = done = 0
        total, ready, before = len(region), list[FinishedRows](), self.skipped
        for batch in self._batches(region, reader):
            if batch:
                _forget_unused(self._cache, batch)
                finished, ready = ready, list(accumulator.add(batch.tiles, partial(self._infer, batch)))
                yield from finished
                inferred += len(batch.tiles)
            so_far = min(inferred + self.skipped - before, total)
            if progress and so_far > done:
                progress(so_far, total)
            done = so_far
        yield from ready
        yield from accumulator.flush()

    def _infer(self, batch: PatchBatch, turn: Turn) -> Scores:
        """The scores of a batch in one turn."""
        return self._network.run(batch, turn, self._cache)

    def _batches(self, region: Region, reader: ThreadPoolExecutor) -> Iterator[PatchBatch | None]:
        """Batches in reading order; one more is being read while one is in work. None where many tiles have no data."""
        tiles = iter(region)
        following = reader.submit(self._next_batch, tiles)
        while True:
            current, following = following, reader.submit(self._next_batch, tiles)
            batch, more = current.result()
            yield batch
            if not more:
                return

    def _next_batch(self, tiles: Iterator[Window]) -> tuple[PatchBatch | None, bool]:
        """Cut the next tiles that have data, in the reader's thread; and whether there may be more."""
        size, group, empty = self._network.batch, list[Window](), 0
        for tile in tiles:
            if self._has_data(tile):
                group.append(tile)
            else:
                empty += 1
            if len(group) == size or (empty == _SEEN and not group):
                return self._cut(group), True
        return self._cut(group), False

    def _cut(self, group: list[Window]) -> PatchBatch | None:
        return self._cutter.cut(tuple(group), self._network.batch) if group else None

    def _has_data(self, tile: Window) -> bool:
        """Whether any pixel of a tile has data: the scores of others are of no use to anybody."""
        inside = tile.within(self._source.height, self._source.width)
        valid = self._source.valid(inside) if inside else None
        if valid is None or valid.any():
            return True
        self.skipped += 1
        return False

    def _look(self, window: Window) -> _Look:
        """Look at finished pixels once more."""
        before = self._source.implausible
        valid = self._source.valid(window)
        picture = self._pictured(window, valid) if self._picture else None
        return _Look(valid, picture, self._source.implausible - before)

    def _pictured(self, window: Window, valid: NDArray[np.bool_] | None) -> PicturePart | None:
        """What some pixels add to the picture; they are read if any of them has data."""
        assert self._picture
        if valid is not None and not valid.any():
            return PicturePart.nothing()
        return self._picture.part(self._source.read(window), window, valid)


def segment_rows(
    network: Network,
    source: Source,
    *,
    probabilities: bool = False,
    turns: tuple[Turn, ...] = (UPRIGHT,),
    progress: TileProgress | None = None,
) -> Iterator[Block]:
    """Segment a raster in whole rows, for callers that hold some of them in memory anyway.

    Args:
        network: The network.
        source: The raster.
        probabilities: Whether blocks carry probabilities.
        turns: The ways in which each patch is segmented, with its contexts, before scores are averaged (§4.2).
        progress: Called with tiles that are done and tiles in all.

    Yields:
        Blocks as wide as the raster, top to bottom.

    Raises:
        RasterError: The raster cannot be read.
        EngineError: The engine failed.
    """
    pipeline = Pipeline(network, source, probabilities=probabilities, turns=turns)
    not_finite = implausible = 0
    blocks = pipeline.blocks(grid_of(network.manifest, source.height, source.width).region(), progress)
    for _, pieces in groupby(blocks, key=lambda block: block.y):
        rows = _joined(list(pieces))
        not_finite, implausible = not_finite + rows.not_finite, implausible + rows.implausible
        yield rows
    warn_of_values(source.name, implausible)
    warn_of_scores(source.name, not_finite)


def _joined(pieces: list[Block]) -> Block:
    """Blocks of the same rows, from left to right, as one block."""
    if len(pieces) == 1:
        return pieces[0]
    found = [piece.probabilities for piece in pieces if piece.probabilities is not None]
    return Block(
        y=pieces[0].y, x=pieces[0].x, ids=np.concatenate([piece.ids for piece in pieces], axis=1),
        probabilities=np.concatenate(found, axis=2) if found else None,
        not_finite=sum(piece.not_finite for piece in pieces), implausible=sum(piece.implausible for piece in pieces),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Look:
    """What the source says of finished pixels.

    Attributes:
        valid: Where they have data, (rows, columns); None for everywhere.
        picture: What they add to the picture; None where there is none.
        implausible: How many have no data for a value that nobody declared.
    """

    valid: NDArray[np.bool_] | None
    picture: PicturePart | None
    implausible: int


def _block(strip: FinishedRows, look: _Look, probabilities: bool) -> Block:
    ids, found, valid = strip.ids(), strip.probabilities() if probabilities else None, look.valid
    lost = ids == NODATA
    if valid is not None:
        lost &= valid
        ids[~valid] = NODATA
        if found is not None:
            found[:, ~valid] = np.nan
    return Block(
        y=strip.window.y, x=strip.window.x, ids=ids, probabilities=found, picture=look.picture,
        not_finite=int(np.count_nonzero(lost)), implausible=look.implausible,
    )  # fmt: skip


def _forget_unused(cache: FeatureCache, batch: PatchBatch) -> None:
    """Tiles come in reading order: features of windows that start above those in use are done with."""
    tops = {name: min(scene.window.y for scene in scenes) for name, scenes in batch.shared.items()}
    for key in [key for key in cache if key.window.y < tops[key.context]]:
        del cache[key]


def _warn_of_scene_blocks(network: Network, source: Source) -> None:
    """Warn once of each size, for frames of a stream are alike."""
    for context in network.manifest.contexts:
        rows, columns = context.window.blocks(network.manifest.tile, source)
        warning = (
            f"context {context.name} was the whole of images of about {context.scene} pixels, this raster is "
            f"{source.height} x {source.width}: it is cut into {rows} x {columns} scene blocks (`scene_size`)"
        )
        if rows * columns > 1 and warning not in network.warned:
            network.warned.add(warning)
            log.warning("%s", warning)
