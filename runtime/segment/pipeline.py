"""Raster -> tiles -> batches -> scores -> finished blocks: the only composition.

One thread reads and resamples the next batch while the engine works on this one. Only that thread touches the source,
so a source need not be safe for several. On the host, another thread runs the engine, while the batch before is merged.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ..progress import TileProgress
from ..stopwatch import STOPPED, Stopwatch, timed
from ..tiling.coarse import CoarseSource, certain, covered_by, normalised
from ..tiling.merge import NODATA, FinishedRows
from ..tiling.rescaled import RescaledSource
from ..tiling.sources import Source
from ..tiling.temperature import tempered
from ..tiling.turns import UPRIGHT, Turn
from ..tiling.windows import Region, Window
from .batches import BatchCutter, PatchBatch, Scenes, grid_of
from .beside import Beside
from .network import Accumulator, FeatureCache, HostAccumulator, Network, Scores
from .notices import warn_of_scene_blocks, warn_of_scores, warn_of_values
from .picture import PicturePart, PictureScale

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
        agreement: How far overlapping tiles agree on the ids, in 254ths, (rows, columns) uint8, 255 where the ids are
            255; None unless votes were counted.
        picture: What the pixels add to a small picture of the raster; None unless one was asked for.
        not_finite: Pixels that have data, but scores that are not finite.
        implausible: Pixels whose values lie beyond all others, though nobody declared them; they have no data.
    """

    y: int
    x: int
    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None = None
    confidence: NDArray[np.uint8] | None = None
    agreement: NDArray[np.uint8] | None = None
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
        source: The raster. Of one that is rescaled, the network sees working pixels, and blocks are of its own.
        probabilities: Whether blocks carry probabilities.
        turns: The ways in which each patch is segmented, with its contexts, before scores are averaged (§4.2).
        votes: Whether blocks carry how far tiles agree. They are merged on the host then.
        picture: How the raster is shrunk to a picture, where blocks are to carry their part of one.
        stopwatch: What takes the time of each stage.
        scenes: Windows of contexts that were cut before.

    Attributes:
        skipped: Tiles that were not inferred: no pixel in them has data, or the mask that is refined no border.
        stopwatch: What takes the time of each stage.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        *,
        probabilities: bool = False,
        turns: tuple[Turn, ...] = (UPRIGHT,),
        votes: bool = False,
        picture: PictureScale | None = None,
        stopwatch: Stopwatch = STOPPED,
        scenes: Scenes | None = None,
    ) -> None:
        self._network, self._source = network, source
        self._raster = source.raster if isinstance(source, RescaledSource) else source
        self._probabilities, self._turns, self._votes, self._picture = probabilities, turns, votes, picture
        self._cutter = BatchCutter(network.manifest, source, network.lattices, turns != (UPRIGHT,), scenes)
        self._cache, self.skipped, self.stopwatch = FeatureCache(), 0, stopwatch
        refines = network.manifest.refines
        self._coarse = source if isinstance(source, CoarseSource) and refines and refines.uniform == "keep" else None
        self._refined = list[Window]()  # tiles of a refiner that were inferred, but for those above the last block
        warn_of_scene_blocks(network.manifest, source, network.warned)

    def blocks(self, region: Region, progress: TileProgress | None = None) -> Generator[Block]:
        """Segment a region.

        Args:
            region: The region, of the grid that `grid_of` makes of the source.
            progress: Called with tiles that are done and tiles in all.

        Yields:
            Blocks, top to bottom, and those of the same rows from left to right; where the source is rescaled, all
            from some working rows and columns before the next ones. They hold the same bytes whether a region or the
            whole raster is run.

        Raises:
            RasterError: The raster cannot be read.
            EngineError: The engine failed.
        """
        accumulator = (
            HostAccumulator(self._network, region, self._turns, votes=True)
            if self._votes
            else self._network.accumulator(region, self._turns, self._probabilities)
        )
        with ThreadPoolExecutor(1, "fctl-read") as reader:
            for strip in self.strips(region, accumulator, reader, progress):
                for rows in self.stopwatch.each("merge", self._in_raster(strip)):
                    yield self._block(rows, reader.submit(self._look, rows.window))

    def strips(
        self,
        region: Region,
        accumulator: Accumulator,
        reader: ThreadPoolExecutor,
        progress: TileProgress | None = None,
    ) -> Iterator[FinishedRows]:
        """Finished pixels of a region, top to bottom.

        On a GPU they are handed out one batch late: the next batch is under way while somebody waits for them.

        Args:
            region: The region.
            accumulator: What averages and merges; the network's own, or one that leaves pixels on a GPU.
            reader: The one thread that reads.
            progress: As in `blocks`.

        Yields:
            Finished pixels.
        """
        self._forget_lattices()
        self._refined.clear()
        inferred = done = 0
        total, ready, before = len(region), list[FinishedRows](), self.skipped
        with ThreadPoolExecutor(1, "fctl-engine") as engine:
            if isinstance(accumulator, HostAccumulator) and self._network.in_any_thread:
                accumulator = Beside(accumulator, engine, self.stopwatch)
            for batch in self._batches(region, reader):
                if batch:
                    finished = self.stopwatch.each("merge", accumulator.add(batch.tiles, partial(self._infer, batch)))
                    if not accumulator.at_once:
                        finished, ready = iter(ready), list(finished)
                    yield from finished
                    inferred += len(batch.tiles)
                so_far = min(inferred + self.skipped - before, total)
                if progress and so_far > done:
                    progress(so_far, total)
                done = so_far
            yield from ready
            yield from self.stopwatch.each("merge", accumulator.flush())

    def _forget_lattices(self) -> None:
        """Forget windows and features of contexts that are encoded once a raster, before a region begins.

        Those at the lower border of a panel would never be forgotten otherwise: no later tile lies below them.
        """
        self._cutter.forget_lattices()
        for key in [key for key in self._cache if key.context in self._network.lattices]:
            del self._cache[key]

    def _in_raster(self, strip: FinishedRows) -> Iterator[FinishedRows]:
        """Finished pixels of the source as those of the raster."""
        if not isinstance(self._source, RescaledSource):
            return iter((strip,))
        return self._source.rescale.in_raster(strip, probabilities=self._probabilities)

    def _infer(self, batch: PatchBatch, turn: Turn) -> Scores:
        """The scores of a batch in one turn."""
        _forget_unused(self._cache, batch)
        return self._network.run(batch, turn, self._cache, self.stopwatch)

    def _batches(self, region: Region, reader: ThreadPoolExecutor) -> Iterator[PatchBatch | None]:
        """Batches in reading order; one more is being read while one is in work. None where many tiles have no data."""
        tiles = iter(region)
        following = reader.submit(self._next_batch, tiles)
        while True:
            current, following = following, reader.submit(self._next_batch, tiles)
            with self.stopwatch.stage("wait"):
                batch, more = current.result()
            yield batch
            if not more:
                return

    @timed("shrink")
    def _next_batch(self, tiles: Iterator[Window]) -> tuple[PatchBatch | None, bool]:
        """Cut the next tiles that have data, in the reader's thread; and whether there may be more."""
        size, group, empty = self._network.batch, list[Window](), 0
        for tile in tiles:
            if self._is_wanted(tile):
                group.append(tile)
            else:
                empty += 1
            if len(group) == size or (empty == _SEEN and not group):
                return self._cut(group), True
        return self._cut(group), False

    def _cut(self, group: list[Window]) -> PatchBatch | None:
        return self._cutter.cut(tuple(group), self._network.batch) if group else None

    def _is_wanted(self, tile: Window) -> bool:
        """Whether any pixel of a tile has data, and a refiner something to refine: no other scores are of use."""
        if self._has_data(tile) and (self._coarse is None or self._coarse.has_border(tile)):
            if self._coarse:
                self._refined.append(tile)
            return True
        self.skipped += 1
        return False

    def _has_data(self, tile: Window) -> bool:
        inside = tile.within(self._source.height, self._source.width)
        valid = self._source.valid(inside) if inside else None
        return valid is None or bool(valid.any())

    @timed("merge")
    def _block(self, strip: FinishedRows, looking: Future[_Look]) -> Block:
        """Finished pixels of the raster, as blocks have them; made while the reader looks at them once more."""
        ids, agreement = strip.ids(), strip.agreement
        found = self._probabilities_of(strip) if self._probabilities else None
        with self.stopwatch.stage("wait"):
            look = looking.result()
        valid = look.valid
        if look.coarse is not None:
            self._keep_coarse(strip.window, look.coarse, ids, found)
        lost = ids == NODATA
        if valid is not None:
            lost &= valid
            ids[~valid] = NODATA
            if agreement is not None:
                agreement = np.where(valid, agreement, np.uint8(NODATA))
            if found is not None:
                found[:, ~valid] = np.nan
        return Block(
            y=strip.window.y, x=strip.window.x, ids=ids, probabilities=found, agreement=agreement,
            picture=look.picture, not_finite=int(np.count_nonzero(lost)), implausible=look.implausible,
        )  # fmt: skip

    def _probabilities_of(self, strip: FinishedRows) -> NDArray[np.float32]:
        found = strip.probabilities()
        return tempered(normalised(found) if self._coarse else found, self._network.manifest.temperature)

    def _keep_coarse(
        self, window: Window, coarse: NDArray[np.uint8], ids: NDArray[np.uint8], found: NDArray[np.float32] | None
    ) -> None:
        """Give pixels that no inferred tile covers the class of the coarse mask, in place."""
        above = sum(tile.bottom <= window.y for tile in self._refined)  # in reading order, so these come first
        del self._refined[:above]
        kept = ~covered_by(self._refined[:], window)
        ids[kept] = coarse[kept]
        if found is not None:
            found[:, kept] = certain(coarse[kept][None], len(found))[:, 0]

    @timed("shrink")
    def _look(self, window: Window) -> _Look:
        """Look at finished pixels once more."""
        before = self._raster.implausible
        valid = self._raster.valid(window)
        picture = self._pictured(window, valid) if self._picture else None
        coarse = self._coarse.ids(window) if self._coarse else None
        return _Look(valid, picture, self._raster.implausible - before, coarse)

    def _pictured(self, window: Window, valid: NDArray[np.bool_] | None) -> PicturePart | None:
        """What some pixels add to the picture; they are read if any of them has data."""
        assert self._picture
        if valid is not None and not valid.any():
            return PicturePart.nothing()
        pixels = self._raster.read(window)[:, :, : self._network.manifest.image.bands]
        return self._picture.part(pixels, window, valid)


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
        coarse: The ids (rows, columns) that a refiner starts from, where it may pass over tiles; else None.
    """

    valid: NDArray[np.bool_] | None
    picture: PicturePart | None
    implausible: int
    coarse: NDArray[np.uint8] | None = None


def _forget_unused(cache: FeatureCache, batch: PatchBatch) -> None:
    """Tiles come in reading order: features of windows that start above those in use are done with."""
    used = batch.shared | {name: tuple(found.windows.values()) for name, found in batch.lattices.items()}
    tops = {name: min(scene.window.y for scene in scenes) for name, scenes in used.items()}
    for key in [key for key in cache if key.window.y < tops[key.context]]:
        del cache[key]
