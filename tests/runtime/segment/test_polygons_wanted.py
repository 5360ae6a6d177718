"""Polygons that say what is wanted: which pixels, which files, and statistics of each."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin

from fctl.runtime import Paths, Segmenter, Where
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError, OutputError
from fctl.runtime.tiling.windows import Window
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.segment.test_area import ON_TINY, bands, layers
from tests.runtime.segment.test_jobs import digests, paths_in, steps

pyogrio = pytest.importorskip("pyogrio")
shapely = pytest.importorskip("shapely")

from fctl.runtime.raster.georeference import Georeference  # noqa: E402
from fctl.runtime.raster.outlines import Outlines  # noqa: E402
from fctl.runtime.raster.placing import outlines_on  # noqa: E402
from fctl.runtime.raster.vectors import Features  # noqa: E402

HEIGHT, WIDTH = 100, 70
PLACE = from_origin(300000, 2780000, 0.5, 0.5)
CRS = "EPSG:32640"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_geotiff(tmp_path_factory.mktemp("polygons") / "image.tif", slope_of(HEIGHT, WIDTH))


def placed(shapes: list[object], transform: Affine = PLACE) -> list[object]:
    """Shapes in columns and rows, in coordinates."""
    matrix = transform.a, transform.b, transform.d, transform.e, transform.c, transform.f

    def turned(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, d, e, c, f = matrix
        return np.stack([a * corners[:, 0] + b * corners[:, 1] + c, d * corners[:, 0] + e * corners[:, 1] + f], axis=1)

    return [shapely.transform(shape, turned) for shape in shapes]


def write(
    path: Path, shapes: list[object], crs: str | None = CRS, kind: str = "Unknown", **fields: list[object]
) -> Path:
    values = [np.array(value, dtype=object) for value in fields.values()]
    pyogrio.raw.write(
        str(path), shapely.to_wkb(np.array(shapes, object)), values, list(fields), geometry_type=kind, crs=crs
    )
    return path


def burnt(
    shapes: list[object], transform: Affine = PLACE, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> NDArray[np.bool_]:
    """What GDAL says of each pixel of the whole raster."""
    found: NDArray[np.bool_] = rasterize(shapes, out_shape=size, transform=transform) != 0
    return found


def star(x: float, y: float, radius: float, seed: int, corners: int = 11) -> object:
    rng = np.random.default_rng(seed)
    turns, reach = np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(0.3, 1, corners) * radius
    return shapely.make_valid(shapely.Polygon(np.stack([x + reach * np.cos(turns), y + reach * np.sin(turns)], axis=1)))


SHAPES = [star(20.3, 30.7, 18, 1), star(50.1, 70.4, 25, 2), star(33.3, 37.2, 9, 3), star(66, 99, 12, 4)]


def georeference(transform: Affine) -> Georeference:
    return Georeference(crs=rasterio.CRS.from_string(CRS), transform=transform, gcps=((), None))


def outlines(shapes: list[object], size: tuple[int, int], transform: Affine = PLACE) -> Outlines:
    wkb = shapely.to_wkb(np.array(shapes, object))
    return outlines_on(Features(wkb, tuple(map(str, range(len(shapes)))), CRS), georeference(transform), *size)


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL])
@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".shp"])
def test_pixels_in_polygons_are_those_of_the_whole_run(bundle: Path, suffix: str, image: Path, tmp_path: Path) -> None:
    shapes = placed(SHAPES)
    aoi = write(tmp_path / f"fields{suffix}", shapes, kind="MultiPolygon" if suffix in (".fgb", ".shp") else "Unknown")
    with Segmenter(bundle, backend="onnxruntime", batch=7) as segmenter:
        whole, part = paths_in(tmp_path / "whole"), paths_in(tmp_path / "part")
        segmenter.segment_file(image, whole)
        report = segmenter.segment_file(image, part, where=Where(aoi=aoi))
        estimate = segmenter.estimate(image, part, overwrite=True, where=Where(aoi=aoi))
    wanted, box = burnt(shapes), report.area
    assert box is not None
    rows, columns = np.nonzero(wanted)
    assert box.y <= rows.min() <= box.y + 1
    assert box.x <= columns.min() <= box.x + 1
    assert box.bottom - 1 <= rows.max() + 1 <= box.bottom
    assert box.right - 1 <= columns.max() + 1 <= box.right
    here = np.s_[box.y : box.bottom, box.x : box.right]
    mask, probabilities, confidence = layers(part)
    whole_mask, whole_probabilities, whole_confidence = layers(whole)
    np.testing.assert_array_equal(mask[0], np.where(wanted, whole_mask[0], 255)[here])
    np.testing.assert_array_equal(confidence[0], np.where(wanted, whole_confidence[0], 255)[here])
    np.testing.assert_array_equal(probabilities, np.where(wanted, whole_probabilities, 255)[(slice(None), *here)])
    assert report.computed is not None
    assert report.computed + report.skipped == report.tiles
    assert report.skipped > 0
    assert report.computed <= estimate.tiles < report.tiles


def test_tiles_without_a_wanted_pixel_are_not_inferred(tmp_path: Path, image: Path, segmenter: Segmenter) -> None:
    """Two fields in opposite corners of the image: what lies between them costs nothing."""
    shapes = placed([shapely.box(1, 1, 10, 10), shapely.box(60, 90, 69, 99)])
    report = segmenter.segment_file(image, paths_in(tmp_path), where=Where(aoi=write(tmp_path / "a.gpkg", shapes)))
    assert report.area == Window(1, 1, 98, 68)
    assert report.computed == 1 + 2  # columns of tiles overlap at the second field
    assert sum(report.pixels.values()) == 2 * 81


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_windows_of_polygons_are_what_gdal_draws_of_the_whole(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 900)), data.draw(st.integers(1, 900))
    seeds = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
    angle, shear = data.draw(st.sampled_from((0, 30, 200))), data.draw(st.sampled_from((0, 15)))
    transform = Affine.translation(3e5, 2.7e6) @ Affine.rotation(angle) @ Affine.shear(shear) @ Affine.scale(0.5, -0.5)
    shapes = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        x, y, radius = rng.uniform(-50, width + 50), rng.uniform(-50, height + 50), rng.uniform(2, 600)
        shapes.append(star(x, y, radius, seed, corners=int(rng.integers(3, 700))))
    drawn = burnt(shapes, Affine.identity(), (height, width))
    try:
        found = outlines(placed(shapes, transform), (height, width), transform)
    except InputError:
        assert not drawn.any()
        return
    box = found.box
    mask = np.zeros((height, width), np.bool_)
    y, x = data.draw(st.integers(box.y, box.bottom - 1)), data.draw(st.integers(box.x, box.right - 1))
    for part in (
        Window(box.y, box.x, y - box.y, box.width) if y > box.y else None,
        Window(y, box.x, box.bottom - y, x - box.x) if x > box.x else None,
        Window(y, x, box.bottom - y, box.right - x),
    ):
        if part:
            mask[part.y : part.bottom, part.x : part.right] = found.inside(part)
    assert np.count_nonzero(mask != drawn) <= 2  # centres on a border to the last bit
    counts = np.zeros(len(shapes) + 1, np.int64)
    for cell in found.cells(box):
        for numbers in found.layers(cell):
            counts += np.bincount(numbers.ravel(), minlength=len(shapes) + 1)
    alone = [np.count_nonzero(burnt([shape], Affine.identity(), (height, width))) for shape in shapes]
    assert np.abs(counts[1:] - alone).max() <= 2


def test_a_polygon_of_many_corners_is_cut_without_a_trace() -> None:
    turns = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    reach = 600 + 40 * np.sin(turns * 300)
    ring = np.stack([700 + reach * np.cos(turns), 700 + reach * np.sin(turns)], axis=1)
    shape = shapely.Polygon(ring, [[(600, 600), (800, 610), (700, 900)]])
    found = outlines(placed([shape]), (1400, 1400))
    drawn = burnt([shape], Affine.identity(), (1400, 1400))
    box = found.box
    assert np.count_nonzero(found.inside(box) != drawn[box.y : box.bottom, box.x : box.right]) <= 2


def test_statistics_of_each_polygon(image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    """The first and the third polygon overlap, the last one lies beside the image."""
    shapes = placed([*SHAPES, shapely.box(500, 500, 510, 510)])
    names = ["a", "b", "c", "d", "e"]
    aoi = write(tmp_path / "fields.gpkg", shapes, owner=names, NAME=["x"] * 5)
    for ending in ("json", "csv"):
        paths = Paths(mask=tmp_path / "m.tif", others={"stats": tmp_path / f"s.{ending}"})
        report = segmenter.segment_file(image, paths, overwrite=True, where=Where(aoi=aoi, aoi_name="owner"))
    segmenter.segment_file(image, Paths(mask=tmp_path / "whole.tif"))
    ids = bands(tmp_path / "whole.tif")[0]
    table = json.loads((tmp_path / "s.json").read_text())
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    classes = [row["class"] for row in table["classes"]]
    for number, (name, shape) in enumerate(zip(names, shapes, strict=True), 1):
        inside = burnt([shape])
        expected = [int(np.count_nonzero(inside & (ids == index))) for index in range(len(classes))]
        each = table["polygons"][number - 1]
        assert (each["polygon"], each["name"], each["nodata"]) == (number, name, 0)
        assert [row["pixels"] for row in each["classes"]] == expected
        ours = [row for row in rows if row["polygon"] == str(number)]
        assert [(row["name"], row["class"], int(row["pixels"])) for row in ours] == [
            (name, label, count) for label, count in zip(classes, expected, strict=True)
        ]
        for row, count in zip(each["classes"], expected, strict=True):
            assert row["hectares"] == pytest.approx(count * 0.25 / 10_000, abs=1e-6)
            assert row["share"] == pytest.approx(count / max(sum(expected), 1), abs=1e-6)
    assert [row["pixels"] for row in table["classes"]] == list(report.pixels.values())
    assert [int(row["pixels"]) for row in rows if row["polygon"] == ""] == list(report.pixels.values())
    assert sum(report.pixels.values()) == np.count_nonzero(burnt(shapes))


def test_hectares_of_polygons_on_the_ellipsoid(tmp_path: Path, segmenter: Segmenter) -> None:
    transform = from_origin(10, 60, 1e-4, 1e-4)
    image = write_geotiff(tmp_path / "image.tif", slope_of(300, 300), crs="EPSG:4326", transform=transform)
    shapes = placed([shapely.box(0, 0, 300, 150), shapely.box(0, 150, 300, 300)], transform)
    aoi = write(tmp_path / "halves.gpkg", shapes, crs="EPSG:4326")
    paths = Paths(mask=tmp_path / "m.tif", others={"stats": tmp_path / "s.json"})
    segmenter.segment_file(image, paths, where=Where(aoi=aoi))
    table = json.loads((tmp_path / "s.json").read_text())
    total = sum(row["hectares"] for row in table["classes"])
    north, south = (sum(row["hectares"] for row in each["classes"]) for each in table["polygons"])
    assert north < south  # degrees of longitude grow shorter towards the pole
    assert north + south == pytest.approx(total, abs=1e-4)


def test_names_of_polygons(image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    def named(where: Where) -> list[str]:
        paths = Paths(mask=tmp_path / "m.tif", others={"stats": tmp_path / "s.json"})
        segmenter.segment_file(image, paths, overwrite=True, where=where)
        return [each["name"] for each in json.loads((tmp_path / "s.json").read_text())["polygons"]]

    shapes = placed(SHAPES[:2])
    assert named(Where(aoi=write(tmp_path / "a.gpkg", shapes, Name=["north", None], ID=["1", "2"]))) == ["north", "2"]
    assert named(Where(aoi=write(tmp_path / "b.gpkg", shapes, id=["p1", "p2"]))) == ["p1", "p2"]
    assert named(Where(aoi=write(tmp_path / "c.gpkg", shapes))) == ["1", "2"]
    with pytest.raises(InputError, match=r"`aoi_name`: expected a field of .*a\.gpkg: Name, ID, found 'owner'"):
        named(Where(aoi=tmp_path / "a.gpkg", aoi_name="owner"))


def test_polygons_of_another_system_are_reprojected(image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    shapes = placed(SHAPES)
    degrees = shapely.transform(
        np.array(shapes, object),
        lambda corners: np.stack(rasterio.warp.transform(CRS, "EPSG:4326", *corners.T.tolist()), axis=1),
    )
    aoi = write(tmp_path / "fields.geojson", list(degrees), crs="EPSG:4326")
    report = segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), where=Where(aoi=aoi))
    box, wanted = report.area, burnt(shapes)
    assert box is not None
    mask = np.full((HEIGHT, WIDTH), 255)
    mask[box.y : box.bottom, box.x : box.right] = bands(tmp_path / "m.tif")[0]
    assert np.count_nonzero((mask != 255) != wanted) <= 3


def test_a_run_knows_the_polygons_by_their_content(image: Path, tmp_path: Path, in_process: InProcess) -> None:
    aoi = write(tmp_path / "fields.gpkg", placed(SHAPES))
    where = Where(aoi=aoi)
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=2) as segmenter:
        segmenter.segment_file(image, paths_in(tmp_path / "whole"), where=where)
        run = paths_in(tmp_path / "run")
        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
            patch.setattr("fctl.runtime.segment.shards.plan._TILES", 6)
            segmenter.segment_file(image, run, where=where, progress=steps(12))
        write(tmp_path / "others.gpkg", placed(SHAPES[:3]))
        with pytest.raises(OutputError, match="the run to resume had area"):
            segmenter.segment_file(image, run, where=Where(aoi=tmp_path / "others.gpkg"), resume=True)
        copy = tmp_path / "copy.gpkg"
        copy.write_bytes(aoi.read_bytes())
        segmenter.segment_file(image, run, where=Where(aoi=copy), resume=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")

    def code(path: Path) -> int:
        arguments = ("-o", tmp_path / "out", "--no-preview", "--skip-existing", "--overwrite", "--aoi", path)
        return in_process(run_app, image, *ON_TINY, *arguments).returncode

    assert [code(aoi), code(copy), code(tmp_path / "others.gpkg")] == [0, 4, 0]


def test_what_is_no_polygon_is_left_out_and_what_crosses_itself_is_mended(
    image: Path, tmp_path: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    bow = shapely.Polygon([(5, 5), (45, 45), (45, 5), (5, 45)])
    shapes = placed([bow, shapely.Point(3, 3), shapely.GeometryCollection([SHAPES[3], shapely.Point(1, 1)])])
    aoi = write(tmp_path / "mixed.geojson", shapes, crs=CRS, name=["bow", "point", "both"])
    paths = Paths(mask=tmp_path / "m.tif", others={"stats": tmp_path / "s.json"})
    with caplog.at_level(logging.WARNING, logger="fctl"):
        report = segmenter.segment_file(image, paths, where=Where(aoi=aoi))
    assert "1 of 3 features hold no polygon, and are left out" in caplog.text
    assert "1 polygon crosses itself, and is mended" in caplog.text
    wanted = burnt([shapely.make_valid(shapes[0]), placed([SHAPES[3]])[0]])
    assert abs(sum(report.pixels.values()) - np.count_nonzero(wanted)) <= 2
    table = json.loads((tmp_path / "s.json").read_text())
    assert [sum(row["pixels"] for row in each["classes"]) > 0 for each in table["polygons"]] == [True, False, True]


def test_a_file_without_a_system_takes_that_of_the_image_with_one_warning(
    image: Path, tmp_path: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    aoi = write(tmp_path / "fields.fgb", placed(SHAPES), crs=None, kind="MultiPolygon")
    with caplog.at_level(logging.WARNING, logger="fctl"):
        report = segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), where=Where(aoi=aoi))
    assert caplog.text.count("no coordinate reference system: that of the image is taken") == 1
    assert sum(report.pixels.values()) == np.count_nonzero(burnt(placed(SHAPES)))


def features(*rings: list[tuple[float, float]], crs: str = "EPSG::32640") -> str:
    """GeoJSON by hand, with numbers that pyogrio would not write."""
    system = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs}"}}
    found = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings
    ]
    return json.dumps({"type": "FeatureCollection", "crs": system, "features": found})


def test_polygons_without_a_place_do_not_stop_the_others(
    image: Path, tmp_path: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    here = [(300010.0, 2779970.0), (300015.0, 2779970.0), (300015.0, 2779979.0), (300010.0, 2779970.0)]
    endless, huge = [(float("inf"), 1.0), (2.0, 3.0), (4.0, 5.0)], [(-1e300, 0.0), (1e300, 0.0), (0.0, 1e300)]
    aoi, paths = tmp_path / "odd.geojson", Paths(mask=tmp_path / "m.tif")
    aoi.write_text(features(endless, here, huge))
    with caplog.at_level(logging.WARNING, logger="fctl"):
        report = segmenter.segment_file(image, paths, where=Where(aoi=aoi))
    assert "2 polygons of 3 without a place in the system of the image: left out" in caplog.text
    assert sum(report.pixels.values()) == np.count_nonzero(burnt([shapely.Polygon(here)]))

    degrees = list(zip(*rasterio.warp.transform(CRS, "EPSG:4326", *zip(*here, strict=True)), strict=True))
    aoi.write_text(features([(300.0, 95.0), (310.0, 95.0), (310.0, 99.0)], degrees, crs="OGC:1.3:CRS84"))
    report = segmenter.segment_file(image, paths, overwrite=True, where=Where(aoi=aoi))
    assert abs(sum(report.pixels.values()) - np.count_nonzero(burnt([shapely.Polygon(here)]))) <= 2


def test_an_output_in_place_of_the_polygons_is_refused(image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    aoi = write(tmp_path / "fields.gpkg", placed(SHAPES))
    before = aoi.read_bytes()
    paths = Paths(mask=tmp_path / "m.tif", others={"vector": aoi})
    with pytest.raises(InputError, match=r"fields\.gpkg would hold the polygons and an output"):
        segmenter.segment_file(image, paths, overwrite=True, where=Where(aoi=aoi))
    assert aoi.read_bytes() == before


def nothing(path: Path) -> Path:
    return path


def folder(path: Path) -> Path:
    return path.parent


def text(path: Path) -> Path:
    path.write_text("no polygons")
    return path


def virtual(path: Path) -> Path:
    layer = "<OGRVRTLayer name='a'><SrcDataSource>/etc/passwd</SrcDataSource></OGRVRTLayer>"
    path.write_text(f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>")
    return path


def damaged(path: Path) -> Path:
    path.write_text('{"type": "FeatureCollection", "features": [{"type": ')
    return path


def points(path: Path) -> Path:
    return write(path.with_suffix(".fgb"), [shapely.Point(1, 1)], kind="Point")


def mixed_points(path: Path) -> Path:
    return write(path.with_suffix(".geojson"), [shapely.Point(1, 1)])


def empty(path: Path) -> Path:
    return write(path.with_suffix(".gpkg"), [])


def beside(path: Path) -> Path:
    return write(path.with_suffix(".gpkg"), placed([shapely.box(200, 200, 300, 300)] * 3))


def between(path: Path) -> Path:
    return write(path.with_suffix(".gpkg"), placed([shapely.box(3.6, 3.6, 3.9, 3.9)]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing, "--aoi: expected a file with polygons, found no such file"),
        (folder, "--aoi: expected a file with polygons, found a folder"),
        (text, "--aoi: expected a file of GeoPackage, GeoJSON, FlatGeobuf, Shapefile or KML, found another format"),
        (virtual, "lift this check with --allow-remote"),
        (damaged, "--aoi: expected a file of polygons that GDAL reads, found"),
        (points, "--aoi: expected a file with polygons, found none in"),
        (mixed_points, "--aoi: expected a file with polygons, found none in"),
        (empty, "--aoi: expected a file with polygons, found none in"),
        (beside, "--aoi: expected polygons on the image, found 3 polygons, beside it; see where both lie"),
        (between, "--aoi: expected polygons that hold a pixel of the image, found 1 polygon between the centres"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_files_are_one_line(
    make: Callable[[Path], Path], message: str, image: Path, tmp_path: Path, in_process: InProcess
) -> None:
    aoi = make(tmp_path / "aoi.json")
    result = in_process(run_app, image, *ON_TINY, "-o", tmp_path / "out", "--aoi", aoi)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 1
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_polygons_need_a_raster_with_a_place(tmp_path: Path, segmenter: Segmenter) -> None:
    aoi = write(tmp_path / "fields.gpkg", placed(SHAPES))
    nowhere = write_geotiff(tmp_path / "nowhere.tif", slope_of(40, 30), crs=None, transform=None)
    with pytest.raises(InputError, match="`aoi`: expected an image with a place on the ground, found none"):
        segmenter.segment_file(nowhere, Paths(mask=tmp_path / "m.tif"), where=Where(aoi=aoi))
    unknown = write_geotiff(tmp_path / "unknown.tif", slope_of(40, 30), crs=None)
    with pytest.raises(InputError, match="`aoi`: expected an image with a coordinate reference system, found none"):
        segmenter.segment_file(unknown, Paths(mask=tmp_path / "m.tif"), where=Where(aoi=aoi))
