"""Graphs that OpenVINO compiled before: taken from this machine's cache, and compiled anew where that is of no use."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("openvino")

from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines import openvino
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.engines.kept import Key, keep, kept
from tests.runtime import tiny

WINDOW = {"window": np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), np.uint8)}


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Key]:
    """The keys of what was written, in order."""
    written: list[Key] = []

    def noted(kind: str, key: Key, content: bytes) -> None:
        written.append(key)
        keep(kind, key, content)

    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino, "keep", noted)
    return written


def features(path: Path = tiny.TINY / "encoder_medium.onnx") -> NDArray[np.generic]:
    _, graph = read_bundle(tiny.TINY).graph("encoder_medium", "fp32")
    return choose_engine("openvino", "fp32").session(path, graph, 1).run(WINDOW)["features"]


def doubled(path: Path) -> Path:
    """The same encoder with weights of twice the size."""
    weights, whole = tiny.ENCODE_MEDIUM.astype("<f4"), (tiny.TINY / "encoder_medium.onnx").read_bytes()
    assert whole.count(weights.tobytes()) == 1
    path.write_bytes(whole.replace(weights.tobytes(), (2 * weights).tobytes()))
    return path


def test_a_graph_is_compiled_once(keys: list[Key], tmp_path: Path) -> None:
    first = features()
    assert len(keys) == 1 and len(list((tmp_path / "cache" / "openvino").iterdir())) == 1
    np.testing.assert_array_equal(features(), first)
    assert len(keys) == 1


def test_what_is_kept_is_what_runs(keys: list[Key], tmp_path: Path) -> None:
    """Another graph under this one's key shows it."""
    first, other = features(), features(doubled(tmp_path / "encoder_medium.onnx"))
    np.testing.assert_allclose(other, 2 * first, rtol=1e-6)
    content = kept("openvino", keys[1])
    assert content is not None
    keep("openvino", keys[0], content)
    np.testing.assert_array_equal(features(), other)


@pytest.mark.parametrize("what", ["nonsense", "another graph"])
def test_what_openvino_does_not_take_is_compiled_anew(
    keys: list[Key], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = features()
    path, graph = read_bundle(tiny.TINY).graph("segmenter", "fp32")
    choose_engine("openvino", "fp32").session(path, graph, 1)
    other = kept("openvino", keys[1])
    assert other is not None
    keep("openvino", keys[0], b"nonsense" if what == "nonsense" else other)
    with caplog.at_level(logging.DEBUG, "fctl"):
        np.testing.assert_array_equal(features(), first)
    assert "is compiled anew" in caplog.text
    assert keys[-1] == keys[0]  # and is kept in the place of the other
