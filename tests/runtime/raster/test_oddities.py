"""Real rasters with real oddities: either a mask, or one clear error and nothing left behind."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from fctl.runtime import Paths, Segmenter
from fctl.runtime.errors import FctlError, RasterError
from tests.conftest import SHARED
from tests.runtime import tiny

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

FOLDER = SHARED / "data" / "rasters"
NAMES = sorted(path.name for path in FOLDER.glob("*.tif"))
MAX_PIXELS = 3_000_000  # cog.tif has 7 million, cog_world.tif 648 million

# Bytes that are red, green and blue, or can be made so: these must give a mask.
FITTING = {
    "RGB.byte.tif",
    "RGB2.byte.tif",
    "RGBA.byte.tif",
    "alpha.tif",
    "cogeo.tif",
    "image_colormap.tif",
    "image_rgba_nodata.tif",
    "image_webp.tif",
    "m_4709963_se_14_1_20100629.tif",
    "pix4d_alpha_nodata.tif",
    "rgbn_20170203.tif",
    "rotated.tif",
    "shade.tif",
    "test_tiled.tif",
}
# Of another depth: these must give one once they have a range.
DEEP = {
    "RGBA.uint16.tif",
    "all-nodata.tif",
    "cog.tif",
    "cog_gcps.tif",
    "dsm.tif",
    "float_nan.tif",
    "image_nan.tif",
    "mosaic_cog1.tif",
}


@pytest.fixture(scope="module")
def wide() -> Iterator[Segmenter]:
    with Segmenter(tiny.TINY_WIDE, backend="onnxruntime", batch=4) as segmenter:
        yield segmenter


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_a_mask_or_one_clear_error(tmp_path: Path, shared: Path, wide: Segmenter, name: str) -> None:
    image, paths = shared / "rasters" / name, Paths(mask=tmp_path / "m.tif", preview=tmp_path / "p.png")
    with rasterio.open(image) as dataset:
        shape, crs, transform, gcps = dataset.shape, dataset.crs, dataset.transform, dataset.gcps
    if shape[0] * shape[1] > MAX_PIXELS:
        pytest.skip("too large for a unit test")
    if name in DEEP:
        with pytest.raises(RasterError, match=r"name them with `scale_range`|gdal_translate -ot Float32|`bands`"):
            wide.segment_file(image, paths)
    deep = {"scale_range": "percentile:2,98", "bands": (3, 2, 1) if name == "all-nodata.tif" else None}
    try:
        wide.segment_file(image, paths, **(deep if name in DEEP else {}))
    except FctlError as error:
        assert str(image) in str(error)
        assert "\n" not in str(error)
        assert name not in FITTING | DEEP
        assert list(tmp_path.iterdir()) == []
        return
    assert name in FITTING | DEEP
    assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"m", "p"}
    assert not (tmp_path / "m.fctl-run").exists()
    with rasterio.open(paths.mask) as dataset:
        assert (dataset.shape, dataset.crs, dataset.transform) == (shape, crs, transform)
        assert _has_transform(paths.mask) == (not transform.is_identity)
        assert len(dataset.gcps[0]) == len(gcps[0])
        assert set(np.unique(dataset.read(1)).tolist()) <= {0, 1, 2, 255}


def _has_transform(path: Path) -> bool:
    """Whether a GeoTIFF says where it lies, rather than GDAL saying so for one that does not."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return not told and not dataset.gcps[0]


def test_a_truncated_file_fails_and_leaves_nothing(tmp_path: Path, shared: Path, wide: Segmenter) -> None:
    with pytest.raises(RasterError, match=r"corrupt\.tif: cannot read rows"):
        wide.segment_file(shared / "rasters" / "corrupt.tif", Paths(mask=tmp_path / "m.tif"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name in ("m_4709963_se_14_1_20100629.tif", "rgbn_20170203.tif")]
)
def test_four_bands_give_a_mask_when_three_are_named(tmp_path: Path, shared: Path, wide: Segmenter, name: str) -> None:
    report = wide.segment_file(shared / "rasters" / name, Paths(mask=tmp_path / "m.tif"), bands=(4, 1, 2))
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.shape == (report.height, report.width)
        assert set(np.unique(dataset.read(1)).tolist()) <= {0, 1, 2, 255}


def test_a_raster_without_any_data_gives_a_mask_without_any(tmp_path: Path, shared: Path, plain: Segmenter) -> None:
    report = plain.segment_file(shared / "rasters" / "all-nodata.tif", Paths(mask=tmp_path / "m.tif"))
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert (dataset.read(1) == 255).all()
    assert set(report.pixels.values()) == {0}
