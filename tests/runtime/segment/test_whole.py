"""Bundles whose plan is "whole": scores of the shrunken image, enlarged where patches lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import InputError
from fctl.runtime.segment import memory
from fctl.runtime.segment.batches import cut_batch, grid_of
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.turns import DIHEDRAL
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime import naive, tiny
from tests.runtime.naive import Array, RecordingSource, assert_segmented, slope_of, softmax

SIDE = 24
SIZES = [(33, 50), (100, 70), (16, 16), (7, 40), (5, 3), (24, 24)]


def enlarged(image: Array) -> Array:
    """Scores (classes, height, width) of an image: shrunk to 24 pixels, mixed, and enlarged half a pixel from edges."""
    height, width = image.shape[:2]
    small = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))
    scores = tiny.mix(tiny.WHOLE, naive.batched(small))[0]
    rows, columns = (matrix(side) for side in (height, width))
    return np.einsum("hi,cij,wj->chw", rows, scores, columns)


def matrix(side: int) -> Array:
    """The weights (side, 24) with which 24 pixels are enlarged, the outer ones being continued outwards."""
    places = np.clip((np.arange(side) + 0.5) * SIDE / side - 0.5, 0, SIDE - 1)
    below = np.minimum(places.astype(int), SIDE - 2)
    weights = np.zeros((side, SIDE))
    weights[np.arange(side), below], weights[np.arange(side), below + 1] = below + 1 - places, places - below
    return weights


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_scores_are_those_of_the_shrunken_image_enlarged(size: tuple[int, int], tta: bool) -> None:
    image = slope_of(*size)
    assert_segmented(tiny.TINY_WHOLE, image, softmax(enlarged(image)), tta=tta)  # the network turns with its image


def test_much_larger_rasters_are_shown_block_by_block() -> None:
    image = slope_of(100, 70)
    scores, tiles = np.zeros((3, 100, 70)), np.zeros((100, 70))
    for y in (*range(0, 84, 16), 84):
        for x in (*range(0, 54, 16), 54):
            block, top, left = naive.scene_block(image, y, x, 40)
            here = enlarged(block)[:, y - top : y - top + 16, x - left : x - left + 16]
            scores[:, y : y + 16, x : x + 16] += here
            tiles[y : y + 16, x : x + 16] += 1
    assert_segmented(tiny.TINY_WHOLE, image, softmax(scores / tiles), scene_size=40)


@pytest.mark.parametrize("turns", [1, 8])
def test_the_image_is_read_once_and_encoded_once_a_turn(turns: int) -> None:
    network = Counting()
    source = RecordingSource(slope_of(100, 70))
    list(segment_rows(network, source, turns=DIHEDRAL[:turns]))
    assert source.windows == [Window(0, 0, 100, 70)]
    assert network.encoded == turns


class Counting(HostNetwork):
    """Counts what is encoded."""

    def __init__(self) -> None:
        super().__init__(read_bundle(tiny.TINY_WHOLE), choose_engine("onnxruntime", "fp32"), 4)
        self.encoded = 0

    def encode(self, *inputs: Any) -> Array:
        self.encoded += 1
        return super().encode(*inputs)


def test_patches_take_no_memory() -> None:
    manifest = read_bundle(tiny.TINY_WHOLE).manifest
    batch = cut_batch(manifest, ArraySource(slope_of(40, 40)), tuple(grid_of(manifest, 40, 40))[:2], 4)
    assert isinstance(batch.patch, np.ndarray)
    assert (batch.patch.shape, batch.patch.dtype, batch.patch.strides) == ((4, 3, 16, 16), np.uint8, (0, 0, 0, 0))
    assert batch.positions["whole"].shape == (4, 2, 16)


def test_pixels_without_data_have_none(tmp_path: Path) -> None:
    pixels = np.maximum(slope_of(60, 50), 4)
    pixels[15:45, 10:40] = 0  # a tile and more
    image = write_geotiff(tmp_path / "image.tif", pixels, nodata=0)
    with Segmenter(tiny.TINY_WHOLE, backend="onnxruntime") as segmenter:
        report = segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"))
    with rasterio.open(tmp_path / "m.tif") as mask:
        ids = mask.read(1)
    np.testing.assert_array_equal(ids == 255, (pixels == 0).all(axis=2))
    assert (report.tiles, report.skipped) == (16, 1)  # the one that lies in the hole


def test_a_run_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_TILES", 6)
    monkeypatch.setattr(memory, "PANEL", 36)
    image = write_geotiff(tmp_path / "image.tif", slope_of(100, 70))
    calls: list[int] = []

    def interrupt(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with Segmenter(tiny.TINY_WHOLE, backend="onnxruntime", batch=3) as segmenter:
        segmenter.segment_file(image, Paths(mask=tmp_path / "one.tif"))
        with pytest.raises(KeyboardInterrupt):
            segmenter.segment_file(image, Paths(mask=tmp_path / "two.tif"), progress=interrupt)
        assert list(tmp_path.glob("two.fctl-run/shard-*.npz"))
        segmenter.segment_file(image, Paths(mask=tmp_path / "two.tif"), resume=True)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


def test_contexts_that_all_patches_share_are_not_shared_once_more() -> None:
    with pytest.raises(InputError, match=r"has no contexts that could be encoded once a raster; leave it out$"):
        Segmenter(tiny.TINY_WHOLE, backend="onnxruntime", contexts="shared")
