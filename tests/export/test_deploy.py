"""``fctl-export BUNDLE``: other precisions, engines and repositories of a bundle, on the command line."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx")

from fctl.export.cli.command import app
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.cuda import driver
from fctl.runtime.engines.tensorrt.plans import ENGINES, cache_folder

from ..conftest import InProcess
from ..runtime import tiny

RTX = ("--fmt", "trt", "--flavour", "tensorrt-rtx", "--compute-capability", "86")

Done = subprocess.CompletedProcess[str]
Call = Callable[..., Done]


@pytest.fixture
def fctl_export(in_process: InProcess) -> Call:
    """fctl-export in this process: loading its libraries takes longer than most of what it does."""
    return partial(in_process, app)


def assert_one_error(done: Done, *told: str) -> None:
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert [part for part in told if part not in lines[0]] == [], lines[0]


def test_engines_go_into_a_copy_of_the_bundle(tmp_path: Path, fctl_export: Call) -> None:
    out = tmp_path / "device.fctl"
    done = fctl_export(tiny.TINY, *RTX, "--batch", "1,4", "--out", out)
    assert done.returncode == 0, done.stderr
    assert read_bundle(out).manifest == read_bundle(tiny.TINY).manifest
    plans = sorted((out / ENGINES).glob("*.engine"))
    assert [path.name.split("-")[0] for path in plans] == ["encoder_large", "encoder_medium", "segmenter"]
    for path in plans:
        assert f"wrote {path}" in done.stdout
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["profiles"] == [1, 4]
        assert record["machine"] == {
            "version": record["machine"]["version"], "system": f"{platform.system()} {platform.machine()}",
            "gpu": None, "compute_capability": 86, "driver": None,
        }  # fmt: skip
    assert not (tiny.TINY / ENGINES).exists()


def test_without_out_they_go_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fctl_export: Call) -> None:
    monkeypatch.setenv("FCTL_CACHE", str(tmp_path))
    done = fctl_export(tiny.TINY, *RTX)
    assert done.returncode == 0, done.stderr
    assert len(list(cache_folder().glob("*.engine"))) == 3
    again = fctl_export(tiny.TINY, *RTX)
    assert again.returncode == 0 and "building" in done.stderr and "building" not in again.stderr


def test_fp16_engines_of_an_fp32_bundle_make_the_graphs_first(
    tmp_path: Path, fctl_export: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fctl.export.precision.add.PARITY_PATCHES", 2)  # test_half.py looks at what they find
    out = tmp_path / "half.fctl"
    done = fctl_export("default", *RTX, "--precision", "fp16", "--out", out)
    assert done.returncode == 0, done.stderr
    assert read_bundle(out).manifest.precisions == ("fp32", "fp16")
    records = [json.loads(path.read_text()) for path in (out / ENGINES).glob("*.json")]
    assert {record["precision"] for record in records} == {"fp16"}
    for record in records:
        counts = {kind: len(layers) for kind, layers in record["layers"]["products"].items()}
        assert counts["Half"] > 0.8 * sum(counts.values())


def test_fp16_graphs_are_not_made_to_be_lost(fctl_export: Call) -> None:
    assert_one_error(fctl_export("default", *RTX, "--precision", "fp16"), "give --out NAME.fctl")


def test_a_bundle_becomes_a_repository(tmp_path: Path, fctl_export: Call) -> None:
    pytest.importorskip("onnx")
    done = fctl_export(tiny.TINY, "--fmt", "triton", "--max-batch", "16", "--out", tmp_path / "repository")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path / 'repository' / 'tiny'}\n"
    assert "max_batch_size: 16" in (tmp_path / "repository" / "tiny" / "config.pbtxt").read_text()


@pytest.mark.skipif(driver.missing() is None, reason="for machines without a GPU")
def test_without_a_gpu_one_line_says_what_is_missing(tmp_path: Path, fctl_export: Call) -> None:
    out = tmp_path / "out.fctl"
    assert_one_error(fctl_export(tiny.TINY, *RTX[:4], "--out", out), "no NVIDIA driver", "--compute-capability")
    assert_one_error(fctl_export(tiny.TINY, "--fmt", "trt", "--out", out), "tensorrt is not installed", "[trt]'")
    assert list(tmp_path.iterdir()) == []


def test_torch_and_onnx_are_not_needed_for_engines(tmp_path: Path) -> None:
    code = f"""
import sys
from fctl.export.cli.command import app
try:
    app({[str(tiny.TINY), *RTX, "--out", str(tmp_path / "out.fctl")]!r})
except SystemExit as stop:
    assert not stop.code, stop.code
assert not [name for name in ("torch", "onnx", "onnxruntime") if name in sys.modules]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "out.fctl" / ENGINES).is_dir()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["default", "--out", "x.fctl"], "holds its fp32 graphs already"),
        (["default", "--fmt", "triton"], "--out: expected where to write"),
        (["c.pt", *RTX], "--out: expected where to write"),
        (["default", "--batch", "8", "--precision", "fp16", "--out", "x.fctl"], "--batch is for --fmt trt"),
        (["default", "--plan", "p", "--precision", "fp16", "--out", "x.fctl"], "--plan is for --fmt triton"),
        (["default", "--classes", "a,b", "--precision", "fp16", "--out", "x.fctl"], "--classes is for networks"),
        (["default", "--tile", "64", "--precision", "fp16", "--out", "x.fctl"], "--tile is for networks of your own"),
        (["default", *RTX, "--batch", "1,x"], "--batch: expected numbers from 1 as in 1,4,8, found '1,x'"),
        (["default", *RTX, "--precision", "fp8"], "'fp8' is not one of 'fp32', 'fp16', 'int8'"),
        (["default", "--fmt", "trt", "--flavour", "trtllm"], "'trtllm' is not one of 'tensorrt', 'tensorrt-rtx'"),
    ],
)
def test_a_wrong_call_exits_with_two(arguments: list[str], told: str, fctl_export: Call) -> None:
    done = fctl_export(*arguments)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.replace("│", " ").split())


def test_a_bundle_without_int8_graphs_says_what_it_holds(tmp_path: Path, fctl_export: Call) -> None:
    assert_one_error(
        fctl_export(tiny.TINY, *RTX, "--precision", "int8", "--out", tmp_path / "x.fctl"), "holds no int8 graph"
    )


def test_an_existing_bundle_is_never_replaced(tmp_path: Path, fctl_export: Call) -> None:
    (tmp_path / "x.fctl").mkdir()
    assert_one_error(fctl_export(tiny.TINY, *RTX, "--out", tmp_path / "x.fctl"), "exists already")
    assert list((tmp_path / "x.fctl").iterdir()) == []
