from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import SEGMENTER, GraphSpec, Manifest
from fctl.runtime.bundle.records import decode
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256
from fctl.runtime.cuda import driver
from fctl.runtime.engines.base import Arrays, Session
from fctl.runtime.engines.choose import BACKENDS, choose_engine
from fctl.runtime.errors import BundleError, DeviceMemoryError, EngineError, FctlError, InputError
from tests.runtime import tiny

ENGINES = ["openvino", "onnxruntime"]  # on the CPU, in the order of "auto"; tests/runtime/cuda has the others
ON_GPU = [name for name in BACKENDS if name not in ("auto", *ENGINES)]

Array = NDArray[Any]


@pytest.fixture(params=ENGINES)
def backend(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    pytest.importorskip(name)
    return name


def unchecked(folder: Path) -> Bundle:
    """A bundle whose files nobody looked at."""
    return Bundle(folder, decode(Manifest, json.loads((folder / "manifest.json").read_text("utf-8"))))


def session_of(backend: str, batch: int, bundle: Path = tiny.TINY, role: str = SEGMENTER) -> Session:
    path, graph = unchecked(bundle).graph(role, "fp32")
    return choose_engine(backend, "fp32").session(path, graph, batch)


def inputs_of(rng: np.random.Generator, batch: int) -> dict[str, Array]:
    features = {
        f"features_{name}": rng.normal(size=(batch, 2, 4, 4)).astype(np.float32) for name in ("medium", "large")
    }
    return {"patch": rng.integers(0, 256, (batch, 3, 16, 16), np.uint8), **features}


def test_an_unknown_backend_lists_those_that_are_known() -> None:
    with pytest.raises(InputError, match=f"unknown backend 'tvm'; known: {', '.join(BACKENDS)}"):
        choose_engine("tvm", "fp32")


def test_the_engine_asked_for_is_the_one_that_comes(backend: str) -> None:
    engine = choose_engine(backend, "fp32")
    assert (engine.name, engine.precision) == (backend, "fp32")
    assert "CPU" in engine.device


def test_auto_takes_the_first_that_is_installed_and_says_which() -> None:
    for name in ENGINES:  # in the documented order
        try:
            first = choose_engine(name, "fp32")
        except EngineError:
            continue
        break
    assert choose_engine("auto", "fp32").name == first.name


@pytest.mark.parametrize("name", ON_GPU)
def test_without_a_gpu_an_engine_for_one_says_what_is_missing(name: str) -> None:
    if driver.missing() is None:
        pytest.skip("for machines without a GPU")
    with pytest.raises(EngineError, match=rf"no engine for fp32: {name}(:| is not installed)") as caught:
        choose_engine(name, "fp32", read_bundle(tiny.TINY), batch=4, build=True)
    assert "\n" not in str(caught.value)


def test_the_cpu_build_of_onnxruntime_does_not_pass_for_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("for machines with the CPU's build")
    monkeypatch.setattr(driver, "missing", lambda: None)
    for name in ("onnxruntime-cuda", "onnxruntime-tensorrt"):
        with pytest.raises(EngineError, match=f"{name} needs the GPU build of ONNX Runtime"):
            choose_engine(name, "fp32")


def test_onnxruntime_does_not_pretend_to_run_bf16() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(EngineError, match="no engine for bf16: onnxruntime runs fp32"):
        choose_engine("onnxruntime", "bf16")


def test_auto_keeps_to_the_precision_asked_for() -> None:
    try:
        engine = choose_engine("auto", "bf16")
    except EngineError as error:
        assert "no engine for bf16" in str(error)
    else:
        assert engine.precision == "bf16"


@pytest.mark.parametrize("batch", [1, 3])
def test_a_session_computes_the_graph(rng: np.random.Generator, backend: str, batch: int) -> None:
    windows = rng.integers(0, 256, (batch, 3, 16, 16), np.uint8)
    found = session_of(backend, batch, role="encoder_medium").run({"window": windows})["features"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tiny.mix(tiny.ENCODE_MEDIUM, tiny.pool(windows, 4)), rtol=1e-5, atol=1e-5)


def test_a_result_is_not_changed_by_the_next_run(rng: np.random.Generator, backend: str) -> None:
    session = session_of(backend, 1)
    first = session.run(inputs_of(rng, 1))["logits"]
    kept = first.copy()
    session.run(inputs_of(rng, 1))
    np.testing.assert_array_equal(first, kept)


def test_arrays_need_not_be_contiguous(rng: np.random.Generator, backend: str) -> None:
    session, inputs = session_of(backend, 2), inputs_of(rng, 2)
    turned = {name: np.asfortranarray(array) for name, array in inputs.items()}
    np.testing.assert_array_equal(session.run(turned)["logits"], session.run(inputs)["logits"])


def test_a_missing_input_is_refused(rng: np.random.Generator, backend: str) -> None:
    inputs = inputs_of(rng, 2)
    inputs["image"] = inputs.pop("patch")
    with pytest.raises(EngineError, match=r"segmenter: input 'patch': expected uint8 \(2, 3, 16, 16\), found nothing"):
        session_of(backend, 2).run(inputs)


def test_an_input_that_the_graph_does_not_have_is_refused(rng: np.random.Generator, backend: str) -> None:
    session, inputs = session_of(backend, 2), inputs_of(rng, 2)
    with pytest.raises(EngineError, match=r"segmenter: .*'image'"):
        session.run({**inputs, "image": inputs["patch"]})


def test_another_dtype_is_refused(rng: np.random.Generator, backend: str) -> None:
    inputs = inputs_of(rng, 2)
    inputs["patch"] = inputs["patch"].astype(np.float32)
    with pytest.raises(EngineError, match=r"input 'patch': expected uint8 .*, found float32 \(2, 3, 16, 16\)"):
        session_of(backend, 2).run(inputs)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 16, 8), (3, 16, 16)])
def test_another_shape_is_refused(rng: np.random.Generator, backend: str, shape: tuple[int, ...]) -> None:
    inputs = {**inputs_of(rng, 2), "patch": np.zeros(shape, np.uint8)}
    with pytest.raises(EngineError, match=r"input 'patch': expected uint8 .*, found uint8"):
        session_of(backend, 2).run(inputs)


@pytest.mark.parametrize(
    "bundle",
    [
        tiny.TINY,
        tiny.TINY_GLOBAL,
        tiny.TINY_PLAIN,
        tiny.TINY_FUSED,
        tiny.TINY_GLOBAL_FUSED,
        tiny.TINY_FIXED,
        tiny.TINY_SHARES,
    ],
    ids=lambda bundle: bundle.stem,
)
def test_engines_agree(rng: np.random.Generator, bundle: Path) -> None:
    for name in ENGINES:
        pytest.importorskip(name)
    found = []
    for name in ENGINES:
        with Segmenter(bundle, backend=name, batch=3) as segmenter:
            spec = segmenter.manifest.input
            image = np.random.default_rng(0).integers(0, 256, (45, 50, spec.bands)).astype(spec.dtype)
            found.append(segmenter.segment(image, probabilities=True))
    assert found[0].probabilities is not None
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, rtol=1e-5, atol=1e-6)


def graph_of(path: Path) -> GraphSpec:
    _, graph = read_bundle(tiny.TINY).graph(SEGMENTER, "fp32")
    return GraphSpec(
        role=graph.role,
        precision="fp32",
        file=path.name,
        sha256=sha256(path),
        inputs=graph.inputs,
        outputs=graph.outputs,
    )


@pytest.mark.parametrize("damage", ["empty", "text", "cut short"])
def test_a_broken_graph_is_an_engine_error(tmp_path: Path, backend: str, damage: str) -> None:
    path, whole = tmp_path / "segmenter.onnx", (tiny.TINY / "segmenter.onnx").read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut short": whole[: len(whole) // 2]}[damage])
    with pytest.raises(EngineError, match=r"cannot load .*segmenter.onnx") as caught:
        choose_engine(backend, "fp32").session(path, graph_of(path), 1)
    assert "\n" not in str(caught.value)


def lies(manifest: dict[str, Any], name: str) -> None:
    """Give a tensor of a graph, and what refers to it, another shape or name than the file has."""
    encoder, _, segmenter = manifest["graphs"]
    if name == "features":
        encoder["outputs"][0]["shape"][2:] = [8, 8]
        segmenter["inputs"][1]["shape"][2:] = [8, 8]
    elif name == "channels":
        encoder["outputs"][0]["shape"][1] = 5
        segmenter["inputs"][1]["shape"][1] = 5
    elif name == "dtype":
        segmenter["inputs"][0]["dtype"] = "uint16"
        manifest["input"]["dtype"] = "uint16"
        for graph in manifest["graphs"][:2]:
            graph["inputs"][0]["dtype"] = "uint16"
    else:
        manifest["contexts"][0]["name"] = "near"
        segmenter["inputs"][1]["name"] = "features_near"


@pytest.mark.parametrize("name", ["features", "channels", "dtype", "context"])
def test_a_manifest_that_does_not_describe_its_graphs_is_an_error_of_ours(
    tmp_path: Path, backend: str, name: str
) -> None:
    bundle = tiny.variant(tiny.TINY, tmp_path, lambda manifest: lies(manifest, name))
    dtype = json.loads((bundle / "manifest.json").read_text("utf-8"))["input"]["dtype"]
    with pytest.raises(FctlError), Segmenter(bundle, backend=backend) as segmenter:
        segmenter.segment(np.zeros((20, 20, 3), dtype))


def rename_output(manifest: dict[str, Any]) -> None:
    manifest["graphs"][2]["outputs"][0]["name"] = "probabilities"


LIES = {
    "output": (rename_output, "outputs probabilities float32 (?, 3, 16, 16), found logits float32 (?, 3, 16, 16);"),
    "channels": (lambda manifest: lies(manifest, "channels"), "inputs features_large float32 (?, 2, 4, 4), features_"),
    "dtype": (lambda manifest: lies(manifest, "dtype"), "patch uint16 (?, 3, 16, 16), found features_large float32"),
    "name": (lambda manifest: lies(manifest, "context"), "features_near float32 (?, 2, 4, 4), patch uint8 (?, 3, 16"),
}


@pytest.mark.parametrize(("lie", "told"), LIES.values(), ids=LIES)
def test_inputs_and_outputs_are_compared_when_a_graph_is_loaded(
    tmp_path: Path, backend: str, lie: Callable[[dict[str, Any]], object], told: str
) -> None:
    bundle = tiny.variant(tiny.TINY, tmp_path, lie)
    with pytest.raises(BundleError, match=r"graphs\[\d\]\.(in|out)puts: expected .*; export the bundle again$"):
        read_bundle(bundle)  # already there, before an engine sees it
    with pytest.raises(EngineError) as caught:
        Segmenter(unchecked(bundle), backend=backend, batch=2)
    line = str(caught.value)
    assert told in line and line.endswith("; export the bundle again") and "\n" not in line


def test_an_encoder_that_gives_something_else_is_found_when_it_is_loaded(tmp_path: Path, backend: str) -> None:
    bundle = tiny.variant(tiny.TINY, tmp_path, lambda manifest: lies(manifest, "features"))
    told = (
        r"expected outputs features float32 \(\?, 2, 8, 8\), found features float32 \(\?, 2, 4, 4\); export the bundle"
    )
    with pytest.raises(EngineError, match=told):
        session_of(backend, 2, bundle, "encoder_medium")


def test_what_a_graph_gives_is_compared_with_the_manifest_too(rng: np.random.Generator) -> None:
    """Libraries do not always tell the shape of an output beforehand."""

    class Careless(Session):
        def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
            return {"logits": np.zeros((2, 3, 16, 15), np.float32)}

    graph = read_bundle(tiny.TINY).graph(SEGMENTER, "fp32")[1]
    told = r"segmenter: output 'logits': expected float32 \(2, 3, 16, 16\), found float32 \(2, 3, 16, 15\); export"
    with pytest.raises(EngineError, match=told):
        Careless(graph, 2).run(inputs_of(rng, 2))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("std::bad_alloc"), RuntimeError("Failed to allocate memory for requested buffer")],
)
def test_too_little_memory_is_told_from_other_failures(rng: np.random.Generator, error: Exception) -> None:
    """So that a smaller batch may be tried."""

    class Full(Session):
        def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
            raise error

    graph = read_bundle(tiny.TINY).graph(SEGMENTER, "fp32")[1]
    with pytest.raises(DeviceMemoryError, match=r"segmenter: the engine failed: .*; try a smaller batch"):
        Full(graph, 2).run(inputs_of(rng, 2))


def test_auto_goes_on_where_an_engine_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name, the engine's own error is the answer."""
    for name in ENGINES:
        pytest.importorskip(name)
    from fctl.runtime.engines.openvino import OpenVino

    def broken(self: OpenVino, request: object) -> None:
        raise EngineError("the library is out of order")

    monkeypatch.setattr(OpenVino, "__init__", broken)
    assert choose_engine("auto", "fp32").name == "onnxruntime"
    with pytest.raises(EngineError, match=r"^the library is out of order$"):
        choose_engine("openvino", "fp32")
