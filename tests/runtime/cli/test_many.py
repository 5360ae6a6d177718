"""Many images: what arguments stand for, what is passed over, and what is told of each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fctl.runtime.cli.images import images_of
from fctl.runtime.cli.run import run_app
from fctl.runtime.cli.tables import progress_bars
from fctl.runtime.errors import RasterError
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of

Result = subprocess.CompletedProcess[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, others within it, and what is none."""
    scenes = tmp_path / "scenes"
    for name in ("b.tif", "a.TIF", "deep/c.png", "deep/.hidden.tif", ".hidden.tif", "b_mask.tif", "lone_mask.tif"):
        (scenes / name).parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(scenes / name, slope_of(20, 30))
    (scenes / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return scenes


def names(images: list[str]) -> list[str]:
    return [Path(image).name for image in images]


def test_a_folder_stands_for_its_images(folder: Path) -> None:
    assert names(images_of([str(folder)], recursive=False)) == ["a.TIF", "b.tif", "lone_mask.tif"]
    write_geotiff(folder / "a_mask.tif", slope_of(20, 30))  # of a.TIF
    unfinished = folder / "b_mask.fctl-run" / "temporary"
    unfinished.mkdir(parents=True)
    write_geotiff(unfinished / "pixels.tif", slope_of(20, 30))
    assert names(images_of([str(folder)], recursive=True)) == ["a.TIF", "b.tif", "c.png", "lone_mask.tif"]


def test_a_pattern_stands_for_what_it_matches(folder: Path) -> None:
    assert names(images_of(["scenes/*.tif"], recursive=False)) == [".hidden.tif", "b.tif", "lone_mask.tif"]
    assert names(images_of([str(folder / "**" / "*.png")], recursive=False)) == ["c.png"]
    write_geotiff(folder / "a[1].tif", slope_of(20, 30))
    assert images_of(["scenes/a[1].tif"], recursive=False) == ["scenes/a[1].tif"]  # a file of that very name


def test_a_list_stands_for_its_lines(folder: Path) -> None:
    Path("list.txt").write_text("# scenes\nscenes/b.tif\n\n  scenes/with space.tif  \n")
    assert images_of(["x.tif", "list.txt"], recursive=False) == ["x.tif", "scenes/b.tif", "scenes/with space.tif"]


@pytest.mark.parametrize("name", ['HDF5:"a.h5"://red', "https://example.org/a?b=*.tif", "missing.tif", "a" * 5000])
def test_all_else_is_a_name_as_it_is(folder: Path, name: str) -> None:
    assert images_of([name], recursive=True) == [name]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "empty",
            "empty: expected a folder with images, found none in it; look into the folders in it with `recursive`",
        ),
        ("scenes/*.jpg", r"scenes/\*\.jpg: expected a pattern that files match, found no such file"),
        ("empty.txt", r"empty\.txt: expected a list of images, one in a line, found an empty one"),
        ("binary.txt", r"binary\.txt: expected a list of images, one in a line, found none"),
    ],
)
def test_what_stands_for_nothing_is_an_error(folder: Path, name: str, told: str) -> None:
    Path("empty").mkdir()
    Path("empty.txt").write_text("# nothing\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RasterError, match=told):
        images_of([name], recursive=False)


ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime", "--no-preview")


def test_what_is_there_and_made_in_the_same_way_is_passed_over(folder: Path, in_process: InProcess) -> None:
    def run(*arguments: object) -> Result:
        return in_process(run_app, "scenes/b.tif", "scenes/a.TIF", *ON_TINY, "-o", "out", "--skip-existing", *arguments)

    assert run().returncode == 0
    mask = Path("out/b_mask.tif")
    before = mask.stat().st_mtime_ns
    again = run()
    assert again.returncode == 4  # nothing was to do
    assert "b.tif: its outputs are there already" in again.stdout
    assert "bundle tiny runs on" not in again.stderr  # the engine was not even opened
    assert mask.stat().st_mtime_ns == before

    for path in Path("out").glob("a_mask*"):
        path.unlink()
    assert run().returncode == 0
    assert mask.stat().st_mtime_ns == before
    for changed in (["--tta"], ["--bands", "3,2,1"], ["--probabilities"]):
        refused = run(*changed)
        assert refused.returncode == 1
        assert "out/b_mask.tif exists already; use --overwrite to replace it" in refused.stderr
    os.utime(folder / "b.tif")  # the image is newer than its mask
    assert run().returncode == 3
    assert run("--overwrite").returncode == 0
    assert mask.stat().st_mtime_ns > before


def test_a_line_of_json_for_each_image(folder: Path, in_process: InProcess) -> None:
    shutil.copy(folder / "b.tif", folder / "cut.tif")
    (folder / "cut.tif").write_bytes((folder / "cut.tif").read_bytes()[:700])
    images = ("scenes/b.tif", "scenes/cut.tif", "scenes/a.TIF")
    result = in_process(run_app, *images, *ON_TINY, "-o", "out", "--json", "--skip-existing")
    assert result.returncode == 3
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["done", "failed", "done"]
    done, failed = lines[:2]
    assert done["image"] == "scenes/b.tif"
    assert (done["height"], done["width"], done["engine"], done["precision"]) == (20, 30, "onnxruntime", "fp32")
    assert sum(done["pixels"].values()) == 20 * 30
    assert done["outputs"] == {"mask": "out/b_mask.tif"}
    assert done["warnings"] == []
    assert failed["error"] in result.stderr
    result = in_process(run_app, *images[::2], *ON_TINY, "-o", "out", "--json", "--skip-existing")
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["skipped", "skipped"]
    result = in_process(run_app, images[0], *ON_TINY, "-o", "new", "--json", "--dry-run")
    (estimate,) = map(json.loads, result.stdout.splitlines())
    assert (estimate["status"], estimate["tiles"]) == ("estimated", 6)
    assert estimate["memory"] > 0


def test_warnings_are_in_the_line_of_their_image(folder: Path, in_process: InProcess) -> None:
    pixels = np.random.default_rng(0).random((40, 50, 3)).astype(np.float32)
    write_geotiff(folder / "plain.tif", pixels)
    pixels[20, 20] = -3.4e38
    write_geotiff(folder / "odd.tif", pixels)
    images = ("scenes/plain.tif", "scenes/odd.tif")
    bundle = ("--bundle", tiny.TINY_FLOAT, "--backend", "onnxruntime", "--no-preview", "--json", "-o", "out")
    result = in_process(run_app, *images, *bundle)
    plain, odd = map(json.loads, result.stdout.splitlines())
    assert plain["warnings"] == []
    (warning,) = odd["warnings"]
    assert "1 pixel holds a value far beyond all others" in warning


def test_outputs_are_looked_at_before_the_engine_is_opened(folder: Path, in_process: InProcess) -> None:
    Path("out").mkdir()
    Path("out/b_mask.tif").write_bytes(b"precious")
    result = in_process(run_app, "scenes/b.tif", *ON_TINY, "-o", "out")
    assert result.returncode == 1
    assert "bundle tiny runs on" not in result.stderr


@pytest.mark.parametrize(("level", "told"), [("info", True), ("warning", False)])
def test_the_level_of_the_log(folder: Path, in_process: InProcess, level: str, told: bool) -> None:
    result = in_process(run_app, "scenes/b.tif", *ON_TINY, "-o", "out", "--log-level", level)
    assert ("bundle tiny runs on" in result.stderr) is told


@pytest.mark.parametrize(("every", "is_often"), [("0", True), ("60", False)])
def test_progress_where_nobody_watches_is_as_frequent_as_asked(
    folder: Path, in_process: InProcess, every: str, is_often: bool
) -> None:
    result = in_process(run_app, "scenes/b.tif", *ON_TINY, "-o", "out", "--batch", "1", "--progress-every", every)
    told = [line for line in result.stderr.splitlines() if re.match(r"b\.tif: \d+ of \d+", line)]
    assert (len(told) > 1) is is_often
    assert told


def test_progress_where_nobody_watches_is_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("fctl.runtime.cli.tables.time.monotonic", lambda: now[0])
    with progress_bars("patches") as advance:
        for done in range(0, 1001, 10):
            advance("a.tif", done, 1000)
            now[0] += 1.5
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "a.tif: 400 of 1000, 6.7 patches/s, about 2 minutes left",
        "a.tif: 800 of 1000, 6.7 patches/s, about 0 minutes left",
        "a.tif: 1000 of 1000, 6.7 patches/s",
    ]
