"""`auto` for batch and precision: what is tried, what is kept of it, and what comes of that."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.bundle.verdicts import Bf16Verdict
from fctl.runtime.cli.run import run_app
from fctl.runtime.cuda import driver
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.engines.kept import Key, keep
from fctl.runtime.errors import EngineError, InputError
from fctl.runtime.segment import fastest as module
from fctl.runtime.segment.fastest import validated
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(driver.missing() is None, reason="for machines without a GPU")

PASSED = Bf16Verdict(agreement=0.99, lost=None, pixels=100, source="images", engine="openvino")


def bundle_with(verdict: Bf16Verdict | None, path: Path = tiny.TINY) -> Bundle:
    bundle = read_bundle(path)
    return replace(bundle, manifest=replace(bundle.manifest, bf16=verdict))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Key, bytes]]:
    """Kind, key and content of all that trials kept, in order."""
    found: list[tuple[str, Key, bytes]] = []

    def noted(kind: str, key: Key, content: bytes) -> None:
        found.append((kind, key, content))
        keep(kind, key, content)

    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "keep", noted)
    return found


# --- what may be taken ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agreement", "lost", "passed"),
    [(0.99, None, True), (0.9899, None, False), (0.5, 0.2, True), (0.5, 0.21, False), (0.995, 3.0, True)],
)
def test_the_gate_of_bf16(agreement: float, lost: float | None, passed: bool) -> None:
    bundle = bundle_with(replace(PASSED, agreement=agreement, lost=lost))
    assert list(validated(bundle)) == (["fp32", "bf16"] if passed else ["fp32"])


@pytest.mark.parametrize("exact", [True, False])
def test_int8_needs_graphs_and_a_processor_that_adds_exactly(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "adds_int8_exactly", lambda: exact)
    bundle = bundle_with(None)
    assert list(validated(bundle)) == ["fp32"]
    graphs = [replace(graph, precision=one) for one in ("fp32", "fp16", "int8") for graph in bundle.manifest.graphs]
    more = replace(bundle, manifest=replace(bundle.manifest, graphs=tuple(graphs)))
    assert list(validated(more)) == ["fp16", "fp32", *(["int8"] if exact else [])]


@pytest.mark.parametrize(("cores", "expected"), [(1, [1, 2, 4]), (2, [1, 2, 4]), (6, [1, 4, 6, 12]), (64, [1, 4, 16])])
def test_batches_that_are_tried(cores: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: cores)
    assert module._batches() == expected


# --- trials -----------------------------------------------------------------------------------------------------------


def test_the_trial_is_made_once(written: list[tuple[str, Key, bytes]], caplog: pytest.LogCaptureFixture) -> None:
    image = np.random.default_rng(0).integers(0, 256, (45, 50, 3), np.uint8)
    with Segmenter(tiny.TINY, backend="onnxruntime") as segmenter:
        expected = segmenter.segment(image).ids
    with caplog.at_level(logging.INFO, "fctl"):
        for _ in range(2):
            with Segmenter(tiny.TINY, backend="onnxruntime", batch="auto") as segmenter:
                np.testing.assert_array_equal(segmenter.segment(image).ids, expected)
    assert caplog.text.count("ways to run bundle tiny, once on this machine") == 1
    assert caplog.text.count("is taken, the fastest here (ms a patch: fp32 at batch 1 ") == 2
    [(kind, key, content)] = written
    assert kind == "trials" and len(json.loads(content)) == len(module._batches())
    assert key["cores"] == module.cores()


def batch_taken(backend: str = "onnxruntime", bundle: Path | Bundle = tiny.TINY) -> int:
    with Segmenter(bundle, backend=backend, batch="auto") as segmenter:
        return segmenter.batch


@pytest.mark.parametrize("fast", [0, 1, 2])
def test_the_fastest_is_taken(fast: int, written: list[tuple[str, Key, bytes]]) -> None:
    batch_taken()
    kind, key, content = written[0]
    figures = [1.0] * len(json.loads(content))
    figures[fast] = 0.5
    keep(kind, key, json.dumps(figures).encode())
    assert batch_taken() == module._batches()[fast]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[1.0]", b"7", b'["a", "b", "c"]', b"[[], [], []]"])
def test_an_entry_that_makes_no_sense_is_made_anew(content: bytes, written: list[tuple[str, Key, bytes]]) -> None:
    batch_taken()
    kind, key, _ = written[0]
    keep(kind, key, content)
    assert batch_taken() in module._batches()
    assert len(written) == 2 and written[1][:2] == (kind, key)


def test_another_number_of_cores_is_tried_anew(
    written: list[tuple[str, Key, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_taken()
    monkeypatch.setattr(module, "cores", lambda: 3)
    batch_taken()
    assert [key["cores"] for _, key, _ in written][1] == 3


def test_where_nothing_can_be_kept_it_runs_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "file"))
    assert batch_taken() in module._batches()


def test_a_batch_that_the_bundle_fixes_is_not_tried(written: list[tuple[str, Key, bytes]]) -> None:
    assert batch_taken(bundle=tiny.TINY_FIXED) == 3
    assert written == []


def test_a_bundle_that_no_setting_can_run_says_why(
    tmp_path: Path, written: list[tuple[str, Key, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(tiny.variant(tiny.TINY, tmp_path, lambda manifest: None))
    (bundle.folder / "segmenter.onnx").write_bytes(b"hello")
    with pytest.raises(EngineError, match=r"cannot load .*segmenter\.onnx"):
        batch_taken(bundle=bundle)


@pytest.mark.once
@pytest.mark.parametrize("isolate", [False, True])
def test_the_fastest_precision_that_was_validated_is_taken(
    isolate: bool, written: list[tuple[str, Key, bytes]]
) -> None:
    openvino = pytest.importorskip("fctl.runtime.engines.openvino")
    able = "bf16" in openvino.OpenVino.precisions()

    def taken(verdict: Bf16Verdict | None) -> str:
        bundle = bundle_with(verdict)
        with Segmenter(bundle, backend="openvino", precision="auto", isolate=isolate) as segmenter:
            return segmenter.engine.precision

    assert taken(None) == "fp32" and written == []  # there is no choice
    assert taken(PASSED) in (("fp32", "bf16") if able else ("fp32",))
    if able:
        for figures, precision in (([2.0, 1.0], "bf16"), ([1.0, 2.0], "fp32"), ([1.0, None], "fp32")):
            keep(*written[0][:2], json.dumps(figures).encode())
            assert taken(PASSED) == precision


def test_a_precision_that_the_engine_does_not_run_is_passed_over(written: list[tuple[str, Key, bytes]]) -> None:
    with Segmenter(bundle_with(PASSED), backend="onnxruntime", precision="auto") as segmenter:
        assert segmenter.engine.precision == "fp32"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"^`precision`: expected auto or fp32 or .*, found 'fp8'$"):
        Segmenter(tiny.TINY, precision="fp8")  # type: ignore[arg-type]


# --- runs that go on --------------------------------------------------------------------------------------------------


class EndedError(Exception):
    """Ends a run after some tiles."""


@pytest.mark.once
@pytest.mark.parametrize("asked", ["auto", 2])
def test_a_run_that_goes_on_keeps_its_batch_unless_another_was_asked_for(
    asked: Any, tmp_path: Path, rng: np.random.Generator, written: list[tuple[str, Key, bytes]]
) -> None:
    image = write_geotiff(tmp_path / "image.tif", rng.integers(0, 256, (2400, 40, 3), np.uint8))
    paths = Paths(mask=tmp_path / "mask.tif")

    def stop(done: int, total: int) -> None:
        if done > 0.9 * total:
            raise EndedError

    with Segmenter(tiny.TINY, backend="onnxruntime", batch=4) as segmenter, pytest.raises(EndedError):
        segmenter.segment_file(image, paths, progress=stop)
    batch_taken()
    figures = [0.5 if batch == 1 else 1.0 for batch in module._batches()]
    keep(*written[0][:2], json.dumps(figures).encode())
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=asked) as segmenter:
        assert segmenter.batch == (1 if asked == "auto" else 2)
        segmenter.segment_file(image, paths, resume=True)
        assert segmenter.batch == (4 if asked == "auto" else 2)


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_says_what_it_took_and_passes_over_what_is_there(
    tmp_path: Path, in_process: InProcess, rng: np.random.Generator
) -> None:
    image = write_geotiff(tmp_path / "image.tif", rng.integers(0, 256, (45, 50, 3), np.uint8))
    ways = ("--bundle", tiny.TINY, "--backend", "onnxruntime", "--batch", "auto", "--precision", "auto")
    done = in_process(run_app, image, *ways, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "is taken, the fastest here (ms a patch: fp32 at batch 1 " in " ".join(done.stderr.split())
    with rasterio.open(tmp_path / "out" / "image_mask.tif") as mask:
        assert mask.tags()["FCTL_PRECISION"] == "fp32"
    again = in_process(run_app, image, *ways, "-o", tmp_path / "out", "--skip-existing")
    assert again.returncode == 4, again.stderr


@pytest.mark.parametrize("batch", ["0", "many", "2,4"])
def test_a_wrong_batch_exits_with_two(batch: str, tmp_path: Path, in_process: InProcess) -> None:
    done = in_process(run_app, tmp_path / "image.tif", "--batch", batch)
    assert done.returncode == 2 and "--batch: expected" in " ".join(done.stderr.split())


def test_the_default_batch_is_the_usual_one() -> None:
    choose_engine("onnxruntime", "fp32").close()
    with Segmenter(tiny.TINY, backend="onnxruntime") as segmenter:
        assert segmenter.batch == module.USUAL_BATCH
