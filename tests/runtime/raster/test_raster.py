from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rasterio.transform import Affine, from_origin

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import RasterError
from fctl.runtime.raster import cog
from fctl.runtime.raster.files import open_any
from fctl.runtime.raster.georeference import NOWHERE
from fctl.runtime.raster.source import Georeference, open_raster
from fctl.runtime.raster.writer import RasterSpec, create_raster
from fctl.runtime.segment.options import OutputOptions
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

Array = NDArray[Any]
UTM = from_origin(300000, 2780000, 0.5, 0.5)


@pytest.fixture
def image(rng: np.random.Generator) -> Array:
    """Without a zero, so that nothing in it can pass for no data."""
    return rng.integers(1, 256, (37, 50, 3), np.uint8)


def mask_of(segmenter: Segmenter, path: Path, bands: Sequence[int] | None = None) -> Path:
    paths = Paths(mask=path.with_name(f"{path.stem}_mask.tif"))
    segmenter.segment_file(path, paths, bands=bands)
    return paths.mask


def read(path: Path, band: int = 1) -> Array:
    with rasterio.open(path) as dataset:
        pixels: Array = dataset.read(band)
    return pixels


def spec_of(bands: int, dtype: str) -> InputSpec:
    return InputSpec(bands=bands, dtype=dtype, scaling=None, ground_sample_distance=None)


def whole_of(path: Path, bands: int, dtype: str) -> tuple[Array, Array | None]:
    """All pixels, and where they are valid, as the runtime sees them."""
    with open_raster(path, spec_of(bands, dtype), None, 16) as source:
        window = Window(0, 0, source.height, source.width)
        return source.read(window), source.valid(window)


# The mask as a file


def test_mask_holds_the_ids_of_the_array(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    mask = mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image))
    np.testing.assert_array_equal(read(mask), segmenter.segment(image).ids)


def test_mask_keeps_crs_and_transform(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    mask = mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image))
    with rasterio.open(mask) as dataset:
        assert dataset.crs == rasterio.crs.CRS.from_epsg(32640)
        assert dataset.transform == UTM
        assert dataset.shape == (37, 50)


def test_mask_keeps_a_rotated_transform(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    rotated = UTM @ Affine.rotation(30) @ Affine.scale(2, 3)
    mask = mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image, transform=rotated))
    with rasterio.open(mask) as dataset:
        assert dataset.transform.almost_equals(rotated, 1e-9)


def test_mask_keeps_ground_control_points(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    points = [
        GroundControlPoint(row, col, x=10 + col / 100, y=50 - row / 100)
        for row, col in ((0, 0), (0, 50), (37, 0), (37, 49))
    ]
    path = tmp_path / "a.tif"
    settings = {"driver": "GTiff", "height": 37, "width": 50, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", gcps=points, crs="EPSG:4326", **settings) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    with rasterio.open(mask_of(segmenter, path)) as dataset:
        found, crs = dataset.gcps
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]
        assert crs == rasterio.crs.CRS.from_epsg(4326)


def with_points(path: Path, image: Array, crs: str | None) -> list[GroundControlPoint]:
    """Write a file that lies where four points say."""
    corners = ((0, 0), (0, 50), (37, 0), (37, 49))
    points = [GroundControlPoint(row, col, x=10 + col / 100, y=50 - row / 100) for row, col in corners]
    settings = {"driver": "GTiff", "height": 37, "width": 50, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", gcps=points, crs=crs or rasterio.crs.CRS(), **settings) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    return points


def rpcs() -> RPC:
    """Coefficients of a satellite that looks straight down."""
    one, column, row = [1.0] + [0.0] * 19, [0.0, 1.0] + [0.0] * 18, [0.0, 0.0, -1.0] + [0.0] * 17
    return RPC(
        height_off=10, height_scale=500, lat_off=25.1, lat_scale=0.1, long_off=55.2, long_scale=0.1, line_off=18,
        line_scale=18, samp_off=25, samp_scale=25, line_num_coeff=row, line_den_coeff=one, samp_num_coeff=column,
        samp_den_coeff=one, err_bias=None, err_rand=None,
    )  # fmt: skip


def test_mask_keeps_ground_control_points_without_a_crs(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    points = with_points(tmp_path / "a.tif", image, None)
    with rasterio.open(mask_of(segmenter, tmp_path / "a.tif")) as dataset:
        found, crs = dataset.gcps
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in points]
        assert (crs, dataset.crs) == (None, None)


@pytest.mark.parametrize("with_gcps", [False, True])
def test_mask_keeps_rational_polynomial_coefficients(
    tmp_path: Path, segmenter: Segmenter, image: Array, with_gcps: bool
) -> None:
    path = tmp_path / "a.tif"
    if with_gcps:
        with_points(path, image, "EPSG:4326")
    else:
        write_geotiff(path, image, crs=None, transform=None)
    with rasterio.open(path, "r+") as dataset:
        dataset.rpcs = rpcs()
    shares = tmp_path / "p.tif"
    segmenter.segment_file(path, Paths(mask=tmp_path / "m.tif", probabilities=shares))
    with rasterio.open(path) as dataset:
        expected = dataset.rpcs
    for output in (tmp_path / "m.tif", shares):
        with rasterio.open(output) as dataset:
            assert dataset.rpcs == expected
            assert len(dataset.gcps[0]) == (4 if with_gcps else 0)
    assert (expected.samp_scale, expected.line_num_coeff[2]) == (25, -1)


def test_mask_of_a_raster_with_points_and_a_transform_keeps_the_transform(
    tmp_path: Path, segmenter: Segmenter, image: Array
) -> None:
    """GeoTIFF cannot hold both, and GDAL prefers the transform where it finds both."""
    write_geotiff(tmp_path / "a.tif", image)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">a.tif'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    points = "".join(
        f'<GCP Id="{x}{y}" Pixel="{x}" Line="{y}" X="{10 + x / 100}" Y="{50 - y / 100}"/>'
        for x, y in ((0, 0), (50, 0), (0, 37))
    )
    (tmp_path / "both.vrt").write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="37"><SRS>EPSG:32640</SRS><GeoTransform>300000,0.5,0,2780000,0,-0.5'
        f'</GeoTransform><GCPList Projection="EPSG:4326">{points}</GCPList>{bands}</VRTDataset>'
    )
    with rasterio.open(tmp_path / "both.vrt") as dataset:
        assert (len(dataset.gcps[0]), dataset.transform) == (3, UTM)
    with rasterio.open(mask_of(segmenter, tmp_path / "both.vrt")) as dataset:
        assert (dataset.crs, dataset.transform) == (rasterio.crs.CRS.from_epsg(32640), UTM)


def test_mask_of_an_image_without_georeference_has_none(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    """Not even the identity, which is a place, and one where maps show the mask upside down beside the image."""
    path = tmp_path / "a.png"
    with rasterio.open(path, "w", driver="PNG", height=37, width=50, count=3, dtype="uint8") as dataset:
        dataset.write(image.transpose(2, 0, 1))
    mask = mask_of(segmenter, path)
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(mask) as dataset:
        assert dataset.crs is None
        assert dataset.transform == Affine.identity()


def test_mask_keeps_a_transform_that_is_sheared_or_goes_south_up(
    tmp_path: Path, segmenter: Segmenter, image: Array
) -> None:
    for index, transform in enumerate((Affine(0.5, 0.1, 3e5, 0.2, -0.5, 2.7e6), Affine(0.5, 0, 3e5, 0, 0.5, 2.7e6))):
        path = write_geotiff(tmp_path / f"{index}.tif", image, transform=transform)
        with rasterio.open(mask_of(segmenter, path)) as dataset:
            assert (dataset.crs, dataset.transform) == (rasterio.crs.CRS.from_epsg(32640), transform)


def test_mask_is_tiled_and_compressed_bytes(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    with rasterio.open(mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image))) as dataset:
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.profile["compress"] == "deflate"
        assert (dataset.count, dataset.dtypes, dataset.nodata) == (1, ("uint8",), 255)


def test_mask_has_the_colours_of_the_classes(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    with rasterio.open(mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image))) as dataset:
        colours = dataset.colormap(1)
        assert dataset.colorinterp == (ColorInterp.palette,)
    assert [colours[index] for index in range(3)] == [(200, 30, 30, 255), (30, 200, 30, 255), (30, 30, 200, 255)]


def test_mask_says_what_made_it(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    with rasterio.open(mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image))) as dataset:
        tags = dataset.tags()
    assert json.loads(tags["FCTL_CLASSES"]) == {"0": "red", "1": "green", "2": "blue"}
    assert tags["FCTL_BUNDLE"] == "tiny"
    assert (tags["FCTL_ENGINE"], tags["FCTL_DEVICE"], tags["FCTL_PRECISION"]) == ("onnxruntime", "CPU", "fp32")
    assert tags["FCTL_TURNS"] == "1"


SOURCES: list[dict[str, object]] = [
    {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 16, "blockysize": 16},
    {"compress": "lzw", "photometric": "minisblack", "nodata": 0, "interleave": "pixel"},
    {"compress": "packbits", "nodata": 7},
]


@pytest.mark.parametrize("profile", SOURCES)
def test_nothing_of_the_sources_profile_leaks(
    tmp_path: Path, segmenter: Segmenter, image: Array, profile: dict[str, object]
) -> None:
    with rasterio.open(mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image, **profile))) as dataset:
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 255)
        assert dataset.profile["compress"] == "deflate"
        assert dataset.block_shapes == [(512, 512)]
        assert dataset.colorinterp == (ColorInterp.palette,)


def test_nodata_of_uint16_does_not_leak(tmp_path: Path, plain: Segmenter, rng: np.random.Generator) -> None:
    pixels = rng.integers(1, 60000, (20, 30, 4)).astype(np.uint16)
    pixels[5, 6] = 65535
    with rasterio.open(mask_of(plain, write_geotiff(tmp_path / "a.tif", pixels, nodata=65535))) as dataset:
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 255)
        assert np.argwhere(dataset.read(1) == 255).tolist() == [[5, 6]]


@pytest.mark.parametrize("height", [1, 255, 256, 257, 523])
def test_every_row_is_written(tmp_path: Path, segmenter: Segmenter, height: int, rng: np.random.Generator) -> None:
    pixels = rng.integers(1, 256, (height, 20, 3), np.uint8)
    mask = mask_of(segmenter, write_geotiff(tmp_path / "a.tif", pixels))
    np.testing.assert_array_equal(read(mask), segmenter.segment(pixels).ids)


@pytest.mark.parametrize("strips", [(1,), (255, 2), (300, 300), (100, 100, 100, 223), (1,) * 300])
def test_rows_of_any_height_are_written_in_order(
    tmp_path: Path, strips: tuple[int, ...], rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 256, (2, sum(strips), 5), np.uint8)
    spec = RasterSpec(
        height=sum(strips), width=5, dtype="uint8", descriptions=("a", "b"), nodata=None, colours=None, tags={"A": "b"}
    )
    with create_raster(tmp_path / "a.tif", spec, Georeference(crs=None, transform=UTM, gcps=([], None))) as writer:
        for end, rows in zip(np.cumsum(strips), strips, strict=True):
            writer.write(pixels[:, end - rows : end], int(end - rows))
    with rasterio.open(tmp_path / "a.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), pixels)
        assert dataset.descriptions == ("a", "b")
        assert dataset.tags()["A"] == "b"


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_probabilities_are_a_band_per_class(
    tmp_path: Path, segmenter: Segmenter, image: Array, kind: Literal["uint8", "float32"]
) -> None:
    path, shares, options = write_geotiff(tmp_path / "a.tif", image), tmp_path / "p.tif", OutputOptions()
    paths = Paths(mask=tmp_path / "m.tif", probabilities=shares, options=replace(options, probability_type=kind))
    segmenter.segment_file(path, paths)
    exact = segmenter.segment(image, probabilities=True).probabilities
    assert exact is not None
    with rasterio.open(shares) as dataset:
        assert dataset.dtypes == (kind,) * 3
        assert dataset.descriptions == ("red", "green", "blue")
        assert (dataset.crs, dataset.transform) == (rasterio.crs.CRS.from_epsg(32640), UTM)
        if kind == "float32":
            assert np.isnan(dataset.nodata)
            np.testing.assert_array_equal(dataset.read(), exact)
        else:
            assert (dataset.nodata, dataset.scales, dataset.offsets) == (255, (1 / 254,) * 3, (0,) * 3)
            np.testing.assert_array_equal(dataset.read(), np.rint(exact * 254))


# Where there is no data


def hole() -> Array:
    """True where there is data."""
    valid = np.ones((37, 50), np.bool_)
    valid[:9, 3:17] = valid[30:, 40:] = False
    return valid


def by_value(path: Path, image: Array) -> None:
    write_geotiff(path, np.where(hole()[:, :, None], image, np.uint8(0)), nodata=0)


def by_alpha(path: Path, image: Array) -> None:
    alpha = np.where(hole(), 255, 0).astype(np.uint8)
    write_geotiff(path, np.dstack([image, alpha]), photometric="RGB", alpha="yes")


def by_internal_mask(path: Path, image: Array) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_geotiff(path, image)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(hole())
    assert not path.with_name(path.name + ".msk").exists()


def by_sidecar(path: Path, image: Array) -> None:
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        write_geotiff(path, image)
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(hole())
    assert path.with_name(path.name + ".msk").exists()


HOLES = [by_value, by_alpha, by_internal_mask, by_sidecar]


@pytest.mark.parametrize("write", HOLES)
def test_nodata_is_255_and_nan_and_black_to_the_network(
    tmp_path: Path, segmenter: Segmenter, image: Array, write: Any
) -> None:
    write(tmp_path / "a.tif", image)
    paths = Paths(mask=tmp_path / "m.tif", probabilities=tmp_path / "p.tif")
    report = segmenter.segment_file(tmp_path / "a.tif", paths)
    valid = hole()
    seen = segmenter.segment(np.where(valid[:, :, None], image, np.uint8(0)))
    np.testing.assert_array_equal(read(paths.mask), np.where(valid, seen.ids, 255))
    with rasterio.open(tmp_path / "p.tif") as dataset:
        shares = dataset.read()
    assert (shares[:, ~valid] == 255).all()
    assert (shares[:, valid] <= 254).all()
    assert sum(report.pixels.values()) == valid.sum()


def test_a_zero_is_data_where_no_tag_says_otherwise(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    image[:10, :, 1] = 0
    image[10:20] = 0
    mask = mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image))
    np.testing.assert_array_equal(read(mask), segmenter.segment(image).ids)
    assert (read(mask) < 255).all()


def test_a_pixel_with_nodata_in_one_band_only_is_data(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    image[5:10, :, 1] = 0
    mask = mask_of(segmenter, write_geotiff(tmp_path / "a.tif", image, nodata=0))
    np.testing.assert_array_equal(read(mask), segmenter.segment(image).ids)


def test_nodata_is_black_in_the_pixels(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 3), 9, np.uint8)
    pixels[1, 2] = 200
    found, valid = whole_of(write_geotiff(tmp_path / "a.tif", pixels, nodata=200), 3, "uint8")
    assert found[1, 2].tolist() == [0, 0, 0]
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[1, 2]]


@pytest.mark.parametrize("nodata", [None, float("nan"), -9999.0])
def test_nan_is_nodata_in_floats(tmp_path: Path, nodata: float | None) -> None:
    pixels = np.full((4, 4, 1), 0.5, np.float32)
    pixels[1, 2] = np.nan
    found, valid = whole_of(write_geotiff(tmp_path / "a.tif", pixels, nodata=nodata), 1, "float32")
    assert valid is not None
    assert np.argwhere(~valid).tolist() == [[1, 2]]
    assert found[1, 2, 0] == 0


def test_an_image_that_says_nothing_is_valid_everywhere(tmp_path: Path, image: Array) -> None:
    found, valid = whole_of(write_geotiff(tmp_path / "a.tif", image), 3, "uint8")
    assert valid is None
    np.testing.assert_array_equal(found, image)


def test_nodata_is_judged_by_the_bands_that_are_used(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    image[4:8, 4:8] = 0
    unused = np.full((37, 50, 1), 90, np.uint8)
    path = write_geotiff(tmp_path / "a.tif", np.dstack([image, unused]), nodata=0, photometric="minisblack")
    ids = read(mask_of(segmenter, path, (1, 2, 3)))
    assert (ids[4:8, 4:8] == 255).all()
    assert (ids == 255).sum() == 16


def test_alpha_and_nodata_both_count(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    alpha = np.full((37, 50, 1), 255, np.uint8)
    image[4:8, 4:8] = 0  # by its nodata value, though opaque
    alpha[20:24, 4:8] = 0  # transparent, though not of that value
    path = write_geotiff(tmp_path / "a.tif", np.dstack([image, alpha]), nodata=0, photometric="RGB", alpha="yes")
    ids = read(mask_of(segmenter, path))
    assert (ids[4:8, 4:8] == 255).all()
    assert (ids[20:24, 4:8] == 255).all()
    assert (ids == 255).sum() == 32


# Bands and formats


def test_alpha_is_not_a_band_of_the_network(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    alpha = np.full((37, 50, 1), 255, np.uint8)
    path = write_geotiff(tmp_path / "a.tif", np.dstack([image, alpha]), photometric="RGB", alpha="yes")
    np.testing.assert_array_equal(read(mask_of(segmenter, path)), segmenter.segment(image).ids)


def test_bands_are_taken_in_the_order_given(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    path = write_geotiff(tmp_path / "a.tif", image)
    reverse = segmenter.segment(image[:, :, ::-1]).ids
    np.testing.assert_array_equal(read(mask_of(segmenter, path, (3, 2, 1))), reverse)
    assert (reverse != segmenter.segment(image).ids).any()


def test_bands_choose_three_of_five(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    five = np.dstack([image[:, :, 1], image[:, :, 0] // 2, image[:, :, 2], image[:, :, 0], image[:, :, 1] // 2])
    path = write_geotiff(tmp_path / "a.tif", five)
    np.testing.assert_array_equal(read(mask_of(segmenter, path, (4, 1, 3))), segmenter.segment(image).ids)


def test_png_and_its_alpha(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    Image.fromarray(image).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read(mask_of(segmenter, tmp_path / "rgb.png")), segmenter.segment(image).ids)
    Image.fromarray(np.dstack([image, np.where(hole(), 255, 0).astype(np.uint8)])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read(mask_of(segmenter, tmp_path / "rgba.png")) == 255, ~hole())


def test_jpeg(tmp_path: Path, segmenter: Segmenter) -> None:
    image = np.indices((37, 50)).sum(axis=0)[:, :, None].repeat(3, axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=95)
    decoded, valid = whole_of(tmp_path / "a.jpg", 3, "uint8")
    assert valid is None
    assert np.abs(decoded.astype(int) - image).max() < 5
    np.testing.assert_array_equal(read(mask_of(segmenter, tmp_path / "a.jpg")), segmenter.segment(decoded).ids)


@pytest.mark.parametrize(
    ("bands", "told"),
    [
        (None, "expected 3 bands, found 5; name 3 with `bands`"),
        ((1, 2), "expected 3 bands, found 2; name 3 with `bands`"),
        ((1, 2, 6), "`bands` names 6, the image has bands 1 to 5"),
    ],
)
def test_bands_that_do_not_fit(tmp_path: Path, bands: tuple[int, ...] | None, told: str) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.zeros((4, 4, 5), np.uint8))
    with (
        pytest.raises(RasterError, match=f"^{re.escape(str(path))}: {told}"),
        open_raster(path, spec_of(3, "uint8"), bands, 16),
    ):
        pass


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_another_dtype_is_refused(tmp_path: Path, dtype: str) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.zeros((4, 4, 3), dtype))
    with pytest.raises(RasterError, match=f"expected uint8 pixels, found {dtype}"):
        whole_of(path, 3, "uint8")


@pytest.mark.parametrize(
    ("wanted", "found", "remedy"),
    [
        ("uint8", "uint16", "-ot Byte -scale MIN MAX 0 255"),
        ("uint16", "uint8", "-ot UInt16 -scale MIN MAX 0 65535"),
        ("int16", "float32", "-ot Int16 -scale MIN MAX 0 32767"),
        ("float32", "uint8", "-ot Float32 -scale MIN MAX 0 1"),
    ],
)
def test_the_remedy_for_another_dtype_has_bounds(tmp_path: Path, wanted: str, found: str, remedy: str) -> None:
    """Without bounds, GDAL would stretch every image between its own minimum and maximum."""
    path = write_geotiff(tmp_path / "a.tif", np.zeros((4, 4, 3), found))
    with pytest.raises(RasterError) as caught:
        whole_of(path, 3, wanted)
    told = "with the same bounds as the training images: name them with `scale_range`, or use gdal_translate "
    assert str(caught.value).endswith(told + remedy)


def test_doubles_are_converted_without_scaling(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.zeros((4, 4, 3), np.float64))
    with pytest.raises(RasterError, match=r"convert it with gdal_translate -ot Float32$"):
        whole_of(path, 3, "float32")


def test_a_damaged_raster_is_an_error_of_ours(tmp_path: Path, segmenter: Segmenter, rng: np.random.Generator) -> None:
    path = write_geotiff(tmp_path / "a.tif", rng.integers(0, 256, (300, 300, 3), np.uint8), compress="deflate")
    path.write_bytes(path.read_bytes()[:150_000])
    with pytest.raises(RasterError, match="damaged or cut short"):
        mask_of(segmenter, path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_png_that_ends_early_is_no_black_image(
    tmp_path: Path, segmenter: Segmenter, rng: np.random.Generator
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (14, 16, 3), np.uint8)).save(path)  # one tile: it is read at once
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(RasterError, match="damaged or cut short"):
        mask_of(segmenter, path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.once
def test_a_mask_is_the_same_however_many_threads_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(0, 5, (1, 1300, 1500), np.uint8)
    spec = RasterSpec(
        height=1300, width=1500, dtype="uint8", descriptions=("class",), nodata=255, colours=None, tags={}
    )  # fmt: skip
    for threads in (1, 4):
        monkeypatch.setitem(cog._COPYING, "GDAL_NUM_THREADS", threads)
        with cog.create_cog(tmp_path / f"{threads}.tif", spec, NOWHERE, {}) as writer:
            writer.write(ids, 0)
    with open_any(tmp_path / "1.tif") as mask:
        assert mask.overviews(1) == [2, 4]
        np.testing.assert_array_equal(mask.read(), ids)
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "4.tif").read_bytes()
