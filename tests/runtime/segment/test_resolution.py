"""Runs that work at another ground distance than the raster's, and write on the raster's own grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_origin

from fctl.runtime import Paths, Segmenter, Where
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError, OutputError, RasterError
from fctl.runtime.raster.access import Access
from fctl.runtime.segment import memory, shardwork
from fctl.runtime.segment.shards import plan as plans
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.raster.test_blocks import corrupt
from tests.runtime.segment.test_jobs import digests, paths_in, steps

Array = NDArray[Any]
GROUND = 0.5 / 0.9996  # metres of a pixel of `write_geotiff`, about


def bundle_of(folder: Path, distance: float | None, bundle: Path = tiny.TINY) -> Path:
    """A copy of a bundle that states a distance."""

    def change(manifest: dict[str, dict[str, object]]) -> None:
        manifest["input"]["ground_sample_distance"] = distance

    return tiny.variant(bundle, folder, change)


def read(path: Path) -> Array:
    with rasterio.open(path) as dataset:
        pixels: Array = dataset.read()
    return pixels


def test_it_works_on_means_and_writes_the_nearest(tmp_path: Path, segmenter: Segmenter) -> None:
    pixels = slope_of(120, 88)
    image = write_geotiff(tmp_path / "a.tif", pixels)
    report = segmenter.segment_file(image, paths_in(tmp_path / "out"), resolution=2 * GROUND)
    means = np.rint(pixels.reshape(60, 2, 44, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
    coarse = segmenter.segment(means, probabilities=True)
    assert coarse.probabilities is not None and len(np.unique(coarse.ids)) > 1
    mask, found = read(tmp_path / "out" / "m.tif")[0], read(tmp_path / "out" / "p.tif")
    np.testing.assert_array_equal(mask, coarse.ids.repeat(2, 0).repeat(2, 1))
    expected = np.rint(coarse.probabilities * 254).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(read(tmp_path / "out" / "c.tif")[0], found.max(axis=0))
    assert (report.height, report.width) == (120, 88) and sum(report.pixels.values()) == 120 * 88
    stats = json.loads((tmp_path / "out" / "s.json").read_text())
    assert [entry["pixels"] for entry in stats["classes"]] == list(report.pixels.values())
    with rasterio.open(image) as source, rasterio.open(tmp_path / "out" / "m.tif") as out:
        assert (out.shape, out.transform, out.crs) == (source.shape, source.transform, source.crs)
        assert out.tags()["FCTL_RESOLUTION"] == f"{2 * GROUND:.9g}"


def test_the_preview_is_that_of_the_image_itself(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(60, 50))
    for resolution in ("native", "1.1"):
        paths = Paths(mask=tmp_path / resolution / "m.tif", preview=tmp_path / resolution / "v.png")
        segmenter.segment_file(image, paths, resolution=resolution)
    native, coarse = (read(tmp_path / name / "v.png") for name in ("native", "1.1"))
    masks = [read(tmp_path / name / "m.tif")[0] for name in ("native", "1.1")]
    same = masks[0] == masks[1]
    assert 0 < same.mean() < 1
    assert (native[:, :60, :50] == coarse[:, :60, :50])[:, same].all()


@pytest.mark.once
@pytest.mark.parametrize("resolution", ["1.3", "0.31"])
def test_shards_and_interruptions_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolution: str
) -> None:
    segmenter = Segmenter(tiny.TINY, backend="onnxruntime", batch=1)
    pixels = slope_of(130, 110)
    pixels[40:90, 30:60] = 0
    image = write_geotiff(tmp_path / "a.tif", pixels, nodata=0)
    segmenter.segment_file(image, paths_in(tmp_path / "whole"), resolution=resolution)
    monkeypatch.setattr(plans, "_TILES", 4)
    monkeypatch.setattr(memory, "PANEL", 30)
    segmenter.segment_file(image, paths_in(tmp_path / "many"), resolution=resolution)
    with pytest.raises(KeyboardInterrupt):
        segmenter.segment_file(image, paths_in(tmp_path / "again"), resolution=resolution, progress=steps(12))
    assert len(list((tmp_path / "again").glob("m.fctl-run/shard-*.npz"))) >= 1
    with pytest.raises(OutputError, match=f"had resolution {resolution}, now it is 0.6"):
        segmenter.segment_file(image, paths_in(tmp_path / "again"), resolution="0.6", resume=True)
    segmenter.segment_file(image, paths_in(tmp_path / "again"), resolution=resolution, resume=True)
    segmenter.close()
    expected = digests(tmp_path / "whole")
    assert digests(tmp_path / "many") == expected and digests(tmp_path / "again") == expected


@pytest.mark.once
@pytest.mark.parametrize("kind", ["value", "mask", "alpha", "nan"])
@pytest.mark.parametrize("resolution", ["1.9", "0.21"])
def test_pixels_without_data_are_those_of_the_raster(
    tmp_path: Path, rng: np.random.Generator, kind: str, resolution: str
) -> None:
    lost = rng.random((70, 90)) < 0.5  # so that nearly every working pixel has some of both
    pixels = rng.integers(1, 256, (70, 90, 3)).astype(np.float32 if kind == "nan" else np.uint8)
    image, bundle = tmp_path / "a.tif", tiny.TINY_FLOAT if kind == "nan" else tiny.TINY
    if kind in ("value", "nan"):
        pixels[lost] = np.nan if kind == "nan" else 0
        write_geotiff(image, pixels, nodata=None if kind == "nan" else 0)
    elif kind == "alpha":
        alpha = np.where(lost, 0, 255).astype(np.uint8)[:, :, None]
        write_geotiff(image, np.concatenate([pixels, alpha], axis=2), photometric="rgb", alpha="yes")
    else:
        write_geotiff(image, pixels)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(image, "r+") as dataset:
            dataset.write_mask(~lost)
    with Segmenter(bundle, backend="onnxruntime") as segmenter:
        report = segmenter.segment_file(image, paths_in(tmp_path / "out"), resolution=resolution)
    np.testing.assert_array_equal(read(tmp_path / "out" / "m.tif")[0] == 255, lost)
    assert (read(tmp_path / "out" / "p.tif")[:, lost] == 255).all()
    assert sum(report.pixels.values()) == np.count_nonzero(~lost) and report.not_finite == 0


def test_undeclared_values_spoil_no_mean_and_are_counted_once(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = rng.random((40, 40, 3)).astype(np.float32)
    pixels[10:13, 7] = np.finfo(np.float32).min
    image = write_geotiff(tmp_path / "a.tif", pixels)
    with Segmenter(tiny.TINY_FLOAT, backend="onnxruntime") as segmenter:
        report = segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), resolution="1.5")
    assert (report.implausible, report.not_finite) == (3, 0)
    assert np.argwhere(read(tmp_path / "m.tif")[0] == 255).tolist() == [[10, 7], [11, 7], [12, 7]]


def test_a_block_that_cannot_be_read_is_left_out(tmp_path: Path, segmenter: Segmenter) -> None:
    settings: dict[str, object] = {"tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    image = write_geotiff(tmp_path / "a.tif", slope_of(100, 100), **settings)
    corrupt(image, 1, 1)
    with pytest.raises(RasterError, match="damaged"):
        segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), resolution="1")
    paths = Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.jpg")
    report = segmenter.segment_file(image, paths, resolution="1", on_bad_block="nodata")
    assert [(w.y, w.x, w.height, w.width) for w in report.bad_blocks] == [(0, 32, 32, 32)]
    lost = np.zeros((100, 100), np.bool_)
    lost[:32, 32:64] = True
    np.testing.assert_array_equal(read(tmp_path / "m.tif")[0] == 255, lost)


def test_a_copy_of_an_awkward_raster_changes_no_byte(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(100, 100), nodata=7)
    segmenter.segment_file(image, paths_in(tmp_path / "read"), resolution="1.2")
    copied: list[bool] = []
    copy = shardwork.spooled
    monkeypatch.setattr(
        shardwork, "spooled", lambda *arguments, **options: (copied.append(True), copy(*arguments, **options))[1]
    )
    monkeypatch.setattr(memory, "_MOST_CACHE", 1)
    segmenter.segment_file(image, paths_in(tmp_path / "copied"), resolution="1.2")
    assert copied
    assert digests(tmp_path / "read") == digests(tmp_path / "copied")


def test_scaling_is_measured_on_the_raster(tmp_path: Path, rng: np.random.Generator, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "a.tif", rng.integers(100, 4000, (60, 60, 3)).astype(np.uint16))
    tags = []
    for resolution in ("native", "2"):
        mask = tmp_path / resolution / "m.tif"
        segmenter.segment_file(image, Paths(mask=mask), resolution=resolution, scale_range="percentile:2,98")
        with rasterio.open(mask) as dataset:
            tags.append(dataset.tags()["FCTL_SCALE_BOUNDS"])
    assert tags[0] == tags[1]


@pytest.mark.parametrize(
    ("trained", "told"),
    [
        (2.0, "worked at 2 m (raster: 0.5 m)"),
        (0.25, "worked at 0.25 m (raster: 0.5 m)"),
        (0.1, "4 times larger"),  # too coarse to enlarge
        (0.7, None),
        (None, None),
    ],
)
def test_auto_works_at_the_distance_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trained: float | None, told: str | None
) -> None:
    caplog.set_level("INFO", "fctl")
    image = write_geotiff(tmp_path / "a.tif", slope_of(90, 70))
    with Segmenter(bundle_of(tmp_path, trained), backend="onnxruntime") as segmenter:
        segmenter.segment_file(image, Paths(mask=tmp_path / "auto.tif"))
        said = [record.getMessage() for record in caplog.records if "worked" in record.getMessage()]
        said += [record.getMessage() for record in caplog.records if "classes may be wrong" in record.getMessage()]
        caplog.clear()
        segmenter.segment_file(image, Paths(mask=tmp_path / "native.tif"), resolution="native")
    assert len(said) == (told is not None)
    if trained == 0.1:
        assert "5 times larger" in said[0]
    elif told:
        assert told in said[0]
        assert "classes may be wrong" in caplog.text  # natively
    tags = []
    for name in ("auto", "native"):
        with rasterio.open(tmp_path / f"{name}.tif") as dataset:
            tags.append(dataset.tags().get("FCTL_RESOLUTION"))
    assert tags == ([f"auto {trained:g}", "native"] if trained else [None, None])
    same = (read(tmp_path / "auto.tif") == read(tmp_path / "native.tif")).all()
    assert same == (trained not in (2.0, 0.25))


@pytest.mark.parametrize("place", ["none", "no crs", "control points"])
def test_metres_need_a_place_on_the_ground(tmp_path: Path, place: str) -> None:
    settings: dict[str, object] = {"crs": None, "transform": Affine.identity()}
    if place == "no crs":
        settings["transform"] = from_origin(0, 0, 1, 1)
    image = write_geotiff(tmp_path / "a.tif", slope_of(40, 40), **settings)
    if place == "control points":
        with rasterio.open(image, "r+") as dataset:
            points = [GroundControlPoint(y, x, x, 40 - y) for y, x in ((0, 0), (0, 39), (39, 0))]
            dataset.gcps = points, "EPSG:32640"
    with Segmenter(bundle_of(tmp_path, 2.0), backend="onnxruntime") as segmenter:
        with pytest.raises(RasterError, match="needs a transform and a coordinate reference system"):
            segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), resolution=2)
        assert list(tmp_path.glob("m*")) == []
        segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"))  # auto: silently its own


@pytest.mark.parametrize("resolution", ["0", "-1", "nan", "inf", "fine", ""])
def test_anything_else_is_refused(tmp_path: Path, segmenter: Segmenter, resolution: str) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(40, 40))
    with pytest.raises(InputError, match="`resolution`: expected auto, native or metres"):
        segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), resolution=resolution)


def test_a_working_grid_beyond_the_limits_is_refused(tmp_path: Path) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(40, 40))
    with (
        Segmenter(tiny.TINY, backend="onnxruntime", sources=Access(max_pixels=10_000)) as segmenter,
        pytest.raises(RasterError, match=r"found 200 x 200 at 0\.1 m; choose another `resolution`"),
    ):
        segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), resolution=0.1)


def test_one_working_pixel_and_working_pixels_without_any(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(9, 5))
    segmenter.segment_file(image, Paths(mask=tmp_path / "one.tif"), resolution=1000)
    assert len(np.unique(read(tmp_path / "one.tif"))) == 1
    segmenter.segment_file(image, Paths(mask=tmp_path / "fine.tif"), resolution=0.02)  # tiles hold less than a pixel
    assert read(tmp_path / "fine.tif").shape == (1, 9, 5) and (read(tmp_path / "fine.tif") < 255).all()


def test_an_estimate_is_that_of_the_working_grid(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(160, 160))
    paths = Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.jpg")
    native, coarse = (segmenter.estimate(image, paths, resolution=r, trial=True) for r in ("native", "2"))
    assert coarse.tiles < native.tiles / 8
    assert (coarse.height, coarse.width, coarse.disk) == (160, 160, native.disk)
    assert coarse.process and coarse.seconds
    report = segmenter.segment_file(image, paths, resolution=2, memory=coarse.process + (1 << 30))
    assert report.tiles == coarse.tiles


def test_command_line(tmp_path: Path, in_process: InProcess) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(60, 60))
    command = (image, "--bundle", bundle_of(tmp_path, 1.0), "--backend", "onnxruntime", "-o", tmp_path, "--no-preview")
    found = in_process(run_app, *command)
    assert found.returncode == 0 and "worked at 1 m (raster: 0.5 m)" in found.stderr
    auto = read(tmp_path / "a_mask.tif")
    assert "its outputs are there already" in in_process(run_app, *command, "--skip-existing").stdout
    again = in_process(run_app, *command, "--skip-existing", "--resolution", "1.6")
    assert again.returncode == 1 and "exists already" in again.stderr
    native = in_process(run_app, *command, "--overwrite", "--resolution", "native")
    assert native.returncode == 0 and "--resolution" in native.stderr
    assert (read(tmp_path / "a_mask.tif") != auto).any()
    wrong = in_process(run_app, *command, "--overwrite", "--resolution", "coarse")
    assert wrong.returncode != 0 and "--resolution: expected auto, native or metres" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.mark.once
@pytest.mark.parametrize("factor", [2, 1.3, 0.6])
@pytest.mark.parametrize("window", [(13, 21, 40, 50), (0, 60, 88, 60), (70, 0, 5, 120)])
def test_a_part_of_a_raster_is_that_of_the_whole(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, factor: float, window: tuple[int, ...]
) -> None:
    pixels = slope_of(120, 88)
    pixels[pixels == 0] = 4
    pixels[30:50, 20:45] = 0
    image = write_geotiff(tmp_path / "a.tif", pixels, nodata=0)
    segmenter.segment_file(image, paths_in(tmp_path / "whole"), resolution=factor * GROUND)
    monkeypatch.setattr(plans, "PANEL", 40)
    where = Where(window=window)
    report = segmenter.segment_file(image, paths_in(tmp_path / "part"), resolution=factor * GROUND, where=where)
    x, y, width, height = window
    for name in ("m.tif", "p.tif", "c.tif"):
        whole = read(tmp_path / "whole" / name)[:, y : y + height, x : x + width]
        np.testing.assert_array_equal(read(tmp_path / "part" / name), whole)
    assert (report.height, report.width) == (height, width)


def test_tiles_without_a_wanted_pixel_are_not_inferred(tmp_path: Path, segmenter: Segmenter) -> None:
    """Two wanted corners of a box, at twice the distance: only tiles that touch them are inferred."""
    pytest.importorskip("pyogrio")
    image = write_geotiff(tmp_path / "a.tif", slope_of(240, 240))
    with rasterio.open(image) as dataset:
        rings = [
            [
                dataset.transform * (x, y)
                for x, y in ((at, at), (at + 10, at), (at + 10, at + 10), (at, at + 10), (at, at))
            ]
            for at in (0, 230)
        ]
        crs = {"type": "name", "properties": {"name": dataset.crs.to_string()}}
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in rings
    ]
    aoi = tmp_path / "two.geojson"
    aoi.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    report = segmenter.segment_file(image, paths_in(tmp_path / "out"), resolution=2 * GROUND, where=Where(aoi=aoi))
    mask = read(tmp_path / "out" / "m.tif")[0]
    assert (mask[:10, :10] != 255).all() and (mask[230:, 230:] != 255).all() and (mask == 255).sum() > 50_000
    assert report.computed is not None and 0 < report.computed < report.tiles / 4
