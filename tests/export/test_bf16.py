"""Bundles that are validated for bf16: what is measured, and what is said where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

from fctl.export.bf16 import validate_bf16
from fctl.export.cli.command import app
from fctl.export.compare import ComparedOn
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.cli.info import info_app
from fctl.runtime.engines.openvino import OpenVino
from fctl.runtime.errors import EngineError, InputError, OutputError
from tests.conftest import InProcess
from tests.runtime import tiny

needs_bf16 = pytest.mark.skipif("bf16" not in OpenVino.precisions(), reason="for processors that compute in bf16")


@needs_bf16
def test_the_copy_says_what_bf16_changes(images: Path, tmp_path: Path) -> None:
    bundle = read_bundle(tiny.TINY)
    made = validate_bf16(bundle, tmp_path / "valid.fctl", ComparedOn(images=[images]))
    verdict = made.manifest.bf16
    assert verdict is not None and verdict.engine == "openvino" and verdict.source == "images"
    assert verdict.pixels == 2 * 90 * 130 and 0.5 < verdict.agreement < 1 and verdict.lost is None
    assert made.manifest.graphs == bundle.manifest.graphs
    assert read_bundle(tmp_path / "valid.fctl").manifest == made.manifest


@needs_bf16
def test_the_command_line_shows_the_verdict_with_labels(images: Path, tmp_path: Path, in_process: InProcess) -> None:
    labels = images / "labels"
    labels.mkdir()
    names = read_bundle(tiny.TINY).manifest.class_names
    for name in ("a", "b"):
        Image.fromarray(np.zeros((90, 130), np.uint8)).save(labels / f"{name}.png")
    classes = [{"name": name, "values": [index], "counted": True} for index, name in enumerate(names)]
    described = {"name": "Zeros", "images": "*.png", "masks": "labels/*.png", "classes": classes, "ignore": []}
    (images / "dataset.json").write_text(json.dumps(described | {"threshold": None}))
    out = tmp_path / "valid.fctl"
    done = in_process(app, tiny.TINY, "--validate-bf16", images, "--eval", images, "-o", out)
    assert done.returncode == 0, done.stderr
    verdict = read_bundle(out).manifest.bf16
    assert verdict is not None and verdict.lost is not None and verdict.source == "Zeros, 2 images"
    shown = in_process(info_app, out)
    for text in (done.stdout, shown.stdout):
        assert f"{verdict.agreement:.2%} of 23400 pixels keep their class" in " ".join(text.replace("│", " ").split())


def test_a_processor_without_bf16_says_so(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVino, "precisions", classmethod(lambda cls: ("fp32",)))
    with pytest.raises(EngineError, match=r"^bf16 cannot be measured here: this processor has no .*; validate the bun"):
        validate_bf16(read_bundle(tiny.TINY), tmp_path / "valid.fctl", ComparedOn(images=[images]))
    assert not (tmp_path / "valid.fctl").exists()


@needs_bf16
def test_no_images_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError):
        validate_bf16(read_bundle(tiny.TINY), tmp_path / "valid.fctl", ComparedOn(images=[tmp_path / "none"]))
    assert [path.name for path in tmp_path.iterdir()] == ["none"]


def test_a_folder_that_exists_is_kept(images: Path, tmp_path: Path) -> None:
    (tmp_path / "there.fctl").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        validate_bf16(read_bundle(tiny.TINY), tmp_path / "there.fctl", ComparedOn(images=[images]))


@pytest.mark.parametrize(
    ("network", "arguments", "told"),
    [
        (str(tiny.TINY), ("--precision", "fp16"), "--validate-bf16: expected a run of its own"),
        (str(tiny.TINY), ("--temperature", "0.7"), "--validate-bf16: expected a run of its own"),
        (str(tiny.TINY), ("--share-contexts", "."), "--validate-bf16: expected a run of its own"),
        ("checkpoint.pt", (), "--validate-bf16: expected a bundle"),
    ],
)
def test_a_wrong_call_exits_with_two(
    network: str, arguments: tuple[str, ...], told: str, tmp_path: Path, in_process: InProcess
) -> None:
    done = in_process(app, network, "--validate-bf16", tmp_path, *arguments, "-o", tmp_path / "out.fctl")
    assert done.returncode == 2 and told in " ".join(done.stderr.split())


def test_the_shipped_bundle_was_validated() -> None:
    verdict = read_bundle("default").manifest.bf16
    assert verdict is not None and verdict.passed
