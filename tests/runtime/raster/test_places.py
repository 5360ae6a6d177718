"""How images are named: containers and their parts, and what lies on no disk here."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmenter
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.raster.fingerprint import fingerprint
from fctl.runtime.raster.places import file_of, place_of, stem_of
from fctl.runtime.raster.source import open_any
from tests.conftest import write_geotiff
from tests.runtime import tiny

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
        ("http://host/a.tif", "remote images are not read by default; download it, or, if you trust the image, lift"),
        ("https://host/a.tif?x=1", "remote images are not read by default"),
        ("https://host/a.tif?signature=" + "0" * 500, "remote images are not read by default"),
        ("s3://bucket/a.tif", "remote images are not read by default"),
        ("/vsicurl/http://host/a.tif", "remote images are not read by default"),
        ("/vsis3/bucket/a.tif", "remote images are not read by default"),
        ("zip://a.zip!b.tif", "images inside archives are not read by default; unpack it"),
        ("/vsizip/a.zip/b.tif", "images inside archives are not read by default; unpack it"),
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


@pytest.mark.parametrize(
    ("name", "place", "stem"),
    [
        ("https://host/a/b%20c.tif?signature=x/y.z", None, "b c"),
        ("https:/host/a.tif", "https://host/a.tif", "a"),
        ("/vsicurl/https:/host/a.tif", "/vsicurl/https://host/a.tif", "a"),
        ("s3://bucket/folder/a.tif", None, "a"),
        ("s3:/bucket/a.tif", "s3://bucket/a.tif", "a"),
        ("/vsis3/bucket/a.tif", None, "a"),
        ("zip://gone.zip!folder/b.tif", None, "b"),
        ("https://host/", None, "image"),
    ],
)
def test_names_of_what_lies_elsewhere_are_kept(name: str, place: str | None, stem: str) -> None:
    assert (place_of(name), stem_of(name)) == (place or name, stem)
    assert place_of(Path(name)) == place_of(str(Path(name)))


@pytest.mark.parametrize("form", ["/vsizip/{}/folder/a.tif", "/vsizip/{{{}}}/folder/a.tif", "zip://{}!folder/a.tif"])
def test_an_image_in_an_archive_is_read_where_that_is_allowed(
    tmp_path: Path, rng: np.random.Generator, form: str
) -> None:
    image = rng.integers(1, 256, (20, 30, 3)).astype(np.uint8)
    archive, file = tmp_path / "scenes.zip", write_geotiff(tmp_path / "a.tif", image)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(file, "folder/a.tif")
    name = form.format(archive)
    assert (place_of(name), file_of(name), stem_of(name)) == (name, archive, "a")
    with Segmenter(tiny.TINY, backend="onnxruntime", sources="any") as segmenter:
        segmenter.segment_file(name, Paths(mask=tmp_path / "m.tif"))
        with rasterio.open(tmp_path / "m.tif") as mask:
            np.testing.assert_array_equal(mask.read(1), segmenter.segment(image).ids)
        with pytest.raises(InputError, match="is the image itself"):
            segmenter.segment_file(name, Paths(mask=archive), overwrite=True)
    before = fingerprint(name)
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("more", b"1")
    assert before.difference(fingerprint(name)) is not None


def test_a_url_that_was_made_a_path_is_a_url_all_the_same() -> None:
    with pytest.raises(RasterError, match="remote images are not read by default"), open_any(Path("http://host/a.tif")):
        pass
