from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from fctl.export.cli.command import app
from fctl.runtime.bundle.store import read_bundle
from tests.conftest import InProcess
from tests.model.helpers import MEDIUM, lively, save_small, small_config

PROGRAM = Path(sys.executable).with_name("fctl-export")

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fctl_export(in_process: InProcess) -> Call:
    """fctl-export in this process: loading torch takes longer than all the rest."""
    return partial(in_process, app)


def test_help_names_every_option(fctl_export: Call) -> None:
    done = fctl_export("--help")
    assert done.returncode == 0
    for option in ("--out", "--arch", "--fmt", "--classes", "--patches", "--weights", "--licence", "--gsd"):
        assert option in done.stdout
    assert done.stderr == ""


def test_a_missing_checkpoint_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """Of the program as it is installed."""
    command = [PROGRAM, tmp_path / "absent.pt", "--out", tmp_path / "out.fctl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "absent.pt: expected a checkpoint, found no such file" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c.pt", "--out", "out.fctl", "--fmt", "tvm"], "'tvm' is not one of 'onnx', 'trt', 'triton'"),
        (["c.pt", "--out", "out.fctl", "--weights", "fp8"], "'fp8' is not one of 'fp32', 'fp16'"),
        (["c.pt"], "--out"),
        (["--out", "out.fctl"], "NETWORK"),
        (["c.pt", "--out", "out.fctl", "--gsd", "coarse"], "--gsd"),
        (["c.pt", "--out", "out.fctl", "--fast"], "--fast"),
    ],
    ids=["format", "weights", "no out", "no network", "gsd", "unknown"],
)
def test_a_usage_error_is_exit_code_2(arguments: list[str], message: str, fctl_export: Call) -> None:
    done = fctl_export(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_export_prints_its_parity_and_what_it_wrote(tmp_path: Path, fctl_export: Call) -> None:
    network = lively(small_config(stage="s8", contexts=(MEDIUM,), encoders="shared", ale=None))
    checkpoint, out = save_small(tmp_path / "tiny.pt", network), tmp_path / "tiny.fctl"
    done = fctl_export(checkpoint, "--out", out, "--classes", "land,water,road", "--gsd", 0.25)
    assert done.returncode == 0, done.stderr
    for line in ("Parity", "max |difference| / max |logit|", "same class", "change when medium is another patch's"):
        assert line in done.stdout
    assert done.stdout.splitlines()[-1] == f"wrote {out}"
    assert "exporting segmenter" in done.stderr
    manifest = read_bundle(out).manifest
    assert manifest.class_names == ("land", "water", "road")
    assert manifest.input.ground_sample_distance == 0.25
    again = fctl_export(checkpoint, "--out", out)
    assert again.returncode == 1
    assert again.stderr.startswith(f"error: {out} exists already")
