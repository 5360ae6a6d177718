from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fctl.runtime.cuda.arrays import DeviceArray
from fctl.runtime.cuda.driver import Device, Stream, open_device
from fctl.runtime.cuda.kernels import DTYPES, KernelSet, Sums
from fctl.runtime.errors import InputError
from fctl.runtime.tiling.merge import WEIGHTS, Merger, Strip, covered
from fctl.runtime.tiling.resampling import Resampling, resample
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.turns import DIHEDRAL, Turn
from fctl.runtime.tiling.windows import Grid, TilePlan, Window


class Gpu:
    """A device, one stream and the kernels, with arrays in and out."""

    def __init__(self) -> None:
        self.device: Device = open_device()
        self.stream: Stream = self.device.stream()
        self.kernels = KernelSet(self.device)
        self._kept: list[DeviceArray] = []  # as long as work in the queue may read them

    def place(self, array: NDArray[np.generic]) -> DeviceArray:
        """A copy on the device, with the strides of the array, which must lie in one block."""
        block = array
        while isinstance(block.base, np.ndarray):
            block = block.base
        memory = self.device.allocate(block.nbytes)
        self.stream.copy_in(memory.pointer, np.ascontiguousarray(block) if block.flags.c_contiguous else block.T)
        self.stream.synchronize()
        offset = array.__array_interface__["data"][0] - block.__array_interface__["data"][0]
        placed = DeviceArray(
            pointer=memory.pointer + offset, shape=array.shape, dtype=array.dtype, strides=array.strides,
            device=0, owner=memory,
        )  # fmt: skip
        self._kept.append(placed)
        return placed

    def fetch(self, pointer: int, shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
        target = np.zeros(shape, dtype)
        self.stream.copy_out(target, pointer)
        self.stream.synchronize()
        return target


@pytest.fixture(scope="module")
def gpu() -> Iterator[Gpu]:
    gpu = Gpu()
    with gpu.device.active():
        yield gpu
    gpu.device.close()


def noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> NDArray[np.generic]:
    if dtype == "float32":
        return (rng.standard_normal(shape) * 1000).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


WINDOWS = (Window(3, 5, 12, 12), Window(-4, -7, 12, 12), Window(30, 40, 20, 20), Window(-5, -6, 61, 67))


@pytest.mark.parametrize("turn", DIHEDRAL, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_are_cut_as_on_the_host(gpu: Gpu, rng: np.random.Generator, dtype: str, turn: Turn) -> None:
    image = noise(rng, (47, 53, 3), dtype)
    placed, target = gpu.place(image), gpu.device.allocate(3 * 61 * 67 * 4)
    for window in WINDOWS:
        expected = turn.pixels(read_padded(ArraySource(image), window).transpose(2, 0, 1))
        gpu.kernels.cut(gpu.stream, placed, window, target.pointer, turn)
        np.testing.assert_array_equal(gpu.fetch(target.pointer, expected.shape, dtype), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_may_lie_in_any_order(gpu: Gpu, rng: np.random.Generator, dtype: str) -> None:
    planes, wide = noise(rng, (3, 47, 53), dtype), noise(rng, (94, 53, 4), dtype)
    target = gpu.device.allocate(3 * 12 * 12 * 4)
    for image in (planes.transpose(1, 2, 0), wide[::2, ::-1, 1:], wide[::-2, :, ::-1][..., :3]):
        window = Window(40, -3, 12, 12)
        expected = read_padded(ArraySource(image), window).transpose(2, 0, 1)
        gpu.kernels.cut(gpu.stream, gpu.place(image), window, target.pointer)
        np.testing.assert_array_equal(gpu.fetch(target.pointer, expected.shape, dtype), expected)


@pytest.mark.parametrize("resampling", ["box", "pillow-bilinear"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_resampling_is_pillows(
    gpu: Gpu, rng: np.random.Generator, dtype: str, resampling: Resampling, bands: int
) -> None:
    image = noise(rng, (97, 89, bands), dtype)
    placed, target = gpu.place(image), gpu.device.allocate(bands * 40 * 40 * 4)
    for size in (7, 12, 40):
        for window in (*WINDOWS, Window(10, 10, 12, 24), Window(-20, 3, 90, size), Window(0, 0, 97, 89)):
            expected = resample(read_padded(ArraySource(image), window), size, resampling).transpose(2, 0, 1)
            gpu.kernels.resample(gpu.stream, placed, window, size, resampling, target.pointer)
            np.testing.assert_array_equal(gpu.fetch(target.pointer, expected.shape, dtype), expected)


@given(
    sides=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    corner=st.tuples(st.integers(-30, 20), st.integers(-30, 20)),
    size=st.integers(1, 33),
    resampling=st.sampled_from(["box", "pillow-bilinear"]),
    dtype=st.sampled_from(DTYPES),
    turn=st.sampled_from(DIHEDRAL),
)
@settings(max_examples=150, deadline=None, database=None)
def test_any_window_is_resampled_and_turned_as_on_the_host(
    gpu: Gpu, sides: tuple[int, int], corner: tuple[int, int], size: int, resampling: Resampling, dtype: str, turn: Turn
) -> None:
    image, window = noise(np.random.default_rng(1), (31, 37, 2), dtype), Window(*corner, *sides)
    if window.within(31, 37) is None:
        return
    expected = turn.pixels(resample(read_padded(ArraySource(image), window), size, resampling).transpose(2, 0, 1))
    placed, target = gpu.place(image), gpu.device.allocate(expected.nbytes)
    gpu.kernels.resample(gpu.stream, placed, window, size, resampling, target.pointer, turn)
    np.testing.assert_array_equal(gpu.fetch(target.pointer, expected.shape, dtype), expected)


def test_large_shrinks_are_exact_too(gpu: Gpu, rng: np.random.Generator) -> None:
    for dtype, resampling in (("uint8", "box"), ("float32", "pillow-bilinear"), ("uint16", "box")):
        image = noise(rng, (700, 1500, 1), dtype)
        expected = resample(image, 37, resampling).transpose(2, 0, 1)  # type: ignore[arg-type]
        target = gpu.device.allocate(expected.nbytes)
        gpu.kernels.resample(gpu.stream, gpu.place(image), Window(0, 0, 700, 1500), 37, resampling, target.pointer)  # type: ignore[arg-type]
        np.testing.assert_array_equal(gpu.fetch(target.pointer, expected.shape, dtype), expected)


def test_a_stack_is_black_where_there_are_fewer_windows(gpu: Gpu, rng: np.random.Generator) -> None:
    image = noise(rng, (47, 53, 3), "uint8")
    target = gpu.device.allocate(5 * 3 * 12 * 12)
    windows, turn = WINDOWS[:3], Turn(mirrored=True, quarters=1)
    gpu.kernels.cut_stack(gpu.stream, gpu.place(image), windows, 12, "box", 5, target.pointer, turn)
    found = gpu.fetch(target.pointer, (5, 3, 12, 12), "uint8")
    for index, window in enumerate(windows):
        expected = resample(read_padded(ArraySource(image), window), 12, "box").transpose(2, 0, 1)
        np.testing.assert_array_equal(found[index], turn.pixels(expected))
    assert not found[3:].any()


def test_what_the_kernels_cannot_read_is_refused(gpu: Gpu) -> None:
    target = gpu.device.allocate(100)
    for image in (np.zeros((4, 4, 1), np.int32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), ">u2")):
        with pytest.raises(InputError, match=r"expected a \(height, width, bands\) image of uint8"):
            gpu.kernels.cut(gpu.stream, gpu.place(image), Window(0, 0, 4, 4), target.pointer)
    odd = DeviceArray(
        pointer=target.pointer + 1, shape=(2, 2, 1), dtype=np.dtype("uint16"), strides=(4, 2, 2), device=0, owner=None
    )
    with pytest.raises(InputError, match="aligned uint16"):
        gpu.kernels.cut(gpu.stream, odd, Window(0, 0, 2, 2), target.pointer)


def merge(gpu: Gpu, grid: Grid, rule: str, scores: NDArray[np.float32], mode: str) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    """Ids and scores (or probabilities) of a raster, its tiles added on the GPU in the same order as on the host."""
    classes = scores.shape[1]
    weight = WEIGHTS[rule](grid.tile)
    rows, columns = covered(grid.rows, grid.height, weight), covered(grid.columns, grid.width, weight)
    sums_at = gpu.device.allocate(4 * classes * grid.tile * grid.width)
    gpu.stream.fill(sums_at.pointer, 0, sums_at.nbytes)
    placed = [gpu.place(array) for array in (weight, rows, columns, scores)]
    sums = Sums(
        sums=sums_at.pointer, weight=placed[0].pointer, rows=placed[1].pointer, columns=placed[2].pointer,
        classes=classes, tile=grid.tile, height=grid.height, width=grid.width,
    )  # fmt: skip
    ids_at, values_at = gpu.device.allocate(grid.tile * grid.width), gpu.device.allocate(sums_at.nbytes)
    ids, values = [], []

    def finish(y: int, rows: int) -> None:
        wanted = None if mode == "ids" else values_at.pointer
        gpu.kernels.finish(gpu.stream, sums, y, rows, ids_at.pointer, wanted, softmax=mode == "softmax")
        ids.append(gpu.fetch(ids_at.pointer, (rows, grid.width), "uint8"))
        if wanted:
            values.append(gpu.fetch(values_at.pointer, (classes, rows, grid.width), "float32"))

    y = 0
    for index, tile in enumerate(grid):
        if tile.y > y:
            finish(y, tile.y - y)
            y = tile.y
        gpu.kernels.add_tile(gpu.stream, sums, tile, placed[3].pointer + 4 * index * classes * grid.tile**2)
    finish(y, grid.height - y)
    return np.concatenate(ids), np.concatenate(values, axis=1) if values else np.zeros(0)


@pytest.mark.parametrize("rule", sorted(WEIGHTS))
@pytest.mark.parametrize(("height", "width"), [(40, 50), (16, 16), (9, 31), (37, 5), (64, 33)])
@pytest.mark.parametrize("plan", [TilePlan(kind="stride", overlap=3), TilePlan(kind="even", overlap=0)], ids=str)
def test_tiles_are_merged_as_on_the_host(
    gpu: Gpu, rng: np.random.Generator, rule: str, height: int, width: int, plan: TilePlan
) -> None:
    grid = Grid.over(height, width, 16, plan)
    scores = (rng.standard_normal((len(grid), 5, 16, 16)) * 5).astype(np.float32)
    scores[:, 3] = np.where(rng.random(scores[:, 3].shape) < 0.5, scores[:, 1], scores[:, 3])  # ties
    merger = Merger(grid.region(), 5, rule)
    strips: list[Strip] = [*merger.add(list(grid), scores), *merger.flush()]
    ids, _ = merge(gpu, grid, rule, scores, "ids")
    np.testing.assert_array_equal(ids, np.concatenate([strip.ids() for strip in strips]))
    ids, values = merge(gpu, grid, rule, scores, "scores")
    np.testing.assert_array_equal(ids, np.concatenate([strip.ids() for strip in strips]))
    np.testing.assert_array_equal(values, np.concatenate([strip.scores for strip in strips], axis=1))
    _, values = merge(gpu, grid, rule, scores, "softmax")
    expected = np.concatenate([strip.probabilities() for strip in strips], axis=1)
    np.testing.assert_allclose(values, expected, rtol=2e-6, atol=1e-9)


def test_nan_and_infinity_are_treated_as_on_the_host(gpu: Gpu) -> None:
    grid = Grid.over(8, 8, 8, TilePlan(kind="stride", overlap=0))
    values = np.array([np.nan, -np.inf, np.inf, 0.0, -0.0, 1.0, -1.0], np.float32)
    scores = values[np.random.default_rng(3).integers(0, len(values), (1, 4, 8, 8))]
    merger = Merger(grid.region(), 4, "uniform")
    assert not list(merger.add(list(grid), scores))
    (strip,) = merger.flush()
    ids, values = merge(gpu, grid, "uniform", scores, "scores")
    np.testing.assert_array_equal(ids, strip.ids())
    np.testing.assert_array_equal(values, Strip(strip.y, strip.x, strip.scores, "probabilities").probabilities())
    lost = ~np.isfinite(scores[0]).all(axis=0)
    np.testing.assert_array_equal(ids == 255, lost)
    np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(lost, values.shape))
    assert 0 < lost.sum() < 64
    _, values = merge(gpu, grid, "uniform", scores, "softmax")
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(values, strip.probabilities(), rtol=2e-6)


def test_scores_that_are_not_finite_are_counted(gpu: Gpu) -> None:
    grid = Grid.over(8, 8, 8, TilePlan(kind="stride", overlap=0))
    scores = np.zeros((3, 8, 8), np.float32)
    scores[1, 2, 3], scores[2, 4, 5], scores[0, 4, 5] = np.nan, np.inf, -np.inf
    ones, placed = np.ones(8, np.float32), gpu.place(scores)
    weight = gpu.place(ones).pointer
    sums = Sums(
        sums=gpu.place(scores * 0).pointer, weight=weight, rows=weight, columns=weight, classes=3, tile=8, height=8,
        width=8,
    )  # fmt: skip
    ids, lost = gpu.device.allocate(64), gpu.place(np.array([5], np.uint32))
    gpu.stream.fill(sums.sums, 0, scores.nbytes)
    gpu.kernels.add_tile(gpu.stream, sums, next(iter(grid)), placed.pointer)
    gpu.kernels.finish(gpu.stream, sums, 0, 8, ids.pointer, lost=lost.pointer)
    assert gpu.fetch(lost.pointer, (1,), "uint32").tolist() == [5 + 2]
    assert np.argwhere(gpu.fetch(ids.pointer, (8, 8), "uint8") == 255).tolist() == [[2, 3], [4, 5]]


def with_holes(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Floats, some of which are no measurements, and some of which only just are."""
    image = noise(rng, shape, "float32").astype(np.float32)
    odd = np.array([np.nan, np.inf, -np.inf, -3.4e38, 1.1e30, 1e30, -1e30, 0.0, -0.0], np.float32)
    places = rng.random(shape) < 0.2
    image[places] = rng.choice(odd, int(places.sum()))
    return image


def test_floats_without_data_are_cut_and_resampled_as_on_the_host(gpu: Gpu, rng: np.random.Generator) -> None:
    image = with_holes(rng, (47, 53, 3))
    placed, target = gpu.place(image), gpu.device.allocate(3 * 61 * 67 * 4)
    for window in WINDOWS:
        expected = read_padded(ArraySource(image), window).transpose(2, 0, 1)
        assert np.isfinite(expected).all()
        gpu.kernels.cut(gpu.stream, placed, window, target.pointer)
        np.testing.assert_array_equal(gpu.fetch(target.pointer, expected.shape, "float32"), expected)
        expected = resample(read_padded(ArraySource(image), window), 7, "box").transpose(2, 0, 1)
        gpu.kernels.resample(gpu.stream, placed, window, 7, "box", target.pointer)
        np.testing.assert_array_equal(gpu.fetch(target.pointer, expected.shape, "float32"), expected)


def test_floats_without_data_are_masked_as_on_the_host(gpu: Gpu, rng: np.random.Generator) -> None:
    image = with_holes(rng, (94, 53, 4))[::2, ::-1, 1:]
    valid = ArraySource(image).valid(Window(0, 0, 47, 53))
    assert valid is not None
    ids, shares = np.full((47, 53), 2, np.uint8), np.full((5, 47, 53), 0.2, np.float32)
    placed = gpu.place(ids), gpu.place(shares)
    gpu.kernels.mask_missing(gpu.stream, gpu.place(image), 5, placed[0].pointer, placed[1].pointer)
    found = gpu.fetch(placed[0].pointer, ids.shape, "uint8"), gpu.fetch(placed[1].pointer, shares.shape, "float32")
    np.testing.assert_array_equal(found[0], np.where(valid, 2, 255))
    np.testing.assert_array_equal(found[1], np.where(valid, shares, np.float32(np.nan)))
    gpu.kernels.mask_missing(gpu.stream, gpu.place(image), 5, gpu.place(ids).pointer)
    gpu.stream.synchronize()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_turned_scores_are_averaged_as_on_the_host(gpu: Gpu, rng: np.random.Generator, count: int) -> None:
    shape = (2, 3, 21, 21)
    turned = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
    total_at, expected = gpu.device.allocate(turned[0].nbytes), None
    for index, (turn, scores) in enumerate(zip(DIHEDRAL, turned, strict=False)):
        scores_at = gpu.place(scores)
        gpu.kernels.add_turned(gpu.stream, total_at.pointer, scores_at.pointer, shape, turn, begin=index == 0)
        gpu.stream.synchronize()
        back = turn.back(scores)
        expected = back if expected is None else expected + back
    gpu.kernels.divide(gpu.stream, total_at.pointer, turned[0].size, count)
    assert expected is not None
    np.testing.assert_array_equal(gpu.fetch(total_at.pointer, shape, "float32"), expected / np.float32(count))


def test_working_memory_grows_and_is_given_back(gpu: Gpu, rng: np.random.Generator) -> None:
    image = gpu.place(noise(rng, (64, 64, 1), "float32"))
    target = gpu.device.allocate(4 * 4 * 4)
    before = gpu.device.free_memory()[0]
    for side in (8, 64, 8):
        gpu.kernels.resample(gpu.stream, image, Window(0, 0, side, side), 4, "box", target.pointer)
    gpu.stream.synchronize()
    assert gpu.device.free_memory()[0] < before
    gpu.kernels.forget()
    assert gpu.device.free_memory()[0] >= before
