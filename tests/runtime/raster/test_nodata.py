"""Which pixels have data, and that nothing without data reaches a network: the rule of docs/nodata.md."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import RasterError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff

Array = NDArray[Any]
LOWEST = float(np.finfo(np.float32).min)
PLACE = (2, 3)  # a pixel


def seen(
    path: Path, dtype: str, bands: int = 3, named: tuple[int, ...] | None = None
) -> tuple[Array, Array | None, int]:
    """All pixels as the network sees them, where they have data, and how many are implausible."""
    spec = InputSpec(bands=bands, dtype=dtype, scaling=None, ground_sample_distance=None)
    with open_raster(path, spec, named, 16) as source:
        window = Window(0, 0, source.height, source.width)
        return source.read(window), source.valid(window), source.implausible


def missing(valid: Array | None) -> list[list[int]]:
    return [] if valid is None else np.argwhere(~valid).tolist()


# One rule for value, mask, alpha and NaN


def by_value(value: float) -> Callable[[Path, Array, list[int]], Path]:
    def write(path: Path, image: Array, bands: list[int]) -> Path:
        image = image.copy()
        image[(*PLACE, bands)] = value
        return write_geotiff(path, image, nodata=value)

    return write


def by_nan(path: Path, image: Array, bands: list[int]) -> Path:
    image = image.copy()
    image[(*PLACE, bands)] = np.nan
    return write_geotiff(path, image)


def by_mask_of_bands(path: Path, image: Array, bands: list[int]) -> Path:
    """A VRT whose bands have masks of their own."""
    valid = np.full(image.shape, 255, np.uint8)
    valid[(*PLACE, bands)] = 0
    write_geotiff(path.with_name("pixels.tif"), image, photometric="minisblack")
    write_geotiff(path.with_name("valid.tif"), valid, photometric="minisblack")
    kind = {"uint8": "Byte", "float32": "Float32"}[str(image.dtype)]

    def source(kind: str, name: str, band: int) -> str:
        return (
            f'<VRTRasterBand dataType="{kind}"><SimpleSource><SourceFilename relativeToVRT="1">{name}.tif'
            f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>"
        )

    body = "".join(
        source(kind, "pixels", band).replace("<VRTRasterBand", f'<VRTRasterBand band="{band}"')
        + f"<MaskBand>{source('Byte', 'valid', band)}</VRTRasterBand></MaskBand></VRTRasterBand>"
        for band in range(1, image.shape[2] + 1)
    )
    path = path.with_suffix(".vrt")
    path.write_text(
        f'<VRTDataset rasterXSize="{image.shape[1]}" rasterYSize="{image.shape[0]}">{body}</VRTDataset>', "utf-8"
    )
    return path


def image_of(dtype: str) -> Array:
    return np.random.default_rng(0).integers(1, 200, (5, 7, 3)).astype(dtype)


WAYS: list[tuple[str, Any]] = [
    ("uint8", by_value(0)),
    ("uint8", by_value(255)),
    ("uint8", by_mask_of_bands),
    ("int16", by_value(-9999)),
    ("uint16", by_value(65535)),
    ("float32", by_value(-9999.0)),
    ("float32", by_value(LOWEST)),
    ("float32", by_value(float("nan"))),
    ("float32", by_nan),
    ("float32", by_mask_of_bands),
]
NAMES = [
    f"{dtype}-{name}"
    for dtype, name in zip(
        [dtype for dtype, _ in WAYS],
        ["0", "255", "mask", "-9999", "65535", "-9999", "lowest", "declared nan", "nan", "mask"],
        strict=True,
    )
]


@pytest.mark.parametrize("bands", [[1], [0, 2], [0, 1, 2]], ids=["one", "two", "all"])
@pytest.mark.parametrize(("dtype", "write"), WAYS, ids=NAMES)
def test_one_rule_for_every_way_to_say_it(tmp_path: Path, dtype: str, write: Any, bands: list[int]) -> None:
    """A pixel of integers lacks data if all bands do, one of floats if any band does; the network sees 0 for each."""
    image = image_of(dtype)
    pixels, valid, implausible = seen(write(tmp_path / "a.tif", image, bands), dtype)
    expected = image.copy()
    expected[(*PLACE, bands)] = 0
    np.testing.assert_array_equal(pixels, expected)
    lacks = dtype == "float32" or len(bands) == 3
    assert missing(valid) == ([list(PLACE)] if lacks else [])
    assert implausible == 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_transparent_pixels_lack_data_in_all_bands(tmp_path: Path, dtype: str) -> None:
    image, opaque = image_of(dtype), {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    alpha = np.full((5, 7, 1), opaque, dtype)
    alpha[PLACE] = 0
    path = write_geotiff(tmp_path / "a.tif", np.dstack([image, alpha]), photometric="RGB", alpha="yes")
    pixels, valid, _ = seen(path, dtype)
    image[PLACE] = 0
    np.testing.assert_array_equal(pixels, image)
    assert missing(valid) == [list(PLACE)]


def test_infinity_is_no_data(tmp_path: Path) -> None:
    image = image_of("float32")
    image[1, 1, 0], image[1, 2, 2] = np.inf, -np.inf
    pixels, valid, implausible = seen(write_geotiff(tmp_path / "a.tif", image), "float32")
    assert np.isfinite(pixels).all()
    assert (missing(valid), implausible) == ([[1, 1], [1, 2]], 0)


# Nodata values that the type cannot hold


@pytest.mark.parametrize("nodata", ["3.5", "-1", "256", "nan", "1e40"])
def test_a_value_that_the_type_cannot_hold_masks_nothing(
    tmp_path: Path, nodata: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.arange(35, dtype=np.uint8).reshape(5, 7, 1)  # GDAL cuts 3.5 to 3
    write_geotiff(tmp_path / "a.tif", image)
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="7" rasterYSize="5"><VRTRasterBand dataType="Byte" band="1"><NoDataValue>'
        f'{nodata}</NoDataValue><SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    for _ in range(2):
        pixels, valid, _ = seen(tmp_path / "a.vrt", "uint8", 1)
        np.testing.assert_array_equal(pixels, image)
        assert missing(valid) == []
    assert len(caplog.messages) == 1
    assert re.search(
        rf"a\.vrt: its nodata value {re.escape(f'{float(nodata):g}')} is none that uint8 can hold", caplog.messages[0]
    )


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint16", "-9999"), ("uint8", "nan"), ("uint8", "3.5"), ("int16", "1e7")]
)
def test_a_geotiff_s_value_that_the_type_cannot_hold_is_told(
    tmp_path: Path, dtype: str, nodata: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.arange(35, dtype=dtype).reshape(5, 7, 1)
    digits = "12345"[: len(nodata)]
    path = write_geotiff(tmp_path / "a.tif", image, nodata=float(digits))
    written = path.read_bytes()
    assert written.count(f"{digits}\0".encode()) == 1
    path.write_bytes(written.replace(f"{digits}\0".encode(), f"{nodata}\0".encode()))  # rasterio refuses to write it
    pixels, valid, _ = seen(path, dtype, 1)
    np.testing.assert_array_equal(pixels, image)
    assert missing(valid) == []
    assert len(caplog.messages) == 1
    assert "is none that" in caplog.messages[0]


@pytest.mark.parametrize("caching", ["NO", "YES"])
def test_a_raster_smaller_than_its_block_keeps_its_pixels_and_holes(
    tmp_path: Path, caching: str, set_in_environment: Callable[[str, str], None]
) -> None:
    """Rasterio 1.4.4 loses most of them with ``GDAL_FORCE_CACHING`` (its issue 3485)."""
    set_in_environment("GDAL_FORCE_CACHING", caching)
    image = np.random.default_rng(0).integers(1, 200, (30, 40, 3)).astype(np.uint8)
    image[[0, 3, 29, 15], [0, 7, 39, 20]] = 0
    path = write_geotiff(
        tmp_path / "small.tif", image, nodata=0, tiled=True, blockxsize=512, blockysize=512, compress="deflate"
    )
    pixels, valid, _ = seen(path, "uint8")
    np.testing.assert_array_equal(pixels, image)
    assert missing(valid) == [[0, 0], [3, 7], [15, 20], [29, 39]]


# Values that nobody declared


@pytest.mark.parametrize("value", [LOWEST, -9999.0, 1e35])
def test_a_fill_value_that_nobody_declared_is_no_data_and_counted(
    tmp_path: Path, rng: np.random.Generator, value: float
) -> None:
    image = rng.random((60, 70, 3)).astype(np.float32)
    image[:20, :50] = value  # a border
    image[40, 40, 1] = value  # a hole in one band
    pixels, valid, implausible = seen(write_geotiff(tmp_path / "a.tif", image), "float32")
    assert np.abs(pixels).max() <= 1
    assert valid is not None
    np.testing.assert_array_equal(valid, (image != np.float32(value)).all(axis=2))
    assert implausible == 20 * 50 + 1


def test_a_declared_value_is_not_counted_as_implausible(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.random((60, 70, 3)).astype(np.float32)
    image[:20, :50] = LOWEST
    _, valid, implausible = seen(write_geotiff(tmp_path / "a.tif", image, nodata=LOWEST), "float32")
    assert valid is not None
    assert ((~valid).sum(), implausible) == (1000, 0)


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(0, 1, 3000) ** 20 * 5000,  # long tails, as of radar
        np.r_[np.zeros(2900), np.arange(100)],  # nearly nothing
        np.linspace(-50, 50000, 3000),
        np.full(3000, 7.0),
        np.r_[np.linspace(0, 1, 2990), np.full(10, 60.0)],  # a saturated sensor
    ],
)
def test_measurements_are_data_however_they_spread(tmp_path: Path, rng: np.random.Generator, values: Array) -> None:
    image = rng.permutation(values).reshape(50, 60, 1).astype(np.float32)
    pixels, valid, implausible = seen(write_geotiff(tmp_path / "a.tif", image), "float32", 1)
    np.testing.assert_array_equal(pixels, image)
    assert (missing(valid), implausible) == ([], 0)


# Bands marked alpha


def alpha_file(path: Path, fourth: Array, **profile: Any) -> tuple[Path, Array]:
    """Four bands of bytes as rasterio writes them by default: GDAL marks the fourth as alpha."""
    image = np.random.default_rng(1).integers(1, 200, (*fourth.shape, 3), np.uint8)
    with rasterio.open(write_geotiff(path, np.dstack([image, fourth]), **profile)) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    return path, np.dstack([image, fourth])


def near_infrared(height: int = 40, width: int = 50) -> Array:
    values = np.random.default_rng(2).integers(1, 256, (height, width)).astype(np.uint8)
    values[10:20, 10:30] = 0  # water
    return values


@pytest.mark.parametrize("named", [None, (1, 2, 3, 4), (4, 3, 2, 1)])
def test_near_infrared_marked_alpha_is_data(tmp_path: Path, named: tuple[int, ...] | None) -> None:
    path, image = alpha_file(tmp_path / "a.tif", near_infrared())
    pixels, valid, _ = seen(path, "uint8", 4, named)
    np.testing.assert_array_equal(pixels, image if named is None else image[:, :, np.array(named) - 1])
    assert missing(valid) == []


@pytest.mark.parametrize("named", [None, (3, 2, 1)])
def test_near_infrared_marked_alpha_is_no_mask_of_other_bands(
    tmp_path: Path, named: tuple[int, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    path, image = alpha_file(tmp_path / "a.tif", near_infrared())
    pixels, valid, _ = seen(path, "uint8", 3, named)
    np.testing.assert_array_equal(pixels, image[:, :, :3] if named is None else image[:, :, 2::-1])
    assert missing(valid) == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "band 4 is marked alpha" in record.getMessage() and "`bands`" in record.getMessage()


def test_a_band_that_is_named_is_data_even_where_it_looks_like_opacity(tmp_path: Path) -> None:
    path, image = alpha_file(tmp_path / "a.tif", np.where(near_infrared() > 0, 255, 0).astype(np.uint8))
    pixels, valid, _ = seen(path, "uint8", 4, (1, 2, 3, 4))
    np.testing.assert_array_equal(pixels, image)
    assert missing(valid) == []
    with pytest.raises(RasterError, match=r"expected 4 bands, found 3 and alpha; name 4 with `bands`"):
        seen(path, "uint8", 4)


def test_soft_edges_are_opacity_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alpha = np.full((40, 50), 255, np.uint8)
    alpha[:10], alpha[10] = 0, 120
    path, image = alpha_file(tmp_path / "a.tif", alpha)
    pixels, valid, _ = seen(path, "uint8")
    np.testing.assert_array_equal(valid, alpha > 0)
    np.testing.assert_array_equal(pixels, np.where(alpha[:, :, None] > 0, image[:, :, :3], 0))
    assert "taken as a mask with soft edges" in caplog.text and "`bands`" in caplog.text


def test_what_only_the_whole_band_shows_is_an_error_with_ways_out(tmp_path: Path) -> None:
    """Samples see 4 x 4 of 16 x 16 blocks; what lies between them is found when it is read."""
    fourth = np.zeros((256, 256), np.uint8)
    fourth[20:60, 20:60] = near_infrared(40, 40)
    path, _ = alpha_file(tmp_path / "a.tif", fourth, tiled=True, blockxsize=16, blockysize=16)
    with pytest.raises(RasterError, match=r"band 4 is marked alpha, .*`bands`.*colorinterp_4 undefined"):
        seen(path, "uint8")
    _, valid, _ = seen(path, "uint8", 4, (1, 2, 3, 4))
    assert missing(valid) == []
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [*dataset.colorinterp[:3], ColorInterp.undefined]
    _, valid, _ = seen(path, "uint8", 3, (1, 2, 3))
    assert missing(valid) == []


# What the user's environment says


def partial_blocks(folder: Path, rng: np.random.Generator) -> tuple[Path, list[list[int]]]:
    """A raster smaller than its one block (rasterio#3485)."""
    image = rng.integers(1, 200, (30, 40, 3), np.uint8)
    holes = [[0, 0], [3, 7], [15, 20], [29, 39]]
    image[tuple(np.array(holes).T)] = 0
    profile = {"nodata": 0, "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    return write_geotiff(folder / "a.tif", image, **profile), holes


def sidecar(folder: Path, rng: np.random.Generator) -> tuple[Path, list[list[int]]]:
    """A raster whose mask lies in a file beside it."""
    path = write_geotiff(folder / "a.tif", rng.integers(1, 200, (30, 40, 3), np.uint8))
    valid = np.ones((30, 40), np.bool_)
    valid[PLACE] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(valid)
    return path, [list(PLACE)]


@pytest.mark.parametrize("in_thread", [False, True], ids=["here", "in a thread"])
@pytest.mark.parametrize(
    ("option", "value", "make"),
    [
        ("GDAL_FORCE_CACHING", "YES", partial_blocks),
        ("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR", sidecar),
    ],
)
def test_options_in_the_environment_change_no_mask(
    tmp_path: Path, segmenter: Segmenter, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
    set_in_environment: Callable[[str, str], None], option: str, value: str, make: Any, in_thread: bool,
) -> None:  # fmt: skip
    path, holes = make(tmp_path, rng)
    set_in_environment(option, value)
    paths = Paths(mask=tmp_path / "m.tif")
    if in_thread:
        thread = threading.Thread(target=segmenter.segment_file, args=(path, paths))
        thread.start()
        thread.join()
    else:
        segmenter.segment_file(path, paths)
    monkeypatch.delenv(option)
    with rasterio.open(paths.mask) as mask:
        assert np.argwhere(mask.read(1) == 255).tolist() == holes


def test_a_damaged_file_is_an_error_whatever_the_environment_says(
    tmp_path: Path, segmenter: Segmenter, rng: np.random.Generator, set_in_environment: Callable[[str, str], None]
) -> None:
    path = write_geotiff(tmp_path / "a.tif", rng.integers(0, 256, (300, 300, 3), np.uint8), compress="deflate")
    path.write_bytes(path.read_bytes()[:150_000])
    set_in_environment("GTIFF_IGNORE_READ_ERRORS", "YES")
    with pytest.raises(RasterError, match="damaged or cut short"):
        segmenter.segment_file(path, Paths(mask=tmp_path / "m.tif"))
