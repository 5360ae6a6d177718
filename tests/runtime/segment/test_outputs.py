"""Outputs that a map-maker uses: a COG with names and colours, bytes for probabilities, statistics and polygons."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import Affine, from_origin

from fctl.runtime import Paths, Segmenter
from fctl.runtime.errors import InputError, OutputError
from fctl.runtime.raster.areas import PixelAreas
from fctl.runtime.raster.georeference import Georeference
from fctl.runtime.segment.levels import as_bytes, as_floats
from fctl.runtime.segment.options import OutputOptions
from fctl.runtime.segment.pipeline import Block
from fctl.runtime.segment.sinks import SINKS, MaskedRaster, companions_of
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime.naive import slope_of

METRES = Georeference(
    crs=rasterio.crs.CRS.from_epsg(32640), transform=from_origin(3e5, 2.7e6, 0.5, 0.5), gcps=([], None)
)
NOWHERE = Georeference(crs=None, transform=None, gcps=([], None))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_geotiff(tmp_path / "image.tif", slope_of(100, 70))


def patchy(height: int, width: int, cell: int) -> NDArray[np.uint8]:
    """Class ids 0 to 2 in ragged patches, and pixels without data."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 3, (height // cell + 1, width // cell + 1), np.uint8)
    ids = np.kron(small, np.ones((cell, cell), np.uint8))[:height, :width]
    ids[rng.random(ids.shape) < 0.03] = 255
    return ids


def write(
    name: str, path: Path, ids: NDArray[np.uint8], segmenter: Segmenter, place: Georeference,
    options: OutputOptions | None = None, columns: int = 512,
) -> NDArray[np.uint8]:  # fmt: skip
    """Give a mask to a sink in blocks of 256 rows; returns its confidence."""
    confidence = np.random.default_rng(4).integers(100, 255, ids.shape).astype(np.uint8)
    raster = MaskedRaster(
        height=ids.shape[0], width=ids.shape[1], georeference=place, classes=segmenter.manifest.classes, tags={},
        picture=lambda: np.zeros((1, 1, 3), np.uint8), options=options or OutputOptions(),
    )  # fmt: skip
    with SINKS[name].open(path, raster) as take:
        for y in range(0, ids.shape[0], 256):
            for x in range(0, ids.shape[1], columns):
                here = np.s_[y : y + 256, x : x + columns]
                take(Block(y=y, x=x, ids=ids[here], confidence=confidence[here]))
    return confidence


# The mask


def test_names_and_colours_lie_beside_the_mask(tmp_path: Path, image: Path, segmenter: Segmenter) -> None:
    paths = Paths(mask=tmp_path / "m.tif", options=OutputOptions(colours={"green": (1, 2, 3)}))
    segmenter.segment_file(image, paths)
    assert sorted(companions_of(SINKS["mask"], paths.mask)) == [tmp_path / "m.qml", tmp_path / "m.tif.aux.xml"]
    entries = [entry.attrib for entry in ET.parse(tmp_path / "m.qml").iter("paletteEntry")]
    assert [(e["value"], e["label"]) for e in entries] == [("0", "red"), ("1", "green"), ("2", "blue")]
    assert entries[1]["color"] == "#010203"
    about = ET.parse(tmp_path / "m.tif.aux.xml")
    assert [e.text for e in about.iter("Category")] == ["red", "green", "blue"]
    assert [[f.text for f in row] for row in about.iter("Row")][1] == ["1", "green", "1", "2", "3"]
    with rasterio.open(paths.mask) as dataset:
        assert str(tmp_path / "m.tif.aux.xml") in dataset.files
        assert dataset.colormap(1)[1] == (1, 2, 3, 255)


def test_what_lies_beside_the_mask_is_kept_and_replaced_with_it(
    tmp_path: Path, image: Path, segmenter: Segmenter
) -> None:
    style, paths = tmp_path / "m.qml", Paths(mask=tmp_path / "m.tif")
    style.write_text("precious")
    with pytest.raises(OutputError, match=r"m\.qml exists already"):
        segmenter.segment_file(image, paths)
    assert style.read_text() == "precious" and not paths.mask.exists()
    segmenter.segment_file(image, paths, overwrite=True)
    assert "paletteEntry" in style.read_text()


def test_the_mask_is_a_cog_whose_overviews_show_the_most_frequent_id(tmp_path: Path, segmenter: Segmenter) -> None:
    ids = np.kron(patchy(150, 130, 3), np.ones((8, 8), np.uint8))
    write("mask", tmp_path / "m.tif", ids, segmenter, METRES)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.overviews(1) == [2, 4]
        assert (dataset.crs, dataset.transform, dataset.nodata) == (METRES.crs, METRES.transform, 255)
        np.testing.assert_array_equal(dataset.read(1), ids)
        small = dataset.read(1, out_shape=(300, 260))
    assert {*np.unique(small)} <= {0, 1, 2, 255}
    np.testing.assert_array_equal(small, ids[::4, ::4])  # each patch of 8 x 8 pixels has one class
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.qml", "m.tif", "m.tif.aux.xml"]


def test_creation_options_are_passed_on(tmp_path: Path, image: Path, segmenter: Segmenter) -> None:
    options = OutputOptions(creation={"compress": "LZW", "BLOCKSIZE": "128"})
    segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif", options=options))
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert (dataset.profile["compress"], dataset.block_shapes) == ("lzw", [(128, 128)])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FOO", "1", "does not support creation option FOO"),
        ("COMPRESS", "BAR", "unexpected value for COMPRESS"),
        ("COMPRESS", "JPEG", "not supported"),
        ("OVERVIEW_RESAMPLING", "AVERAGE", "mixes class ids"),
        ("TILING_SCHEME", "GoogleMapsCompatible", "another grid"),
    ],
)
def test_creation_options_that_would_not_keep_ids_are_refused_before_the_run(
    tmp_path: Path, image: Path, segmenter: Segmenter, name: str, value: str, told: str
) -> None:
    paths = Paths(mask=tmp_path / "m.tif", options=OutputOptions(creation={name: value}))
    with pytest.raises(InputError, match=told):
        segmenter.segment_file(image, paths)
    assert list(tmp_path.iterdir()) == [image]


def test_a_colour_for_no_class_is_refused(tmp_path: Path, image: Path, segmenter: Segmenter) -> None:
    paths = Paths(mask=tmp_path / "m.tif", options=OutputOptions(colours={"water": (0, 0, 255)}))
    with pytest.raises(InputError, match=r"`colours`: expected red or green or blue, found 'water'"):
        segmenter.segment_file(image, paths)


# Probabilities


def test_bytes_stand_for_254ths() -> None:
    values = np.array([0, 1, 0.5, 1 / 254, 0.3333, np.nan], np.float32)
    assert as_bytes(values).tolist() == [0, 254, 127, 1, 85, 255]
    levels = np.arange(255, dtype=np.uint8)
    np.testing.assert_array_equal(as_bytes(as_floats(levels)), levels)
    assert np.isnan(as_floats(np.array([255], np.uint8)))[0]


@pytest.mark.parametrize("shown", [False, True])
def test_confidence_is_the_highest_probability(tmp_path: Path, segmenter: Segmenter, shown: bool) -> None:
    pixels = slope_of(300, 70)
    pixels[:20, :30] = 0
    path = write_geotiff(tmp_path / "a.tif", pixels, nodata=0)
    paths = Paths(
        mask=tmp_path / "m.tif", others={"confidence": tmp_path / "c.tif"},
        probabilities=tmp_path / "p.tif" if shown else None,
    )  # fmt: skip
    segmenter.segment_file(path, paths)
    exact = segmenter.segment(pixels, probabilities=True).probabilities
    assert exact is not None
    with rasterio.open(tmp_path / "c.tif") as dataset, rasterio.open(paths.mask) as mask:
        found, ids = dataset.read(1), mask.read(1)
        assert (dataset.scales, dataset.nodata, dataset.count) == ((1 / 254,), 255, 1)
    assert (ids == 255).sum() == 20 * 30
    np.testing.assert_array_equal(found, np.where(ids == 255, 255, np.rint(exact.max(axis=0) * 254)))


# Areas and statistics


@pytest.mark.parametrize(
    ("epsg", "place", "expected"),
    [
        (32640, from_origin(3e5, 2.7e6, 0.5, 0.5), 0.25),
        (32640, Affine(0.3, 0.4, 3e5, 0.4, -0.3, 2.7e6), 0.25),
        (2263, from_origin(1e6, 2e5, 2, 2), 4 * 0.3048006096012192**2),
        (4326, from_origin(55, 60, 0.001, 0.001), 6216.8991),
        (4326, Affine(0.0006, 0.0008, 55, 0.0008, -0.0006, 60), 6216.7872),
        (3857, from_origin(6122571, 8399738, 100, 100), 2508.4229),
    ],
)
def test_areas_are_those_on_the_ground(epsg: int, place: Affine, expected: float) -> None:
    """Those on the ellipsoid are from pyproj: Geod(ellps="WGS84").polygon_area_perimeter."""
    areas = PixelAreas(Georeference(crs=rasterio.crs.CRS.from_epsg(epsg), transform=place, gcps=([], None)))
    assert areas.of_rows(Window(0, 0, 1, 1))[0] == pytest.approx(expected, rel=1e-6)


def test_pixels_that_lie_nowhere_have_no_area(tmp_path: Path, segmenter: Segmenter) -> None:
    assert not PixelAreas(NOWHERE).known
    write("stats", tmp_path / "s.csv", patchy(30, 40, 3), segmenter, NOWHERE)
    with (tmp_path / "s.csv").open() as file:
        assert [row["hectares"] for row in csv.DictReader(file)] == ["", "", ""]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_statistics_count_pixels_and_hectares(tmp_path: Path, segmenter: Segmenter, ending: str) -> None:
    ids, path = patchy(300, 600, 7), tmp_path / f"s.{ending}"
    place = Georeference(
        crs=rasterio.crs.CRS.from_epsg(4326), transform=from_origin(55, 60, 0.001, 0.001), gcps=([], None)
    )
    write("stats", path, ids, segmenter, place)
    with path.open() as file:
        rows = list(csv.DictReader(file)) if ending == "csv" else json.load(file)["classes"]
    valid = (ids != 255).sum()
    for index, row in enumerate(rows):
        assert (int(row["id"]), row["class"], int(row["pixels"])) == (
            index,
            ("red", "green", "blue")[index],
            (ids == index).sum(),
        )
        assert float(row["share"]) == pytest.approx((ids == index).sum() / valid, abs=1e-6)
    assert float(rows[0]["hectares"]) == pytest.approx((ids == 0).sum() * 0.6245, rel=0.01)


def test_another_ending_is_refused(tmp_path: Path, image: Path, segmenter: Segmenter) -> None:
    for name, expected in (("stats", ".csv or .json"), ("vector", ".gpkg or .geojson")):
        with pytest.raises(InputError, match=f"`{name}`: expected {expected}"):
            segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif", others={name: tmp_path / "s.txt"}))


# Polygons


def read_polygons(path: Path) -> list[dict[str, Any]]:
    """Attributes of all polygons, and their outlines under "outline"."""
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")
    if path.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        about = json.loads(table.schema.metadata[b"geo"])
        rows = table.to_pylist()
        assert about["columns"][about["primary_column"]]["crs"]["id"]["code"] == 32640
        return [row | {"outline": shapely.from_wkb(row[about["primary_column"]])} for row in rows]
    about, _, outlines, fields = pyogrio.raw.read(path)
    assert about["crs"] in ("EPSG:32640", None)
    columns = dict(zip(about["fields"], fields, strict=True))
    return [
        {name: values[index] for name, values in columns.items()} | {"outline": shapely.from_wkb(outline)}
        for index, outline in enumerate(outlines)
    ]


def assert_those_of_the_whole(
    found: Sequence[dict[str, Any]], ids: NDArray[np.uint8], confidence: NDArray[np.uint8], transform: Affine
) -> None:
    """The polygons are those that GDAL makes of the whole mask at once."""
    shapely = pytest.importorskip("shapely")
    whole = shapes(ids, ids != 255, connectivity=4, transform=transform)
    expected = [(value, shapely.geometry.shape(shape)) for shape, value in whole]

    def order(outline: Any) -> tuple[object, ...]:
        return outline.bounds, outline.area

    found = sorted(found, key=lambda row: order(row["outline"]))
    expected.sort(key=lambda pair: order(pair[1]))
    assert len(found) == len(expected)
    for row, (value, outline) in zip(found, expected, strict=True):
        assert row["class_id"] == value
        assert row["outline"].equals(outline)
        assert row["area_m2"] == pytest.approx(outline.area)
    pixels = np.array([row["pixels"] for row in found])
    assert pixels.sum() == (ids != 255).sum()
    mean = (pixels * np.array([row["confidence"] for row in found])).sum() / pixels.sum()
    assert mean == pytest.approx(confidence[ids != 255].mean() / 254, abs=1e-4)


@pytest.mark.parametrize("ending", ["gpkg", "geojson", "fgb", "parquet"])
def test_polygons_equal_those_of_the_whole_mask(
    tmp_path: Path, segmenter: Segmenter, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    polygons = pytest.importorskip("fctl.runtime.segment.sinks.polygons", exc_type=ImportError)
    features = pytest.importorskip("fctl.runtime.segment.sinks.features", exc_type=ImportError)
    monkeypatch.setattr(polygons, "_PIXELS", 70 * 200)  # strips of 70 rows
    monkeypatch.setattr(features, "_CORNERS", 5000)
    ids, path = patchy(600, 200, 6), tmp_path / f"g.{ending}"
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    confidence = write("vector", path, ids, segmenter, METRES, columns=128)
    found = read_polygons(path)
    assert METRES.transform is not None
    assert_those_of_the_whole(found, ids, confidence, METRES.transform)
    assert {row["class"] for row in found} == {"red", "green", "blue"}
    assert list(tmp_path.iterdir()) == [path]


def test_small_polygons_are_left_out_and_borders_get_simpler(tmp_path: Path, segmenter: Segmenter) -> None:
    pytest.importorskip("pyogrio")
    pytest.importorskip("shapely")
    ids = patchy(200, 200, 6)
    write("vector", tmp_path / "all.gpkg", ids, segmenter, METRES)
    options = OutputOptions(min_area=30, simplify=1.0)
    write("vector", tmp_path / "few.gpkg", ids, segmenter, METRES, options)
    every, few = read_polygons(tmp_path / "all.gpkg"), read_polygons(tmp_path / "few.gpkg")
    assert 0 < len(few) == sum(row["area_m2"] >= 30 for row in every) < len(every)
    corners = sum(len(row["outline"].exterior.coords) for row in every if row["area_m2"] >= 30)
    assert sum(len(row["outline"].exterior.coords) for row in few) < corners


@pytest.mark.parametrize("place", [NOWHERE, METRES])
def test_a_mask_without_any_data_has_no_polygons(tmp_path: Path, segmenter: Segmenter, place: Georeference) -> None:
    pytest.importorskip("pyogrio")
    pytest.importorskip("shapely")
    write("vector", tmp_path / "g.gpkg", np.full((20, 30), 255, np.uint8), segmenter, place)
    assert read_polygons(tmp_path / "g.gpkg") == []


def test_areas_of_polygons_add_up_to_those_of_the_statistics(tmp_path: Path, segmenter: Segmenter) -> None:
    pytest.importorskip("pyogrio")
    pytest.importorskip("shapely")
    image = write_geotiff(
        tmp_path / "a.tif", slope_of(100, 300), crs="EPSG:4326", transform=from_origin(55, 60, 1e-4, 1e-4)
    )
    others = {"vector": tmp_path / "g.gpkg", "stats": tmp_path / "s.json"}
    segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif", others=others))
    hectares = {row["class"]: row["hectares"] for row in json.loads((tmp_path / "s.json").read_text())["classes"]}
    pyogrio = pytest.importorskip("pyogrio")
    about, _, _, fields = pyogrio.raw.read(tmp_path / "g.gpkg")
    columns = dict(zip(about["fields"], fields, strict=True))
    for name, expected in hectares.items():
        assert math.isclose(
            columns["area_m2"][columns["class"] == name].sum() / 1e4, expected, rel_tol=1e-6, abs_tol=1e-9
        )
