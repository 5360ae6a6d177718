"""Awkwardly blocked rasters, copied once into small tiles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import OutputError, RasterError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.raster.spool import needs_spooling, spool_memory, spool_windows, spooled, spooled_bytes
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime.raster.decoding import counted
from tests.runtime.raster.test_blocks import corrupt

Array = NDArray[Any]
SIDES = (500, 700)
ONE_BLOCK = {"tiled": True, "blockxsize": 704, "blockysize": 512}
STRIPS = {"blockysize": 4}
TILES = {"tiled": True, "blockxsize": 64, "blockysize": 64}


def spec(dtype: str) -> InputSpec:
    return InputSpec(bands=3, dtype=dtype, scaling=None, ground_sample_distance=None)


def image_of(rng: np.random.Generator, dtype: str) -> Array:
    image = rng.integers(0, 60, (*SIDES, 3)).astype(dtype)  # with zeros
    if dtype == "float32":
        image[100:150, 20:50, 1] = np.nan
        image[300:320, 500:600] = -9999
    return image


@pytest.mark.once
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("profile", [ONE_BLOCK, STRIPS, TILES], ids=["one block", "strips", "tiles"])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", None), ("uint16", 0), ("float32", None), ("float32", 7)])
def test_the_copy_gives_the_same_bytes(
    tmp_path: Path, rng: np.random.Generator, profile: dict[str, Any], interleave: str, dtype: str, nodata: float | None
) -> None:
    path = write_geotiff(
        tmp_path / "a.tif", image_of(rng, dtype), compress="deflate", nodata=nodata, interleave=interleave, **profile
    )
    windows = [Window(0, 0, *SIDES), Window(13, 250, 300, 270), Window(499, 699, 1, 1)]
    with open_raster(path, spec(dtype), None) as source:
        expected = [(source.read(windows[0]), source.valid(windows[0]))]
        implausible = source.implausible
        expected += [(source.read(window), source.valid(window)) for window in windows[1:]]
    (folder := tmp_path / "work").mkdir()
    with open_raster(path, spec(dtype), None) as source, spooled(source, folder, working=100_000) as copy:
        for window, (pixels, valid) in zip(windows, expected, strict=True):
            found, holds = copy.read(window), copy.valid(window)
            assert (found.dtype, found.shape) == (pixels.dtype, pixels.shape)
            np.testing.assert_array_equal(found, pixels)
            assert (holds is None) == (valid is None)
            np.testing.assert_array_equal(True if holds is None else holds, True if valid is None else valid)
        assert (copy.height, copy.width, copy.name, copy.implausible) == (*SIDES, str(path), implausible)
        assert copy.georeference == source.georeference
        np.testing.assert_array_equal(copy.thumbnail(9, 11), source.thumbnail(9, 11))
        assert sum(file.stat().st_size for file in folder.iterdir()) < spooled_bytes(source) + 20_000
        assert copy.block_bytes == 256 * 256 * 3 * np.dtype(dtype).itemsize


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("profile", [ONE_BLOCK, STRIPS, TILES], ids=["one block", "strips", "tiles"])
def test_a_copy_decodes_each_block_once(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, profile: dict[str, Any], interleave: str
) -> None:
    image = image_of(rng, "uint8")
    path = write_geotiff(tmp_path / "a.tif", image, compress="deflate", interleave=interleave, **profile)
    with counted(path, monkeypatch) as counts:
        with open_raster(path, spec("uint8"), None, cache=1) as source, spooled(source, tmp_path, 50_000) as copy:
            for x in range(0, 700, 100):
                for y in range(0, 500, 100):
                    part = copy.read(Window(y, x, 100, 100))
                    np.testing.assert_array_equal(part, image[y : y + 100, x : x + 100])
        assert set(Counter(counts.values())) == {1}


def test_blocks_that_are_bad_are_missing_in_the_copy(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_geotiff(tmp_path / "a.tif", image_of(rng, "uint8"), compress="deflate", interleave="pixel", **TILES)
    corrupt(path, 30)
    with open_raster(path, spec("uint8"), None, on_bad_block="nodata") as source, spooled(source, tmp_path) as copy:
        assert copy.bad_blocks == (Window(128, 512, 64, 64),)
        valid = copy.valid(Window(0, 0, *SIDES))
        assert valid is not None
        assert np.argwhere(~valid).min(axis=0).tolist() == [128, 512]
        assert (~valid).sum() == 64 * 64
    with (
        open_raster(path, spec("uint8"), None) as source,
        pytest.raises(RasterError, match="cannot read rows"),
        spooled(source, tmp_path),
    ):
        pass


def test_a_copy_that_cannot_be_written_is_an_error_that_says_how_much_room_it_takes(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = write_geotiff(tmp_path / "a.tif", image_of(rng, "uint8"))
    with (
        open_raster(path, spec("uint8"), None) as source,
        pytest.raises(OutputError, match=r"make room for \d+ bytes"),
        spooled(source, tmp_path / "gone"),
    ):
        pass


def test_a_full_disk_is_an_error(tmp_path: Path, rng: np.random.Generator) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = write_geotiff(tmp_path / "a.tif", image_of(rng, "uint8"))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open_raster(path, spec("uint8"), None) as source, pytest.raises(OutputError, match="make room"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
            with spooled(source, tmp_path):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


class Shape:
    """A raster by its shape alone, three bands of bytes."""

    def __init__(self, height: int, width: int, block: tuple[int, int]) -> None:
        self.height, self.width, self.block_shape = height, width, block
        self.block_bytes = 3 * block[0] * block[1]


@pytest.mark.parametrize(
    ("shape", "panel", "rows", "expected"),
    [
        (Shape(100_000, 100_000, (512, 512)), 5000, 1000, False),  # a block lies in two panels at most
        (Shape(100_000, 100_000, (1, 100_000)), 5000, 1000, True),  # each strip would be decoded for 20 panels
        (Shape(100_000, 3000, (1, 3000)), 5000, 1000, False),  # one panel
        (Shape(20_000, 20_000, (20_000, 20_000)), 20_000, 1000, True),  # the block does not fit the cache
        (Shape(4000, 4000, (4000, 4000)), 4000, 1000, False),  # it does
        (Shape(100_000, 60_000, (8192, 60_000)), 60_000, 100, True),
        (Shape(9000, 9000, (16, 9000)), 5000, 500, False),  # two panels: twice
    ],
)
def test_when_a_copy_is_worth_it(shape: Shape, panel: int, rows: int, expected: bool) -> None:
    assert needs_spooling(shape, panel, rows, 100 << 20) is expected


@pytest.mark.parametrize("profile", [ONE_BLOCK, STRIPS, TILES], ids=["one block", "strips", "tiles"])
@pytest.mark.parametrize("working", [1, 1000, 100_000, 10_000_000])
def test_windows_cover_the_raster_once_and_are_small(
    tmp_path: Path, rng: np.random.Generator, profile: dict[str, Any], working: int
) -> None:
    path = write_geotiff(tmp_path / "a.tif", image_of(rng, "uint8"), **profile)
    with open_raster(path, spec("uint8"), None) as source:
        covered = np.zeros(SIDES, np.uint8)
        for window in spool_windows(source, working):
            covered[window.y : window.bottom, window.x : window.right] += 1
            row = 3 * min(source.block_shape[1], 700)
            assert 3 * window.height * window.width <= max(working, row)
    assert (covered == 1).all()


def test_an_image_without_a_place_is_copied_without_warnings(
    tmp_path: Path, rng: np.random.Generator, recwarn: pytest.WarningsRecorder
) -> None:
    path = write_geotiff(tmp_path / "a.tif", image_of(rng, "uint8"), crs=None, transform=rasterio.Affine.identity())
    recwarn.clear()
    with open_raster(path, spec("uint8"), None) as source, spooled(source, tmp_path) as copy:
        copy.read(Window(0, 0, 10, 10))
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize(("interleave", "most"), [("pixel", 1_800_000), ("band", 1_400_000)])
def test_the_memory_of_one_block_is_known(tmp_path: Path, rng: np.random.Generator, interleave: str, most: int) -> None:
    path = write_geotiff(tmp_path / "a.tif", image_of(rng, "uint8"), interleave=interleave, **ONE_BLOCK)
    with open_raster(path, spec("uint8"), None) as source:
        assert source.block_bytes == 704 * 512 * 3
        assert source.block_bytes <= source.block_memory <= source.block_bytes * 4 // 3
        assert source.block_memory < spool_memory(source, 0) < most + 2 * 256 * 700 * 3
