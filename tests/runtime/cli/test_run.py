from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime import Segmenter
from fctl.runtime.cli.info import info_app
from fctl.runtime.cli.run import run_app
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny

SCRIPTS = Path(sysconfig.get_path("scripts"))
ON_TINY = ("--bundle", str(tiny.TINY), "--backend", "onnxruntime")
APPS = {"fctl-run": run_app, "fctl-info": info_app}

Array = NDArray[Any]
Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]


def process(program: str, *args: object, cwd: Path, **more: Any) -> Result:
    """A command line as users call it, for what only a process of its own can show."""
    return subprocess.run(
        [SCRIPTS / program, *map(str, args)],
        cwd=cwd, capture_output=True, encoding="utf-8", errors="replace", timeout=120, check=False, **more,
    )  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, in_process: InProcess) -> Run:
    """A command line in this process: loading rasterio and the engine anew takes longer than all the rest."""

    def run(program: str, *args: object, cwd: Path) -> Result:
        monkeypatch.chdir(cwd)
        return in_process(APPS[program], *args)

    return run


@pytest.fixture
def segment(call: Run) -> Run:
    """fctl-run with tiny.fctl in a folder."""
    return lambda folder, *args: call("fctl-run", *args, *ON_TINY, cwd=folder)


def files_in(folder: Path) -> list[str]:
    """All files but the style and the names that lie beside each mask."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    styles = {name: f"{name.removesuffix('.tif')}.qml" for name in found}
    return sorted(found - set(styles.values()) - {f"{name}.aux.xml" for name in found if styles[name] in found})


def assert_fine(result: Result) -> None:
    assert (result.returncode, result.stderr.count("error")) == (0, 0), result.stderr


def assert_one_error(result: Result, *told: str, code: int = 1) -> None:
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in result.stderr, result.stderr
    assert (result.returncode, len(errors)) == (code, 1), result.stderr
    assert [part for part in told if part not in errors[0]] == []


def assert_usage(result: Result, *told: str) -> None:
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == 2
    assert [part for part in told if part not in " ".join(result.stderr.split())] == []


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """With the images a.tif and b.tif."""
    for name in ("a.tif", "b.tif"):
        write_geotiff(tmp_path / name, rng.integers(1, 256, (37, 50, 3), np.uint8))
    return tmp_path


# Help


@pytest.mark.parametrize("program", ["fctl-run", "fctl-info"])
def test_help(tmp_path: Path, program: str) -> None:
    result = process(program, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage" in result.stdout
    assert "bundle" in result.stdout.lower()


# What is written


def test_one_image_into_the_current_folder(folder: Path) -> None:
    result = process("fctl-run", "a.tif", *ON_TINY, cwd=folder)
    assert_fine(result)
    assert files_in(folder) == ["a.tif", "a_mask.tif", "a_preview.jpg", "b.tif"]
    assert (folder / "a_mask.qml").is_file() and (folder / "a_mask.tif.aux.xml").is_file()
    assert result.stdout.splitlines()[-2:] == ["wrote a_mask.tif", "wrote a_preview.jpg"]
    with rasterio.open(folder / "a_mask.tif") as mask:
        assert (mask.shape, mask.crs.to_epsg()) == ((37, 50), 32640)


def test_the_report_says_what_ran_and_what_came_out(folder: Path, segment: Run) -> None:
    result = segment(folder, "a.tif")
    assert "onnxruntime, CPU, fp32" in result.stderr
    assert "37 x 50, 12 tiles" in result.stdout
    assert all(name in result.stdout for name in ("red", "green", "blue"))


def test_several_images_into_a_folder_that_is_made(folder: Path, segment: Run) -> None:
    assert_fine(segment(folder, "a.tif", folder / "b.tif", "--out", "deep/out", "--probabilities"))
    names = ("mask.tif", "preview.jpg", "prob.tif")
    assert files_in(folder / "deep") == [f"out/{stem}_{name}" for stem in "ab" for name in names]


def test_a_name_for_the_mask_itself(folder: Path, segment: Run) -> None:
    assert_fine(segment(folder, "a.tif", "--out", "out/x.tif", "--probabilities", "--no-preview"))
    assert files_in(folder / "out") == ["x.tif", "x_prob.tif"]


def test_auto_says_which_engine_ran(folder: Path, call: Run) -> None:
    assert_fine(call("fctl-run", "a.tif", "--bundle", tiny.TINY, "--no-preview", cwd=folder))
    with rasterio.open(folder / "a_mask.tif") as mask:
        engine = mask.tags()["FCTL_ENGINE"]
    assert engine in ("openvino", "onnxruntime")


def test_bands_choose_and_order(folder: Path, segment: Run) -> None:
    with rasterio.open(folder / "a.tif") as dataset:
        pixels = dataset.read().transpose(1, 2, 0)
    write_geotiff(folder / "four.tif", np.dstack([pixels[:, :, ::-1], pixels[:, :, :1]]), photometric="minisblack")
    assert_fine(segment(folder, "four.tif", "--bands", "3,2,1", "--no-preview"))
    assert_fine(segment(folder, "a.tif", "--no-preview"))
    with rasterio.open(folder / "four_mask.tif") as found, rasterio.open(folder / "a_mask.tif") as expected:
        np.testing.assert_array_equal(found.read(), expected.read())


def test_the_preview_has_the_size_of_the_image_and_a_legend(folder: Path, segment: Run) -> None:
    assert_fine(segment(folder, "a.tif"))
    with Image.open(folder / "a_preview.jpg") as preview:
        assert preview.format == "JPEG"
        assert preview.width == 260
        assert preview.height >= 37 + 3 * 28


def test_the_default_bundle(folder: Path, call: Run) -> None:
    assert_fine(call("fctl-run", "a.tif", "--backend", "onnxruntime", "--batch", "1", cwd=folder))
    with rasterio.open(folder / "a_mask.tif") as mask:
        assert mask.tags()["FCTL_BUNDLE"] == "default"


def test_a_dry_run_writes_nothing(folder: Path, segment: Run) -> None:
    result = segment(folder, "a.tif", "--out", "out", "--dry-run", "--probabilities")
    assert_fine(result)
    assert files_in(folder) == ["a.tif", "b.tif"]
    assert not (folder / "out").exists()
    for told in ("37 x 50", "12", "out/a_mask.tif", "out/a_prob.tif", "out/a_preview.jpg"):
        assert told in result.stdout


def test_brackets_in_names_are_shown_as_they_are(folder: Path, segment: Run) -> None:
    shutil.copy(folder / "a.tif", folder / "a[bold].tif")
    result = segment(folder, "a[bold].tif", "--out", "[old]", "--dry-run")
    assert_fine(result)
    assert "[old]/a[bold]_mask.tif" in result.stdout


def test_nodata_that_shadows_alpha_gives_no_warning(folder: Path) -> None:
    pixels = np.full((20, 20, 4), 255, np.uint8)
    write_geotiff(folder / "c.tif", pixels, nodata=0, photometric="RGB", alpha="yes")
    result = process("fctl-run", "c.tif", "--no-preview", *ON_TINY, cwd=folder)
    assert_fine(result)
    assert "Warning" not in result.stderr


# Test-time augmentation and scene blocks


def mask_and_tags(path: Path) -> tuple[Array, dict[str, str]]:
    with rasterio.open(path) as mask:
        return mask.read(1), mask.tags()


def segmented(path: Path, bundle: Path, **options: Any) -> Array:
    """The mask that a segmenter in this process gives."""
    with rasterio.open(path) as dataset, Segmenter(bundle, backend="onnxruntime", **options) as segmenter:
        return segmenter.segment(dataset.read().transpose(1, 2, 0)).ids


def test_augmentation_reaches_the_mask_and_its_tags(folder: Path, segment: Run) -> None:
    assert_fine(segment(folder, "a.tif", "--no-preview", "--out", "once.tif"))
    assert_fine(segment(folder, "a.tif", "--no-preview", "--out", "turned.tif", "--tta"))
    once, tags = mask_and_tags(folder / "once.tif")
    turned, turned_tags = mask_and_tags(folder / "turned.tif")
    np.testing.assert_array_equal(turned, segmented(folder / "a.tif", tiny.TINY, tta=True))
    assert (turned != once).any()
    assert (tags["FCTL_TURNS"], turned_tags["FCTL_TURNS"]) == ("1", "8")
    assert "FCTL_SCENE_SIZE" not in tags


def test_the_scene_size_reaches_the_mask_its_tags_and_the_log(folder: Path, call: Run) -> None:
    arguments = ("--bundle", tiny.TINY_GLOBAL, "--backend", "onnxruntime", "--no-preview", "--scene-size", 20)
    result = call("fctl-run", "a.tif", *arguments, cwd=folder)
    assert_fine(result)
    mask, tags = mask_and_tags(folder / "a_mask.tif")
    np.testing.assert_array_equal(mask, segmented(folder / "a.tif", tiny.TINY_GLOBAL, scene_size=20))
    assert (mask != segmented(folder / "a.tif", tiny.TINY_GLOBAL)).any()
    assert json.loads(tags["FCTL_SCENE_SIZE"]) == {"global": 20}
    warnings = [line for line in result.stderr.splitlines() if "warning:" in line]
    assert len(warnings) == 1
    assert "37 x 50: it is cut into 6 x 9 scene blocks (--scene-size)" in warnings[0]


@pytest.mark.parametrize(
    ("bundle", "told"), [(tiny.TINY, "no global context"), (tiny.TINY_GLOBAL, "than the 16 pixels")]
)
def test_a_scene_size_that_cannot_be_is_one_line(folder: Path, bundle: Path, told: str, call: Run) -> None:
    result = call("fctl-run", "a.tif", "b.tif", "--bundle", bundle, "--scene-size", 16, cwd=folder)
    assert_one_error(result, told)
    assert files_in(folder) == ["a.tif", "b.tif"]


# Outputs that exist


def test_an_output_that_exists_is_kept_unless_told_otherwise(folder: Path, segment: Run) -> None:
    (folder / "a_mask.tif").write_bytes(b"precious")
    assert_one_error(segment(folder, "a.tif"), "a_mask.tif exists already", "--overwrite")
    assert (folder / "a_mask.tif").read_bytes() == b"precious"
    assert files_in(folder) == ["a.tif", "a_mask.tif", "b.tif"]
    assert_fine(segment(folder, "a.tif", "--overwrite"))
    with rasterio.open(folder / "a_mask.tif") as mask:
        assert mask.shape == (37, 50)


def test_the_image_cannot_be_its_own_mask(folder: Path, segment: Run) -> None:
    before = (folder / "a.tif").read_bytes()
    assert_one_error(segment(folder, "a.tif", "--out", "a.tif", "--overwrite"), "a.tif is the image itself")
    assert (folder / "a.tif").read_bytes() == before


def test_an_image_is_not_overwritten_by_the_mask_of_another(folder: Path, segment: Run) -> None:
    shutil.copy(folder / "b.tif", folder / "a_mask.tif")
    before = (folder / "a_mask.tif").read_bytes()
    result = segment(folder, "a.tif", "a_mask.tif", "--overwrite")
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert (folder / "a_mask.tif").read_bytes() == before


def test_two_images_of_one_name_into_one_folder_are_refused(folder: Path, segment: Run) -> None:
    (folder / "other").mkdir()
    shutil.copy(folder / "b.tif", folder / "other" / "a.tif")
    assert_usage(segment(folder, "a.tif", "other/a.tif", "--out", "out"), "a.tif and a.tif", "out/a_mask.tif")
    assert not (folder / "out").exists()


# Several images


def test_one_bad_image_does_not_stop_the_others(folder: Path, segment: Run) -> None:
    (folder / "bad.tif").write_text("not an image")
    result = segment(folder, "a.tif", "bad.tif", "gone.tif", "b.tif", "--out", "out", "--no-preview")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert [name for name in ("bad.tif", "gone.tif") if name in " ".join(errors)] == ["bad.tif", "gone.tif"]
    assert len(errors) == 2
    assert "2 of 4 images failed" in result.stderr
    assert files_in(folder / "out") == ["a_mask.tif", "b_mask.tif"]


def test_a_container_and_a_url_do_not_stop_the_others_and_parts_can_be_named(folder: Path, segment: Run) -> None:
    for part in ("first", "second"):
        with rasterio.open(
            folder / "c.gpkg", "w", driver="GPKG", height=37, width=50, count=3, dtype="uint8", crs="EPSG:32640",
            transform=rasterio.transform.from_origin(300000, 2780000, 0.5, 0.5), RASTER_TABLE=part,
            APPEND_SUBDATASET="NO" if part == "first" else "YES", TILE_FORMAT="PNG",
        ) as dataset, rasterio.open(folder / "a.tif") as image:  # fmt: skip
            dataset.write(image.read())
    urls = ("http://host/a.tif", "/vsicurl/http://host/x.tif")
    result = segment(folder, "c.gpkg", *urls, "b.tif", "GPKG:c.gpkg:second", "--out", "out", "--no-preview")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    told = "error: c.gpkg: expected an image, found a container of 2; name one: GPKG:c.gpkg:first"
    assert errors[-1].startswith(told)  # names of outputs and images are looked at first
    assert [line.split(": remote")[0] for line in errors[:-1]] == [f"error: {url}" for url in urls]
    assert (result.returncode, "Traceback" in result.stderr) == (3, False)
    assert "3 of 5 images failed" in result.stderr
    assert files_in(folder / "out") == ["b_mask.tif", "c_second_mask.tif"]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, segment: Run) -> Run:
    """fctl-run on a.tif and b.tif, where a.tif meets an error that nobody foresaw."""
    real = Segmenter.segment_file

    def run(folder: Path, error: BaseException, *args: str) -> Result:
        def segment_file(self: Segmenter, image: Any, *rest: Any, **options: Any) -> Any:
            if "a.tif" in str(image):
                raise error
            return real(self, image, *rest, **options)

        monkeypatch.setattr(Segmenter, "segment_file", segment_file)
        return segment(folder, "a.tif", "b.tif", "--no-preview", *args)

    return run


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            TypeError("no\nway"),
            "error: a.tif: this is a bug in fctl: TypeError: no way; run it again with --debug for the traceback, "
            "and report it",
        ),
        (MemoryError(), "error: a.tif: there is not enough memory; try a smaller batch"),
        (OSError(5, "Input/output error"), "error: a.tif: Input/output error"),
    ],
)
def test_an_error_that_nobody_foresaw_is_one_line_and_does_not_stop_the_others(
    folder: Path, error: Exception, told: str, broken: Run
) -> None:
    result = broken(folder, error)
    assert_one_error(result, told, code=3)
    assert "1 of 2 images failed" in result.stderr
    assert files_in(folder) == ["a.tif", "b.tif", "b_mask.tif"]


def test_debug_shows_where_an_error_comes_from(folder: Path, broken: Run) -> None:
    result = broken(folder, TypeError("no way"), "--debug")
    assert result.returncode == 3
    assert "Traceback" in result.stderr and "in segment_file" in result.stderr
    assert "error: a.tif: this is a bug in fctl: TypeError: no way\n" in result.stderr
    assert (folder / "b_mask.tif").is_file()


def test_ctrl_c_stops_all(folder: Path, broken: Run) -> None:
    result = broken(folder, KeyboardInterrupt())
    assert result.returncode != 0
    assert files_in(folder) == ["a.tif", "b.tif"]


def test_pixels_without_finite_scores_are_told(folder: Path, rng: np.random.Generator, call: Run) -> None:
    pixels = rng.random((37, 50, 3)).astype(np.float32)
    pixels[3, 4:9], pixels[20, 20] = -4, -3.4e38
    write_geotiff(folder / "c.tif", pixels)
    result = call("fctl-run", "c.tif", "--bundle", tiny.TINY_FLOAT, "--backend", "onnxruntime", cwd=folder)
    assert_fine(result)
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert [line.split(":")[1] for line in warnings] == [" c.tif", " c.tif"]
    assert "1 pixel holds a value far beyond all others" in warnings[0] and "-a_nodata" in warnings[0]
    assert "not finite at 5 pixels" in warnings[1] and "--precision" in warnings[1]
    assert re.search(r"\(no data\) +│ 0\.3% of the image", result.stdout)
    with rasterio.open(folder / "c_mask.tif") as mask:
        assert (mask.read(1) == 255).sum() == 6


# Usage


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["a.tif", "--bands", "x"], ("--bands", "'x'")),
        (["a.tif", "--bands", "0,1,2"], ("--bands", "'0,1,2'")),
        (["a.tif", "--bands", "1,,2"], ("--bands", "'1,,2'")),
        (["a.tif", "--bands", ""], ("--bands", "''")),
        (["a.tif", "--precision", "fp8"], ("--precision", "'fp8'", "'fp32', 'bf16', 'fp16', 'int8'")),
        (["a.tif", "b.tif", "--out", "x.tif"], ("--out", "folder", "x.tif")),
        (["a.tif", "--batch", "0"], ("--batch",)),
        (["a.tif", "--scene-size", "0"], ("--scene-size",)),
        (["a.tif", "--scene-size", "wide"], ("--scene-size",)),
        (["a.tif", "--nonsense"], ("--nonsense",)),
        ([], ("IMAGE",)),
    ],
)
def test_a_wrong_call_exits_with_two(folder: Path, args: list[str], told: tuple[str, ...], segment: Run) -> None:
    assert_usage(segment(folder, *args), *told)
    assert files_in(folder) == ["a.tif", "b.tif"]


# Errors


def text(path: Path) -> None:
    path.write_text("not an image")


def empty(path: Path) -> None:
    path.touch()


def directory(path: Path) -> None:
    path.mkdir()


def truncated(path: Path) -> None:
    write_geotiff(path, np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8), compress="deflate")
    path.write_bytes(path.read_bytes()[:150_000])


def two_bands(path: Path) -> None:
    write_geotiff(path, np.zeros((20, 20, 2), np.uint8))


def sixteen_bits(path: Path) -> None:
    write_geotiff(path, np.zeros((20, 20, 3), np.uint16))


BAD: list[tuple[Any, str]] = [
    (text, "expected an image"),
    (empty, "expected an image"),
    (directory, "expected a folder with images"),
    (lambda path: None, "found no such file"),
    (truncated, "damaged or cut short"),
    (two_bands, "expected 3 bands, found 2"),
    (sixteen_bits, "expected uint8 pixels, found uint16"),
]


@pytest.mark.parametrize(
    ("make", "told"), BAD, ids=["text", "empty", "directory", "missing", "truncated", "bands", "dtype"]
)
def test_a_bad_image_is_one_line(folder: Path, make: Any, told: str, segment: Run) -> None:
    make(folder / "bad.tif")
    before = files_in(folder)
    assert_one_error(segment(folder, "bad.tif"), "bad.tif", told)
    assert files_in(folder) == before


def test_an_image_whose_name_is_no_unicode_is_no_crash(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.tif")
    try:
        shutil.copy(folder / "a.tif", folder / name)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    result = process("fctl-run", name, "b.tif", "--no-preview", *ON_TINY, cwd=folder)
    assert "Traceback" not in result.stderr
    assert (folder / "b_mask.tif").is_file()


def test_a_missing_bundle_is_one_line(folder: Path, call: Run) -> None:
    assert_one_error(call("fctl-run", "a.tif", "--bundle", "gone.fctl", cwd=folder), "gone.fctl", "found nothing")
    assert files_in(folder) == ["a.tif", "b.tif"]


def test_a_damaged_bundle_is_one_line(folder: Path, call: Run) -> None:
    bundle = tiny.variant(tiny.TINY, folder, lambda manifest: None)
    (bundle / "segmenter.onnx").write_bytes(b"garbage")
    assert_one_error(call("fctl-run", "a.tif", "--bundle", bundle, cwd=folder), "graphs[2].sha256")
    assert not (folder / "a_mask.tif").exists()


def test_an_unknown_backend_is_a_wrong_call(folder: Path, call: Run) -> None:
    result = call("fctl-run", "a.tif", "--bundle", tiny.TINY, "--backend", "tvm", cwd=folder)
    assert_usage(result, "--backend", "'tvm'", "'auto'", "'openvino'", "'onnxruntime-tensorrt'")


def test_a_precision_that_the_engine_lacks_is_one_line(folder: Path, segment: Run) -> None:
    assert_one_error(segment(folder, "a.tif", "--precision", "bf16"), "no engine for bf16", "onnxruntime runs fp32")


@pytest.mark.parametrize("out", ["file.txt", "file.txt/x", "file.txt/x.tif"])
def test_a_folder_that_cannot_be_made_is_one_line(folder: Path, out: str, segment: Run) -> None:
    (folder / "file.txt").write_text("a file")
    assert_one_error(segment(folder, "a.tif", "--out", out), "cannot write file.txt", "--out")
    assert files_in(folder) == ["a.tif", "b.tif", "file.txt"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_permission_is_one_line(folder: Path, segment: Run) -> None:
    (folder / "out").mkdir(mode=0o555)
    assert_one_error(segment(folder, "a.tif", "--out", "out"), "cannot write out/a_mask.tif", "permission")
    assert files_in(folder / "out") == []


def test_a_name_too_long_for_the_file_system_is_one_line(folder: Path, segment: Run) -> None:
    name = "n" * 245 + ".tif"
    shutil.copy(folder / "a.tif", folder / name)
    assert_one_error(segment(folder, name, "--out", "out"), "cannot write")
    assert files_in(folder) == ["a.tif", "b.tif", name]


@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="file sizes are limited by resource limits of Linux")
@pytest.mark.parametrize("missing", [100, 2_000, 15_000])
def test_a_disk_that_fills_up_is_one_line_and_leaves_what_can_be_resumed(
    folder: Path, rng: np.random.Generator, missing: int, call: Run
) -> None:
    import resource

    write_geotiff(folder / "large.tif", rng.integers(0, 256, (300, 300, 3), np.uint8))
    arguments = ("large.tif", "--bundle", tiny.TINY_WIDE, "--backend", "onnxruntime", "--out", "out/large_mask.tif")
    assert_fine(call("fctl-run", *arguments, "--no-preview", cwd=folder))
    mask = folder / "out" / "large_mask.tif"
    expected = mask.read_bytes()
    size = len(expected)
    shutil.rmtree(folder / "out")

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, size - missing))

    result = process("fctl-run", *arguments, "--no-preview", cwd=folder, preexec_fn=fill)
    assert_one_error(result, "cannot write out/large_mask.tif")
    left = files_in(folder)
    run = Path("out") / "large_mask.fctl-run"
    assert left in (
        ["a.tif", "b.tif", "large.tif"],
        ["a.tif", "b.tif", "large.tif", str(run / "journal"), str(run / "shard-000000.npz")],
    )
    assert ("go on with --resume" in result.stderr) == (len(left) > 3)
    assert_fine(call("fctl-run", *arguments, "--no-preview", "--resume", cwd=folder))
    assert files_in(folder) == ["a.tif", "b.tif", "large.tif", "out/large_mask.tif"]
    assert mask.read_bytes() == expected


# fctl-info


def test_info_shows_what_a_bundle_holds(tmp_path: Path, call: Run) -> None:
    result = call("fctl-info", tiny.TINY_GLOBAL, cwd=tmp_path)
    assert_fine(result)
    for told in (
        "tiny_global",
        "0 red (200, 30, 30)",
        "3 bands of uint8",
        "the whole image, at 8 pixels (box); encoder_global",
        "segmenter",
    ):
        assert told in result.stdout


def test_info_shows_contexts_of_one_graph_and_scenes(tmp_path: Path, call: Run) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["contexts"][1] |= {"factor": "global", "scene": 40}

    result = call("fctl-info", tiny.variant(tiny.TINY_FUSED, tmp_path, change), cwd=tmp_path)
    assert_fine(result)
    shown = " ".join(result.stdout.replace("│", " ").split())
    for told in (
        "2 x the tile (32 pixels), at 16 pixels (box); encoded by the segmenter itself",
        "the whole image, in blocks of 40 pixels where it is larger, at 8 pixels (pillow-bilinear); encoded by",
        "in: window_medium uint8 N x 3 x 16 x 16",
    ):
        assert told in shown


def test_info_of_the_default_bundle_shows_its_parity(tmp_path: Path, call: Run) -> None:
    result = call("fctl-info", "default", cwd=tmp_path)
    assert_fine(result)
    assert "compared with" in result.stdout


def test_info_of_no_bundle_is_one_line(tmp_path: Path, call: Run) -> None:
    assert_one_error(call("fctl-info", "gone.fctl", cwd=tmp_path), "gone.fctl", "found nothing")


def test_info_takes_any_class_name(tmp_path: Path, call: Run) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["classes"][0]["name"] = "[/b] road"

    result = call("fctl-info", tiny.variant(tiny.TINY, tmp_path, change), cwd=tmp_path)
    assert_fine(result)
    assert "[/b] road" in result.stdout


def test_info_on_an_ascii_terminal(tmp_path: Path) -> None:
    result = process("fctl-info", tiny.TINY, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert_fine(result)
    assert "tiny" in result.stdout
