"""A part of a raster: a window, a box of coordinates, polygons (more in test_polygons.py)."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

from fctl.runtime import Paths, Segmenter, Where
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError, OutputError
from fctl.runtime.raster.georeference import Georeference
from fctl.runtime.segment import memory
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.tiling.windows import Window
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.raster.decoding import counted
from tests.runtime.segment.test_jobs import digests, paths_in, steps
from tests.runtime.segment.test_segmenter import sparse_geotiff

HEIGHT, WIDTH = 100, 70
ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a hole and a frame without data."""
    pixels = slope_of(HEIGHT, WIDTH)
    pixels[pixels == 0] = 4
    pixels[30:50, 20:45] = pixels[:2] = 0
    return write_geotiff(tmp_path_factory.mktemp("area") / "image.tif", pixels, nodata=0)


def bands(path: Path) -> NDArray[np.generic]:
    with rasterio.open(path) as dataset:
        found: NDArray[np.generic] = dataset.read()
    return found


def layers(paths: Paths) -> list[NDArray[np.generic]]:
    assert paths.probabilities
    return [bands(paths.mask), bands(paths.probabilities), bands(Path(paths.others["confidence"]))]


BUNDLES = {
    "contexts": (tiny.TINY, {}),
    "global": (tiny.TINY_GLOBAL, {}),
    "scene blocks": (tiny.TINY_GLOBAL, {"scene_size": 40}),
    "fused": (tiny.TINY_FUSED, {}),
    "turned": (tiny.TINY, {"tta": True}),
    "whole": (tiny.TINY_WHOLE, {"scene_size": 40}),
}


@pytest.mark.once
@pytest.mark.parametrize("name", BUNDLES)
def test_a_window_has_the_pixels_of_the_whole_run(
    name: str, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, options = BUNDLES[name]
    monkeypatch.setattr(plans, "_TILES", 6)
    monkeypatch.setattr(memory, "PANEL", 36)
    with Segmenter(bundle, backend="onnxruntime", batch=5, **options) as segmenter:
        whole = paths_in(tmp_path / "whole")
        segmenter.segment_file(image, whole)
        expected, number = layers(whole), iter(range(1000))

        @settings(deadline=None, max_examples=12)
        @given(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(1, WIDTH), st.integers(1, HEIGHT))
        def check(x: int, y: int, width: int, height: int) -> None:
            paths = paths_in(tmp_path / str(next(number)))
            report = segmenter.segment_file(image, paths, where=Where(window=(x, y, width, height)))
            box = report.area
            assert box == Window(y, x, min(height, HEIGHT - y), min(width, WIDTH - x))
            assert (report.height, report.width) == (box.height, box.width)
            for ours, theirs in zip(layers(paths), expected, strict=True):
                assert ours.tobytes() == np.ascontiguousarray(theirs[:, y : box.bottom, x : box.right]).tobytes()
            counts = np.bincount(layers(paths)[0].ravel(), minlength=256)
            assert list(report.pixels.values()) == counts[: len(report.pixels)].tolist()
            touching = [
                (top, left)
                for top in grid_of(segmenter.manifest, HEIGHT, WIDTH).rows
                for left in grid_of(segmenter.manifest, HEIGHT, WIDTH).columns
                if Window(top, left, 16, 16).shared(box)
            ]
            assert report.tiles == len(touching)
            assert report.computed is not None

        check()


@pytest.mark.once
@pytest.mark.parametrize("bundle", [tiny.TINY_WIDE, tiny.TINY_SHARES])
def test_boxes_of_whole_blocks(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sinks see blocks of 256 rows that begin at the corner of the box, wherever it lies."""
    monkeypatch.setattr(plans, "_TILES", 60)
    pixels = slope_of(390, 460, 4, "uint16") if bundle == tiny.TINY_SHARES else slope_of(390, 460)
    image = write_geotiff(tmp_path / "image.tif", pixels)
    with Segmenter(bundle, backend="onnxruntime", batch=16) as segmenter:
        whole, part = paths_in(tmp_path / "whole"), paths_in(tmp_path / "part")
        segmenter.segment_file(image, whole)
        segmenter.segment_file(image, part, where=Where(window=(131, 57, 290, 280)))
    for ours, theirs in zip(layers(part), layers(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs[:, 57:337, 131:421])
    table = json.loads((tmp_path / "part" / "s.json").read_text())
    counts = np.bincount(layers(part)[0].ravel(), minlength=256)
    assert [row["pixels"] for row in table["classes"]] == counts[: len(table["classes"])].tolist()
    assert "polygons" not in table


def test_the_picture_shows_the_box(image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    report = segmenter.segment_file(image, paths_in(tmp_path), where=Where(window=(10, 60, 41, 33)))
    present = sum(count > 0 for count in report.pixels.values())
    with Image.open(tmp_path / "v.jpg") as picture:
        assert picture.height == 33 + 28 * present + 20
        shown = np.asarray(picture)[:33, :41].astype(int)
    pixels = bands(image).transpose(1, 2, 0)[60:93, 10:51].astype(int)
    assert np.corrcoef(shown.mean(axis=2).ravel(), pixels.mean(axis=2).ravel())[0, 1] > 0.5


def test_tiles_outside_the_window_are_not_inferred(image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    report = segmenter.segment_file(image, paths_in(tmp_path), where=Where(window=(0, 64, 4, 4)))
    assert (report.tiles, report.computed, report.skipped) == (1, 1, 0)
    hole = segmenter.segment_file(image, paths_in(tmp_path / "hole"), where=Where(window=(22, 32, 10, 10)))
    assert (hole.tiles, hole.computed, hole.skipped) == (4, 0, 4)  # the window has no data, so nobody needs its tiles
    assert sum(hole.pixels.values()) == 0


@pytest.mark.parametrize("crs", [None, "EPSG:4326"])
def test_a_box_of_coordinates(crs: str | None, image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    bounds = 300000 + 0.5 * 11, 2780000 - 0.5 * 70, 300000 + 0.5 * 41, 2780000 - 0.5 * 20
    if crs:
        bounds = rasterio.warp.transform_bounds("EPSG:32640", crs, *bounds)
    report = segmenter.segment_file(image, paths_in(tmp_path), where=Where(bbox=bounds, bbox_crs=crs))
    box = report.area
    assert box is not None
    if crs is None:
        assert box == Window(20, 11, 50, 30)
    else:  # the box around a box that is turned a little
        assert box.shared(Window(20, 11, 50, 30)) == Window(20, 11, 50, 30)
        assert box.height < 54
        assert box.width < 34
    with rasterio.open(tmp_path / "m.tif") as mask, rasterio.open(image) as dataset:
        assert mask.crs == dataset.crs
        assert mask.transform == dataset.window_transform(rasterio.windows.Window(box.x, box.y, 1, 1))


def test_a_box_on_a_raster_that_is_turned_is_the_window_around_it(tmp_path: Path, segmenter: Segmenter) -> None:
    transform = Affine.translation(1000, 2000) @ Affine.rotation(30) @ Affine.scale(2, -2)
    image = write_geotiff(tmp_path / "image.tif", slope_of(60, 50), transform=transform)
    corners = [transform @ (x, y) for x, y in ((20, 20), (30, 20), (20, 30), (30, 30))]
    bbox = (
        min(x for x, _ in corners),
        min(y for _, y in corners),
        max(x for x, _ in corners),
        max(y for _, y in corners),
    )
    box = segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), where=Where(bbox=bbox)).area
    assert box is not None
    assert box.shared(Window(20, 20, 10, 10)) == Window(20, 20, 10, 10)
    with rasterio.open(tmp_path / "m.tif") as mask:
        expected = transform @ (box.x, box.y)
        np.testing.assert_allclose(mask.transform @ (0, 0), expected)
        np.testing.assert_allclose(mask.transform @ (3, 4), transform @ (box.x + 3, box.y + 4))


def test_control_points_and_coefficients_move_with_the_box(tmp_path: Path, segmenter: Segmenter) -> None:
    image = tmp_path / "image.tif"
    places = [(0, 0, 300.0, 900.0), (0, 50, 400.0, 905.0), (60, 0, 295.0, 700.0), (60, 50, 398.0, 702.0)]
    points = [GroundControlPoint(row, column, x, y) for row, column, x, y in places]
    write_geotiff(image, slope_of(60, 50), crs="EPSG:32640", transform=None, gcps=points)
    segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), where=Where(window=(7, 12, 30, 40)))
    with rasterio.open(tmp_path / "m.tif") as mask:
        moved = [(point.row + 12, point.col + 7, point.x, point.y) for point in mask.gcps[0]]
    assert moved == places

    same = dict.fromkeys(("line_den_coeff", "line_num_coeff", "samp_den_coeff", "samp_num_coeff"), [1.0] + [0.0] * 19)
    rpcs = RPC(
        height_off=0, height_scale=1, lat_off=0, lat_scale=1, long_off=0, long_scale=1, line_off=30.5, line_scale=30,
        samp_off=25.25, samp_scale=25, **same,
    )  # fmt: skip
    found = Georeference(crs=None, transform=None, gcps=((), None), rpcs=rpcs).moved(12, 7).rpcs
    assert found is not None
    assert (found.line_off, found.samp_off, found.line_scale) == (18.5, 18.25, 30)


def test_blocks_far_from_the_window_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_geotiff(
        tmp_path / "image.tif", slope_of(1500, 1500), tiled=True, blockxsize=64, blockysize=64, compress="deflate"
    )
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=16) as segmenter, counted(image, monkeypatch) as counts:
        segmenter.segment_file(image, paths_in(tmp_path / "out"), where=Where(window=(700, 640, 128, 128)))
    assert 9 <= len(counts) <= 7 * 7  # 3 x 3 blocks and what contexts show around them


@pytest.mark.once
def test_a_window_of_a_huge_raster_costs_what_the_window_costs(tmp_path: Path) -> None:
    image = sparse_geotiff(tmp_path / "huge.tif", 100_000, 100_000)
    window = (73_000, 51_000, 700, 500)
    with rasterio.open(image, "r+") as dataset:
        dataset.write(slope_of(*window[:1:-1]).transpose(2, 0, 1) + 1, window=rasterio.windows.Window(*window))
    small = write_geotiff(tmp_path / "small.tif", slope_of(500, 700) + 1)
    with Segmenter(tiny.TINY_WIDE, backend="onnxruntime", batch=16) as segmenter:
        paths, where = paths_in(tmp_path / "out"), Where(window=window)
        report = segmenter.segment_file(image, paths, where=where)
        whole = segmenter.estimate(image, paths, overwrite=True)
        part = segmenter.estimate(image, paths, overwrite=True, where=where)
        alone = segmenter.estimate(small, paths, overwrite=True)
    assert bands(paths.mask).shape == (1, 500, 700)
    assert 255 not in bands(paths.mask)
    assert report.tiles <= 8 * 7
    assert part.tiles == report.tiles < whole.tiles // 1000
    assert part.disk == alone.disk
    assert part.memory < 1.5 * alone.memory
    assert part.memory < whole.memory
    assert not list(tmp_path.glob("out/*.fctl-run"))


@pytest.mark.once
def test_awkward_blocks_are_copied_for_the_part_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One strip of the whole raster: it is decoded once, and what the window needs is copied."""
    image = write_geotiff(tmp_path / "image.tif", slope_of(400, 900), blockysize=400, compress="deflate")
    whole, part = paths_in(tmp_path / "whole"), paths_in(tmp_path / "part")
    copied: list[tuple[int, int]] = []
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=16) as segmenter:
        segmenter.segment_file(image, whole)
        monkeypatch.setattr(memory, "_MOST_CACHE", 1 << 10)

        def look(done: int, total: int) -> None:
            with rasterio.open(tmp_path / "part" / "m.fctl-run" / "temporary" / "pixels.tif") as copy:
                copied.append(copy.shape)

        segmenter.segment_file(image, part, where=Where(window=(300, 100, 120, 90)), progress=look)
    assert copied[0][0] < 90 + 2 * 80
    assert copied[0][1] < 120 + 2 * 80
    for ours, theirs in zip(layers(part), layers(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs[:, 100:190, 300:420])


def test_a_run_over_a_part_goes_on_and_knows_another_part(
    image: Path, tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_TILES", 6)
    where = Where(window=(5, 20, 50, 70))
    segmenter.segment_file(image, paths_in(tmp_path / "whole"), where=where)
    run = paths_in(tmp_path / "run")
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=2) as slow:
        with pytest.raises(KeyboardInterrupt):
            slow.segment_file(image, run, where=where, progress=steps(16))
        kept = len(list((tmp_path / "run").glob("m.fctl-run/shard-*.npz")))
        assert kept
        for other in (Where(window=(5, 20, 50, 71)), Where()):
            with pytest.raises(OutputError, match=r"the run to resume had area .*, now it is"):
                slow.segment_file(image, run, where=other, resume=True)
        report = slow.segment_file(image, run, where=where, resume=True)
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert report.computed is not None
    assert report.computed < report.tiles


def test_outputs_of_another_part_are_not_taken_for_finished(
    image: Path, tmp_path: Path, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def code(*arguments: str) -> int:
        result = in_process(
            run_app, image, *ON_TINY, "-o", "out", "--no-preview", "--skip-existing", "--overwrite", *arguments
        )
        return result.returncode

    assert code("--window", "3,4,20,10") == 0
    assert code("--window", "3,4,20,10") == 4
    assert code("--window", "3,4,20,11") == 0
    assert code() == 0
    assert code() == 4


def test_what_the_command_line_tells(image: Path, tmp_path: Path, in_process: InProcess) -> None:
    result = in_process(run_app, image, *ON_TINY, "-o", tmp_path, "--window", "3,4,20,10", "--json")
    fields = json.loads(result.stdout)
    assert fields["area"] == {"x": 3, "y": 4, "width": 20, "height": 10}
    assert (fields["height"], fields["width"], fields["tiles"]) == (10, 20, 4)
    with rasterio.open(tmp_path / "image_mask.tif") as mask:
        assert json.loads(mask.tags()["FCTL_AREA"]) == {"window": [3, 4, 20, 10]}
    shown = in_process(run_app, image, *ON_TINY, "-o", tmp_path, "--overwrite", "--window", "3,4,20,10", "--dry-run")
    assert "10 x 20 pixels from row 4, column 3" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--window", "1,2,3"), "--window: expected four numbers as in 0,0,1024,768, found '1,2,3'"),
        (("--window", "a,2,3,4"), "--window: expected four numbers"),
        (
            ("--window", "1,2,0,4"),
            "--window: expected first column, first row, width and height, the last two at least 1",
        ),
        (("--window", "70,0,5,5"), "--window: expected pixels of 70 columns and 100 rows, found 70,0,5,5"),
        (("--window", "-9,-9,9,9"), "--window: expected pixels of 70 columns"),
        (("--bbox", "3,2,1,4"), "--bbox: expected lowest x, lowest y, highest x and highest y, found 3,2,1,4"),
        (("--bbox", "nan,2,5,4"), "--bbox: expected lowest x"),
        (("--bbox", "1,2,3,4"), "--bbox: expected coordinates on the image"),
        (("--bbox", "300000.1,2779999.6,300000.2,2779999.7"), "--bbox: expected coordinates on the image"),
        (
            ("--bbox", "1,2,3,4", "--bbox-crs", "EPSG:0"),
            "--bbox-crs: expected a system such as EPSG:4326, found EPSG:0",
        ),
        (("--bbox-crs", "EPSG:4326"), "--bbox-crs means nothing without --bbox"),
        (("--aoi-name", "id"), "--aoi-name means nothing without --aoi"),
        (("--window", "0,0,5,5", "--bbox", "1,2,3,4"), "--window and --bbox are given: a run takes one of them"),
    ],
)
def test_what_means_nothing_is_one_line(
    arguments: tuple[str, ...], message: str, image: Path, tmp_path: Path, in_process: InProcess
) -> None:
    result = in_process(run_app, image, *ON_TINY, "-o", tmp_path / "out", *arguments)
    assert result.returncode in (1, 2)
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_raster_that_lies_nowhere_takes_windows_alone(tmp_path: Path, segmenter: Segmenter) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(slope_of(40, 30)).save(image)
    where = Where(bbox=(0, 0, 10, 10))
    with pytest.raises(
        InputError, match="`bbox`: expected an image with a place on the ground, found none; name pixels"
    ):
        segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), where=where)
    segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), where=Where(window=(4, 5, 20, 10)))
    with rasterio.open(tmp_path / "m.tif") as mask:
        assert mask.shape == (10, 20)
        assert mask.crs is None

    points = [GroundControlPoint(0, 0, 0, 0), GroundControlPoint(9, 9, 1, 1), GroundControlPoint(0, 9, 1, 0)]
    write_geotiff(tmp_path / "points.tif", slope_of(40, 30), transform=None, gcps=points)
    with pytest.raises(InputError, match="found control points or coefficients alone; name pixels"):
        segmenter.estimate(tmp_path / "points.tif", Paths(mask=tmp_path / "n.tif"), where=where)


def test_a_table_of_a_window_has_its_totals_alone(image: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    paths = Paths(mask=tmp_path / "m.tif", others={"stats": tmp_path / "s.csv"})
    report = segmenter.segment_file(image, paths, where=Where(window=(3, 4, 50, 60)))
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert {row["class"]: int(row["pixels"]) for row in rows} == report.pixels
