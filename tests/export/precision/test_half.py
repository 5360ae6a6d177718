"""fp16 graphs beside fp32 ones: what becomes fp16, what stays, and a gate that really rounds."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
import onnxruntime as ort
from onnx import helper
from onnx.numpy_helper import from_array, to_array
from onnx.reference import ReferenceEvaluator

from fctl.calib.watch import peaks, types_of
from fctl.export.foreign import ForeignOptions, export_foreign_onnx
from fctl.export.precision import add
from fctl.export.precision.add import PrecisionOptions, add_precision
from fctl.export.precision.half import to_half
from fctl.export.precision.half_exceptions import EXCEPTIONS
from fctl.export.precision.rounding import rounded
from fctl.runtime.bundle.manifest import SCHEMA, SEGMENTER
from fctl.runtime.bundle.parity import ClassIou
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.errors import BundleError, InputError, OutputError, ParityError
from tests.conftest import write_geotiff
from tests.export.builds import narrow_preset
from tests.runtime import tiny

FP16 = PrecisionOptions(precision="fp16")
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
TINY = (tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FUSED, tiny.TINY_GLOBAL_FUSED)
PRESETS = ("lcc-vgg16", "segformer-b0")  # beside the shipped bundle, whose weights are stored as fp16

Export = Callable[[str], Path]


@pytest.fixture(autouse=True, scope="module")
def fewer_patches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fctl.export.precision.add.PARITY_PATCHES", 2)
        yield


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A bundle with fp16 graphs, made once: of the shipped one, or of a narrow preset."""

    @functools.cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        source = "default" if name == "default" else narrow_preset(name, tmp_path_factory)
        add_precision(read_bundle(source), folder / "half.fctl", FP16)
        return folder / "half.fctl"

    return made


def halves(folder: Path) -> dict[str, Any]:
    """The fp16 graphs of a bundle, by role, with all types inferred."""
    bundle = read_bundle(folder)
    graphs = [graph for graph in bundle.manifest.graphs if graph.precision == "fp16"]
    return {graph.role: onnx.shape_inference.infer_shapes(onnx.load(folder / graph.file)) for graph in graphs}


def share_of_multiplications(model: Any) -> float:
    """Of the weights of convolutions and matrix products, times where they are applied, the share in fp16."""
    types = types_of(model)
    sides = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.value_info, *model.graph.output)}
    weights = {tensor.name: np.prod(tensor.dims) for tensor in model.graph.initializer}
    work = {HALF: 0.0, FLOAT: 0.0}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul") and any(name in weights for name in node.input[:2]):
            cells = np.prod([side.dim_value or 1 for side in sides[node.output[0]][2:]])
            work[types[node.input[0]]] += cells * max(weights.get(name, 0) for name in node.input[:2])
    return work[HALF] / (work[HALF] + work[FLOAT])


@pytest.mark.parametrize("name", ["default", *PRESETS])
def test_nearly_all_work_and_weights_are_fp16(name: str, converted: Export) -> None:
    for role, model in halves(converted(name)).items():
        size = {HALF: 0, FLOAT: 0}
        for tensor in model.graph.initializer:
            if tensor.data_type in size:
                size[tensor.data_type] += to_array(tensor).nbytes
        assert size[FLOAT] < 0.1 * size[HALF], role
        assert share_of_multiplications(model) > 0.97, role


@pytest.mark.parametrize("name", ["default", *PRESETS])
def test_graphs_are_tidy(name: str, converted: Export) -> None:
    for model in halves(converted(name)).values():
        graph, types = model.graph, types_of(model)
        made_by = {output: node for node in graph.node for output in node.output}
        constants = {tensor.name for tensor in graph.initializer}
        assert len({node.name for node in graph.node if node.name}) == len(graph.node)
        for node in graph.node:
            if node.op_type == "Cast":
                before = made_by.get(node.input[0])
                # A cast of raw pixels to fp32 may be followed by one to fp16: integers up to 65535 need both.
                assert before is None or before.op_type != "Cast" or types[before.input[0]] not in (FLOAT, HALF)
                assert node.input[0] not in constants
                assert types[node.input[0]] != types[node.output[0]]
        assert not onnx.load_from_string(model.SerializeToString()).graph.doc_string


@pytest.mark.parametrize("name", ["default", *PRESETS])
def test_exceptions_are_fp32(name: str, converted: Export) -> None:
    model = halves(converted(name))[SEGMENTER]
    types = types_of(model)
    made_by = {output: node for node in model.graph.node for output in node.output}
    steps = ("Softmax", "ReduceMax", "Exp", "ReduceSum")  # of which all but the first spell out one over another axis
    kinds = {types[node.input[0]] for node in model.graph.node if node.op_type in steps}
    raw = next(node for node in model.graph.node if node.op_type == "Sub")
    assert kinds | {types[raw.input[0]]} == {FLOAT}
    scores = made_by["logits"]
    while scores.op_type == "Slice":
        scores = made_by[scores.input[0]]
    assert scores.op_type in ("Resize", "ConvTranspose") and types[scores.input[0]] == FLOAT
    products = [made_by.get(node.input[0]) for node in model.graph.node if node.op_type == "Softmax"]
    unscaled = [node for node in products if node is not None and node.op_type == "MatMul"]
    assert len(unscaled) == {"default": 0, "lcc-vgg16": 3, "segformer-b0": 0}[name]
    assert all(types[name] == FLOAT for node in unscaled for name in node.input)


@pytest.mark.parametrize("name", ["default", *PRESETS])
def test_specs_and_parity(name: str, converted: Export) -> None:
    bundle = read_bundle(converted(name))
    manifest = bundle.manifest
    assert manifest.precisions == ("fp32", "fp16")
    for graph in manifest.graphs:
        dtypes = {tensor.name: tensor.dtype for tensor in (*graph.inputs, *graph.outputs)}
        features = {dtype for tensor, dtype in dtypes.items() if tensor.startswith("features")}
        assert features <= {{"fp32": "float32", "fp16": "float16"}[graph.precision]}
        assert dtypes.get("logits", "float32") == "float32"
        assert {dtypes.get("patch"), dtypes.get("window")} <= {"uint8", None}
        if name != "default":  # its weights are stored as fp16 already
            ratio = (bundle.folder / graph.file).stat().st_size / (
                bundle.folder / bundle.graph(graph.role, "fp32")[1].file
            ).stat().st_size
            assert graph.precision == "fp32" or ratio < 0.62  # narrow networks are mostly nodes
    first, second = manifest.parity
    assert (first.precision, second.precision) == ("fp32", "fp16")
    assert second.reference == "the fp32 graphs in ONNX Runtime"
    assert 1e-5 < second.max_error < 1e-2
    assert second.agreement >= 0.995
    assert [effect.name for effect in second.contexts] == [context.name for context in manifest.contexts]
    for old, new in zip(first.contexts, second.contexts, strict=True):
        assert new.change == pytest.approx(old.change, rel=0.5 if name == "default" else 0.05)  # on other patches


def test_the_rest_of_the_bundle_is_copied_byte_by_byte(converted: Export) -> None:
    source, copy = read_bundle("default"), converted("default")
    for path in source.folder.iterdir():
        if path.name != "manifest.json":
            assert (copy / path.name).read_bytes() == path.read_bytes()
    found = read_bundle(copy).manifest
    kept = replace(source.manifest, schema=SCHEMA, name="half", graphs=found.graphs, parity=found.parity)
    assert found == kept
    assert found.graphs[: len(source.manifest.graphs)] == source.manifest.graphs


@pytest.mark.parametrize("folder", TINY, ids=lambda folder: folder.stem)
def test_hand_made_bundles(folder: Path, tmp_path: Path) -> None:
    manifest = add_precision(read_bundle(folder), tmp_path / "half.fctl", FP16)
    assert read_bundle(tmp_path / "half.fctl").manifest == manifest
    model = halves(tmp_path / "half.fctl")[SEGMENTER]
    inputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert inputs.get("positions_global", FLOAT) == FLOAT
    if "positions_global" in inputs:  # what is made of positions alone stays in fp32, up to where it meets pixels
        place = next(node for node in model.graph.node if "places" in node.input)
        assert types_of(model)[place.input[0]] == FLOAT


@pytest.mark.parametrize("folder", [tiny.TINY_PLAIN, tiny.TINY_FIXED, tiny.TINY_SHARES], ids=lambda folder: folder.stem)
def test_sixteen_bit_pixels(folder: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (40, 40, 4), np.uint16)
    image = write_geotiff(tmp_path / "image.tif", pixels)
    with pytest.raises(InputError, match="`patches`"):
        add_precision(read_bundle(folder), tmp_path / "half.fctl", FP16)
    manifest = add_precision(read_bundle(folder), tmp_path / "half.fctl", replace(FP16, patches=(image,)))
    assert manifest.parity[-1].max_error < 1e-3
    assert manifest.graphs[1].inputs == manifest.graphs[0].inputs
    assert manifest.graphs[1].outputs == manifest.graphs[0].outputs


def test_bytes_are_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_precision(read_bundle(tiny.TINY), tmp_path / name / "half.fctl", FP16)
    for path in (tmp_path / "a" / "half.fctl").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "half.fctl" / path.name).read_bytes()


def test_refusals(tmp_path: Path, converted: Export) -> None:
    bundle = read_bundle(converted("default"))
    with pytest.raises(BundleError, match="holds fp16 graphs already: run it with `precision` fp16"):
        add_precision(bundle, tmp_path / "half.fctl", FP16)
    only = tuple(graph for graph in bundle.manifest.graphs if graph.precision == "fp16")
    relabelled = tuple(replace(graph, precision="int8") for graph in only)
    with pytest.raises(BundleError, match="made from fp32 ones, found int8"):
        add_precision(Bundle(bundle.folder, replace(bundle.manifest, graphs=relabelled)), tmp_path / "half.fctl", FP16)
    (tmp_path / "half.fctl").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        add_precision(read_bundle(tiny.TINY), tmp_path / "half.fctl", FP16)
    assert list(tmp_path.iterdir()) == [tmp_path / "half.fctl"]


def without(*names: str) -> PrecisionOptions:
    return replace(FP16, exceptions=tuple(name for name in EXCEPTIONS if name not in names))


def test_the_shipped_network_overflows_without_its_exception(tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"found nan.*nothing was written; beyond fp16: segmenter: \w+ \(Mul\)"
    ) as info:
        add_precision(read_bundle("default"), tmp_path / "half.fctl", without("large values"))
    assert "\n" not in str(info.value) and "not wired in" not in str(info.value)
    assert not list(tmp_path.iterdir())


# Networks made for the purpose.


def save(path: Path, nodes: list[Any], constants: dict[str, Any], side: int = 32, opset: int = 17) -> Path:
    """image (N, 3, side, side) -> y (N, 2, side, side); no node has a name."""
    shapes = {"image": ["N", 3, side, side], "y": ["N", 2, side, side]}
    image, scores = (helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items())
    tensors = [from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [image], [scores], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def as_bundle(path: Path, folder: Path) -> Bundle:
    out = folder / f"{path.stem}.fctl"
    export_foreign_onnx(path, out, ForeignOptions(classes=("a", "b"), scale=1 / 255, activation="logits"))
    return read_bundle(out)


def attention_network(path: Path, rng: np.random.Generator) -> Path:
    """Attention over 64 cells whose logits are 90,000 and some: a common offset, which the softmax takes away again."""

    def weights(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    query, key = weights(8, 3, 1, 1), weights(8, 3, 1, 1)
    query[0] = key[0] = 0
    offset = np.array([300, *[0] * 7], np.float32)
    node = helper.make_node
    nodes = [
        node("AveragePool", ["image"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Conv", ["cells", "wq", "offset"], ["q"]),
        node("Conv", ["cells", "wk", "offset"], ["k"]),
        node("Conv", ["cells", "wv"], ["v"]),
        *(node("Reshape", [name, f"{name}_shape"], [f"{name}_flat"]) for name in "qkv"),
        node("Transpose", ["q_flat"], ["q_rows"], perm=[0, 2, 1]),
        node("Transpose", ["v_flat"], ["v_rows"], perm=[0, 2, 1]),
        node("MatMul", ["q_rows", "k_flat"], ["attention"]),
        node("Softmax", ["attention"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v_rows"], ["mixed"]),
        node("Transpose", ["mixed"], ["mixed_rows"], perm=[0, 2, 1]),
        node("Reshape", ["mixed_rows", "grid"], ["mixed_cells"]),
        node("Resize", ["mixed_cells", "", "scales"], ["wide"], mode="linear"),
        node("Conv", ["image", "wi"], ["near"]),
        node("Add", ["wide", "near"], ["both"]),
        node("Conv", ["both", "ws"], ["y"]),
    ]
    shapes = {f"{name}_shape": np.array([0, 8, 64]) for name in "qkv"}
    return save(path, nodes, shapes | {
        "wq": query, "wk": key, "wv": weights(8, 3, 1, 1), "offset": offset, "wi": weights(8, 3, 1, 1),
        "ws": weights(2, 8, 1, 1), "grid": np.array([0, 8, 8, 8]), "scales": np.array([1, 1, 4, 4], np.float32),
    })  # fmt: skip


def test_attention_beyond_fp16(tmp_path: Path, rng: np.random.Generator) -> None:
    bundle = as_bundle(attention_network(tmp_path / "attention.onnx", rng), tmp_path)
    with pytest.raises(ParityError, match=r"beyond fp16: segmenter: MatMul_\d+ \(MatMul\)$"):
        add_precision(bundle, tmp_path / "half.fctl", without("unscaled attention", "large values"))
    assert not (tmp_path / "half.fctl").exists()
    for exceptions in (FP16, without("large values"), without("unscaled attention")):
        out = tmp_path / f"{len(exceptions.exceptions)}_{exceptions.exceptions[3]}.fctl"
        parity = add_precision(bundle, out, exceptions).parity[-1]
        assert parity.max_error < 5e-3
    model = halves(out)[SEGMENTER]
    product = next(node for node in model.graph.node if "Softmax" in {n.op_type for n in readers(model, node)})
    assert product.op_type == "MatMul" and types_of(model)[product.input[0]] == FLOAT


def readers(model: Any, node: Any) -> list[Any]:
    return [other for other in model.graph.node if set(other.input) & set(node.output)]


def test_constants_that_fp16_does_not_hold_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node, eye = helper.make_node, np.eye(3, dtype=np.float32)[:, :, None, None]
    nodes = [
        node("Conv", ["image", "large"], ["a"]),
        node("Conv", ["a", "tiny"], ["b"]),
        node("Add", ["b", "epsilon"], ["c"]),
        node("Conv", ["c", "fine"], ["y"]),
    ]
    constants = {"large": 1e5 * eye, "tiny": 1e-6 * eye, "epsilon": np.float32(1e-12), "fine": eye[:2] + 0.5}
    bundle = as_bundle(save(tmp_path / "net.onnx", nodes, constants), tmp_path)
    with caplog.at_level(logging.WARNING):
        add_precision(bundle, tmp_path / "half.fctl", FP16)
    assert "fp16 does not hold the constants of" in caplog.text
    found = {
        tensor.name.rpartition("/")[2]: tensor for tensor in halves(tmp_path / "half.fctl")[SEGMENTER].graph.initializer
    }
    assert {name for name in constants if found[name].data_type == FLOAT} == {"large", "tiny", "epsilon"}
    np.testing.assert_array_equal(to_array(found["large"]), constants["large"])


def test_a_constant_shared_by_fp32_and_fp16_nodes_is_not_rounded_for_the_former() -> None:
    node = helper.make_node
    nodes = [node("Mul", ["patch", "third"], ["a"]), node("Relu", ["a"], ["b"]), node("Conv", ["b", "w"], ["c"]),
             node("Mul", ["c", "third"], ["d"]), node("Conv", ["d", "w"], ["y"])]  # fmt: skip
    model = _model(nodes, {"third": np.float32(1 / 3), "w": np.eye(3, dtype=np.float32)[:, :, None, None]}, "patch")
    found = {tensor.name: to_array(tensor) for tensor in to_half(model, "net", {}).model.graph.initializer}
    assert {value.dtype.name for name, value in found.items() if name.startswith("third")} == {"float16", "float32"}
    assert found["third/fp32"] == np.float32(1 / 3)


def _model(nodes: list[Any], constants: dict[str, Any], source: str) -> Any:
    """(2, 3, 8, 8) float32 -> y, the same."""
    values = [helper.make_tensor_value_info(name, FLOAT, [2, 3, 8, 8]) for name in (source, "y")]
    tensors = [from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_control_flow_and_unknown_operators_are_refused() -> None:
    body = helper.make_graph([helper.make_node("Identity", ["patch"], ["z"])], "b", [], [
        helper.make_tensor_value_info("z", FLOAT, [2, 3, 8, 8])
    ])  # fmt: skip
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    with pytest.raises(BundleError, match="without branches and loops, found If"):
        to_half(_model([branch], {"yes": np.bool_(True)}, "patch"), "net.onnx", {})
    model = _model([helper.make_node("QuickGelu", ["patch"], ["a"], domain="com.microsoft"),
                    helper.make_node("Relu", ["a"], ["y"])], {}, "patch")  # fmt: skip
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(BundleError, match="found none for 'a' of QuickGelu"):
        to_half(model, "net.onnx", {})


# The simulation.


def half_chain() -> tuple[Any, Any]:
    """x * 60000 * (1/60000) + x / 3 in fp16: most products overflow."""
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "large"], ["a"]),
        node("Mul", ["a", "small"], ["b"]),
        node("Mul", ["x", "third"], ["c"]),
        node("Add", ["b", "c"], ["y"]),
    ]
    constants = {"large": 60000, "small": 1 / 60000, "third": 1 / 3}
    tensors = [from_array(np.array(value, np.float16), name) for name, value in constants.items()]
    values = [helper.make_tensor_value_info(name, HALF, [1000]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, np.random.default_rng(0).normal(size=1000).astype(np.float16)


@pytest.mark.parametrize("level", ["ORT_ENABLE_ALL", "ORT_DISABLE_ALL"])
def test_every_fp16_tensor_is_rounded(level: str) -> None:
    model, x = half_chain()
    with np.errstate(over="ignore"):
        expected = ReferenceEvaluator(model).run(None, {"x": x})[0].astype(np.float32)
    found = run(rounded(model), x.astype(np.float32), level)
    assert 0.1 < np.isinf(expected).mean() < 0.9
    np.testing.assert_array_equal(found, expected)


def test_onnx_runtime_hides_the_overflow_of_fp16_graphs() -> None:
    """The reason for the simulation: should this fail, ONNX Runtime has learned fp16 on this machine."""
    model, x = half_chain()
    assert np.isfinite(run(model, x, "ORT_DISABLE_ALL")).all()


def run(model: Any, x: Any, level: str) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_convolutions_round_as_pytorch_does(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    weight = rng.normal(size=(3, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["features", "w"], ["a"], pads=[1] * 4), helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Conv", ["b", "w"], ["y"], pads=[1] * 4)]  # fmt: skip
    half = to_half(_model(nodes, {"w": weight}, "features_net"[:8]), "net", {}, ())
    x = rng.normal(size=(2, 3, 8, 8)).astype(np.float16)
    session = ort.InferenceSession(rounded(half.model).SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"features": x.astype(np.float32)})[0]
    kernel = torch.from_numpy(weight).half()
    conv = functools.partial(torch.nn.functional.conv2d, weight=kernel, padding=1)
    expected = conv(conv(torch.from_numpy(x)).relu()).numpy().astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_peaks_are_those_of_the_graphs(tmp_path: Path) -> None:
    from fctl.calib.sample import sample_patches, shipped_images

    bundle = read_bundle(tiny.TINY)
    batches = sample_patches(bundle.manifest, shipped_images(), 2, seed=0)
    found = peaks(bundle, batches)
    logits = [tiny.tiny_logits(batch.patch, batch.contexts["medium"], batch.contexts["large"]) for batch in batches]
    assert found[SEGMENTER]["logits"] == pytest.approx(np.abs(logits).max(), rel=1e-6)
    assert set(found) == {"encoder_medium", "encoder_large", SEGMENTER}
    assert max(batch.patch.max() for batch in batches) == found[SEGMENTER]["pixels"]


def test_classes_are_told_and_one_that_keeps_little_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = add_precision(read_bundle(tiny.TINY), tmp_path / "half.fctl", FP16)
    parity = manifest.parity[-1]
    assert tuple(one.name for one in parity.class_iou) == manifest.class_names
    assert sum(one.share for one in parity.class_iou) == pytest.approx(1)
    assert min(one.iou for one in parity.class_iou) > 0.9 and "IoU" not in caplog.text
    kelp = ClassIou(name="kelp", share=0.0067, iou=0.76)
    add._warn_of_classes(replace(parity, class_iou=(*parity.class_iou, replace(kelp, share=0.0009))))
    assert "IoU" not in caplog.text
    add._warn_of_classes(replace(parity, class_iou=(*parity.class_iou, kelp)))
    assert (
        "fp16: class 'kelp', 0.67% of the pixels: expected an IoU with fp32 of 85.00% or more, found 76.00%"
        in caplog.text
    )


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny.TINY, tmp_path / "source.fctl")

    def fail(*arguments: object) -> None:
        raise BundleError("stop")

    monkeypatch.setattr("fctl.export.precision.add.rounding_bundle", fail)
    with pytest.raises(BundleError, match="stop"):
        add_precision(read_bundle(tmp_path / "source.fctl"), tmp_path / "new" / "half.fctl", FP16)
    assert [path.name for path in tmp_path.iterdir()] == ["source.fctl"]
