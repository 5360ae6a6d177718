"""Q/DQ graphs: which layers are int8, what the graphs hold, what is caught, and that three engines compute the same."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.numpy_helper import from_array, to_array

from fctl.calib.check import check_quantised
from fctl.calib.layers import float_layers, layers
from fctl.calib.onnx_session import load_session
from fctl.calib.plain import plain
from fctl.calib.quantise import quantised
from fctl.calib.sample import sample_patches, shipped_images
from fctl.calib.watch import peaks
from fctl.runtime.bundle.manifest import SEGMENTER, GraphSpec, Precision, TensorSpec
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.engines.processor import adds_int8_exactly
from fctl.runtime.engines.tensorrt.builder import build_plan, machine_for
from fctl.runtime.errors import BundleError

from ..export import builds

FLOAT, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT8
PRESETS = ("lcc-vgg16", "segformer-b0")
PATCHES = 2
ROUNDING = 0.06  # by which engines may differ over a whole network

Array = NDArray[Any]
Made = Callable[[str], tuple[Bundle, Bundle]]
node = helper.make_node


def graph(
    nodes: list[Any], constants: Mapping[str, Any], shape: tuple[int, ...] = (2, 4, 8, 8), opset: int = 17
) -> Any:
    """x -> y, plain. Nodes are called after what they make."""
    for made in nodes:
        made.name = made.name or made.output[0]
    tensors = [from_array(np.asarray(value), name) for name, value in constants.items()]
    source = helper.make_tensor_value_info("x", FLOAT, shape)
    made = helper.make_graph(nodes, "g", [source], [helper.make_tensor_value_info("y", FLOAT, None)], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return plain(model, "net.onnx", "int8")


def weights(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(model: Any, x: Array, *, optimised: bool = True) -> Array:
    found: Array = load_session(model, optimised=optimised).run(None, {"x": x})[0]
    return found


def relative(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# What may be int8.


def attention() -> Any:
    """Linear layers, attention, positions applied by two matrices, a crop and a classifier."""
    nodes = [
        node("Reshape", ["x", "rows"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("MatMul", ["tokens", "wq"], ["q"]),
        node("MatMul", ["tokens", "wk"], ["k"]),
        node("Add", ["k", "bk"], ["k_biased"]),
        node("Transpose", ["k_biased"], ["k_columns"], perm=[0, 2, 1]),
        node("MatMul", ["q", "k_columns"], ["qk"]),
        node("Softmax", ["qk"], ["shares"], axis=-1),
        node("MatMul", ["shares", "tokens"], ["av"]),
        node("Transpose", ["av"], ["av_columns"], perm=[0, 2, 1]),
        node("Reshape", ["av_columns", "image"], ["mixed"]),
        node("MatMul", ["mixed", "right"], ["by_columns"]),
        node("MatMul", ["left", "by_columns"], ["placed"]),
        node("MatMul", ["placed", "crop"], ["cropped"]),
        node("ReduceMean", ["cropped"], ["mean"], axes=[2, 3], keepdims=0),
        node("Gemm", ["mean", "wg", "bg"], ["g"]),
        node("Gemm", ["g", "wt"], ["t"], transB=1),
        node("Gemm", ["t", "wt"], ["u"], transB=1, alpha=0.5),
        node("Transpose", ["wt"], ["turned"]),
        node("MatMul", ["u", "turned"], ["y"]),
    ]
    crop = np.maximum(1 - np.abs(np.arange(8)[:, None] - np.linspace(1, 6, 8)), 0).astype(np.float32)
    return graph(nodes, {
        "rows": np.array([2, 4, 64]), "image": np.array([2, 4, 8, 8]), "wq": weights(4, 4), "wk": weights(4, 4, seed=1),
        "bk": weights(4), "right": weights(8, 8), "left": weights(8, 8), "crop": crop, "wg": weights(4, 6),
        "bg": weights(1, 6), "wt": weights(6, 6),
    })  # fmt: skip


def test_linear_layers_are_told_from_attention_positions_and_resampling() -> None:
    model = attention()
    assert [(layer.name, layer.op, layer.input, layer.weight, layer.axis) for layer in layers(model)] == [
        ("q", "MatMul", "tokens", "wq", 1),
        ("k", "MatMul", "tokens", "wk", 1),
        ("g", "Gemm", "mean", "wg", 1),
        ("t", "Gemm", "g", "wt", 0),
    ]
    assert float_layers(model) == {
        "qk": "product of two activations",
        "av": "product of two activations",
        "by_columns": "positions or resampling",
        "placed": "constant on the left",
        "cropped": "positions or resampling",
        "u": "Gemm with factors",
        "y": "computed weight or bias",
    }


def convolutions() -> Any:
    """Scaled pixels, a depthwise convolution, a residual sum, a weight stored as fp16, a skip, and deconvolutions."""
    nodes = [
        node("Mul", ["x", "scale"], ["pixels"]),
        node("Conv", ["pixels", "w"], ["a"]),
        node("Cast", ["half"], ["widened"], to=FLOAT),
        node("Clip", ["a", "zero", "six"], ["clipped"]),
        node("Conv", ["clipped", "widened", "b"], ["c"]),
        node("Conv", ["clipped", "deep"], ["d"], group=4, pads=[1] * 4),
        node("Add", ["c", "clipped"], ["sum"]),
        node("Conv", ["sum", "w"], ["e"]),
        node("ConvTranspose", ["e", "up"], ["wide"], strides=[2, 2]),
        node("Mul", ["d", "skip"], ["skipped"]),
        node("Conv", ["skipped", "w"], ["s"]),
        node("Resize", ["s", "", "twice"], ["s_wide"], mode="linear"),
        node("Add", ["wide", "s_wide"], ["y"]),
    ]
    return graph(nodes, {
        "scale": np.float32(1 / 255), "w": weights(4, 4, 1, 1), "half": weights(4, 4, 1, 1, seed=1).astype(np.float16),
        "b": weights(4), "zero": np.float32(0), "six": np.float32(6), "deep": weights(4, 1, 3, 3),
        "up": weights(4, 4, 2, 2), "twice": np.array([1, 1, 2, 2], np.float32),
        "skip": np.array([0.01], np.float32),
    })  # fmt: skip


def test_convolutions_and_their_exceptions() -> None:
    model = convolutions()
    assert [(layer.name, layer.weight, layer.axis) for layer in layers(model)] == [
        ("a", "w", 0), ("c", "widened", 0), ("d", "deep", 0), ("e", "w", 0)
    ]  # fmt: skip
    assert float_layers(model) == {"wide": "ConvTranspose", "s": "scores of a scaled skip"}


def test_a_scale_within_the_network_is_no_skip() -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Mul", ["a", "gamma"], ["b"]), node("Conv", ["b", "w"], ["c"])]
    constants = {"gamma": np.float32(0.01), "w": weights(4, 4, 1, 1)}
    model = graph([*nodes, node("Add", ["c", "a"], ["d"]), node("Conv", ["d", "w"], ["y"])], constants)
    assert [layer.name for layer in layers(model)] == ["a", "c", "y"]
    model = graph([*nodes, node("Identity", ["c"], ["y"])], constants)  # the scores themselves, added to nothing
    assert [layer.name for layer in layers(model)] == ["a", "c"]


# What the graphs hold.


def ranges(model: Any, x: Array) -> dict[str, float]:
    """max |value| of all activations that layers read."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = sorted({layer.input for layer in layers(model)})
    watched.graph.output.extend(helper.make_tensor_value_info(n, FLOAT, None) for n in names if n != "x")
    session = load_session(watched, optimised=False)
    found = dict(zip([value.name for value in session.get_outputs()], session.run(None, {"x": x}), strict=True))
    return {name: float(np.abs(found.get(name, x)).max()) for name in names}


def int8_of(model: Any, x: Array, chosen: list[str] | None = None) -> Any:
    return quantised(model, chosen or [layer.name for layer in layers(model)], ranges(model, x))


@pytest.mark.parametrize("make", [attention, convolutions])
def test_pairs_stand_before_the_chosen_layers_and_nowhere_else(make: Callable[[], Any]) -> None:
    model, x = make(), 100 * weights(2, 4, 8, 8, seed=2)
    amax, chosen = ranges(model, x), layers(model)
    made = int8_of(model, x)
    onnx.checker.check_model(made, full_check=True)
    check_quantised(made, "net.onnx")
    assert (made.ir_version, made.opset_import) == (model.ir_version, model.opset_import)
    stored = {tensor.name: to_array(tensor) for tensor in made.graph.initializer}
    before = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: maker for maker in made.graph.node for name in maker.output}
    by_name = {maker.name: maker for maker in made.graph.node}
    for layer in chosen:
        activation, weight = (made_by[name] for name in by_name[layer.name].input[:2])
        assert stored[activation.input[1]] == np.float32(amax[layer.input]) / np.float32(127)
        assert made_by[activation.input[0]].input[0] == layer.input
        values, scale = stored[weight.input[0]], stored[weight.input[1]]
        assert values.dtype == np.int8 and np.abs(values).max() == 127
        sides = np.where(np.arange(values.ndim) == layer.axis, -1, 1)
        error = np.abs(values * scale.reshape(sides) - before[layer.weight])
        assert (error <= 0.5001 * scale.reshape(sides)).all()
        np.testing.assert_array_equal(np.abs(values).max(axis=tuple(np.flatnonzero(sides == 1))), 127)
    kinds = Counter(maker.op_type for maker in made.graph.node)
    assert kinds["QuantizeLinear"] == len({layer.input for layer in chosen})
    assert kinds["DequantizeLinear"] == kinds["QuantizeLinear"] + len({(layer.weight, layer.axis) for layer in chosen})
    for old in model.graph.node:  # what is not chosen reads what it read
        if old.name not in {layer.name for layer in chosen}:
            assert list(by_name[old.name].input) == list(old.input)
    kept = {name for maker in made.graph.node for name in maker.input}
    assert set(stored) <= kept
    assert {tensor.data_type for tensor in made.graph.initializer if tensor.name not in before} == {FLOAT, INT8}


def test_the_arithmetic_is_that_of_q_dq() -> None:
    x, w, bias = 3 * weights(2, 4, 8, 8), weights(5, 4, 1, 1), weights(5)
    w[2] = 0  # a dead channel
    w[3] = 1e-42  # one that engines take for dead
    model = graph([node("Conv", ["x", "w", "b"], ["y"])], {"w": w, "b": bias})
    made = quantised(model, ["y"], {"x": 2.0})  # beyond it is clipped
    check_quantised(made, "net.onnx")
    scale = np.abs(w).max(axis=(1, 2, 3), keepdims=True).astype(np.float64) / 127
    scale[2:4] = 1
    rounded = np.clip(np.rint(x / np.float32(2 / 127)), -128, 127) * (2 / 127)
    expected = np.einsum("oc,nchw->nohw", (np.rint(w / scale) * scale)[:, :, 0, 0], rounded) + bias[:, None, None]
    np.testing.assert_allclose(run(made, x, optimised=False), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(run(model, x) - expected).max() > 1  # clipped indeed


def test_an_activation_that_is_always_zero_has_a_scale() -> None:
    model = graph([node("Conv", ["x", "w"], ["y"])], {"w": weights(4, 4, 1, 1)})
    made = quantised(model, ["y"], {"x": 0.0})
    check_quantised(made, "net.onnx")
    assert not run(made, np.zeros((2, 4, 8, 8), np.float32)).any()


def test_a_weight_is_shared_by_layers_of_other_kinds_and_with_float_ones() -> None:
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        node("Gemm", ["m", "w"], ["a"], transB=1),
        node("MatMul", ["a", "w"], ["b"]),
        node("Gemm", ["b", "w"], ["c"], transB=1),
        node("MatMul", ["c", "w"], ["y"]),
    ]
    model, x = graph(nodes, {"w": weights(4, 4)}), weights(2, 4, 8, 8)
    made = int8_of(model, x)
    check_quantised(made, "net.onnx")
    assert {t.name for t in made.graph.initializer if t.data_type == INT8 and len(t.dims) == 2} == {
        "w/int8", "w/int8/1"
    }  # fmt: skip
    assert relative(run(made, x), run(model, x)) < 0.02
    made = int8_of(model, x, ["a", "b", "c"])
    check_quantised(made, "net.onnx")
    assert "w" in {tensor.name for tensor in made.graph.initializer}
    assert relative(run(made, x), run(model, x)) < 0.02


BIASED = {
    "Conv": [node("Conv", ["x", "w4"], ["y"], name="layer")],
    "Conv with one that is shared": [
        node("Conv", ["x", "w4", "b"], ["a"], name="layer"),
        node("Conv", ["x", "w4", "b"], ["other"], name="other"),
        node("Sub", ["a", "other"], ["y"]),
    ],
    "Gemm": [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w256", "row"], ["y"], name="layer")],
    "MatMul": [node("MatMul", ["x", "w"], ["y"], name="layer")],
    "MatMul within": [node("MatMul", ["x", "w"], ["a"], name="layer"), node("Relu", ["a"], ["y"])],
    "MatMul and Add": [node("MatMul", ["x", "w"], ["a"], name="layer"), node("Add", ["b", "a"], ["y"])],
    "MatMul and a sum": [node("MatMul", ["x", "w"], ["a"], name="layer"), node("Add", ["a", "a"], ["y"])],
    "MatMul read twice": [
        node("MatMul", ["x", "w"], ["a"], name="layer"),
        node("Add", ["a", "b"], ["c"]),
        node("Sub", ["c", "a"], ["d"]),
        node("Add", ["d", "a"], ["y"]),
    ],
}


@pytest.mark.parametrize("kind", BIASED)
def test_a_bias_is_corrected(kind: str) -> None:
    constants = {
        "w": weights(4, 4), "w4": weights(4, 4, 1, 1), "w256": weights(256, 4), "b": weights(4), "row": weights(1, 4)
    }  # fmt: skip
    nodes = [onnx.NodeProto.FromString(each.SerializeToString()) for each in BIASED[kind]]
    used = {name for each in nodes for name in each.input}
    model = graph(
        nodes, {n: v for n, v in constants.items() if n in used}, (2, 4, 8, 4) if "w" in used else (2, 4, 8, 8)
    )
    x = np.abs(weights(*[side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]))
    bias = np.arange(1, 5, dtype=np.float32)
    made = quantised(model, (), {}, {"layer": bias})
    onnx.checker.check_model(made, full_check=True)
    change = run(made, x) - run(model, x)
    expected = bias[:, None, None] if kind.startswith("Conv") else bias
    if kind == "MatMul within":
        total = x @ constants["w"]
        expected = np.maximum(total + bias, 0) - np.maximum(total, 0)
    elif kind == "MatMul and a sum":
        expected = 2 * bias
    np.testing.assert_allclose(change, np.broadcast_to(expected, change.shape), atol=1e-5)
    check_quantised(made, "net.onnx")


def test_bias_and_pairs_go_together() -> None:
    model, x = attention(), weights(2, 4, 8, 8)
    made = quantised(model, ["q", "k"], ranges(model, x), {"q": weights(4), "k": weights(4, seed=1)})
    check_quantised(made, "net.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert {maker.name for maker in made.graph.node if maker.op_type == "Add"} == {"q/bias", "k_biased"}


# What is refused and caught.


def test_refusals() -> None:
    model, x = convolutions(), weights(2, 4, 8, 8)
    amax = ranges(model, x)
    with pytest.raises(BundleError, match="layers that may be int8, found 's'"):
        quantised(model, ["a", "s"], amax)
    with pytest.raises(BundleError, match="layers that may be int8, found 'wide'"):
        quantised(model, ["a"], amax, {"wide": weights(4)})
    for bad in (np.nan, np.inf, -1.0):
        with pytest.raises(BundleError, match=f"clipped: expected a finite range, found {bad}"):
            quantised(model, ["c"], amax | {"clipped": bad})
    with pytest.raises(BundleError, match="clipped: expected a finite range, found nan"):
        quantised(model, ["c"], {})
    with pytest.raises(BundleError, match=r"a graph in fp32, found QuantizeLinear \(pixels/quantise\)"):
        layers(int8_of(model, x))
    old = graph([node("Conv", ["x", "w"], ["y"])], {"w": weights(4, 4, 1, 1)}, opset=12)
    with pytest.raises(BundleError, match=r"net.onnx: expected opset 13 or newer for int8, found 12"):
        check_quantised(quantised(old, ["y"], {"x": 1.0}), "net.onnx")


def _replace(model: Any, name: str, values: Array) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(from_array(values, name))


def _maker(model: Any, name: str) -> Any:
    return next(each for each in model.graph.node if each.name == name)


def _add(model: Any, **tensors: Array) -> None:
    model.graph.initializer.extend(from_array(values, name) for name, values in tensors.items())


def wrong_axis(model: Any) -> None:
    _maker(model, "w/int8/dequantise").attribute[0].i = 1


def wrong_axis_of_a_depthwise_one(model: Any) -> None:
    dequantise = _maker(model, "deep/int8/dequantise")
    dequantise.attribute[0].i = 1
    _replace(model, "deep/int8/scale", np.ones(1, np.float32))
    _replace(model, "deep/int8/zero", np.zeros(1, np.int8))


def scales_missing(model: Any) -> None:
    _replace(model, "w/int8/scale", np.float32(1))
    _replace(model, "w/int8/zero", np.int8(0))


def per_channel_activation(model: Any) -> None:
    _replace(model, "pixels/int8/scale", np.ones(4, np.float32))
    _replace(model, "pixels/int8/zero", np.zeros(4, np.int8))


def int32_bias(model: Any) -> None:
    _add(model, b32=np.arange(4, dtype=np.int32), bs=np.ones(4, np.float32), bz=np.zeros(4, np.int32))
    model.graph.node.insert(0, node("DequantizeLinear", ["b32", "bs", "bz"], ["b8"], name="bias", axis=0))
    _maker(model, "c").input[2] = "b8"


def int8_bias(model: Any) -> None:
    _add(model, b8i=np.arange(4, dtype=np.int8), bs=np.ones(4, np.float32), bz=np.zeros(4, np.int8))
    model.graph.node.insert(0, node("DequantizeLinear", ["b8i", "bs", "bz"], ["b8"], name="bias", axis=0))
    _maker(model, "c").input[2] = "b8"


def int32_weight(model: Any) -> None:
    _replace(model, "w/int8", np.ones((4, 4, 1, 1), np.int32))


def zero_point(model: Any) -> None:
    _replace(model, "pixels/int8/zero", np.int8(3))


def unsigned(model: Any) -> None:
    _replace(model, "pixels/int8/zero", np.uint8(0))


def no_zero_point(model: Any) -> None:
    del _maker(model, "pixels/quantise").input[2]


def no_scale(model: Any) -> None:
    _replace(model, "w/int8/scale", np.array([1, 0, 1, 1], np.float32))


def infinite_scale(model: Any) -> None:
    _replace(model, "pixels/int8/scale", np.float32(np.inf))


def quantised_constant(model: Any) -> None:
    _add(model, table=weights(4, 4, 1, 1))
    model.graph.node.insert(
        0, node("QuantizeLinear", ["table", "pixels/int8/scale", "pixels/int8/zero"], ["t8"], name="table")
    )
    _maker(model, "w/int8/dequantise").input[0] = "t8"


def dequantised_elsewhere(model: Any) -> None:
    _maker(model, "sum").input[1] = "clipped/int8/float"


def activation_alone(model: Any) -> None:
    _maker(model, "a").input[1] = "w"


def other_scale(model: Any) -> None:
    _maker(model, "pixels/dequantise").input[1] = "clipped/int8/scale"


def float_copy(model: Any) -> None:
    _add(model, w=weights(4, 4, 1, 1))


MISTAKES = [
    (wrong_axis, "w/int8/dequantise (DequantizeLinear): expected axis 0 for Conv, found 1"),
    (wrong_axis_of_a_depthwise_one, "deep/int8/dequantise (DequantizeLinear): expected axis 0 for Conv, found 1"),
    (scales_missing, "w/int8/dequantise (DequantizeLinear): expected a scale for each of 4 channels, found shape ()"),
    (
        per_channel_activation,
        "pixels/quantise (QuantizeLinear): expected one scale for an activation, found shape (4,)",
    ),
    (int32_bias, "bias (DequantizeLinear): expected int8, found int32"),
    (int8_bias, "bias (DequantizeLinear): expected a constant that is a layer's weight, found Conv (c) reading it"),
    (int32_weight, "w/int8/dequantise (DequantizeLinear): expected int8, found int32"),
    (zero_point, "pixels/quantise (QuantizeLinear): expected a zero point of 0, found 3"),
    (unsigned, "pixels/quantise (QuantizeLinear): expected int8, found uint8"),
    (no_zero_point, "pixels/quantise (QuantizeLinear): expected a zero point, found none"),
    (no_scale, "w/int8/dequantise (DequantizeLinear): expected scales that are positive and finite, found 0"),
    (infinite_scale, "pixels/quantise (QuantizeLinear): expected scales that are positive and finite, found inf"),
    (quantised_constant, "table (QuantizeLinear): expected constants as they are, but for weights stored as int8"),
    (dequantised_elsewhere, "clipped/dequantise (DequantizeLinear): expected a layer's activation, found Add (sum)"),
    (activation_alone, "a (Conv): expected Q/DQ on activation and weight, found it on the activation alone"),
    (other_scale, "pixels/dequantise (DequantizeLinear): expected the scale and zero point of pixels/quantise"),
    (float_copy, "expected constants that are read, found w"),
]


@pytest.mark.parametrize(("mistake", "complaint"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_mistakes_are_caught(mistake: Callable[[Any], None], complaint: str) -> None:
    model, x = convolutions(), weights(2, 4, 8, 8)
    made = int8_of(model, x)  # a and e share an int8 weight, of which s reads the float one
    if mistake is float_copy:
        made = int8_of(graph([node("Conv", ["x", "w"], ["y"])], {"w": weights(4, 4, 1, 1)}), x)
    check_quantised(made, "net.onnx")
    mistake(made)
    with pytest.raises(BundleError) as caught:
        check_quantised(made, "net.onnx")
    assert f"net.onnx: {complaint}" in str(caught.value)
    assert "\n" not in str(caught.value)


# Networks.


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A bundle in fp32, and with all layers that may be in int8, by the peaks of the patches of `run_bundle`."""

    @functools.cache
    def make(name: str) -> tuple[Bundle, Bundle]:
        folder = tmp_path_factory.mktemp(name)
        bundle = read_bundle("default" if name == "default" else builds.narrow_preset(name, tmp_path_factory))
        return bundle, builds.quantised(bundle, folder, PATCHES)

    return make


def run_bundle(bundle: Bundle, precision: Precision, backend: str) -> Array:
    """Logits (patches, classes, size, size) of the patches that int8 ranges are from."""
    engine = choose_engine(backend, precision)
    sessions = {
        graph.role: engine.session(*bundle.graph(graph.role, precision), bundle.manifest.fixed_batch or 1)
        for graph in bundle.manifest.graphs
    }
    found = []
    for batch in sample_patches(bundle.manifest, shipped_images(), PATCHES, seed=0):
        inputs = {"patch": batch.patch}
        for context in bundle.manifest.contexts:
            assert context.encoder
            features = sessions[context.encoder].run({"window": batch.contexts[context.name]})["features"]
            inputs[context.input] = features
        found.append(sessions[SEGMENTER].run(inputs)["logits"])
    return np.concatenate(found)


EXPECTED = {
    "default": {
        "encoder_medium": ({"Conv": 34}, {}),
        "encoder_large": ({"Conv": 34}, {}),
        SEGMENTER: (
            {"Conv": 101},
            {"product of two activations": 6, "positions or resampling": 5, "constant on the left": 5},
        ),
    },
    "lcc-vgg16": {
        "encoder": ({"Conv": 13}, {}),
        SEGMENTER: (
            {"Conv": 32},
            {"product of two activations": 6, "ConvTranspose": 3, "scores of a scaled skip": 2},
        ),
    },
    "segformer-b0": {SEGMENTER: ({"Conv": 16, "MatMul": 24}, {"product of two activations": 8})},
}


@pytest.mark.parametrize("name", ["default", *PRESETS])
def test_layers_of_networks(name: str, bundles: Made) -> None:
    fp32, int8 = bundles(name)
    found = {}
    for graph in (one for one in fp32.manifest.graphs if one.role not in fp32.manifest.shared_roles):
        model = plain(onnx.load(fp32.folder / graph.file), graph.role, "int8")
        found[graph.role] = (
            Counter(layer.op for layer in layers(model)), Counter(float_layers(model).values())
        )  # fmt: skip
        sizes = [path.stat().st_size for path in (fp32.folder / graph.file, int8.folder / f"{graph.role}.int8.onnx")]
        # The frames of VGG16's cells (export/framing.py) stay fp32, which counts in a network that is 8 channels wide.
        assert sizes[1] < {"default": 0.75, "lcc-vgg16": 0.35, "segformer-b0": 0.5}[name] * sizes[0]
    assert found == EXPECTED[name]


# Relative error of all logits by norm, and pixels of equal class. Networks of presets are random, and 8 channels wide.
CLOSE = {"default": (0.08, 0.98), "lcc-vgg16": (0.06, 0.97), "segformer-b0": (0.06, 0.97)}


@pytest.mark.parametrize("name", CLOSE)
def test_int8_is_close_to_fp32(name: str, bundles: Made) -> None:
    fp32, int8 = bundles(name)
    expected, found = run_bundle(fp32, "fp32", "onnxruntime"), run_bundle(int8, "int8", "onnxruntime")
    error, agreement = CLOSE[name]
    assert 1e-3 < relative(found, expected) < error
    assert (found.argmax(1) == expected.argmax(1)).mean() > agreement


@pytest.mark.parametrize("name", CLOSE)
def test_openvino_computes_the_same_in_int8_kernels(name: str, bundles: Made) -> None:
    ov = pytest.importorskip("openvino")
    capable = "INT8" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert ("int8" in choose_engine("openvino", "fp32").precisions()) == capable
    if not capable:
        pytest.skip("for processors with int8")
    _, int8 = bundles(name)
    found, expected = run_bundle(int8, "int8", "openvino"), run_bundle(int8, "int8", "onnxruntime")
    assert relative(found, expected) < ROUNDING
    for graph in int8.manifest.graphs:
        if graph.role in int8.manifest.shared_roles:  # which stay in fp32
            continue
        path = int8.folder / graph.file
        session: Any = choose_engine("openvino", "int8").session(path, graph, 1)
        kernels = Counter(
            (info["layerType"].astype(str), "I8" in info["primitiveType"].astype(str).upper())
            for info in (
                each.get_rt_info() for each in session._request.get_compiled_model().get_runtime_model().get_ops()
            )
        )
        chosen = EXPECTED[name][graph.role][0]
        assert kernels["Convolution", True] == (chosen["Conv"] if adds_int8_exactly() else 0)
        assert kernels["FullyConnected", True] == (chosen.get("MatMul", 0) if adds_int8_exactly() else 0)


@pytest.mark.parametrize("name", CLOSE)
def test_each_layer_alone_is_the_same_in_every_engine(name: str, bundles: Made, tmp_path: Path) -> None:
    """Of whole graphs, values on the edge between two steps of int8 go either way, and layer after layer adds to it."""
    fp32, _ = bundles(name)
    graph = fp32.manifest.graphs[0]
    model = plain(onnx.load(fp32.folder / graph.file), "net", "int8")
    [batch] = sample_patches(fp32.manifest, shipped_images(), 1, seed=0)
    amax = peaks(fp32, [batch], inputs=True)[graph.role]
    inputs = {"patch": batch.patch} if graph.role == SEGMENTER else {"window": next(iter(batch.contexts.values()))}
    before = load_session(model).run(None, inputs)[0]
    for layer in layers(model)[:: max(1, len(layers(model)) // 6)]:
        made = quantised(model, [layer.name], amax)
        found = load_session(made, optimised=False).run(None, inputs)[0]
        assert 1e-6 < relative(found, before) < 0.05, layer
        assert relative(load_session(made).run(None, inputs)[0], found) < 1e-3, layer
        assert relative(_with_openvino(made, graph, inputs, tmp_path), found) < 1e-3, layer


def _with_openvino(model: Any, graph: GraphSpec, inputs: dict[str, Array], folder: Path) -> Array:
    pytest.importorskip("openvino")
    onnx.save(model, folder / "net.onnx")
    session = choose_engine("openvino", "int8").session(folder / "net.onnx", graph, 1)
    return session.run(inputs)[graph.outputs[0].name]


@pytest.mark.parametrize("name", CLOSE)
def test_optimised_graphs_compute_the_same(name: str, bundles: Made) -> None:
    """As far as the optimiser's own roundings let it: of biases, to int32, next to where two int8 meet."""
    _, int8 = bundles(name)
    [batch] = sample_patches(int8.manifest, shipped_images(), 1, seed=0)
    graph = int8.manifest.graphs[0]
    inputs = {"patch": batch.patch} if graph.role == SEGMENTER else {"window": next(iter(batch.contexts.values()))}
    found, expected = (
        load_session(int8.folder / graph.file, optimised=optimised).run(None, inputs)[0] for optimised in (True, False)
    )
    assert relative(found, expected) < ROUNDING


@pytest.mark.parametrize("name", CLOSE)
def test_the_builder_makes_int8_of_what_was_chosen(name: str, bundles: Made) -> None:
    pytest.importorskip("tensorrt_rtx")
    fp32, int8 = bundles(name)
    for role, found in builds.layers_of(int8, "int8").items():
        path, _ = fp32.graph(role, "fp32")
        model = plain(onnx.load(path), role, "int8")
        assert set(found["Int8"]) == {layer.name for layer in layers(model)}
        assert set(found.get("Float", ())) <= float_layers(model).keys()


@pytest.mark.parametrize("make", [attention, convolutions])
def test_the_builder_takes_hand_made_graphs(make: Callable[[], Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    model, x = make(), weights(2, 4, 8, 8)
    made = quantised(
        model, [layer.name for layer in layers(model)], ranges(model, x), {layers(model)[0].name: weights(4)}
    )
    onnx.save(made, tmp_path / "net.onnx")
    spec = TensorSpec(name="x", dtype="float32", shape=(2, 4, 8, 8))
    graph = GraphSpec(role=SEGMENTER, precision="int8", file="net.onnx", sha256="", inputs=(spec,), outputs=())
    _, record = build_plan(tmp_path / "net.onnx", graph, builds.OPTIONS, machine_for(builds.OPTIONS))
    assert record.layers is not None
    found = {node for layer in record.layers.products["Int8"] for node in layer.split("+")}
    assert {layer.name for layer in layers(model)} <= found
