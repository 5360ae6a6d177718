"""Blocks that cannot be read, and how often those that can are decoded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.raster.source import OnBadBlock, RasterSource, open_raster
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime.raster.decoding import block_starts, counted

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

Array = NDArray[Any]
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}


def spec(bands: int = 3, dtype: str = "uint8") -> InputSpec:
    return InputSpec(bands=bands, dtype=dtype, scaling=None, ground_sample_distance=None)


def opened(path: Path, on_bad_block: OnBadBlock = "nodata", bands: int = 3, dtype: str = "uint8") -> Any:
    return open_raster(path, spec(bands, dtype), None, on_bad_block=on_bad_block)


def whole(source: RasterSource) -> Window:
    return Window(0, 0, source.height, source.width)


def corrupt(path: Path, block: int, size: int = 200) -> Path:
    """Overwrite the start of a block of a GeoTIFF, counted in the order of the file."""
    starts = block_starts(path)
    data = bytearray(path.read_bytes())
    data[starts[block] : starts[block] + size] = b"\xaa" * size
    path.write_bytes(data)
    return path


def image_of(rng: np.random.Generator, dtype: str = "uint8") -> Array:
    return rng.integers(1, 256, (200, 200, 3)).astype(dtype)


def check_hole(path: Path, image: Array, hole: Window, dtype: str = "uint8", exact: bool = True) -> None:
    """Everything but the hole is as it was, however the raster is asked."""
    expected = image.copy()
    expected[hole.y : hole.bottom, hole.x : hole.right] = 0
    holds = np.ones(image.shape[:2], np.bool_)
    holds[hole.y : hole.bottom, hole.x : hole.right] = False
    parts = [Window(y, x, 50, 40) for y in range(0, 200, 50) for x in range(0, 200, 40)]
    for valid_first in (False, True):
        for windows in ([Window(0, 0, 200, 200)], parts):
            with opened(path, dtype=dtype) as source:
                for window in windows:
                    valid = source.valid(window) if valid_first else None
                    pixels = source.read(window)
                    valid = valid if valid_first else source.valid(window)
                    area = slice(window.y, window.bottom), slice(window.x, window.right)
                    if exact:
                        np.testing.assert_array_equal(pixels, expected[area])
                    np.testing.assert_array_equal(pixels[~holds[area]], 0)
                    np.testing.assert_array_equal(True if valid is None else valid, holds[area])
                assert source.bad_blocks == (hole,)
                assert source.implausible == 0
                thumbnail = source.thumbnail(10, 10)
                rows, columns = hole.y // 20, hole.x // 20
                assert (thumbnail[rows + 1, columns + 1] == 0).all()
                assert abs(float(thumbnail.mean()) - float(expected.mean())) < 0.05 * float(expected.mean())
    told = "cannot read rows 0 to 200, columns 0 to 200: the file is damaged" if dtype == "uint8" else "cannot read it"
    with pytest.raises(RasterError, match=told), opened(path, "fail", dtype=dtype) as source:  # floats are sampled
        source.read(whole(source))


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_corrupt_tile_costs_only_itself(
    tmp_path: Path, rng: np.random.Generator, dtype: str, interleave: str
) -> None:
    image = image_of(rng, dtype)
    path = write_geotiff(tmp_path / "a.tif", image, compress="deflate", interleave=interleave, **TILED)
    corrupt(path, 5 if interleave == "pixel" else 16 + 5)  # of band 2
    check_hole(path, image, Window(64, 64, 64, 64), dtype)


def test_a_corrupt_jpeg_tile_costs_only_itself(tmp_path: Path, rng: np.random.Generator) -> None:
    profile = {"compress": "jpeg", "photometric": "ycbcr", **TILED}
    path = write_geotiff(tmp_path / "a.tif", image_of(rng), **profile)
    with rasterio.open(path) as dataset:
        decoded = dataset.read().transpose(1, 2, 0)
    check_hole(corrupt(path, 6), decoded, Window(64, 128, 64, 64))


def test_a_corrupt_mask_costs_its_block(tmp_path: Path, rng: np.random.Generator) -> None:
    image = image_of(rng)
    path = write_geotiff(tmp_path / "a.tif", image, compress="deflate", **TILED)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(rng.random((200, 200)) > -1)
    corrupt(path.with_name("a.tif.msk"), 5, 12)
    check_hole(path, image, Window(64, 64, 64, 64))


def test_a_truncated_file_gives_what_is_there(tmp_path: Path, rng: np.random.Generator) -> None:
    image = image_of(rng)
    path = write_geotiff(tmp_path / "a.tif", image, compress="deflate", interleave="pixel", **TILED)
    starts = block_starts(path)
    path.write_bytes(path.read_bytes()[: starts[14] + 10])
    with opened(path) as source:
        pixels, valid = source.read(whole(source)), source.valid(whole(source))
        assert source.bad_blocks == (Window(192, 128, 8, 64), Window(192, 192, 8, 8))
    assert valid is not None
    assert np.argwhere(~valid).min(axis=0).tolist() == [192, 128]
    assert (~valid).sum() == 8 * 72
    np.testing.assert_array_equal(pixels[valid], image[valid])


def test_below_the_damage_of_a_png_there_is_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    path, image = tmp_path / "a.png", image_of(rng)
    Image.fromarray(image).save(path)
    path.write_bytes(path.read_bytes()[:60_000])
    with opened(path) as source:
        pixels, valid = source.read(whole(source)), source.valid(whole(source))
        assert valid is not None
        first = source.bad_blocks[0].y
        assert [window.y for window in source.bad_blocks] == list(range(first, 200))
    assert 50 < first < 150
    assert valid[:first].all() and not valid[first:].any()
    np.testing.assert_array_equal(pixels[:first], image[:first])


def test_bad_blocks_do_not_decide_what_an_alpha_band_or_the_floats_are(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    alpha = np.full((200, 200, 1), 255, np.uint8)
    alpha[150:] = 0
    image = np.dstack([image_of(rng), alpha])
    path = write_geotiff(tmp_path / "a.tif", image, compress="deflate", interleave="pixel", **TILED)
    corrupt(path, 0)
    with opened(path) as source:
        valid = source.valid(whole(source))
        assert valid is not None
        assert (~valid).sum() == 50 * 200 + 64 * 64
        assert source.bad_blocks == (Window(0, 0, 64, 64),)
    with pytest.raises(RasterError, match="damaged or cut short"), opened(path, "fail"):
        pass


def test_a_raster_of_nothing_but_bad_blocks_has_no_data(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_geotiff(tmp_path / "a.tif", image_of(rng, "float32"), compress="deflate", tiled=True)
    corrupt(path, 0)
    with opened(path, dtype="float32") as source:
        assert not source.read(whole(source)).any()
        valid = source.valid(whole(source))
        assert valid is not None and not valid.any()


def test_there_are_two_things_to_do_about_a_bad_block(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_geotiff(tmp_path / "a.tif", image_of(rng))
    with (
        pytest.raises(InputError, match=r"`on_bad_block`: expected"),
        open_raster(
            path,
            spec(),
            None,
            on_bad_block="skip",  # type: ignore[arg-type]
        ),
    ):
        pass


# How often blocks are decoded


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_blocks_are_decoded_once_while_the_cache_holds_them(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, interleave: str
) -> None:
    image = rng.integers(1, 256, (512, 512, 3), np.uint8)
    path = write_geotiff(tmp_path / "a.tif", image, compress="deflate", interleave=interleave, **TILED)
    blocks = 64 if interleave == "pixel" else 192
    with counted(path, monkeypatch) as counts:
        with open_raster(path, spec(), None, cache=4 << 20) as source:
            for _ in range(2):
                np.testing.assert_array_equal(source.read(whole(source)), image)
        assert Counter(counts.values()) == {1: blocks}
        with open_raster(path, spec(), None, cache=1) as source:  # 1 MiB is held in any case: a window of 128 rows
            for y in range(0, 512, 64):
                source.read(Window(y, 0, min(128, 512 - y), 512))
        assert Counter(counts.values()) == {2: blocks}


@pytest.mark.parametrize(
    ("profile", "shape", "size"),
    [
        ({**TILED, "interleave": "pixel"}, (64, 64), 64 * 64 * 4),
        ({**TILED, "interleave": "band"}, (64, 64), 64 * 64 * 3),
        ({"blockysize": 8, "interleave": "pixel"}, (8, 200), 8 * 200 * 4),
    ],
)
def test_a_block_is_as_large_as_what_is_decoded_for_it(
    tmp_path: Path, rng: np.random.Generator, profile: dict[str, Any], shape: tuple[int, int], size: int
) -> None:
    image = rng.integers(1, 256, (200, 200, 4), np.uint8)
    path = write_geotiff(tmp_path / "a.tif", image, photometric="minisblack", **profile)
    with open_raster(path, spec(), (1, 2, 3)) as source:
        assert (source.block_shape, source.block_bytes) == (shape, size)
