"""Scene blocks: what a global context shows of a raster that is much larger than the images of its training."""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import Context
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import InputError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment import batches, pipeline
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.memory import Load, footprint
from fctl.runtime.segment.shards.plan import ShardPlan
from fctl.runtime.segment.trial import scenes_of
from fctl.runtime.tiling.contexts import context_window, scene_starts
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.turns import DIHEDRAL
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime import naive, tiny
from tests.runtime.naive import (
    TURNINGS,
    Array,
    RecordingSource,
    assert_segmented,
    slope_of,
    softmax,
    stride_starts,
    whole_array_scores,
)

SCENE = 40  # of most tests here: 100 x 70 pixels are 4 x 3 blocks of it
LARGE = (100, 70)


# Where the blocks lie


@st.composite
def sides(draw: st.DrawFn) -> tuple[int, int, int]:
    """A tile, a scene, and a side; often close to where blocks begin."""
    tile = draw(st.integers(1, 60))
    scene = tile + draw(st.integers(1, 200))
    near = st.integers(-2, 2).map(lambda more: max(scene * 3 // 2 + more, 1))
    return tile, scene, draw(st.integers(1, 1500) | near)


@given(sides())
def test_one_block_up_to_one_and_a_half_scenes_and_several_beyond(case: tuple[int, int, int]) -> None:
    tile, scene, side = case
    assert (len(scene_starts(tile, side, scene)) == 1) == (side <= 1.5 * scene)
    assert scene_starts(tile, side, None) == (0,)


@given(sides())
def test_blocks_are_spread_evenly_and_overlap_by_at_least_a_tile(case: tuple[int, int, int]) -> None:
    tile, scene, side = case
    starts = scene_starts(tile, side, scene)
    if side > 1.5 * scene:
        strides = [second - first for first, second in pairwise(starts)]
        assert (starts[0], starts[-1]) == (0, side - scene)
        assert max(strides) - min(strides) <= 1
        assert 0 < max(strides) <= scene - tile
        assert (len(starts) - 2) * (scene - tile) < side - scene  # one block less would not do


class Size(ArraySource):
    """A raster of some size, without its memory."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(np.broadcast_to(np.uint8(0), (height, width, 1)))


def block_of(tile: int, scene: int | None, y: int, x: int, size: tuple[int, int]) -> Window:
    window = context_window("global", size=8, resampling="box", scene=scene)
    return window.around(Window(y, x, tile, tile), Size(*size))


@given(sides(), st.integers(1, 1500), st.data())
def test_a_tile_gets_the_most_central_block_that_holds_it(
    case: tuple[int, int, int], other: int, data: st.DataObject
) -> None:
    tile, scene, height = case
    size = (height, other)
    places = [data.draw(st.integers(0, max(side - tile, 0))) for side in size]
    block = block_of(tile, scene, *places, size)
    along = ((block.y, block.height), (block.x, block.width))
    for side, start, (first, length) in zip(size, places, along, strict=True):
        if side <= 1.5 * scene:
            assert (first, length) == (0, side)
        else:
            assert length == scene
            assert first <= start
            assert start + tile <= first + scene
            away = {begin: abs((begin + scene / 2) - (start + tile / 2)) for begin in scene_starts(tile, side, scene)}
            assert away[first] == min(away.values())


def test_blocks_by_hand() -> None:
    assert scene_starts(16, 100, 40) == (0, 20, 40, 60)
    assert scene_starts(16, 70, 40) == (0, 15, 30)
    assert scene_starts(16, 60, 40) == (0,)
    assert scene_starts(16, 61, 40) == (0, 21)
    assert scene_starts(508, 5000, 2448) == (0, 1276, 2552)
    assert block_of(16, 40, 84, 0, (100, 60)) == Window(60, 0, 40, 60)
    assert block_of(16, 40, 26, 54, (100, 70)) == Window(20, 30, 40, 40)
    assert block_of(16, 40, 22, 54, (100, 70)) == Window(0, 30, 40, 40)  # as central as the next one
    assert block_of(16, 40, 0, 54, (10, 70)) == Window(0, 30, 10, 40)
    assert block_of(16, None, 84, 0, (100, 60)) == Window(0, 0, 100, 60)


# What comes of them


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("size", [LARGE, (30, 90), (61, 9), (60, 60)])
def test_every_tile_sees_its_own_block(size: tuple[int, int], tta: bool) -> None:
    image = slope_of(*size)
    turnings = TURNINGS if tta else TURNINGS[:1]
    scores = whole_array_scores(naive.tiny_global_tile, image, "uniform", stride_starts, turnings, SCENE)
    assert_segmented(tiny.TINY_GLOBAL, image, softmax(scores), scene_size=SCENE, tta=tta)


@pytest.mark.parametrize("tta", [False, True])
def test_a_context_without_positions_has_blocks_too(tmp_path: Path, tta: bool) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["contexts"][1] |= {"factor": "global", "scene": SCENE}

    image = slope_of(*LARGE)
    turnings = TURNINGS if tta else TURNINGS[:1]
    scores = whole_array_scores(naive.tiny_mixed_tile, image, "cosine", stride_starts, turnings, SCENE)
    assert_segmented(tiny.variant(tiny.TINY, tmp_path, change), image, softmax(scores), tta=tta)


def with_scene(folder: Path, scene: int) -> Path:
    return tiny.variant(tiny.TINY_GLOBAL, folder, lambda manifest: manifest["contexts"][0].update(scene=scene))


def ids_of(image: Array, bundle: Path = tiny.TINY_GLOBAL, **options: Any) -> Array:
    with Segmenter(bundle, backend="onnxruntime", **options) as segmenter:
        return segmenter.segment(image).ids


def test_the_scene_is_the_bundles_unless_another_is_asked_for(tmp_path: Path) -> None:
    image, bundle = slope_of(*LARGE), with_scene(tmp_path, SCENE)
    np.testing.assert_array_equal(ids_of(image, bundle), ids_of(image, scene_size=SCENE))
    np.testing.assert_array_equal(ids_of(image, bundle, scene_size=30), ids_of(image, scene_size=30))
    assert (ids_of(image) != ids_of(image, bundle)).any()
    assert (ids_of(image, scene_size=30) != ids_of(image, bundle)).any()


def test_asking_for_a_scene_size_leaves_the_bundle_that_was_read_alone() -> None:
    bundle = read_bundle(tiny.TINY_GLOBAL)
    with Segmenter(bundle, backend="onnxruntime", scene_size=SCENE) as segmenter:
        assert [context.scene for context in segmenter.manifest.contexts] == [SCENE]
    assert bundle == read_bundle(tiny.TINY_GLOBAL)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_does_not_change_the_mask(batch: int) -> None:
    image = slope_of(*LARGE)
    np.testing.assert_array_equal(ids_of(image, scene_size=SCENE, batch=batch), ids_of(image, scene_size=SCENE))


# Once each, and no longer than needed


class WatchedNetwork(HostNetwork):
    """Counts what is encoded, and what of it is still held when patches are segmented."""

    def __init__(self, bundle: Path, batch: int, scenes: tuple[int | None, ...]) -> None:
        read = read_bundle(bundle)
        pairs = zip(read.manifest.contexts, scenes, strict=True)
        contexts = tuple(replace(context, scene=scene) for context, scene in pairs)
        read = replace(read, manifest=replace(read.manifest, contexts=contexts))
        super().__init__(read, choose_engine("onnxruntime", "fp32"), batch)
        self.encoded = 0
        self.most_features, self.most_pixels = 0, 0
        self._features: list[weakref.ref[Array]] = []
        self._pixels: list[weakref.ref[Array]] = []

    def encode(self, context: Context, windows: Array) -> Array:
        features = super().encode(context, windows)
        self.encoded += 1
        self._features.append(weakref.ref(features))
        return features

    def segment(self, *inputs: Any) -> Array:
        self.most_features = max(self.most_features, sum(held() is not None for held in self._features))
        self.most_pixels = max(self.most_pixels, sum(held() is not None for held in self._pixels))
        return super().segment(*inputs)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cut = batches.cut_scene

        def cut_scene(*inputs: Any) -> Array:
            pixels = cut(*inputs)
            self._pixels.append(weakref.ref(pixels))
            return pixels

        monkeypatch.setattr(batches, "cut_scene", cut_scene)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Segments a large raster; gives the network that did, and how often each of the blocks was read."""

    def run(bundle: Path, batch: int, turns: int, scenes: tuple[int | None, ...]) -> tuple[WatchedNetwork, list[int]]:
        network, source = WatchedNetwork(bundle, batch, scenes), RecordingSource(slope_of(*LARGE))
        network.watch(monkeypatch)
        for _ in pipeline.segment_rows(network, source, turns=DIHEDRAL[:turns]):
            pass
        return network, [source.windows.count(Window(y, x, 40, 40)) for y in (0, 20, 40, 60) for x in (0, 15, 30)]

    return run


@pytest.mark.parametrize("turns", [1, 8])
@pytest.mark.parametrize("batch", [1, 4])
def test_each_block_is_read_once_and_encoded_once_a_turn(counting: Any, batch: int, turns: int) -> None:
    network, reads = counting(tiny.TINY_GLOBAL, batch, turns, (SCENE,))
    assert reads == [1] * 12
    assert network.encoded == 12 * turns


@pytest.mark.parametrize("turns", [1, 8])
def test_only_one_row_of_blocks_is_held(counting: Any, turns: int) -> None:
    network, _ = counting(tiny.TINY_GLOBAL, 1, turns, (SCENE,))
    assert (network.most_features, network.most_pixels) == (3 * turns, 3)


def test_blocks_are_let_go_beside_a_context_that_stays_whole(counting: Any, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for context in manifest["contexts"]:
            context["factor"] = "global"

    network, reads = counting(tiny.variant(tiny.TINY, tmp_path, change), 1, 1, (None, SCENE))
    assert (network.encoded, reads) == (1 + 12, [1] * 12)
    assert (network.most_features, network.most_pixels) == (1 + 3, 1 + 3)


def test_without_blocks_the_whole_is_encoded_once(counting: Any) -> None:
    network, _ = counting(tiny.TINY_GLOBAL, 1, 1, (None,))
    assert (network.encoded, network.most_features, network.most_pixels) == (1, 1, 1)


@pytest.mark.parametrize("turns", [1, 8])
@pytest.mark.parametrize("size", [LARGE, (30, 90), (60, 60)])
def test_what_will_be_encoded_is_foreseen(size: tuple[int, int], turns: int) -> None:
    network = WatchedNetwork(tiny.TINY_GLOBAL, 4, (SCENE,))
    source, chosen = ArraySource(slope_of(*size)), DIHEDRAL[:turns]
    for _ in pipeline.segment_rows(network, source, turns=chosen):
        pass
    region = grid_of(network.manifest, *size).region()
    assert scenes_of(network.manifest, source, [region], chosen) == network.encoded
    assert scenes_of(read_bundle(tiny.TINY).manifest, source, [region], chosen) == 0


# What is said


@pytest.mark.parametrize("tta", [False, True])
def test_blocks_are_warned_of_once_with_their_numbers(caplog: pytest.LogCaptureFixture, tta: bool) -> None:
    with caplog.at_level(logging.WARNING, "fctl"):
        ids_of(slope_of(*LARGE), scene_size=SCENE, tta=tta)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for told in ("context global", "about 40 pixels", "100 x 70:", "4 x 3 scene blocks", "`scene_size`"):
        assert told in record.getMessage()


@pytest.mark.parametrize(("size", "scene"), [((60, 60), SCENE), ((9, 60), SCENE), (LARGE, None), (LARGE, 70)])
def test_a_raster_that_is_no_larger_than_trained_for_is_no_cause_for_warning(
    caplog: pytest.LogCaptureFixture, size: tuple[int, int], scene: int | None
) -> None:
    with caplog.at_level(logging.WARNING, "fctl"):
        ids_of(slope_of(*size), scene_size=scene)
    assert caplog.records == []


def test_a_scene_size_means_nothing_without_a_global_context() -> None:
    with pytest.raises(InputError, match=r"bundle tiny has no global context: .*leave it out"):
        Segmenter(tiny.TINY, backend="onnxruntime", scene_size=SCENE)


@pytest.mark.parametrize("scene", [16, 1, 0, -40])
def test_a_scene_must_be_larger_than_a_tile(scene: int) -> None:
    with pytest.raises(InputError, match=f"`scene_size`: expected more than the 16 pixels of a tile, found {scene}$"):
        Segmenter(tiny.TINY_GLOBAL, backend="onnxruntime", scene_size=scene)


def test_the_smallest_scene_is_a_pixel_more_than_a_tile() -> None:
    image = slope_of(30, 20)
    scores = whole_array_scores(naive.tiny_global_tile, image, "uniform", stride_starts, scene=17)
    assert_segmented(tiny.TINY_GLOBAL, image, softmax(scores), scene_size=17)


def test_the_estimate_is_bounded_by_the_scene(tmp_path: Path) -> None:
    images = [write_geotiff(tmp_path / f"{rows}.tif", np.zeros((rows, 50, 3), np.uint8)) for rows in (61, 120, 600)]

    def memory(scene: int | None) -> list[int]:
        """While patches are segmented: the outputs of small images take more."""
        with Segmenter(tiny.TINY_GLOBAL, backend="onnxruntime", scene_size=scene) as segmenter:
            manifest = segmenter.manifest
        load, found = Load(manifest=manifest, batch=4, probabilities=False, picture=False), list[int]()
        for image in images:
            with open_raster(image, manifest.input, None) as raster:
                plan = ShardPlan.over(grid_of(manifest, raster.height, raster.width))
                found.append(footprint(load, raster, plan).segmenting)
        return found

    whole, blocks, larger_blocks = memory(None), memory(SCENE), memory(100)
    row = 50 * 3 * 2 * 1.15  # bytes of pixels of a scene, as read and as shown, and what the allocator adds
    second = 3 * 4 * 4 * 4 * 1.15  # bytes of the features of a second row of blocks
    assert blocks == [blocks[0]] * 3
    np.testing.assert_allclose(np.subtract(whole, blocks), [(h - 40) * row - second for h in (61, 120, 600)], atol=1)
    np.testing.assert_allclose(np.subtract(larger_blocks, blocks), [
        (61 - 40) * row - second,
        (120 - 40) * row - second,
        (100 - 40) * row,
    ], atol=1)  # fmt: skip
