"""Bias correction, by hand: every layer once with rounded numbers and once without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

import onnx
from onnx import helper
from onnx.numpy_helper import from_array, to_array

from fctl.calib.correct import corrections
from fctl.calib.layers import Layer
from fctl.calib.quantise import quantised
from fctl.calib.trials import Fp32Graphs
from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.segment.batches import PatchBatch

from ..runtime import tiny
from .test_watch import batch_of, computed, one_graph, patches, whole_graph

Array = NDArray[Any]
Ranges = dict[str, dict[str, float]]

FLOAT = onnx.TensorProto.FLOAT
CLIPPED = 0.7
OPSETS = (13, 20)
SOURCES = (*OPSETS, tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FIXED)


def layered(opset: int, rng: np.random.Generator) -> Any:
    """patch (N, 4, 12, 10) -> logits: a convolution, a depthwise one, a linear layer as MatMul and one as Gemm."""
    node = helper.make_node
    nodes = [
        node("Conv", ["patch", "w", "b"], ["a"], "conv", strides=[2, 1], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "deep"], ["d"], "depthwise", group=6, pads=[2, 2, 2, 2]),
        node("Reshape", ["d", "rows"], ["flat"]),
        node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
        node("MatMul", ["tokens", "linear"], ["product"], "matmul"),
        node("Add", ["product", "lb"], ["biased"]),
        node("Reshape", ["biased", "stack"], ["stacked"]),
        node("Gemm", ["stacked", "gw", "gb"], ["logits"], "gemm", transB=1),
    ]
    shapes = {
        "w": (6, 4, 3, 3),
        "b": (6,),
        "deep": (6, 1, 5, 5),
        "linear": (6, 5),
        "lb": (5,),
        "gw": (7, 5),
        "gb": (7,),
    }
    constants: dict[str, Array] = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    constants |= {"rows": np.array([0, 6, -1]), "stack": np.array([-1, 5])}
    graph = helper.make_graph(
        nodes,
        "layered",
        [helper.make_tensor_value_info("patch", FLOAT, ("N", 4, 12, 10))],
        [helper.make_tensor_value_info("logits", FLOAT, None)],
        [from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def source_of(source: int | Path, folder: Path, rng: np.random.Generator) -> tuple[Bundle, list[PatchBatch]]:
    """A bundle and patches: hand-made of an opset, or one that is there."""
    if isinstance(source, Path):
        bundle = read_bundle(source)
        return bundle, patches(bundle, folder, 3)
    values = rng.normal(1, 2, size=(3, 1, 4, 12, 10)).astype(np.float32)
    return one_graph(layered(source, rng), folder), [batch_of(patch) for patch in values]


def ranges_of(graphs: Fp32Graphs, values: dict[str, dict[str, list[Array]]]) -> Ranges:
    return {
        role: {
            layer.input: CLIPPED * max(float(np.abs(v).max()) for v in values[role][layer.input]) for layer in layers
        }
        for role, layers in graphs.layers.items()
    }


def rounded(values: Array, amax: Array | float) -> Array:
    scale = np.asarray(amax, np.float32) / np.float32(127)
    return np.clip(np.rint(values / scale), -128, 127).astype(np.float64) * scale


def shift(model: Any, layer: Layer, inputs: Sequence[Array], amax: float) -> Array:
    """(channels,): mean of a layer's result less that with rounded numbers; its bias is in both."""
    node = next(node for node in model.graph.node if node.name == layer.name)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = to_array(next(t for t in model.graph.initializer if t.name == layer.weight))
    others = tuple(axis for axis in range(weight.ndim) if axis != layer.axis)
    coarse = rounded(weight, np.abs(weight).max(axis=others, keepdims=True))
    means = []
    for values in inputs:
        if layer.op == "Conv":
            lost = conv(values, weight, attributes) - conv(rounded(values, amax), coarse, attributes)
            means.append(lost.mean(axis=(0, 2, 3)))
        else:
            turned = (weight.T, coarse.T) if attributes.get("transB") else (weight, coarse)
            lost = values.astype(np.float64) @ turned[0] - rounded(values, amax) @ turned[1]
            means.append(lost.reshape(-1, lost.shape[-1]).mean(axis=0))
    return np.mean(means, axis=0)


def conv(values: Array, weight: Array, attributes: dict[str, Any]) -> Array:
    """With groups, strides and padding, in float64."""
    groups, (down, right) = attributes.get("group", 1), attributes.get("strides", (1, 1))
    top, left, bottom, end = attributes.get("pads", (0, 0, 0, 0))
    padded = np.pad(values.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, end)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))[:, :, ::down, ::right]
    parts = zip(np.split(windows, groups, axis=1), np.split(weight, groups), strict=True)
    return np.concatenate([np.einsum("nchwyx,ocyx->nohw", part, filters) for part, filters in parts], axis=1)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: getattr(source, "stem", source))
def test_shifts_are_the_mean_differences_counted_by_hand(
    source: int | Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    bundle, batches = source_of(source, tmp_path, rng)
    graphs, values = Fp32Graphs.of(bundle), computed(bundle, batches)
    amax = ranges_of(graphs, values)
    found = corrections(graphs, amax, iter(batches))
    assert {role: set(shifts) for role, shifts in found.items()} == graphs.names
    if isinstance(source, int):
        assert graphs.names == {SEGMENTER: {"conv", "depthwise", "matmul", "gemm"}}
    for role, layers in graphs.layers.items():
        for layer in layers:
            expected = shift(graphs.models[role], layer, values[role][layer.input], amax[role][layer.input])
            assert found[role][layer.name].dtype == np.float32
            assert np.abs(expected).max() > 0
            # A value that lies between two steps may be rounded to the other.
            np.testing.assert_allclose(found[role][layer.name], expected, rtol=0, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("layer", "tensor"), [("conv", "a"), ("depthwise", "d"), ("matmul", "biased"), ("gemm", "logits")]
)
def test_a_corrected_layer_keeps_its_mean(
    layer: str, tensor: str, opset: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    bundle, batches = source_of(opset, tmp_path, rng)
    graphs = Fp32Graphs.of(bundle)
    amax = ranges_of(graphs, computed(bundle, batches))
    shifts = corrections(graphs, amax, batches)[SEGMENTER]
    model = graphs.models[SEGMENTER]

    def error(biases: dict[str, Array]) -> Array:
        int8 = quantised(model, [layer], amax[SEGMENTER], biases)
        return channel_means(int8, tensor, batches) - channel_means(model, tensor, batches)

    before, after = error({}), error({layer: shifts[layer]})
    assert np.abs(before).max() > 1e-3
    np.testing.assert_allclose(after, 0, atol=1e-3 * np.abs(before).max())


def channel_means(model: Any, tensor: str, batches: Sequence[PatchBatch]) -> Array:
    """Of all patches; channels are last, but in images."""
    session = whole_graph(model)
    values = [session.run([tensor], {"patch": batch.patch})[0].astype(np.float64) for batch in batches]
    rows = [np.moveaxis(value, 1, -1) if value.ndim == 4 else value for value in values]
    return np.mean([row.reshape(-1, row.shape[-1]).mean(axis=0) for row in rows], axis=0)


@pytest.mark.parametrize("source", [20, tiny.TINY_GLOBAL], ids=str)
def test_the_order_of_patches_changes_nothing(source: int | Path, tmp_path: Path, rng: np.random.Generator) -> None:
    bundle, batches = source_of(source, tmp_path, rng)
    graphs = Fp32Graphs.of(bundle)
    amax = ranges_of(graphs, computed(bundle, batches))
    forward, backward = (corrections(graphs, amax, order) for order in (batches, batches[::-1]))
    alone = [corrections(graphs, amax, [batch]) for batch in batches]
    for role, shifts in forward.items():
        for name, found in shifts.items():
            np.testing.assert_allclose(found, backward[role][name], rtol=1e-6)
            np.testing.assert_allclose(found, np.mean([one[role][name] for one in alone], axis=0), rtol=1e-5, atol=1e-9)
