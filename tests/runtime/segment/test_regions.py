"""A region of tiles gives the bytes that a run of the whole raster gives for its pixels."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fctl.runtime import Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import InputError
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.picture import PicturePart, PictureScale
from fctl.runtime.segment.pipeline import Pipeline
from fctl.runtime.tiling.merge import PIECE, Merger
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.turns import DIHEDRAL, UPRIGHT, Turn
from fctl.runtime.tiling.windows import Grid, Region, TilePlan, Window
from tests.runtime import tiny
from tests.runtime.naive import HoleSource, slope_of

SCENE = 40


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, list[Region]]:
    """A grid, and its tiles in regions: all pairs of some bands and some panels."""
    tile = draw(st.integers(1, 12))
    kind = draw(st.sampled_from(("stride", "even")))
    plan = TilePlan(kind="stride" if kind == "stride" else "even", overlap=draw(st.integers(0, tile - 1)))
    grid = Grid.over(draw(st.integers(1, 40)), draw(st.integers(1, 30)), tile, plan)
    rows, columns = draw(ends(len(grid.rows), 4)), draw(ends(len(grid.columns), 2))
    return grid, [grid.region(band, panel) for band in pairwise(rows) for panel in pairwise(columns)]


def ends(count: int, most: int) -> st.SearchStrategy[list[int]]:
    inner = st.sets(st.integers(1, count - 1), max_size=most) if count > 1 else st.just(set[int]())
    return inner.map(lambda found: sorted({0, *found, count}))


@given(grids())
def test_regions_finish_every_pixel_once(case: tuple[Grid, list[Region]]) -> None:
    grid, regions = case
    finished = np.zeros((grid.height, grid.width), np.int64)
    for region in regions:
        finished[area(region.finished)] += 1
    assert (finished == 1).all()


@given(grids())
def test_a_region_computes_the_tiles_that_touch_its_pixels_and_no_others(case: tuple[Grid, list[Region]]) -> None:
    grid, regions = case
    for region in regions:
        wanted = region.finished
        touching = [
            tile for tile in grid
            if tile.y < wanted.bottom and tile.bottom > wanted.y and tile.x < wanted.right and tile.right > wanted.x
        ]  # fmt: skip
        assert list(region) == touching
        assert len(region) == len(touching)
        covered = [tile.within(grid.height, grid.width) for tile in touching]
        assert region.computed.y == min(part.y for part in covered if part)
        assert region.computed.right == max(part.right for part in covered if part)


@settings(deadline=None, max_examples=60)
@given(grids(), st.sampled_from(("uniform", "cosine")))
def test_merging_regions_gives_the_bytes_of_merging_all(case: tuple[Grid, list[Region]], rule: str) -> None:
    grid, regions = case
    scores = {tile: np.random.default_rng([tile.y, tile.x]).normal(size=(2, grid.tile, grid.tile)) for tile in grid}

    def merge(region: Region, into: NDArray[np.float32]) -> None:
        merger = Merger(region, 2, rule)
        strips = [s for tile in region for s in merger.add([tile], scores[tile][None].astype(np.float32))]
        strips += merger.flush()
        assert [strip.y for strip in strips] == sorted(strip.y for strip in strips)
        for strip in strips:
            assert np.isnan(into[(slice(None), *area(strip.window))]).all()  # nothing comes twice
            into[(slice(None), *area(strip.window))] = strip.scores

    whole, parts = (np.full((2, grid.height, grid.width), np.nan, np.float32) for _ in range(2))
    merge(grid.region(), whole)
    for region in regions:
        merge(region, parts)
    assert np.isfinite(whole).all()
    assert parts.tobytes() == whole.tobytes()


def test_wide_regions_are_handed_out_in_pieces() -> None:
    grid = Grid.over(8, 2 * PIECE + 8, 8, TilePlan(kind="stride", overlap=0))
    merger = Merger(grid.region(), 1, "uniform")
    for tile in grid:
        assert not list(merger.add([tile], np.full((1, 1, 8, 8), tile.x, np.float32)))
    strips = list(merger.flush())
    assert [strip.window for strip in strips] == [
        Window(0, 0, 8, PIECE), Window(0, PIECE, 8, PIECE), Window(0, 2 * PIECE, 8, 8)
    ]  # fmt: skip
    whole = np.concatenate([strip.scores[0] for strip in strips], axis=1)
    np.testing.assert_array_equal(whole[0], np.arange(grid.width) // 8 * 8)


def test_tiles_that_are_not_there_are_refused() -> None:
    grid = Grid.over(100, 20, 16, TilePlan(kind="stride", overlap=4))
    for first, stop in ((0, 0), (2, 1), (-1, 2), (0, len(grid.rows) + 1)):
        with pytest.raises(InputError, match=f"expected rows of tiles from 0 to {len(grid.rows)}, found"):
            grid.region((first, stop))
        with pytest.raises(InputError, match=f"expected columns of tiles from 0 to {len(grid.columns)}, found"):
            grid.region(columns=(first, stop))


def area(window: Window) -> tuple[slice, slice]:
    return np.s_[window.y : window.bottom, window.x : window.right]


@pytest.mark.once
@pytest.mark.parametrize("turns", [(UPRIGHT,), DIHEDRAL], ids=["upright", "tta"])
@pytest.mark.parametrize(
    ("bundle", "batch"), [(tiny.TINY, 3), (tiny.TINY, 16), (tiny.TINY_GLOBAL, 4), (tiny.TINY_GLOBAL_FUSED, 2)],
    ids=lambda value: getattr(value, "stem", value),
)  # fmt: skip
def test_segmenting_regions_gives_the_bytes_of_segmenting_all(
    bundle: Path, batch: int, turns: tuple[Turn, ...]
) -> None:
    with Segmenter(bundle, backend="onnxruntime", scene_size=SCENE if "global" in bundle.stem else None) as segmenter:
        read = segmenter.bundle
    network = load_network(read, choose_engine("onnxruntime", "fp32"), batch)
    source: Source = HoleSource(slope_of(100, 70))
    grid, scale = grid_of(network.manifest, source.height, source.width), PictureScale(100, 70)

    def segmented(regions: list[Region]) -> tuple[bytes, bytes, bytes, int]:
        pipeline = Pipeline(network, source, probabilities=True, turns=turns, picture=scale)
        ids, probabilities = np.zeros((100, 70), np.uint8), np.zeros((3, 100, 70), np.float32)
        parts = list[PicturePart]()
        for region in regions:
            for block in pipeline.blocks(region):
                ids[area(block.window)] = block.ids
                assert block.probabilities is not None
                assert block.picture is not None
                probabilities[(slice(None), *area(block.window))] = block.probabilities
                parts.append(block.picture)
        return ids.tobytes(), probabilities.tobytes(), scale.picture(parts, "uint8").tobytes(), len(regions)

    whole = segmented([grid.region()])
    for rows, columns in (((0, 1, len(grid.rows)), (0, len(grid.columns))), ((0, 3, 4, len(grid.rows)), (0, 2, 5, 6))):
        regions = [grid.region(band, panel) for panel in pairwise(columns) for band in pairwise(rows)]
        assert segmented(regions)[:3] == whole[:3]


def test_progress_counts_the_tiles_of_the_region() -> None:
    network = load_network(read_bundle(tiny.TINY), choose_engine("onnxruntime", "fp32"), 4)
    source: Source = HoleSource(slope_of(100, 70))
    region = grid_of(network.manifest, 100, 70).region((2, 4))
    calls: list[tuple[int, int]] = []
    list(Pipeline(network, source).blocks(region, lambda done, total: calls.append((done, total))))
    assert calls[-1] == (len(region), len(region))
    assert len(region) == 3 * len(region.grid.columns)  # two rows of tiles, and the one that reaches in from above
