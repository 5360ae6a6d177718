"""Whole images through a network on the simulated GPU: what comes out is what the host's path gives."""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmentation, Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.cuda.arrays import DeviceArray
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import DeviceMemoryError, InputError, RasterError
from fctl.runtime.raster.source import read_thumbnail
from fctl.runtime.segment.gpu import runner
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.network import HostAccumulator
from fctl.runtime.segment.opening import encodes_once
from fctl.runtime.segment.pipeline import Pipeline, segment_rows
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.turns import DIHEDRAL, UPRIGHT, Turn
from tests.conftest import write_geotiff
from tests.runtime import tiny
from tests.runtime.cuda import simulated

from . import engines

BUNDLES = [
    tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_PLAIN, tiny.TINY_FUSED, tiny.TINY_GLOBAL_FUSED, tiny.TINY_FIXED,
    tiny.TINY_SHARES, tiny.TINY_ONCE, tiny.TINY_WHOLE,
]  # fmt: skip


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    engines.use(monkeypatch)


@pytest.fixture(params=[False, True], ids=["queued", "graphs"])
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether CUDA graphs are kept: the clock that decides is not asked."""
    times = iter(range(10000, 0, -1) if request.param else range(10000))
    monkeypatch.setattr(runner.Runner, "_seconds", lambda self, run: (run(), next(times))[1])
    return bool(request.param)


def image_of(bundle: Path, height: int = 45, width: int = 50) -> NDArray[Any]:
    spec = read_bundle(bundle).manifest.input
    return np.random.default_rng(0).integers(0, 256, (height, width, spec.bands)).astype(spec.dtype)


def expected_of(bundle: Path, image: NDArray[Any], *, batch: int = 4, tta: bool = False) -> Segmentation:
    """What the host's path gives."""
    read = read_bundle(bundle)
    network = HostNetwork(read, choose_engine("onnxruntime", "fp32"), batch, once=encodes_once(read, "auto"))
    turns = DIHEDRAL if tta else (UPRIGHT,)
    rows = list(segment_rows(network, ArraySource(image), probabilities=True, turns=turns))
    shares = [row.probabilities for row in rows if row.probabilities is not None]
    return Segmentation(ids=np.concatenate([row.ids for row in rows]), probabilities=np.concatenate(shares, axis=1))


@pytest.mark.parametrize("tta", [False, True], ids=["upright", "tta"])
def test_floats_without_data_and_scores_that_are_not_finite(tta: bool, caplog: pytest.LogCaptureFixture) -> None:
    image = np.random.default_rng(0).random((45, 50, 3)).astype(np.float32)
    image[3, 4, 1], image[20, 20, 0], image[44, 49] = np.nan, -np.inf, -3.4e38
    image[30, 31] = -4  # the square root of what is below -1 is NaN
    lost = [[3, 4], [20, 20], [30, 31], [44, 49]]
    expected = expected_of(tiny.TINY_FLOAT, image, batch=3, tta=tta)
    with Segmenter(tiny.TINY_FLOAT, batch=3, tta=tta) as segmenter:
        from_host = segmenter.segment(image, probabilities=True)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = segmenter.segment_device(on_device(segmenter, image), probabilities=True)
        assert found.probabilities is not None
        ids, shares = on_host(segmenter, found.ids), on_host(segmenter, found.probabilities)
        alone = on_host(segmenter, segmenter.segment_device(on_device(segmenter, image)).ids)
    assert "not finite at 1 pixel" in caplog.text
    assert np.argwhere(expected.ids == 255).tolist() == lost
    np.testing.assert_array_equal(alone, expected.ids)
    assert_same(from_host, expected)
    assert_same(Segmentation(ids=ids, probabilities=shares), expected)


def on_device(segmenter: Segmenter, image: NDArray[Any]) -> DeviceArray:
    """The image in the GPU's memory, with the strides that it has."""
    base = image if image.base is None else image.base
    device = segmenter.engine.gpu  # type: ignore[attr-defined]
    memory, offset = device.allocate(base.nbytes), image.ctypes.data - base.ctypes.data
    with device.active():
        stream = device.stream()
        stream.copy_in(memory.pointer, base)
        stream.synchronize()
    return DeviceArray(
        pointer=memory.pointer + offset, shape=image.shape, dtype=image.dtype, strides=image.strides, device=0,
        owner=memory,
    )  # fmt: skip


def on_host(segmenter: Segmenter, array: DeviceArray) -> NDArray[Any]:
    device, found = segmenter.engine.gpu, np.empty(array.shape, array.dtype)  # type: ignore[attr-defined]
    with device.active():
        stream = device.stream()
        stream.copy_out(found, array.pointer)
        stream.synchronize()
    return found


def assert_same(found: Segmentation, expected: Segmentation) -> None:
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.probabilities is not None and expected.probabilities is not None
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tta", [False, True], ids=["upright", "tta"])
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.stem)
def test_a_mask_is_that_of_the_host(bundle: Path, tta: bool, graphs: bool) -> None:
    image = image_of(bundle)
    with Segmenter(bundle, batch=3, tta=tta) as segmenter:
        found = segmenter.segment(image, probabilities=True)
        again = segmenter.segment(image, probabilities=False)
    assert_same(found, expected_of(bundle, image, batch=3, tta=tta))
    np.testing.assert_array_equal(again.ids, found.ids)


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
def test_the_result_does_not_depend_on_the_batch(batch: int) -> None:
    image = image_of(tiny.TINY)
    with Segmenter(tiny.TINY, batch=batch) as segmenter:
        found = segmenter.segment(image, probabilities=True)
    assert_same(found, expected_of(tiny.TINY, image))


def test_scene_blocks_of_a_global_context(graphs: bool) -> None:
    image = image_of(tiny.TINY_GLOBAL, 70, 60)
    with Segmenter(tiny.TINY_GLOBAL, batch=3, scene_size=24) as segmenter:
        found = segmenter.segment(image, probabilities=True)
        bundle = segmenter.bundle
    network = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), 3)
    ids = np.concatenate([row.ids for row in segment_rows(network, ArraySource(image))])
    np.testing.assert_array_equal(found.ids, ids)
    assert (ids != expected_of(tiny.TINY_GLOBAL, image).ids).any()


def test_a_file_becomes_a_file(tmp_path: Path) -> None:
    image = image_of(tiny.TINY, 60, 40)
    source = write_geotiff(tmp_path / "image.tif", image)
    with Segmenter(tiny.TINY, batch=3) as segmenter:
        report = segmenter.segment_file(source, Paths(mask=tmp_path / "mask.tif"))
    np.testing.assert_array_equal(read_thumbnail(tmp_path / "mask.tif", 60, 40), expected_of(tiny.TINY, image).ids)
    assert sum(report.pixels.values()) == image.shape[0] * image.shape[1]


@pytest.mark.parametrize("tta", [False, True], ids=["upright", "tta"])
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.stem)
def test_an_image_on_the_gpu_gives_a_mask_on_the_gpu(bundle: Path, tta: bool, graphs: bool) -> None:
    image = image_of(bundle)
    with Segmenter(bundle, batch=3, tta=tta) as segmenter:
        found = segmenter.segment_device(on_device(segmenter, image), probabilities=True)
        again = segmenter.segment_device(on_device(segmenter, image))
        assert found.probabilities is not None and again.probabilities is None
        ids, shares = on_host(segmenter, found.ids), on_host(segmenter, found.probabilities)
        np.testing.assert_array_equal(on_host(segmenter, again.ids), ids)
    assert_same(Segmentation(ids=ids, probabilities=shares), expected_of(bundle, image, batch=3, tta=tta))


@pytest.mark.parametrize("view", [np.s_[::2], np.s_[:, ::-1], np.s_[5:, 3:, ::-1]], ids=["rows", "columns", "bands"])
def test_strides_are_respected(view: Any) -> None:
    image = image_of(tiny.TINY, 90, 50)[view]
    with Segmenter(tiny.TINY, batch=3) as segmenter:
        ids = on_host(segmenter, segmenter.segment_device(on_device(segmenter, image)).ids)
    np.testing.assert_array_equal(ids, expected_of(tiny.TINY, np.ascontiguousarray(image)).ids)


@pytest.mark.parametrize("change", ["dtype", "bands", "axes"])
def test_another_kind_of_image_is_refused(change: str) -> None:
    image = image_of(tiny.TINY)
    wrong = {"dtype": image.astype(np.uint16), "bands": image[:, :, :2].copy(), "axes": image[:, :, 0].copy()}[change]
    with Segmenter(tiny.TINY) as segmenter:
        array = on_device(segmenter, wrong)
        with pytest.raises(RasterError, match=r"expected an image \(height, width, 3\) of uint8, found"):
            segmenter.segment_device(array)


def test_an_image_in_host_memory_is_refused() -> None:
    with Segmenter(tiny.TINY) as segmenter, pytest.raises(InputError, match=r"host memory .*use segment\(\)"):
        segmenter.segment_device(image_of(tiny.TINY))


def test_several_threads_share_one(graphs: bool) -> None:
    images = [image_of(tiny.TINY, 40 + 7 * index, 50) for index in range(4)]
    found: dict[int, Segmentation] = {}
    with Segmenter(tiny.TINY, batch=3) as segmenter:

        def work(index: int) -> None:
            for _ in range(3):
                found[index] = segmenter.segment(images[index], probabilities=True)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, image in enumerate(images):
        assert_same(found[index], expected_of(tiny.TINY, image))


def test_a_mask_on_the_gpu_outlives_the_segmenter() -> None:
    image = image_of(tiny.TINY)
    with Segmenter(tiny.TINY, batch=3) as segmenter:
        ids = segmenter.segment_device(on_device(segmenter, image)).ids
    assert simulated.report()["memory"] == 1
    found = np.empty(ids.shape, ids.dtype)
    ctypes.memmove(found.ctypes.data, ids.pointer, found.nbytes)  # the simulated GPU's memory is the host's
    np.testing.assert_array_equal(found, expected_of(tiny.TINY, image).ids)
    del ids, segmenter
    gc.collect()
    left = simulated.report()
    assert {name: count for name, count in left.items() if name not in ("launches", "contexts") and count} == {}


def test_nothing_is_left_behind() -> None:
    with Segmenter(tiny.TINY_GLOBAL, batch=3, tta=True) as segmenter:
        segmenter.segment(image_of(tiny.TINY_GLOBAL), probabilities=True)
    left = simulated.report()
    assert {name: count for name, count in left.items() if name not in ("launches", "contexts") and count} == {}


def test_memory_does_not_grow_from_image_to_image() -> None:
    with Segmenter(tiny.TINY_GLOBAL, batch=3) as segmenter:
        segmenter.segment(image_of(tiny.TINY_GLOBAL))
        before = simulated.report()
        for _ in range(5):
            segmenter.segment(image_of(tiny.TINY_GLOBAL))
        after = simulated.report()
    assert {name: after[name] for name in ("memory", "pinned", "bytes", "events", "graphs", "streams")} == {
        name: before[name] for name in ("memory", "pinned", "bytes", "events", "graphs", "streams")
    }


def test_a_reader_that_fails_is_heard_and_the_next_image_is_right(tmp_path: Path) -> None:
    with Segmenter(tiny.TINY, batch=2) as segmenter:
        with pytest.raises(RasterError):
            segmenter.segment_file(tmp_path / "nothing.tif", Paths(mask=tmp_path / "mask.tif"))
        image = image_of(tiny.TINY)
        assert_same(segmenter.segment(image, probabilities=True), expected_of(tiny.TINY, image))


def limited(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """Let allocations beyond a number of bytes fail as the driver's do."""
    from fctl.runtime.cuda.driver import Device

    allocate = Device.allocate

    def limited_allocate(self: Device, nbytes: int) -> Any:
        if nbytes > largest:
            raise DeviceMemoryError("CUDA: cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY")
        return allocate(self, nbytes)

    monkeypatch.setattr(Device, "allocate", limited_allocate)


def test_out_of_memory_halves_the_batch_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limited(monkeypatch, 3 * 16 * 16 * 4 * 2)  # the scores of two tiles
    image = image_of(tiny.TINY, 30, 30)
    monkeypatch.setattr(engines.StreamEngine, "closed", [])
    gc.disable()  # what a smaller batch needs must be free at once
    with caplog.at_level(logging.WARNING), Segmenter(tiny.TINY, batch=8) as segmenter:
        found = segmenter.segment(image)
    assert [record.getMessage().split(":")[0] for record in caplog.records][:2] == [
        "out of memory at batch 8, trying 4", "out of memory at batch 4, trying 2",
    ]  # fmt: skip
    gc.enable()
    assert set(engines.StreamEngine.closed) == {8, 4, 2}
    np.testing.assert_array_equal(found.ids, expected_of(tiny.TINY, image).ids)


def test_out_of_memory_at_batch_1_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 100)
    with pytest.raises(DeviceMemoryError, match="OUT_OF_MEMORY"):
        Segmenter(tiny.TINY, batch=2)
    assert simulated.report()["memory"] == 0


def test_a_raster_too_wide_for_the_gpu_is_merged_on_the_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = image_of(tiny.TINY, 40, 300)
    with Segmenter(tiny.TINY, batch=3) as segmenter:
        limited(monkeypatch, 4 * 3 * 16 * 300 - 1)  # the sums
        with caplog.at_level(logging.WARNING):
            found = segmenter.segment(image, probabilities=True)
        merger = segmenter._loaded().accumulator(_grid(segmenter, image).region(), (UPRIGHT,), False)
    assert isinstance(merger, HostAccumulator)
    assert "merging on the host" in caplog.text
    assert_same(found, expected_of(tiny.TINY, image))


def _grid(segmenter: Segmenter, image: NDArray[Any]) -> Any:
    from fctl.runtime.segment.batches import grid_of

    return grid_of(segmenter.manifest, *image.shape[:2])


def test_graphs_are_captured_once_for_each_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(10000, 0, -1))
    monkeypatch.setattr(runner.Runner, "_seconds", lambda self, run: (run(), next(times))[1])
    with Segmenter(tiny.TINY, batch=2) as segmenter:
        segmenter.segment(image_of(tiny.TINY))
        runs = len(segmenter.engine.sessions["segmenter", 2].runs)  # type: ignore[attr-defined]
        segmenter.segment(image_of(tiny.TINY))
        assert len(segmenter.engine.sessions["segmenter", 2].runs) == runs  # type: ignore[attr-defined]
    assert runs > 2


@pytest.mark.parametrize("turns", [(UPRIGHT,), DIHEDRAL], ids=["upright", "tta"])
@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_ONCE], ids=lambda path: str(path.stem))
def test_regions_give_the_bytes_of_the_whole(bundle: Path, turns: tuple[Turn, ...]) -> None:
    """As on the host, see tests/runtime/segment/test_regions.py."""
    source = ArraySource(image_of(bundle, 100, 50))
    with Segmenter(bundle, batch=3) as segmenter:
        network = segmenter._loaded()
        grid = _grid(segmenter, source.pixels)
        regions = [
            grid.region(rows, columns)
            for rows in pairwise((0, 1, 4, len(grid.rows)))
            for columns in pairwise((0, 2, len(grid.columns)))
        ]
        rows = list(segment_rows(network, source, probabilities=True, turns=turns))
        whole_ids = np.concatenate([part.ids for part in rows])
        whole_probabilities = np.concatenate([cast(Any, part.probabilities) for part in rows], axis=1)
        pipeline = Pipeline(network, source, probabilities=True, turns=turns)
        ids, probabilities = np.zeros_like(whole_ids), np.zeros_like(whole_probabilities)
        for region in regions:
            for block in pipeline.blocks(region):
                here = np.s_[block.y : block.window.bottom, block.x : block.window.right]
                ids[here] = block.ids
                probabilities[(slice(None), *here)] = block.probabilities
    assert ids.tobytes() == whole_ids.tobytes()
    assert probabilities.tobytes() == whole_probabilities.tobytes()
