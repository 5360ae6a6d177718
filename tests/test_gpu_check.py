"""`benchmarks.gpu_check` as a program: on the CPU, on a simulated GPU, and with engines that are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.runtime import tiny
from tests.runtime.cuda import simulated

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
SMALL = ("--sides", "60", "--batch", "2", "--rounds", "1", "--burst", "0.01", "--count", "3", "--soak", "0")

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree")

# Engines that are there for the names of others.
BROKEN = """
import sys
import time
import types
from fctl.runtime.engines import choose
from fctl.runtime.engines.onnxruntime import OnnxRuntime

class Session:
    def __init__(self, session, change):
        self.session, self.change = session, change

    def run(self, inputs):
        return {name: self.change(array) for name, array in self.session.run(inputs).items()}

def engine(engine_name, change):
    class Engine(OnnxRuntime):
        name = engine_name

        def session(self, path, graph, batch):
            return Session(super().session(path, graph, batch), change)

    return Engine

def crash(array):
    raise KeyError("nothing behind this")

kept = [(0.0, b"")]

def leak(array):  # 100 MB a second, however fast it runs
    if time.monotonic() > kept[-1][0] + 0.01:
        kept.append((time.monotonic(), b"x" * 1_000_000))
    return array

sys.modules["broken"] = types.SimpleNamespace(
    Wrong=engine("openvino", lambda array: -array),
    Crashing=engine("tensorrt-rtx", crash),
    Leaking=engine("openvino", leak),
)

def put(name, kind):
    choose._ENGINES[name] = choose._Entry("numpy", "", "broken", kind)
"""
ON_STREAM = """
from fctl.runtime.engines import choose
choose._ENGINES["onnxruntime-cuda"] = choose._Entry(
    "onnxruntime", "gpu", "tests.runtime.cuda.on_gpu.engines", "StreamEngine", gpu=True
)
"""


@dataclass(frozen=True)
class Checked:
    """What came of a run."""

    status: int
    told: str
    text: str
    report: dict[str, Any]

    def rows(self, part: str) -> dict[str, dict[str, Any]]:
        return {row["engine"]: row for row in self.report[part]}

    def reasons(self) -> dict[str, str]:
        return {row["what"]: row["reason"] for row in self.report["skipped"]}


def check(out: Path, *arguments: str | Path, before: str = "", environment: dict[str, str] | None = None) -> Checked:
    """Run the program from the root of the checkout, after some code in the same process."""
    code = f"import runpy\n{before}\nrunpy.run_module('benchmarks.gpu_check', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, *SMALL, *map(str, arguments), "--out", str(out)],
        env={**(environment or os.environ), "FCTL_CACHE": str(out / "cache")},
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert (out / "report.json").is_file(), done.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return Checked(done.returncode, done.stderr, (out / "report.md").read_text(encoding="utf-8"), report)


def without_gpu() -> dict[str, str]:
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}


def test_the_engines_of_a_cpu(tmp_path: Path) -> None:
    found = check(
        tmp_path, "--bundle", tiny.TINY, "--batch", "1,2", "--soak", "0.03", "--backends",
        "onnxruntime,openvino,tensorrt,tensorrt-rtx,onnxruntime-cuda,pytorch", environment=without_gpu(),
    )  # fmt: skip
    assert found.status == 0, found.told
    report = found.report
    assert (report["schema"], report["passed"], report["problems"]) == ("1.0", True, [])
    assert report["machine"]["gpu"] is None
    assert found.text.splitlines()[2].startswith(f"No GPU was used: {report['machine']['no_gpu']}")
    assert report["machine"]["cpu"]
    assert {"python", "fctl", "numpy"} <= report["versions"].keys()
    assert str(tiny.TINY) in report["command"]
    agreement = found.rows("agreement")["onnxruntime fp32"]
    assert (agreement["error"], agreement["pixels"], agreement["mask"], agreement["agrees"]) == (0, 1, 1, True)
    assert (agreement["patches"], agreement["device"]) == (3, None)
    assert {row["batch"] for row in report["speed"] if row["engine"] == "onnxruntime fp32"} == {1, 2}
    for row in report["speed"]:
        assert 0 < row["lowest"] <= row["patches"] <= row["highest"]
        assert 0 < row["p50"] <= row["p90"] <= row["p99"]
        assert row["gpu_memory"] is None
    assert found.rows("images")["onnxruntime fp32"]["side"] == 60
    (soak,) = report["soak"]
    assert soak["images"] > 2
    assert (soak["wrong"], soak["threads"], soak["gpu"]) == (0, 2, None)
    for backend in ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda"):
        assert "install" in found.reasons()[f"{backend} fp32"]
    assert "names no network of fctl" in found.reasons()["pytorch fp32"]
    for title in ("## Agreement", "## Patches", "## Whole images", "## Soak", "## Skipped"):
        assert title in found.text


def test_pytorch_takes_part_in_the_speed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = check(
        tmp_path, "--bundle", "default", "--backends", "pytorch,onnxruntime", "--batch", "1", "--count", "1",
        environment=without_gpu() | {"OMP_NUM_THREADS": "1"},  # its threads wait badly beside other tests
    )  # fmt: skip
    assert found.status == 0, found.told
    assert found.rows("speed")["pytorch fp32"]["ratio"] == 1
    assert found.rows("speed")["onnxruntime fp32"]["baseline"] == "pytorch fp32"
    assert list(found.rows("agreement")) == ["onnxruntime fp32"]  # random weights agree with nothing
    assert "only eager fp32" in found.reasons()["pytorch fp16"]


def test_an_engine_that_is_wrong_and_one_that_crashes_fail_the_check_and_do_not_end_it(tmp_path: Path) -> None:
    found = check(
        tmp_path, "--bundle", tiny.TINY, "--backends", "openvino,tensorrt-rtx,onnxruntime", "--no-build",
        before=f"{BROKEN}\nput('openvino', 'Wrong')\nput('tensorrt-rtx', 'Crashing')",
    )  # fmt: skip
    assert found.status == 1, found.told
    assert not found.report["passed"]
    assert not found.rows("agreement")["openvino fp32"]["agrees"]
    assert any("openvino fp32: expected an error of at most 0.001" in problem for problem in found.report["problems"])
    assert any(
        "tensorrt-rtx fp32" in problem and "nothing behind this" in problem for problem in found.report["problems"]
    )
    assert "onnxruntime fp32" in found.rows("images")
    assert "**Failed**" in found.text


def test_memory_that_grows_fails_the_check(tmp_path: Path) -> None:
    found = check(
        tmp_path, "--bundle", tiny.TINY, "--backends", "openvino", "--sides", "0", "--soak", "0.05",
        before=f"{BROKEN}\nput('openvino', 'Leaking')",
    )  # fmt: skip
    assert found.status == 1, found.told
    assert any("expected host memory to grow by at most 64 MB" in problem for problem in found.report["problems"])
    growth = found.report["soak"][0]["host"]
    assert growth["end"] - growth["warm"] > growth["limit"]
    assert growth["slope_per_hour"] > 0


def test_a_bundle_that_is_not_there_is_skipped(tmp_path: Path) -> None:
    found = check(tmp_path, "--bundle", tmp_path / "nothing.fctl", "--backends", "onnxruntime")
    assert found.status == 0, found.told
    assert "expected a bundle folder" in found.reasons()["the bundle"]
    assert "**Nothing was compared**" in found.text


def test_on_a_simulated_gpu(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("cuda.bindings")
    gpu = simulated.build(tmp_path_factory.getbasetemp().parent)
    if gpu is None:
        pytest.skip("needs g++ on Linux, to compile the simulated GPU")
    found = check(
        tmp_path, "--bundle", tiny.TINY_GLOBAL, "--soak", "0.03", "--backends",
        "onnxruntime-cuda,onnxruntime-tensorrt,tensorrt", before=ON_STREAM, environment=gpu.environment,
    )  # fmt: skip
    assert found.status == 0, found.told
    machine = found.report["machine"]["gpu"]
    assert (machine["name"], machine["compute_capability"]) == ("Simulated GPU", "8.6")
    assert found.text.splitlines()[2] == "On Simulated GPU, compute capability 8.6."
    row = found.rows("agreement")["onnxruntime-cuda fp32"]
    assert (row["pixels"], row["mask"], row["device"], row["agrees"]) == (1, 1, 1, True)
    assert "onnxruntime-cuda fp32, segment_device" in found.rows("images")
    assert found.rows("speed")["onnxruntime-cuda fp32"]["gpu_memory"] > 0
    (soak,) = found.report["soak"]
    assert (soak["threads"], soak["wrong"]) == (3, 0)
    assert soak["gpu"]["end"] <= soak["gpu"]["warm"] + soak["gpu"]["limit"]
    assert {"onnxruntime-tensorrt fp32", "tensorrt fp32"} <= found.reasons().keys()
