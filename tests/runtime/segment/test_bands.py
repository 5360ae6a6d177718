"""A band of tile rows gives the bytes that a run of the whole raster gives for its rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fctl.runtime import Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import InputError
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.pipeline import Rows, segment_rows
from fctl.runtime.tiling.merge import Merger
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.turns import DIHEDRAL, UPRIGHT
from fctl.runtime.tiling.windows import Band, Grid, TilePlan
from tests.runtime import tiny
from tests.runtime.naive import HoleSource, slope_of

SCENE = 40


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, list[Band]]:
    """A grid, and its rows of tiles in bands."""
    tile = draw(st.integers(1, 12))
    kind = draw(st.sampled_from(("stride", "even")))
    plan = TilePlan(kind="stride" if kind == "stride" else "even", overlap=draw(st.integers(0, tile - 1)))
    grid = Grid.over(draw(st.integers(1, 60)), draw(st.integers(1, 25)), tile, plan)
    inner = draw(st.sets(st.integers(1, max(len(grid.rows) - 1, 1)), max_size=4)) if len(grid.rows) > 1 else set()
    ends = sorted({0, *inner, len(grid.rows)})
    return grid, [grid.band(first, stop) for first, stop in pairwise(ends)]


@given(grids())
def test_bands_finish_every_row_once(case: tuple[Grid, list[Band]]) -> None:
    grid, bands = case
    assert [row for band in bands for row in range(band.y, band.bottom)] == list(range(grid.height))


@given(grids())
def test_a_band_computes_the_tiles_that_touch_its_rows_and_no_others(case: tuple[Grid, list[Band]]) -> None:
    grid, bands = case
    for band in bands:
        touching = [tile for tile in grid if tile.y < band.bottom and tile.bottom > band.y]
        assert list(band) == touching
        assert len(band) == len(touching)


@given(grids(), st.sampled_from(("uniform", "cosine")))
def test_merging_bands_gives_the_bytes_of_merging_all(case: tuple[Grid, list[Band]], rule: str) -> None:
    grid, bands = case
    scores = {tile: np.random.default_rng([tile.y, tile.x]).normal(size=(2, grid.tile, grid.tile)) for tile in grid}

    def merged(band: Band) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        merger = Merger(grid, 2, rule, band=band)
        strips = [s for tile in band for s in merger.add([tile], scores[tile][None].astype(np.float32))]
        strips += merger.flush()
        assert [strip.y for strip in strips] == [band.y, *np.cumsum([s.rows for s in strips])[:-1] + band.y]
        return np.concatenate([strip.scores for strip in strips], axis=1)

    parts = np.concatenate([merged(band) for band in bands], axis=1)
    assert parts.tobytes() == merged(grid.all_rows()).tobytes()


def test_rows_of_tiles_that_are_not_there_are_refused() -> None:
    grid = Grid.over(100, 20, 16, TilePlan(kind="stride", overlap=4))
    for first, stop in ((0, 0), (2, 1), (-1, 2), (0, len(grid.rows) + 1)):
        with pytest.raises(InputError, match=f"expected rows of tiles from 0 to {len(grid.rows)}, found"):
            grid.band(first, stop)


def joined(rows: list[Rows]) -> tuple[bytes, bytes]:
    probabilities = [part.probabilities for part in rows if part.probabilities is not None]
    return np.concatenate([part.ids for part in rows]).tobytes(), np.concatenate(probabilities, axis=1).tobytes()


@pytest.mark.parametrize("turns", [(UPRIGHT,), DIHEDRAL], ids=["upright", "tta"])
@pytest.mark.parametrize(
    ("bundle", "batch"), [(tiny.TINY, 3), (tiny.TINY, 16), (tiny.TINY_GLOBAL, 4), (tiny.TINY_GLOBAL_FUSED, 2)],
    ids=lambda value: getattr(value, "stem", value),
)  # fmt: skip
def test_segmenting_bands_gives_the_bytes_of_segmenting_all(
    bundle: Path, batch: int, turns: tuple[object, ...]
) -> None:
    with Segmenter(bundle, backend="onnxruntime", scene_size=SCENE if "global" in bundle.stem else None) as segmenter:
        read = segmenter.bundle
    network = load_network(read, choose_engine("onnxruntime", "fp32"), batch)
    source: Source = HoleSource(slope_of(100, 70))
    grid = grid_of(network.manifest, source.height, source.width)

    def segmented(band: Band) -> list[Rows]:
        chosen = DIHEDRAL if len(turns) > 1 else (UPRIGHT,)
        return list(segment_rows(network, source, probabilities=True, turns=chosen, band=band))

    whole = segmented(grid.all_rows())
    for ends in ((0, 1, len(grid.rows)), (0, 3, 4, 7, len(grid.rows))):
        parts = [rows for first, stop in pairwise(ends) for rows in segmented(grid.band(first, stop))]
        assert parts[0].y == 0
        assert joined(parts) == joined(whole)


def test_progress_counts_the_tiles_of_the_band() -> None:
    network = load_network(read_bundle(tiny.TINY), choose_engine("onnxruntime", "fp32"), 4)
    source: Source = HoleSource(slope_of(100, 70))
    band = grid_of(network.manifest, 100, 70).band(2, 4)
    calls: list[tuple[int, int]] = []
    list(segment_rows(network, source, progress=lambda done, total: calls.append((done, total)), band=band))
    assert calls[-1] == (len(band), len(band))
    assert len(band) == 3 * len(band.grid.columns)  # two rows of tiles, and the one that reaches in from above
