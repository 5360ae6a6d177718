from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime import Segmenter
from fctl.runtime.bundle import read_bundle
from fctl.runtime.contexts import ArraySource, Pixels, Source
from fctl.runtime.engines import choose_engine
from fctl.runtime.inference import StagedNetwork
from fctl.runtime.pipeline import Rows, segment_rows
from fctl.runtime.windows import Window

from . import tiny

Array = NDArray[Any]
PAD = 64
SIZES = [(1, 1), (3, 40), (16, 16), (40, 9), (33, 50), (61, 47)]


def image_of(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> Array:
    """Multiples of 4: the means of 2 x 2 pixels are whole."""
    return (np.random.default_rng(height * 100 + width).integers(0, 64, (height, width, bands)) * 4).astype(dtype)


def stride_starts(side: int) -> list[int]:
    """Tiles of 16 that overlap by 4, the last one flush."""
    starts = [0]
    while starts[-1] + 16 < side:
        starts.append(min(starts[-1] + 12, side - 16))
    return starts


def even_starts(side: int) -> list[int]:
    """As few tiles of 16 as overlap by 4 or more, spread evenly."""
    count = 1 if side <= 16 else 1 + int(np.ceil((side - 16) / 12))
    return [int(start) for start in np.rint(np.linspace(0, max(side - 16, 0), count))]


def batched(pixels: Pixels) -> Array:
    return pixels.transpose(2, 0, 1)[None]


def around(image: Array, y: int, x: int, side: int) -> Array:
    """The window of `side` pixels centred on the tile at (y, x), black beyond the image."""
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
    top, left = PAD + y - (side - 16) // 2, PAD + x - (side - 16) // 2
    return padded[top : top + side, left : left + side]


def tiny_tile(image: Array, y: int, x: int) -> Array:
    medium = around(image, y, x, 32).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    large = np.asarray(Image.fromarray(around(image, y, x, 64)).resize((8, 8), Image.Resampling.BILINEAR))
    return tiny.tiny_logits(batched(around(image, y, x, 16)), batched(medium), batched(large))[0]


def tiny_global_tile(image: Array, y: int, x: int) -> Array:
    whole = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX))
    centres = 4 * np.arange(4) + 1.5 + 0.5
    axes = ((y, image.shape[0]), (x, image.shape[1]))
    positions = [((start + centres) * 8 / side - 0.5 - 0.5) / 2 for start, side in axes]
    return tiny.tiny_global_logits(batched(around(image, y, x, 16)), batched(whole), np.array([positions]))[0]


def tiny_plain_tile(image: Array, y: int, x: int) -> Array:
    return tiny.tiny_plain_logits(batched(around(image, y, x, 16)))[0]


TILES = {tiny.TINY: tiny_tile, tiny.TINY_GLOBAL: tiny_global_tile, tiny.TINY_PLAIN: tiny_plain_tile}


def whole_array_logits(bundle: Path, image: Array, rule: str, starts: Any) -> Array:
    """The same network and merge, tile by tile into whole arrays of doubles."""
    height, width = image.shape[:2]
    line = np.ones(16) if rule == "uniform" else np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2
    weight = np.outer(line, line)
    classes = 2 if bundle == tiny.TINY_PLAIN else 3
    sums, total = np.zeros((classes, height + 16, width + 16)), np.zeros((height + 16, width + 16))
    for y in starts(height):
        for x in starts(width):
            sums[:, y : y + 16, x : x + 16] += TILES[bundle](image, y, x) * weight
            total[y : y + 16, x : x + 16] += weight
    return sums[:, :height, :width] / total[:height, :width]


def assert_segmented(bundle: Path, image: Array, expected: Array) -> None:
    with Segmenter(bundle, backend="onnxruntime", batch=3) as segmenter:
        found = segmenter.segment(image, probabilities=True)
    powers = np.exp(expected - expected.max(axis=0))
    np.testing.assert_allclose(found.probabilities, powers / powers.sum(axis=0), rtol=1e-3, atol=1e-6)
    runner_up, best = np.partition(expected, -2, axis=0)[-2:]
    decided = best - runner_up > 1e-4  # closer than that is a tie in fp32
    np.testing.assert_array_equal(found.ids[decided], expected.argmax(axis=0)[decided])
    assert decided.mean() > 0.9
    assert found.ids.shape == image.shape[:2]


@pytest.mark.parametrize("size", SIZES)
def test_contexts_and_merge_equal_a_whole_array_computation(size: tuple[int, int]) -> None:
    image = image_of(*size)
    assert_segmented(tiny.TINY, image, whole_array_logits(tiny.TINY, image, "cosine", stride_starts))


@pytest.mark.parametrize("size", SIZES)
def test_a_global_context_equals_a_whole_array_computation(size: tuple[int, int]) -> None:
    image = image_of(*size)
    assert_segmented(tiny.TINY_GLOBAL, image, whole_array_logits(tiny.TINY_GLOBAL, image, "uniform", stride_starts))


@pytest.mark.parametrize("size", SIZES)
def test_four_bands_of_uint16_equal_a_whole_array_computation(size: tuple[int, int]) -> None:
    image = image_of(*size, bands=4, dtype="uint16") * np.uint16(9)
    assert_segmented(tiny.TINY_PLAIN, image, whole_array_logits(tiny.TINY_PLAIN, image, "uniform", even_starts))


@pytest.mark.parametrize(("kind", "starts"), [("stride", stride_starts), ("even", even_starts)])
@pytest.mark.parametrize("rule", ["uniform", "cosine"])
def test_plan_and_merge_are_those_of_the_manifest(tmp_path: Path, kind: str, starts: Any, rule: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["plan"]["kind"] = kind
        manifest["merge"] = rule

    image = image_of(45, 30)
    bundle = tiny.variant(tiny.TINY, tmp_path, change)
    assert_segmented(bundle, image, whole_array_logits(tiny.TINY, image, rule, starts))


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL])
def test_the_batch_does_not_change_the_ids(bundle: Path) -> None:
    image = image_of(61, 47)
    found = []
    for batch in (1, 3, 4, 7):
        with Segmenter(bundle, backend="onnxruntime", batch=batch) as segmenter:
            found.append(segmenter.segment(image).ids)
    for ids in found[1:]:
        np.testing.assert_array_equal(ids, found[0])


class RecordingSource:
    """An image that remembers its reads, and fails to read below a row."""

    def __init__(self, pixels: Array, broken_below: int | None = None) -> None:
        self._image, self._broken_below = ArraySource(pixels), broken_below
        self.height, self.width = pixels.shape[:2]
        self.windows: list[Window] = []
        self.threads: set[int] = set()

    def read(self, window: Window) -> Pixels:
        self.windows.append(window)
        self.threads.add(threading.get_ident())
        if self._broken_below is not None and window.bottom > self._broken_below:
            raise ZeroDivisionError("the disk is gone")
        return self._image.read(window)

    def valid(self, window: Window) -> None:
        self.threads.add(threading.get_ident())


def rows_of(bundle: Path, source: Source, batch: int = 2) -> Iterator[Rows]:
    return segment_rows(StagedNetwork(read_bundle(bundle), choose_engine("onnxruntime", "fp32"), batch), source)


@pytest.mark.parametrize("broken_below", [0, 40, 60])
def test_an_error_of_the_reading_thread_is_the_error(broken_below: int) -> None:
    source = RecordingSource(image_of(61, 47), broken_below)
    with pytest.raises(ZeroDivisionError, match="the disk is gone"):
        list(rows_of(tiny.TINY, source))


def test_no_thread_is_left_after_an_error() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(rows_of(tiny.TINY, RecordingSource(image_of(61, 47), 40)))
    assert threading.active_count() == before


def test_the_global_context_is_read_once() -> None:
    source = RecordingSource(image_of(61, 47))
    list(rows_of(tiny.TINY_GLOBAL, source))
    assert source.windows.count(Window(0, 0, 61, 47)) == 1


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL])
def test_only_one_thread_touches_the_source(bundle: Path) -> None:
    source = RecordingSource(image_of(61, 47))
    list(rows_of(bundle, source))
    assert len(source.threads) == 1
    assert source.threads != {threading.get_ident()}


class HoleSource(ArraySource):
    """An image whose first column has no data."""

    def valid(self, window: Window) -> NDArray[np.bool_]:
        valid = np.ones((window.height, window.width), np.bool_)
        valid[:, : max(1 - window.x, 0)] = False
        return valid


def test_pixels_without_data_are_255_and_nan() -> None:
    network = StagedNetwork(read_bundle(tiny.TINY), choose_engine("onnxruntime", "fp32"), 2)
    rows = list(segment_rows(network, HoleSource(image_of(40, 20)), probabilities=True))
    ids = np.concatenate([part.ids for part in rows])
    shares = np.concatenate([part.probabilities for part in rows if part.probabilities is not None], axis=1)
    assert (ids[:, 0] == 255).all()
    assert (ids[:, 1:] < 3).all()
    assert np.isnan(shares[:, :, 0]).all()
    np.testing.assert_allclose(shares[:, :, 1:].sum(axis=0), 1, rtol=1e-5)


def test_probabilities_are_made_only_when_asked_for() -> None:
    assert all(rows.probabilities is None for rows in rows_of(tiny.TINY, ArraySource(image_of(20, 20))))


@pytest.mark.parametrize("batch", [1, 4])
def test_progress_counts_every_tile(batch: int) -> None:
    network = StagedNetwork(read_bundle(tiny.TINY), choose_engine("onnxruntime", "fp32"), batch)
    steps: list[tuple[int, int]] = []
    for _ in segment_rows(
        network, ArraySource(image_of(40, 30)), progress=lambda done, total: steps.append((done, total))
    ):
        pass
    tiles = len(stride_starts(40)) * len(stride_starts(30))
    assert steps == [(min(done, tiles), tiles) for done in range(batch, tiles + batch, batch)]
