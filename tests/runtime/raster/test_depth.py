"""Rasters of other depths: bounds that are measured once, and the same for every window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError, OutputError, RasterError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment import memory
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.tiling.windows import Window
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny

Array = NDArray[Any]


def read(path: Path, scale_range: str | None, dtype: str = "uint8", bands: int = 3) -> tuple[Array, Array | None, str]:
    """All pixels as the network sees them, where they have data, and the bounds."""
    spec = InputSpec(bands=bands, dtype=dtype, scaling=None, ground_sample_distance=None)
    with open_raster(path, spec, None, scale_range=scale_range) as source:
        assert source.dtype == dtype
        window = Window(0, 0, source.height, source.width)
        return source.read(window), source.valid(window), str(source.scaling)


def expected(image: Array, low: Any, high: Any, top: float = 255) -> Array:
    """The rule, in double precision."""
    return np.clip((image.astype(np.float64) - low) / (np.asarray(high, float) - low), 0, 1) * top


@pytest.fixture
def deep(rng: np.random.Generator) -> Array:
    return rng.integers(0, 4000, (60, 70, 3)).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize(("wanted", "top"), [("uint8", 255), ("uint16", 65535), ("int16", 32767), ("float32", 1)])
def test_bounds_become_the_ends_of_the_network_s_values(
    tmp_path: Path, rng: np.random.Generator, dtype: str, wanted: str, top: float
) -> None:
    image = rng.integers(0, 200, (20, 30, 3)).astype(dtype)
    found, _, bounds = read(write_geotiff(tmp_path / "a.tif", image), "10.5,150", wanted)
    tolerance = 0.51 if wanted != "float32" else 1e-6
    np.testing.assert_allclose(found, expected(image, 10.5, 150, top), atol=tolerance)
    assert (bounds, found.min(), found.max()) == ("10.5,150 10.5,150 10.5,150", 0, top)


def test_percentiles_are_those_of_each_band_and_skip_what_has_no_data(tmp_path: Path, deep: Array) -> None:
    deep[:, :, 1] *= 2
    deep[:30] = 65535
    found, valid, bounds = read(write_geotiff(tmp_path / "a.tif", deep, nodata=65535), "percentile:2,98")
    low, high = np.percentile(deep[30:].reshape(-1, 3).astype(float), (2, 98), axis=0)
    np.testing.assert_allclose([[*map(float, band.split(","))] for band in bounds.split()], np.c_[low, high], rtol=1e-8)
    assert np.abs(found[30:] - expected(deep[30:], low, high)).max() <= 0.51
    assert valid is not None
    assert (found[:30] == 0).all()
    np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(60)[:, None] >= 30, (60, 70)))


@pytest.mark.parametrize("fill", [np.nan, -9999.0, 1e35])
def test_fill_values_of_floats_do_not_move_percentiles(tmp_path: Path, rng: np.random.Generator, fill: float) -> None:
    image = rng.random((60, 70, 3)).astype(np.float32)
    image[:30] = fill
    found, valid, bounds = read(write_geotiff(tmp_path / "a.tif", image), "percentile:0,100")
    ends = [[float(end) for end in band.split(",")] for band in bounds.split()]
    assert np.abs(np.array(ends) - (0, 1)).max() < 0.01
    assert (found[:30] == 0).all()
    assert valid is not None
    assert (valid[30:].all(), valid[:30].any()) == (True, False)


def test_transparent_pixels_do_not_move_percentiles(tmp_path: Path, deep: Array) -> None:
    alpha = np.full((60, 70, 1), 65535, np.uint16)
    alpha[:30], deep[:30] = 0, 60000
    path = write_geotiff(tmp_path / "a.tif", np.dstack([deep, alpha]), photometric="RGB", alpha="yes")
    assert max(float(end) for end in read(path, "percentile:0,100")[2].replace(",", " ").split()) < 4000


def test_a_band_of_one_value_has_bounds(tmp_path: Path) -> None:
    image = np.full((8, 8, 3), 700, np.uint16)
    assert read(write_geotiff(tmp_path / "a.tif", image), "percentile:2,98")[2] == "700,701 700,701 700,701"


def test_windows_are_parts_of_the_whole(tmp_path: Path, deep: Array) -> None:
    """Bounds belong to the raster, not to a window of it."""
    deep[:, 35:] //= 8
    path = write_geotiff(tmp_path / "a.tif", deep)
    whole = read(path, "percentile:2,98")[0]
    spec = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
    with open_raster(path, spec, None, scale_range="percentile:2,98") as source:
        for window in (Window(0, 40, 20, 20), Window(33, 0, 27, 9)):
            part = whole[window.y : window.bottom, window.x : window.right]
            np.testing.assert_array_equal(source.read(window), part)


def with_scale(path: Path, image: Array, scale: float, offset: float) -> Path:
    with rasterio.open(write_geotiff(path, image), "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,) * 3, (offset,) * 3
    return path


def test_metadata_is_the_scale_and_offset_of_the_file(tmp_path: Path, deep: Array) -> None:
    """0 and 1 of what they make of the samples are the ends."""
    found, _, bounds = read(with_scale(tmp_path / "a.tif", deep, 1e-4, -0.1), "metadata")
    assert np.abs(found - expected(deep * 1e-4 - 0.1, 0, 1)).max() <= 0.51
    assert bounds == "1000,11000 1000,11000 1000,11000"


@pytest.mark.parametrize(
    ("tags", "added"),
    [
        ({"BOA_QUANTIFICATION_VALUE": "10000", "BOA_ADD_OFFSET": "-1000"}, 1000),
        ({"QUANTIFICATION_VALUE": "10000", "PROCESSING_BASELINE": "05.10"}, 1000),
        ({"QUANTIFICATION_VALUE": "10000", "PROCESSING_BASELINE": "03.01"}, 0),
        ({"QUANTIFICATION_VALUE": "10000", "RADIO_ADD_OFFSET_B04": "-1000", "PROCESSING_BASELINE": "n/a"}, 1000),
    ],
)
def test_metadata_of_sentinel_2_knows_the_added_1000(
    tmp_path: Path, deep: Array, tags: dict[str, str], added: int
) -> None:
    with rasterio.open(write_geotiff(tmp_path / "a.tif", deep), "r+") as dataset:
        dataset.update_tags(**tags)
    assert read(tmp_path / "a.tif", "metadata")[2] == " ".join([f"{added},{added + 10000}"] * 3)


def test_metadata_that_is_missing_or_does_not_fit_is_one_line(tmp_path: Path, deep: Array) -> None:
    with pytest.raises(RasterError, match="expected a scale or an offset in the metadata, found none; name the bounds"):
        read(write_geotiff(tmp_path / "none.tif", deep), "metadata")
    with pytest.raises(RasterError, match=r"expected values from 0 to 1 once .*found a median of 2"):
        read(with_scale(tmp_path / "kelvin.tif", deep, 0.01, 273.15), "metadata")
    with pytest.raises(RasterError, match="expected a scale above 0"):
        read(with_scale(tmp_path / "negative.tif", deep, -1, 0), "metadata")


@pytest.mark.parametrize(
    "text", ["", "3000", "5,1", "1,1", "nan,1", "percentile", "percentile:-1,98", "percentile:2,101", "auto", "1,2,3"]
)
def test_a_range_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="`scale_range`: expected MIN,MAX as in 0,3000, percentile:2,98 or metadata"):
        read(tmp_path / "gone.tif", text)


def test_complex_pixels_are_refused_with_the_remedy(tmp_path: Path) -> None:
    for dtype in ("complex64", "complex_int16"):
        with rasterio.open(tmp_path / "c.tif", "w", driver="GTiff", height=9, width=9, count=1, dtype=dtype):
            pass
        for scale_range in (None, "percentile:2,98"):
            with pytest.raises(RasterError, match=f"found {dtype}; make amplitudes .* DERIVED_SUBDATASET:AMPLITUDE"):
                read(tmp_path / "c.tif", scale_range)


# Bands and colours


def written(path: Path, image: Array, colours: list[ColorInterp]) -> Path:
    with rasterio.open(write_geotiff(path, image, photometric="MINISBLACK", alpha="UNSPECIFIED"), "r+") as dataset:
        dataset.colorinterp = colours
    return path


R, G, B, A = ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha
NIR, UNKNOWN = ColorInterp.nir, ColorInterp.undefined


@pytest.mark.parametrize(
    ("colours", "used"),
    [
        ([R, G, B, NIR], [0, 1, 2]),
        ([B, G, R, NIR], [2, 1, 0]),
        ([B, G, R], [2, 1, 0]),
        ([NIR, UNKNOWN, R, G, B], [2, 3, 4]),
        ([A, B, G, R], [3, 2, 1]),
        ([UNKNOWN] * 4, [0, 1, 2]),
        ([UNKNOWN] * 3, [0, 1, 2]),
    ],
)
def test_red_green_and_blue_are_found(
    tmp_path: Path, rng: np.random.Generator, colours: list[ColorInterp], used: list[int]
) -> None:
    image = rng.integers(1, 255, (20, 30, len(colours))).astype(np.uint8)
    if A in colours:
        image[:, :, colours.index(A)] = np.arange(30) % 2 * 255
    pixels, valid, _ = read(written(tmp_path / "a.tif", image, colours), None)
    opaque = np.broadcast_to(np.arange(30) % 2 == 1, (20, 30)) if A in colours else np.ones((20, 30), bool)
    np.testing.assert_array_equal(pixels, image[:, :, used] * opaque[:, :, None])
    assert (valid is None) == (A not in colours)
    if valid is not None:
        np.testing.assert_array_equal(valid, opaque)


@pytest.mark.parametrize("colours", [[UNKNOWN] * 5, [R, G, UNKNOWN, NIR], [R, R, G, B]])
def test_bands_that_are_anybody_s_guess_are_refused(
    tmp_path: Path, rng: np.random.Generator, colours: list[ColorInterp]
) -> None:
    image = rng.integers(1, 255, (20, 30, len(colours))).astype(np.uint8)
    with pytest.raises(RasterError, match=r"expected 3 bands, found .; name 3 with `bands`"):
        read(written(tmp_path / "a.tif", image, colours), None)


def test_what_is_taken_for_what_is_told_once(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    image = rng.integers(1, 255, (20, 30, 4)).astype(np.uint8)
    path = written(tmp_path / "a.tif", image, [B, G, R, NIR])
    with caplog.at_level("INFO", "fctl"):
        read(path, None)
        read(path, None)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert caplog.messages[0].startswith(f"{path}: of its 4 bands, 3, 2 and 1 are used")


def test_grey_is_red_green_and_blue_alike(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(1, 255, (20, 30, 1)).astype(np.uint8)
    image[3, 4] = 0
    pixels, valid, _ = read(write_geotiff(tmp_path / "a.tif", image, nodata=0), None)
    np.testing.assert_array_equal(pixels, image.repeat(3, axis=2))
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[3, 4]]


def test_a_palette_is_its_colours(tmp_path: Path, rng: np.random.Generator) -> None:
    table = {index: (*rng.integers(1, 255, 3).tolist(), 255) for index in range(6)}
    image = rng.integers(0, 6, (20, 30, 1)).astype(np.uint8)
    path = write_geotiff(tmp_path / "a.tif", image, photometric="PALETTE", nodata=4)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, table)
    pixels, valid, bounds = read(path, "percentile:2,98")  # which is not for colours
    colours = np.array([table[index][:3] if index != 4 else (0, 0, 0) for index in range(6)], np.uint8)
    np.testing.assert_array_equal(pixels, colours[image[:, :, 0]])
    assert bounds == "None"
    assert valid is not None
    np.testing.assert_array_equal(valid, image[:, :, 0] != 4)


def test_a_transparent_colour_of_a_palette_has_no_data(tmp_path: Path) -> None:
    image = np.arange(30, dtype=np.uint8).reshape(1, 5, 6) % 3
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", height=5, width=6, count=1, dtype="uint8") as dataset:
        dataset.write(image)
    (tmp_path / "a.vrt").write_text(
        '<VRTDataset rasterXSize="6" rasterYSize="5"><VRTRasterBand dataType="Byte" band="1"><ColorInterp>Palette'
        '</ColorInterp><ColorTable><Entry c1="1" c2="2" c3="3" c4="255"/><Entry c1="4" c2="5" c3="6" c4="0"/>'
        '<Entry c1="7" c2="8" c3="9" c4="128"/></ColorTable><SimpleSource><SourceFilename relativeToVRT="1">a.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    pixels, valid, _ = read(tmp_path / "a.vrt", None)
    np.testing.assert_array_equal(pixels, np.array([[1, 2, 3], [0, 0, 0], [7, 8, 9]], np.uint8)[image[0]])
    assert valid is not None
    np.testing.assert_array_equal(valid, image[0] != 1)


# Runs


def test_the_range_is_in_the_tags_and_a_resumed_run_must_have_the_same(
    tmp_path: Path, deep: Array, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_TILES", 6)
    monkeypatch.setattr(memory, "PANEL", 36)
    image, paths = write_geotiff(tmp_path / "a.tif", deep), Paths(mask=tmp_path / "m.tif")
    report = segmenter.segment_file(image, paths, scale_range="percentile:2,98")
    pixels, _, bounds = read(image, "percentile:2,98")
    with rasterio.open(paths.mask) as mask:
        assert mask.tags()["FCTL_SCALE_RANGE"] == "percentile:2,98"
        assert mask.tags()["FCTL_SCALE_BOUNDS"] == bounds
        np.testing.assert_array_equal(mask.read(1), segmenter.segment(pixels).ids)
    assert sum(report.pixels.values()) == deep.shape[0] * deep.shape[1]

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    paths = Paths(mask=tmp_path / "n.tif")
    with pytest.raises(KeyboardInterrupt):
        segmenter.segment_file(image, paths, scale_range="0,3000", progress=stop)
    with pytest.raises(OutputError, match="scale range"):
        segmenter.segment_file(image, paths, scale_range="0,4000", resume=True)
    segmenter.segment_file(image, paths, scale_range="0,3000", resume=True)
    with rasterio.open(paths.mask) as mask:
        np.testing.assert_array_equal(mask.read(1), segmenter.segment(read(image, "0,3000")[0]).ids)


def test_the_command_line_names_its_option_and_takes_it(tmp_path: Path, deep: Array, in_process: InProcess) -> None:
    image, out = write_geotiff(tmp_path / "a.tif", deep), tmp_path / "m.tif"
    arguments = (run_app, image, "--bundle", tiny.TINY, "--backend", "onnxruntime", "--no-preview", "--out", out)
    refused = in_process(*arguments)
    assert refused.returncode == 1
    assert "name them with --scale-range" in refused.stderr
    assert in_process(*arguments, "--scale-range", "0,4000", "--dry-run").returncode == 0
    assert not out.exists()
    assert in_process(*arguments, "--scale-range", "0,4000").returncode == 0
    with rasterio.open(out) as mask:
        assert mask.tags()["FCTL_SCALE_BOUNDS"] == "0,4000 0,4000 0,4000"
