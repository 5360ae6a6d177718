"""How images are named: containers and their parts, and what lies on no disk here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmenter
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.raster.places import file_of, place_of, stem_of
from fctl.runtime.raster.source import open_any

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

Array = NDArray[Any]


@pytest.fixture
def container(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A GeoPackage with seven tables of tiles: it has no band of its own."""
    path = tmp_path / "scene.gpkg"
    for index in range(7):
        image = rng.integers(1, 256, (3, 37, 50), np.uint8)
        with rasterio.open(
            path, "w", driver="GPKG", height=37, width=50, count=3, dtype="uint8", crs="EPSG:32640",
            transform=rasterio.transform.from_origin(300000, 2780000, 0.5, 0.5),
            APPEND_SUBDATASET="YES" if index else "NO", RASTER_TABLE=f"part_{index}", TILE_FORMAT="PNG",
        ) as dataset:  # fmt: skip
            dataset.write(image)
    return path


def test_a_container_lists_its_parts_in_one_line(container: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(RasterError) as caught:
        segmenter.segment_file(container, Paths(mask=tmp_path / "m.tif"))
    line = str(caught.value)
    assert f"{container}: expected an image, found a container of 7; name one: " in line
    assert line.endswith(" and 2 more")
    names = shlex.split(line.split("name one: ")[1].removesuffix(" and 2 more").replace(", ", " "))
    assert len(names) == 5
    for name in names:
        with open_any(name) as dataset:
            assert (dataset.height, dataset.width) == (37, 50)


def test_a_part_of_a_container_gives_its_mask(container: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    name = f"GPKG:{container}:part_3"
    report = segmenter.segment_file(name, Paths(mask=tmp_path / "m.tif"))
    assert report.image == name
    with rasterio.open(name) as dataset, rasterio.open(tmp_path / "m.tif") as mask:
        expected = segmenter.segment(dataset.read((1, 2, 3)).transpose(1, 2, 0)).ids
        found = mask.read(1)
        np.testing.assert_array_equal(found[found < 255], expected[found < 255])
        assert (found < 255).any()
        assert (mask.crs, mask.transform) == (dataset.crs, dataset.transform)


def test_a_container_is_not_overwritten_by_the_mask_of_its_part(container: Path, segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="is the image itself"):
        segmenter.segment_file(f"GPKG:{container}:part_3", Paths(mask=container), overwrite=True)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ('HDF5:"{file}"://image', "scene_image"),
        ("HDF5:{file}://a/b c", "scene_a_b_c"),
        ("NETCDF:{file}:red", "scene_red"),
        ('NETCDF:"{file}":red', "scene_red"),
        ("SENTINEL2_L1C:{file}:10m:EPSG_32632", "scene_10m_EPSG_32632"),
        ("GTIFF_DIR:2:{file}", "scene_2"),
    ],
)
def test_parts_are_named_as_gdal_names_them(tmp_path: Path, name: str, stem: str) -> None:
    file = tmp_path / "scene.nc"
    file.touch()
    name = name.format(file=file)
    assert (place_of(name), file_of(name), stem_of(name)) == (name, file, stem)


def test_a_file_is_a_path_even_with_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scene.tif").touch()
    Path("NETCDF:scene.tif").touch()
    for name in ("scene.tif", "NETCDF:scene.tif", "gone.tif", "NETCDF:gone.tif:red"):
        assert (place_of(name), file_of(name)) == (Path(name), Path(name))
    assert stem_of("NETCDF:scene.tif") == "NETCDF:scene"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("http://host/a.tif", "remote images are not read yet; download it, or name a local .vrt"),
        ("https://host/a.tif?x=1", "remote images are not read yet"),
        ("https://host/a.tif?signature=" + "0" * 500, "remote images are not read yet"),
        ("s3://bucket/a.tif", "remote images are not read yet"),
        ("/vsicurl/http://host/a.tif", "remote images are not read yet"),
        ("/vsis3/bucket/a.tif", "remote images are not read yet"),
        ("zip://a.zip!b.tif", "images inside archives are not read; unpack it"),
        ("/vsizip/a.zip/b.tif", "images inside archives are not read; unpack it"),
        ("file:///data/a.tif", "an image is named by its path"),
        ("HDF5:gone.h5://red", "expected an image, found no such file"),
    ],
)
def test_what_is_not_here_is_named_as_it_was_given(segmenter: Segmenter, tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(RasterError) as caught:
        segmenter.segment_file(name, Paths(mask=tmp_path / "m.tif"))
    if "gone" not in name:
        assert str(caught.value).startswith(f"{name}: ")
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_was_made_a_path_is_a_url_all_the_same() -> None:
    with pytest.raises(RasterError, match="remote images are not read yet"), open_any(Path("http://host/a.tif")):
        pass
