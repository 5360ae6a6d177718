"""fctl-bench, with real runs of small bundles."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fctl.runtime.cli.bench import bench_app
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.cli.test_run import assert_fine, assert_one_error, assert_usage, files_in
from tests.runtime.naive import slope_of

Result = subprocess.CompletedProcess[str]
Bench = Callable[..., Result]
ONNX = ("--backend", "onnxruntime", "--rounds", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an image of 150 x 130 pixels."""
    write_geotiff(tmp_path / "image.tif", slope_of(150, 130))
    return tmp_path


@pytest.fixture
def bench(folder: Path, monkeypatch: pytest.MonkeyPatch, in_process: InProcess) -> Bench:
    """fctl-bench in the folder; its cases have processes of their own all the same."""

    def run(*args: object) -> Result:
        monkeypatch.chdir(folder)
        return in_process(bench_app, *args)

    return run


def read(result: Result) -> Any:
    assert_fine(result)
    return json.loads(result.stdout)


def test_cases_side_by_side(folder: Path, bench: Bench) -> None:
    found = read(bench(
        tiny.TINY_ONCE, "image.tif", "--backend", "onnxruntime", "--rounds", "2", "--contexts", "exact,shared",
        "--batch", "1,4", "--frames", "3", "--frame-size", "40", "--json",
    ))  # fmt: skip
    assert (found["schema"], found["image"], found["frame"], found["skipped"]) == (1, "image.tif", 40, [])
    cases = found["cases"]
    assert [(case["contexts"], case["batch"]) for case in cases] == [
        ("exact", 1), ("exact", 4), ("shared", 1), ("shared", 4)
    ]  # fmt: skip
    shares = list[float]()
    for case in cases:
        assert len(case["rounds"]) == 2 and len(case["frame_seconds"]) == 6
        assert 0 < case["frame_percentiles"]["p50"] <= case["frame_percentiles"]["p99"]
        assert set(case["background_stages"]) == {"read", "shrink", "encode", "gather", "segment", "write"}
        for one in case["rounds"]:
            assert one["pixels"] == 150 * 130
            shares.append(sum(stage["seconds"] for stage in one["stages"].values()) / one["seconds"])
            assert one["outside_processor_seconds"] is None or (
                0 < one["outside_processor_seconds"] < one["processor_seconds"]
            )
    assert max(shares) == pytest.approx(1, rel=0.02)  # others may take the processor between the clocks of a round
    assert cases[0]["rounds"][0]["patches"] == cases[2]["rounds"][0]["patches"] > 0
    assert files_in(folder) == ["image.tif"]


@pytest.mark.once
def test_tables_say_what_cases_have_in_common(bench: Bench) -> None:
    result = bench(tiny.TINY, "image.tif", *ONNX, "--batch", "1,4", "--frames", "2")
    assert_fine(result)
    assert "Speed: image.tif, tiny, onnxruntime fp32, exact contexts; one round" in result.stdout
    for title in ("Speed", "Seconds by stage", "Latency"):
        rows = [
            line.split("│")[1].strip()
            for line in result.stdout.split(title)[1].split("└")[0].splitlines()
            if "│" in line
        ]
        assert rows == ["batch 1", "batch 4"]


@pytest.mark.once
@pytest.mark.skipif(not find_spec("matplotlib"), reason="charts need matplotlib")
def test_a_mosaic_and_charts(folder: Path, bench: Bench) -> None:
    for name, magic in (("chart.png", b"\x89PNG"), ("chart.svg", b"<?xml")):
        assert_fine(bench(tiny.TINY_PLAIN, *ONNX, "--size", "100", "--chart", name))
        assert (folder / name).read_bytes().startswith(magic)
        assert_one_error(bench(tiny.TINY_PLAIN, *ONNX, "--chart", name), f"{name} exists already", "--overwrite")
    (folder / "folder.png").mkdir()
    assert_one_error(bench(tiny.TINY_PLAIN, *ONNX, "--chart", "folder.png"), "found a folder", "--chart")
    result = bench(tiny.TINY_PLAIN, *ONNX, "--size", "50", "--chart", "chart.png/chart.png")
    assert_one_error(result, "cannot write", "choose another --chart")


@pytest.mark.once
def test_what_cannot_run_is_skipped(bench: Bench) -> None:
    result = bench(tiny.TINY, "image.tif", *ONNX, "--precision", "fp32,int8", "--contexts", "exact,shared", "--json")
    found = read(result)
    skips = [line for line in result.stderr.splitlines() if "skipped" in line]
    assert len(skips) == 3 and all(line.startswith("warning: skipped ") for line in skips)
    assert [(case["precision"], case["contexts"]) for case in found["cases"]] == [("fp32", "exact")]
    assert [(one["precision"], one["contexts"]) for one in found["skipped"]] == [
        ("fp32", "shared"), ("int8", "exact"), ("int8", "shared")
    ]  # fmt: skip


@pytest.mark.once
def test_cases_that_come_to_the_same_run_once(bench: Bench) -> None:
    result = bench(tiny.TINY_PLAIN, *ONNX, "--size", "50", "--contexts", "exact,auto")
    assert_fine(result)
    assert "comes to the same as" in result.stderr


@pytest.mark.once
def test_a_bundle_that_an_image_does_not_fit_is_skipped(bench: Bench) -> None:
    result = bench(tiny.TINY, tiny.TINY_PLAIN, "image.tif", *ONNX)
    assert_fine(result)
    assert "skipped" in result.stderr and str(tiny.TINY_PLAIN) in result.stderr
    assert "tiny, onnxruntime fp32," in " ".join(result.stdout.replace("│", " ").split())


@pytest.mark.once
def test_nothing_can_run(bench: Bench) -> None:
    assert_one_error(bench(tiny.TINY, "image.tif", *ONNX, "--precision", "int8"), "int8")
    result = bench(tiny.TINY, "image.tif", *ONNX, "--precision", "int8,fp16")
    assert_one_error(result, "none of the 2 combinations can run here")
    assert result.stderr.count("warning: skipped") == 2


@pytest.mark.once
def test_warnings_of_a_case_are_shown_once(tmp_path: Path, bench: Bench) -> None:
    unknown = tiny.variant(tiny.TINY_ONCE, tmp_path / "bundles", lambda manifest: manifest.pop("sharing"))
    result = bench(unknown, "image.tif", "--backend", "onnxruntime", "--rounds", "2", "--contexts", "shared")
    assert_fine(result)
    assert result.stderr.count("not validated for shared contexts") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gone.tif",), "expected a bundle folder or 'default', found 'gone.tif'"),
        (("default", "a.tif", "b.tif"), "expected one image, found 2: a.tif and b.tif"),
        (("default", "--batch", "0"), "--batch: expected numbers from 1"),
        (("default", "--precision", "fp8"), "--precision: expected"),
        (("default", "--backend", "abacus"), "--backend: expected"),
        (("default", "--chart", "chart.pdf"), "--chart: expected a name that ends in .png or .svg"),
    ],
)
def test_wrong_calls(bench: Bench, arguments: tuple[str, ...], told: str) -> None:
    assert_usage(bench(*arguments), told)


def test_wrong_files(folder: Path, bench: Bench) -> None:
    assert_one_error(bench("default", "gone.tif"), "gone.tif")
    assert_one_error(bench("gone.fctl", *ONNX), "gone.fctl")
    assert files_in(folder) == ["image.tif"]


@pytest.mark.once
def test_it_loads_no_engine_itself_and_needs_neither_torch_nor_onnx(folder: Path) -> None:
    code = f"""
import sys
from fctl.runtime.cli.bench import bench_app
if __name__ == "__main__":
    try:
        bench_app([{str(tiny.TINY)!r}, "image.tif", "--backend", "onnxruntime", "--rounds", "1"])
    except SystemExit as end:
        assert end.code == 0, end.code
    found = {{"torch", "onnx", "onnxruntime", "matplotlib"}} & set(sys.modules)
    assert not found, found
"""
    (folder / "run.py").write_text(code, encoding="utf-8")
    result = subprocess.run([sys.executable, "run.py"], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
