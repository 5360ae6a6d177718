"""Several rasters as one: the mask of tiles is that of the raster that they were cut from."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine, from_origin

from fctl.runtime import Paths, Scene, Segmenter, Where
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError, OutputError, RasterError
from fctl.runtime.raster.access import Access
from fctl.runtime.raster.fingerprint import fingerprint
from fctl.runtime.raster.source import open_raster
from fctl.runtime.tiling.windows import Window
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.raster.test_blocks import corrupt
from tests.runtime.raster.test_spool import spec
from tests.runtime.segment.test_area import ON_TINY, bands, layers
from tests.runtime.segment.test_jobs import digests, paths_in, steps

HEIGHT, WIDTH = 100, 70
PLACE = from_origin(300000, 2780000, 0.5, 0.5)
SAMPLE = Path(__file__).parents[3] / "samples" / "dubai.tif"
ABUTTING = [Window(0, 0, 41, 30), Window(0, 30, 41, 40), Window(41, 0, 59, 70)]
OVERLAPPING = [Window(0, 0, 60, 40), Window(0, 25, 55, 45), Window(41, 0, 59, 70)]


def cut(path: Path, pixels: NDArray[np.generic], window: Window, transform: Affine = PLACE, **profile: object) -> Path:
    """A part of a raster of (height, width, bands) as a file of its own."""
    moved = transform @ Affine.translation(window.x, window.y)
    part = pixels[window.y : window.bottom, window.x : window.right]
    return write_geotiff(path, part, transform=moved, **profile)


def pieces(folder: Path, pixels: NDArray[np.generic], windows: list[Window], **profile: object) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [cut(folder / f"t{index}.tif", pixels, window, **profile) for index, window in enumerate(windows)]


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL], ids=lambda bundle: bundle.stem)
@pytest.mark.parametrize("windows", [ABUTTING, OVERLAPPING], ids=["abutting", "overlapping"])
def test_tiles_give_the_bytes_of_the_whole(bundle: Path, windows: list[Window], tmp_path: Path) -> None:
    whole = write_geotiff(tmp_path / "whole.tif", slope_of(HEIGHT, WIDTH))
    members = pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), windows)
    with Segmenter(bundle, backend="onnxruntime", batch=5) as segmenter:
        one, many = paths_in(tmp_path / "one"), paths_in(tmp_path / "many")
        alone = segmenter.segment_file(whole, one)
        report = segmenter.segment_file(Scene(tuple(members)), many)
        estimate = segmenter.estimate(Scene(tuple(members)), many, overwrite=True)
    for ours, theirs in zip(layers(many), layers(one), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (report.pixels, report.height, report.width) == (alone.pixels, HEIGHT, WIDTH)
    assert (estimate.tiles, estimate.height) == (alone.tiles, HEIGHT)
    with rasterio.open(tmp_path / "many" / "m.tif") as mask, rasterio.open(whole) as dataset:
        assert (mask.crs, mask.transform) == (dataset.crs, dataset.transform)
    assert (tmp_path / "many" / "v.jpg").read_bytes() == (tmp_path / "one" / "v.jpg").read_bytes()


@pytest.mark.once
def test_tiles_of_the_sample(tmp_path: Path) -> None:
    """Three tiles of samples/dubai.tif, which overlap; contexts of 8 tiles see across."""
    pixels = bands(SAMPLE).transpose(1, 2, 0)[:900, :1100]
    windows = [Window(0, 0, 500, 600), Window(0, 520, 500, 580), Window(460, 0, 440, 1100)]
    whole = write_geotiff(tmp_path / "whole.tif", pixels)
    members = pieces(tmp_path / "tiles", pixels, windows)
    with Segmenter(tiny.TINY_WIDE, backend="onnxruntime", batch=16) as segmenter:
        segmenter.segment_file(whole, Paths(mask=tmp_path / "one.tif"))
        segmenter.segment_file(Scene(tuple(members)), Paths(mask=tmp_path / "many.tif"))
        single = segmenter.segment_file(members[0], Paths(mask=tmp_path / "single.tif"))
    np.testing.assert_array_equal(bands(tmp_path / "many.tif"), bands(tmp_path / "one.tif"))
    assert (bands(tmp_path / "single.tif")[0] != bands(tmp_path / "one.tif")[0, :500, :600]).any()  # it sees less
    assert single.height == 500


def test_gaps_have_no_data(tmp_path: Path, segmenter: Segmenter) -> None:
    pixels = slope_of(HEIGHT, WIDTH) + 1
    members = pieces(tmp_path / "tiles", pixels, [ABUTTING[0], ABUTTING[2]])
    segmenter.segment_file(Scene(tuple(members)), paths_in(tmp_path / "many"))
    mask = bands(tmp_path / "many" / "m.tif")[0]
    assert (mask[:41, 30:] == 255).all()
    assert (mask[41:] != 255).all()
    masked = write_geotiff(tmp_path / "whole.tif", pixels)
    with rasterio.open(masked, "r+") as dataset:
        seen = np.full((HEIGHT, WIDTH), 255, np.uint8)
        seen[:41, 30:] = 0
        dataset.write_mask(seen)
    segmenter.segment_file(masked, paths_in(tmp_path / "one"))
    np.testing.assert_array_equal(mask, bands(tmp_path / "one" / "m.tif")[0])


def holed(kind: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Pixels with holes, and where these are."""
    pixels, hole = slope_of(HEIGHT, WIDTH) + 1, np.zeros((HEIGHT, WIDTH), np.bool_)
    hole[10:30, 20:50] = hole[50:58, 5:9] = True
    if kind == "nodata":
        pixels[hole] = 0
    if kind == "alpha":
        pixels = np.dstack([pixels, np.where(hole, 0, 255).astype(np.uint8)])
    return pixels, hole


@pytest.mark.once
@pytest.mark.parametrize("kind", ["nodata", "alpha", "mask"])
@pytest.mark.parametrize("windows", [ABUTTING, OVERLAPPING], ids=["abutting", "overlapping"])
def test_holes_of_tiles_are_those_of_the_whole(kind: str, windows: list[Window], tmp_path: Path) -> None:
    pixels, hole = holed(kind)
    profile: dict[str, object] = {"nodata": 0} if kind == "nodata" else {}
    whole = write_geotiff(tmp_path / "whole.tif", pixels, **profile)
    members = pieces(tmp_path / "tiles", pixels, windows, **profile)
    if kind == "mask":
        for path, window in [(whole, Window(0, 0, HEIGHT, WIDTH)), *zip(members, windows, strict=True)]:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
                dataset.write_mask(~hole[window.y : window.bottom, window.x : window.right])
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=16) as segmenter:
        segmenter.segment_file(whole, paths_in(tmp_path / "one"))
        segmenter.segment_file(Scene(tuple(members)), paths_in(tmp_path / "many"))
    mask = bands(tmp_path / "many" / "m.tif")[0]
    np.testing.assert_array_equal(mask == 255, hole)
    np.testing.assert_array_equal(mask, bands(tmp_path / "one" / "m.tif")[0])


@pytest.mark.parametrize("kind", ["nodata", "alpha", "mask"])
def test_a_tile_without_data_does_not_hide_another(kind: str, tmp_path: Path) -> None:
    """The later tile covers the earlier one, but has data in its lower half alone."""
    pixels, _ = holed("")
    upper = np.zeros((40, 30), np.bool_)
    upper[:20] = True
    later = 255 - slope_of(40, 30)
    first, second = tmp_path / "first.tif", tmp_path / "second.tif"
    if kind == "nodata":
        write_geotiff(first, pixels, nodata=0)
        write_geotiff(second, np.where(upper[:, :, None], 0, later).astype(np.uint8), nodata=0)
    elif kind == "alpha":
        write_geotiff(first, np.dstack([pixels, np.full((HEIGHT, WIDTH), 255, np.uint8)]))
        write_geotiff(second, np.dstack([later, np.where(upper, 0, 255).astype(np.uint8)]))
    else:
        write_geotiff(first, pixels)
        write_geotiff(second, later)
        with rasterio.open(second, "r+") as dataset:
            dataset.write_mask(~upper)
    expected = pixels.copy()
    expected[:40, :30][~upper] = later[~upper]
    with open_raster(Scene((first, second)), spec("uint8"), None) as source:
        window = Window(0, 0, HEIGHT, WIDTH)
        np.testing.assert_array_equal(source.read(window), expected)
        valid = source.valid(window)
        assert valid is None or valid.all()


@pytest.mark.parametrize(
    "windows", [[ABUTTING[0], ABUTTING[2]], [OVERLAPPING[0], OVERLAPPING[2]]], ids=["apart", "over"]
)
def test_near_infrared_that_is_marked_alpha_is_data(windows: list[Window], tmp_path: Path) -> None:
    infrared = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH, 1)  # with zeros
    pixels = np.dstack([slope_of(HEIGHT, WIDTH) + 1, infrared])
    members = pieces(tmp_path / "tiles", pixels, windows, photometric="rgb", alpha="unspecified")
    for path in members:
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = (*dataset.colorinterp[:3], rasterio.enums.ColorInterp.alpha)
    seen = np.zeros((HEIGHT, WIDTH), np.bool_)
    for window in windows:
        seen[window.y : window.bottom, window.x : window.right] = True
    with open_raster(Scene(tuple(members)), spec("uint8"), None) as source:
        whole = Window(0, 0, HEIGHT, WIDTH)
        np.testing.assert_array_equal(source.read(whole), np.where(seen[:, :, None], pixels[:, :, :3], 0))
        valid = source.valid(whole)
        assert valid is not None
        np.testing.assert_array_equal(valid, seen)


def test_a_damaged_member_is_an_error_and_never_black(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (300, 300, 3), np.uint8)
    windows = [Window(y, x, 150, 150) for y in (0, 150) for x in (0, 150)]
    members = pieces(tmp_path / "tiles", pixels, windows, tiled=True, blockxsize=32, blockysize=32, compress="deflate")
    corrupt(members[3], 0)
    window = Window(100, 100, 150, 150)
    with (
        open_raster(Scene(tuple(members)), spec("uint8"), None) as source,
        pytest.raises(RasterError, match=r"the file is damaged or cut short \(t3\.tif"),
    ):
        source.read(window)
    with open_raster(Scene(tuple(members)), spec("uint8"), None, on_bad_block="nodata") as source:
        read, valid = source.read(window), source.valid(window)
        assert source.bad_blocks
    assert valid is not None
    assert not valid[50:82, 50:82].any()
    np.testing.assert_array_equal(read[valid], pixels[100:250, 100:250][valid])
    assert valid.mean() > 0.7


def test_floats_palettes_and_scales(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    floats = rng.random((HEIGHT, WIDTH, 3)).astype(np.float32)
    floats[20:30, 20:40] = np.nan
    members = pieces(tmp_path / "floats", floats, OVERLAPPING, nodata=float("nan"))
    whole = write_geotiff(tmp_path / "floats.tif", floats, nodata=float("nan"))
    window = Window(0, 0, HEIGHT, WIDTH)
    wanted = spec("float32")
    with open_raster(Scene(tuple(members)), wanted, None) as ours, open_raster(whole, wanted, None) as theirs:
        np.testing.assert_array_equal(ours.read(window), theirs.read(window))
        np.testing.assert_array_equal(ours.valid(window), theirs.valid(window))

    depths = rng.integers(0, 3000, (HEIGHT, WIDTH, 3), np.uint16)
    members, whole = pieces(tmp_path / "depths", depths, ABUTTING), write_geotiff(tmp_path / "depths.tif", depths)
    for path in (*members, whole):
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = (1 / 2500,) * 3, (-0.1,) * 3
    wanted = spec("uint8")
    with (
        open_raster(Scene(tuple(members)), wanted, None, scale_range="metadata") as ours,
        open_raster(whole, wanted, None, scale_range="metadata") as theirs,
    ):
        np.testing.assert_array_equal(ours.read(window), theirs.read(window))

    indices = rng.integers(0, 4, (HEIGHT, WIDTH, 1), np.uint8)
    table = {0: (9, 8, 7, 255), 1: (200, 0, 0, 255), 2: (0, 90, 0, 255), 3: (3, 2, 250, 255)}
    members = pieces(tmp_path / "palettes", indices, OVERLAPPING, photometric="palette")
    whole = write_geotiff(tmp_path / "palettes.tif", indices, photometric="palette")
    for path in (*members, whole):
        with rasterio.open(path, "r+") as dataset:
            dataset.write_colormap(1, table)
    with open_raster(Scene(tuple(members)), wanted, None) as ours, open_raster(whole, wanted, None) as theirs:
        np.testing.assert_array_equal(ours.read(window), theirs.read(window))
        assert ours.read(window).max() == 250


def test_a_folder_on_the_command_line(tmp_path: Path, in_process: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), OVERLAPPING)
    monkeypatch.chdir(tmp_path)
    result = in_process(run_app, "tiles", *ON_TINY, "--mosaic", "--json")
    fields = json.loads(result.stdout)
    assert fields["image"] == "tiles_mosaic (3 images)"
    assert [Path(name).name for name in fields["images"]] == ["t0.tif", "t1.tif", "t2.tif"]
    assert (tmp_path / "tiles_mosaic_mask.tif").exists()
    whole = write_geotiff(tmp_path / "whole.tif", slope_of(HEIGHT, WIDTH))
    in_process(run_app, whole, *ON_TINY)
    np.testing.assert_array_equal(bands(tmp_path / "tiles_mosaic_mask.tif"), bands(tmp_path / "whole_mask.tif"))

    # beside its tiles, the outputs are no tiles
    assert in_process(run_app, "tiles", *ON_TINY, "--mosaic", "-o", "tiles").returncode == 0
    again = in_process(run_app, "tiles", *ON_TINY, "--mosaic", "-o", "tiles", "--skip-existing")
    assert again.returncode == 4
    cut(tmp_path / "tiles" / "t3.tif", slope_of(200, 200), Window(100, 0, 20, 70))
    assert (
        in_process(run_app, "tiles", *ON_TINY, "--mosaic", "-o", "tiles", "--skip-existing").returncode == 1
    )  # exists
    assert (
        in_process(run_app, "tiles", *ON_TINY, "--mosaic", "-o", "tiles", "--skip-existing", "--overwrite").returncode
        == 0
    )
    assert bands(tmp_path / "tiles" / "tiles_mosaic_mask.tif").shape == (1, 120, 70)

    named = in_process(
        run_app, "tiles/t0.tif", "tiles/t1.tif", *ON_TINY, "--mosaic", "-o", "all.tif", "--stats", "s.csv"
    )
    assert named.returncode == 0
    assert (tmp_path / "all.tif").exists()
    assert in_process(run_app, "tiles/t0.tif", "tiles/t1.tif", *ON_TINY, "--mosaic", "-o", "out").returncode == 0
    assert (tmp_path / "out" / "t0_mosaic_mask.tif").exists()


def test_a_mosaic_in_a_process_of_its_own(tmp_path: Path) -> None:
    """GDAL has no driver before rasterio is asked for something: here, nothing was opened before."""
    pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), ABUTTING)
    code = "import sys; from fctl.runtime.cli.run import run_app; run_app(sys.argv[1:])"
    arguments = (str(tmp_path / "tiles"), *map(str, ON_TINY), "--mosaic", "-o", str(tmp_path / "m.tif"))
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert bands(tmp_path / "m.tif").shape == (1, HEIGHT, WIDTH)


def test_a_window_of_a_mosaic(tmp_path: Path, segmenter: Segmenter) -> None:
    members = pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), OVERLAPPING)
    segmenter.segment_file(Scene(tuple(members)), paths_in(tmp_path / "all"))
    segmenter.segment_file(Scene(tuple(members)), paths_in(tmp_path / "part"), where=Where(window=(20, 30, 30, 40)))
    np.testing.assert_array_equal(
        bands(tmp_path / "part" / "m.tif"), bands(tmp_path / "all" / "m.tif")[:, 30:70, 20:50]
    )


def test_a_turned_grid(tmp_path: Path, segmenter: Segmenter) -> None:
    turned = Affine.translation(3e5, 2.7e6) @ Affine.rotation(33) @ Affine.scale(0.3, -0.3)
    whole = write_geotiff(tmp_path / "whole.tif", slope_of(HEIGHT, WIDTH), transform=turned)
    members = [
        cut(tmp_path / f"{index}.tif", slope_of(HEIGHT, WIDTH), window, turned)
        for index, window in enumerate(reversed(OVERLAPPING))
    ]
    segmenter.segment_file(whole, Paths(mask=tmp_path / "one.tif"))
    segmenter.segment_file(Scene(tuple(members)), Paths(mask=tmp_path / "many.tif"))
    np.testing.assert_array_equal(bands(tmp_path / "many.tif"), bands(tmp_path / "one.tif"))
    with rasterio.open(tmp_path / "many.tif") as mask:
        np.testing.assert_allclose(tuple(mask.transform), tuple(turned), atol=1e-6)


def test_a_changed_member_is_another_image(tmp_path: Path) -> None:
    members = pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), ABUTTING)
    scene = Scene(tuple(members))
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=2) as segmenter:
        segmenter.segment_file(scene, paths_in(tmp_path / "whole"))

        def interrupted() -> None:
            with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
                patch.setattr("fctl.runtime.segment.shards.plan._TILES", 6)
                segmenter.segment_file(scene, paths_in(tmp_path / "run"), progress=steps(12))

        interrupted()
        segmenter.segment_file(scene, paths_in(tmp_path / "run"), resume=True)
        assert digests(tmp_path / "run") == digests(tmp_path / "whole")
        for path in (tmp_path / "run").iterdir():
            path.unlink()
        interrupted()
        state = members[2].stat()
        os.utime(members[2], ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
        with pytest.raises(
            OutputError, match=r"not the one of the run to resume: .*t2\.tif, which belongs to it, is chan"
        ):
            segmenter.segment_file(scene, paths_in(tmp_path / "run"), resume=True)
        with pytest.raises(OutputError, match="the run to resume had image"):
            segmenter.segment_file(Scene(tuple(members[:2])), paths_in(tmp_path / "run"), resume=True)
    before = fingerprint(scene)
    write_geotiff(members[0].with_suffix(".tif.msk"), np.zeros((41, 30, 1), np.uint8))
    assert "t0.tif.msk" in str(before.difference(fingerprint(scene)))


def test_a_member_that_changes_while_it_is_read_is_an_error(tmp_path: Path, segmenter: Segmenter) -> None:
    members = pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), ABUTTING)

    def touch(done: int, total: int) -> None:
        os.utime(members[1])

    with pytest.raises(RasterError, match=r"expected t1\.tif as it was when the image was opened"):
        segmenter.segment_file(Scene(tuple(members)), Paths(mask=tmp_path / "m.tif"), progress=touch)
    assert not (tmp_path / "m.tif").exists()


def replaced(**profile: object) -> Callable[[Path], None]:
    """What makes the second tile another one."""

    def replace(path: Path) -> None:
        pixels = profile.pop("pixels", slope_of(41, 40))
        assert isinstance(pixels, np.ndarray)
        write_geotiff(path, pixels, **{"transform": PLACE @ Affine.translation(30, 0), **profile})

    return replace


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (replaced(crs="EPSG:32639"), "the coordinate reference system of t0.tif, EPSG:32640, found EPSG:32639"),
        (replaced(transform=PLACE @ Affine.scale(2)), "the pixels of t0.tif, 0.5 x 0.5, found pixels of 1 x 1"),
        (replaced(transform=PLACE @ Affine.translation(30.5, 0.25)), "lies 0.25 rows and 0.50 columns off"),
        (replaced(pixels=slope_of(41, 40, 4)), "t1.tif: expected the bands of t0.tif, 3, found 4"),
        (replaced(pixels=slope_of(41, 40, 3, "uint16")), "t1.tif: expected the dtype of t0.tif, uint8, found uint16"),
        (replaced(nodata=7), "t1.tif: expected the nodata value of t0.tif, None, found 7"),
        (replaced(transform=None), "t1.tif: expected a place on the ground, for a mosaic, found none"),
        (lambda path: path.unlink(), "t1.tif: expected an image, found no such file"),
        (lambda path: path.write_text("text"), "t1.tif, which is no GeoTIFF"),
    ],
)  # fmt: skip
def test_a_member_that_does_not_fit_is_named(
    make: Callable[[Path], None], message: str, tmp_path: Path, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [path.name for path in pieces(tmp_path, slope_of(HEIGHT, WIDTH), ABUTTING)]
    make(tmp_path / "t1.tif")
    result = in_process(run_app, *names, *ON_TINY, "--mosaic", "-o", "out")
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "t1.tif" in errors[0]
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_members_are_looked_at_as_sources_of_a_vrt_are(tmp_path: Path) -> None:
    """GDAL opens them with any driver: what could make it read another file does not get there."""
    members = pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), ABUTTING)
    wanted = spec("uint8")
    (tmp_path / "tiles" / "t1.tif.ovr").write_text("<VRTDataset/>")
    with (
        pytest.raises(RasterError, match="expected an image of files in its own folder"),
        open_raster(Scene(tuple(members)), wanted, None),
    ):
        pass
    (tmp_path / "tiles" / "t1.tif.ovr").unlink()
    elsewhere = tmp_path / "elsewhere.vrt"
    elsewhere.write_text(
        "<VRTDataset rasterXSize='1' rasterYSize='1'><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>"
    )
    with pytest.raises(RasterError, match="/etc/passwd"), open_raster(Scene((members[0], elsewhere)), wanted, None):
        pass
    with (
        pytest.raises(RasterError, match="allow more with `max_pixels`"),
        open_raster(Scene((members[0], members[2])), wanted, None, access=Access(max_pixels=6000)),
    ):
        pass
    with open_raster(Scene(tuple(members)), wanted, None, access=Access(max_pixels=7000)) as source:
        assert (source.height, source.width) == (HEIGHT, WIDTH)


def test_odd_names(tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate(("a & b <c>.tif", "NETCDF:x.tif", "ü 雨.tif")):
        cut(tmp_path / name, slope_of(HEIGHT, WIDTH), ABUTTING[index])
    scene = Scene((Path("a & b <c>.tif"), Path("NETCDF:x.tif"), Path("ü 雨.tif")), name="odd")
    report = segmenter.segment_file(scene, Paths(mask=tmp_path / "m.tif"))
    assert (report.height, report.width) == (HEIGHT, WIDTH)
    assert str(report.image) == "odd (3 images)"


def test_scenes_that_are_none(tmp_path: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    members = pieces(tmp_path / "tiles", slope_of(HEIGHT, WIDTH), ABUTTING)
    with pytest.raises(InputError, match="a mosaic: expected rasters, each named once, found none"):
        Scene(())
    with pytest.raises(InputError, match=r"t0\.tif twice"):
        Scene((members[0], members[1], str(members[0])))
    with pytest.raises(InputError, match="is one of the images"):
        segmenter.segment_file(Scene(tuple(members)), Paths(mask=members[2]), overwrite=True)
    with caplog.at_level(logging.WARNING, logger="fctl"):
        report = segmenter.segment_file(Scene((members[0],)), Paths(mask=tmp_path / "m.tif"))
    assert (report.height, report.width) == (41, 30)
    assert caplog.text == ""
