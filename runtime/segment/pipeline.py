"""Raster -> tiles -> batches -> scores -> finished rows: the only composition, and the only place with threads.

One thread reads and resamples the next batch while the engine works on this one. Only that thread touches the source,
so a source need not be safe for several.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Manifest
from ..progress import TileProgress
from ..tiling.merge import NODATA, FinishedRows
from ..tiling.sources import Source
from ..tiling.turns import UPRIGHT, Turn
from ..tiling.windows import Band, Window
from .batches import BatchCutter, PatchBatch, grid_of
from .network import Accumulator, FeatureCache, Network, Scores

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Finished rows of a mask.

    Attributes:
        y: First row.
        ids: Class ids (rows, width) uint8, 255 where the raster has no data or a score is not finite.
        probabilities: Probabilities (classes, rows, width) float32, NaN where the ids are 255; None unless they were
            asked for.
        not_finite: Pixels that have data, but scores that are not finite.
    """

    y: int
    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None
    not_finite: int = 0


def segment_rows(
    network: Network,
    source: Source,
    *,
    probabilities: bool = False,
    turns: tuple[Turn, ...] = (UPRIGHT,),
    progress: TileProgress | None = None,
    band: Band | None = None,
) -> Iterator[Rows]:
    """Segment a source, or a band of it.

    Args:
        network: The network.
        source: The raster.
        probabilities: Whether rows carry probabilities.
        turns: The ways in which each patch is segmented, with its contexts, before scores are averaged (§4.2).
        progress: Called with tiles that are done and tiles in all.
        band: The rows to finish, of the grid that `grid_of` makes of the raster; None for all.

    Yields:
        Rows, top to bottom: the same bytes whether a band or the whole raster is run.

    Raises:
        RasterError: The raster cannot be read.
        EngineError: The engine failed.
    """
    band = band or grid_of(network.manifest, source.height, source.width).all_rows()
    accumulator, not_finite = network.accumulator(band, turns, probabilities), 0
    with ThreadPoolExecutor(1, "fctl-read") as reader:
        for strip in segment_strips(network, source, band, accumulator, reader, progress):
            window = Window(strip.y, 0, strip.rows, source.width)
            rows = _rows(strip, reader.submit(source.valid, window).result(), probabilities)
            not_finite += rows.not_finite
            yield rows
    _warn_of_values(source)
    warn_of_scores(source.name, not_finite)


def segment_strips(
    network: Network,
    source: Source,
    band: Band,
    accumulator: Accumulator,
    reader: ThreadPoolExecutor,
    progress: TileProgress | None,
) -> Iterator[FinishedRows]:
    """Finished rows of a band of a source, top to bottom.

    They are handed out one batch late: on a GPU, the next batch is under way while somebody waits for them.

    Args:
        network: The network.
        source: The raster.
        band: The rows to finish.
        accumulator: What averages and merges; the network's own, or one that leaves rows on a GPU.
        reader: The one thread that reads.
        progress: As in `segment_rows`.

    Yields:
        Finished rows.
    """
    _warn_of_scene_blocks(network, source)
    cache: FeatureCache = {}
    done, total, ready = 0, len(band), list[FinishedRows]()
    for batch in _batches(network.manifest, source, band, network.batch, reader):
        _forget_unused(cache, batch)
        finished, ready = ready, list(accumulator.add(batch.tiles, partial(_infer, network, batch, cache)))
        yield from finished
        done += len(batch.tiles)
        if progress:
            progress(done, total)
    yield from ready
    yield from accumulator.flush()


def _infer(network: Network, batch: PatchBatch, cache: FeatureCache, turn: Turn) -> Scores:
    """The scores of a batch in one turn."""
    return network.run(batch, turn, cache)


def _forget_unused(cache: FeatureCache, batch: PatchBatch) -> None:
    """Tiles come in reading order: features of windows that start above those in use are done with."""
    tops = {name: min(scene.window.y for scene in scenes) for name, scenes in batch.shared.items()}
    for key in [key for key in cache if key.window.y < tops[key.context]]:
        del cache[key]


def _batches(
    manifest: Manifest, source: Source, band: Band, size: int, reader: ThreadPoolExecutor
) -> Iterator[PatchBatch]:
    """Batches in reading order; one more is being read while one is in work."""
    cutter, tiles = BatchCutter(manifest, source), iter(band)
    following: Future[PatchBatch] | None = None
    while group := tuple(islice(tiles, size)):
        current, following = following, reader.submit(cutter.cut, group, size)
        if current:
            yield current.result()
    if following:
        yield following.result()


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


def _warn_of_values(source: Source) -> None:
    if source.implausible:
        log.warning(
            "%s: %s far beyond all others, though no such nodata value is declared: taken as having no data "
            "(declare it with gdal_edit.py -a_nodata VALUE)",
            source.name, _counted(source.implausible, "pixel holds a value", "pixels hold values"),
        )  # fmt: skip


def warn_of_scores(name: str, pixels: int) -> None:
    """Log a warning where a network gave scores that are not finite.

    Args:
        name: What the image is called.
        pixels: How many pixels have such scores.
    """
    if pixels:
        log.warning(
            "%s: the network gave scores that are not finite at %s: left without data (255; see what the image holds "
            "there, or try another `precision`)",
            name, _counted(pixels, "pixel", "pixels"),
        )  # fmt: skip


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _rows(strip: FinishedRows, valid: NDArray[np.bool_] | None, probabilities: bool) -> Rows:
    ids, found = strip.ids(), strip.probabilities() if probabilities else None
    lost = ids == NODATA
    if valid is not None:
        lost &= valid
        ids[~valid] = NODATA
        if found is not None:
            found[:, ~valid] = np.nan
    return Rows(y=strip.y, ids=ids, probabilities=found, not_finite=int(np.count_nonzero(lost)))
