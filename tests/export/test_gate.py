"""What is verified is what the user brought, and what will run: the gate's reference, engines, and the self-check."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import onnxruntime as ort

from fctl.runtime import Segmenter
from fctl.runtime.bundle.files import sha256
from fctl.runtime.bundle.store import Bundle, read_bundle, write_manifest
from fctl.runtime.bundle.verdicts import EngineVerdict
from fctl.runtime.engines.choose import choose_engine, engine_version
from fctl.runtime.errors import BundleError, EngineError
from fctl.runtime.segment.selfcheck import CHECK_FILE

from .foreign_networks import contrast_graph, parse, picture, weights
from .test_foreign import check_refused, exported, fctl_export, save

SCALED = ("--classes=a,b,c", "--scale=1/255")
TILE = 64


def in_onnxruntime(path: Path, tiles: np.ndarray) -> np.ndarray:
    """Scores of a file as it is, for raw tiles (N, P, P, 3), one at a time."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    images = tiles.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


# The reference ------------------------------------------------------------------------------------------------------


def enlarging(kind: str, opset: int, mode: str) -> onnx.ModelProto:
    """Scores at a quarter of the side, enlarged with an operator of an old opset, which is asymmetric."""
    matrix = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    return parse(
        f'small = Conv<strides=[4,4]>(image, matrix) scores = {kind}<mode="{mode}">(small, factors)',
        "float[N,3,64,64] scores", opset=opset, matrix=matrix, factors=np.float32([1, 1, 4, 4]),
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "opset"), [("Resize", 10), ("Upsample", 9)])
def test_a_conversion_that_changes_numbers_is_refused(tmp_path: Path, kind: str, opset: int) -> None:
    path = save(enlarging(kind, opset, "linear"), tmp_path)
    message = f"bringing it from opset {opset} to 13 changes its numbers"
    check_refused(fctl_export(path, "--out", tmp_path / "own.fctl", *SCALED), message, 1, tmp_path, [path])


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
def test_a_conversion_that_keeps_numbers_is_taken(tmp_path: Path, opset: int) -> None:
    model = contrast_graph("more = Relu(scores) most = Add(more, scores)", "float[N,3,64,64] most", opset=opset)
    path = save(model, tmp_path)
    bundle = exported(path, tmp_path / "own.fctl", *SCALED)
    image = picture(TILE, TILE)
    with Segmenter(bundle) as segmenter:
        found = segmenter.segment(image).ids
    np.testing.assert_array_equal(found, in_onnxruntime(path, image[None])[0].argmax(0))


# Every engine that may run ------------------------------------------------------------------------------------------


def transposed(**attributes: Any) -> onnx.ModelProto:
    """Scores at a quarter of the side, enlarged by a transposed convolution."""
    random, strides = np.random.default_rng(0), attributes["strides"]
    values = {name: f'"{value}"' if isinstance(value, str) else str(value) for name, value in attributes.items()}
    settings = ", ".join(f"{name}={value}" for name, value in values.items())
    inner = 1 if attributes.get("group") else 3
    return parse(
        f"small = Conv<strides={strides}>(image, first) scores = ConvTranspose<{settings}>(small, second)",
        "float[1,3,64,64] scores", taken="float[1,3,64,64] image",
        first=random.standard_normal((3, 3, *strides)).astype(np.float32),
        second=random.standard_normal((3, inner, 3, 3)).astype(np.float32),
    )  # fmt: skip


MODELS = {
    "transposed, dilated groups": lambda: transposed(
        strides=[4, 4], dilations=[2, 2], group=3, output_shape=[TILE, TILE]
    ),
    "transposed, padded": lambda: transposed(strides=[2, 2], output_shape=[TILE, TILE], auto_pad="SAME_UPPER"),
    "cubic": lambda: parse(
        'small = Conv<strides=[4,4]>(image, matrix) scores = Resize<mode="cubic", exclude_outside=1>(small, , factors)',
        "float[1,3,64,64] scores", taken="float[1,3,64,64] image", factors=np.float32([1, 1, 4, 4]),
        matrix=np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32),
    ),
    "wrapped around": lambda: parse(
        'wide = Pad<mode="wrap">(image, edges) scores = Conv(wide, matrix)', "float[1,3,64,64] scores", opset=19,
        taken="float[1,3,64,64] image", edges=np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
        matrix=np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32),
    ),
    "plain": contrast_graph,
}  # fmt: skip


def in_openvino(bundle: Bundle, tiles: np.ndarray) -> np.ndarray | None:
    """Scores of a bundle's graph in OpenVINO, for raw tiles (N, P, P, 3); None where it cannot load it."""
    import openvino as ov

    core = ov.Core()
    try:
        model = core.read_model(bundle.folder / "segmenter.onnx")
        model.reshape({"patch": [1, 3, TILE, TILE]})
        run = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": ov.Type.f32})
    except RuntimeError:
        return None
    return np.concatenate([run({"patch": tile.transpose(2, 0, 1)[None].copy()})[0].copy() for tile in tiles])


@pytest.mark.parametrize("name", MODELS)
def test_auto_computes_what_the_file_computes(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever engine that takes; and each engine's verdict is what running it here gives."""
    pytest.importorskip("openvino")
    path = save(MODELS[name](), tmp_path)
    done = fctl_export(path, "--out", tmp_path / "own.fctl", *SCALED, "--overlap=0")
    assert done.code == 0, done.err
    bundle = read_bundle(tmp_path / "own.fctl")
    image = picture(2 * TILE, 3 * TILE)
    tiles = image.reshape(2, TILE, 3, TILE, 3).swapaxes(1, 2).reshape(6, TILE, TILE, 3)
    scores = in_onnxruntime(path, tiles)
    right = scores.argmax(1).reshape(2, 3, TILE, TILE).swapaxes(1, 2).reshape(2 * TILE, 3 * TILE)
    verdicts = {verdict.engine: verdict for verdict in bundle.manifest.engines}
    with caplog.at_level(logging.WARNING), Segmenter(bundle) as segmenter:
        assert (segmenter.segment(image).ids == right).mean() >= 0.9999
        assert verdicts[segmenter.engine.name].passed

    found = in_openvino(bundle, tiles)
    verdict = verdicts["openvino"]
    agrees = found is not None and bool(np.abs(found - scores).max() <= 1e-3 * np.abs(scores).max())
    assert verdict.passed == agrees
    assert (verdict.refusal is not None) == (found is None)
    if agrees:
        assert "openvino" not in done.err + caplog.text
        return
    assert done.err.startswith("warning: openvino will not be taken by auto for this bundle: ")
    assert f"openvino is not taken: {verdict.reason}" in caplog.text
    with pytest.raises(EngineError, match="choose `backend` onnxruntime"):
        Segmenter(bundle, backend="openvino")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return exported(save(contrast_graph(), tmp_path), tmp_path / "own.fctl", *SCALED)


def judged(bundle: Bundle, *verdicts: EngineVerdict) -> Bundle:
    """The bundle with other verdicts."""
    write_manifest(bundle.folder, replace(bundle.manifest, engines=verdicts))
    return read_bundle(bundle.folder)


def verdict_of(engine: str, version: str, *, passed: bool) -> EngineVerdict:
    return EngineVerdict(
        engine=engine, version=version, precision="fp32", passed=passed, agreement=1.0 if passed else 0.5,
        max_error=0.1, refusal=None,
    )  # fmt: skip


def test_every_engine_that_is_installed_is_at_the_gate(bundle: Bundle) -> None:
    names = {verdict.engine for verdict in bundle.manifest.engines}
    assert "onnxruntime" in names
    assert bundle.manifest.engines[0].version == ort.__version__
    assert choose_engine("auto", "fp32").name in names
    assert all(verdict.passed for verdict in bundle.manifest.engines)


def test_an_engine_that_disagreed_is_taken_by_nobody(bundle: Bundle) -> None:
    bad = verdict_of("onnxruntime", ort.__version__, passed=False)
    wrong = judged(bundle, bad, verdict_of("openvino", "1", passed=True))
    with pytest.raises(EngineError, match=r"onnxruntime: at the parity gate only 50.00% .*; choose `backend` openvino"):
        choose_engine("onnxruntime", "fp32", wrong)
    with pytest.raises(EngineError, match=r"no engine for fp16: .*onnxruntime is not taken: at the parity gate"):
        choose_engine("auto", "fp16", wrong)


def test_another_version_of_an_engine_that_disagreed_may_be_asked_for(bundle: Bundle) -> None:
    other = judged(bundle, verdict_of("onnxruntime", "1.0", passed=False))
    with Segmenter(other, backend="onnxruntime") as segmenter:  # the self-check lets it pass
        assert segmenter.engine.name == "onnxruntime"


# The self-check -----------------------------------------------------------------------------------------------------


def spoiled(bundle: Bundle) -> Bundle:
    """The bundle with other scores for its patch, which no engine gives."""
    path = bundle.folder / CHECK_FILE
    with np.load(path) as stored:
        square, scores = stored["square"], stored["scores"]
    np.savez(path, square=square, scores=scores[::-1].copy())
    check = replace(bundle.manifest.check, sha256=sha256(path)) if bundle.manifest.check else None
    return Bundle(bundle.folder, replace(bundle.manifest, check=check))


def test_the_file_is_small(bundle: Bundle) -> None:
    assert 1000 < (bundle.folder / CHECK_FILE).stat().st_size < 200_000


def test_an_engine_that_the_gate_did_not_see_must_agree(bundle: Bundle) -> None:
    unseen = judged(spoiled(bundle), verdict_of("openvino", "1", passed=True))
    with pytest.raises(EngineError) as raised:
        Segmenter(unseen, backend="onnxruntime")
    line = f"{unseen.folder}: onnxruntime {engine_version('onnxruntime')} gives the network's scores at only "
    assert str(raised.value).startswith(line)
    assert str(raised.value).endswith("choose `backend` openvino, or another version of onnxruntime")


def test_an_engine_that_the_gate_saw_is_not_tried_again(bundle: Bundle) -> None:
    with Segmenter(judged(spoiled(bundle), *bundle.manifest.engines), backend="onnxruntime"):
        pass


def test_an_engine_that_agrees_passes(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    unseen = judged(bundle)
    with caplog.at_level(logging.INFO), Segmenter(unseen, backend="onnxruntime", batch=3):
        pass
    assert "it agrees on the bundle's own patch" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO), Segmenter(unseen, backend="onnxruntime", batch=2):
        pass
    assert "own patch" not in caplog.text  # once is enough


@pytest.mark.parametrize("damage", ["missing", "changed", "elsewhere", "pickled", "a text", "huge"])
def test_a_damaged_file_is_one_line(bundle: Bundle, damage: str) -> None:
    path, check = bundle.folder / CHECK_FILE, bundle.manifest.check
    assert check is not None
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "elsewhere":
        check = replace(check, file="../own.npz")
    else:
        if damage == "pickled":
            np.savez(path, square=np.array([{}], dtype=object), scores=np.zeros(1))
        elif damage == "a text":
            path.write_text("scores")
        else:
            np.savez_compressed(path, square=np.zeros((1 << 12, 1 << 12, 3), np.uint8), scores=np.zeros(1))
        check = replace(check, sha256=sha256(path))
    write_manifest(bundle.folder, replace(bundle.manifest, engines=(), check=check))
    with pytest.raises(BundleError, match=rf"check.file: expected {CHECK_FILE} with sha256 .*, or export it again"):
        Segmenter(bundle.folder, backend="onnxruntime")


def test_a_bundle_of_before_has_neither(bundle: Bundle) -> None:
    path = bundle.folder / "manifest.json"
    document = json.loads(path.read_text("utf-8"))
    del document["engines"], document["check"]
    path.write_text(json.dumps(document), "utf-8")
    (bundle.folder / CHECK_FILE).unlink()
    with Segmenter(bundle.folder) as segmenter:
        assert segmenter.manifest.engines == ()
        assert segmenter.segment(picture()).ids.max() <= 2


def test_a_network_of_the_middle_is_tried_with_its_surroundings(tmp_path: Path) -> None:
    model = parse(
        "scores = Conv(image, kernel)", "float[N,3,40,40] scores",
        kernel=np.repeat(weights(3, 3)[..., None, None] / 625, 25, 2).repeat(25, 3),
    )  # fmt: skip
    bundle = exported(save(model, tmp_path), tmp_path / "own.fctl", *SCALED)
    with Segmenter(judged(bundle), backend="onnxruntime") as segmenter:
        assert segmenter.manifest.tile == 40
    with pytest.raises(EngineError, match="the bundle's own patch"):
        Segmenter(replace(judged(spoiled(bundle)), folder=bundle.folder), backend="onnxruntime", precision="fp32")
