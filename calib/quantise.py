"""fp32 graphs with Q/DQ: int8 where TensorRT, OpenVINO and ONNX Runtime all have it. Needs no torch.

What is int8 is what goes *into* a convolution or linear layer: its activation, per tensor, and its weight, per output
channel, both symmetric with a zero point of 0. What comes out, biases, residual sums, activation functions,
normalisations, softmaxes and the products of attention stay float; engines merge a ReLU or Clip, and the next layer's
Q, into the layer before by themselves. Constants other than weights are never quantised, and biases never int32:
TensorRT refuses either. What TensorRT should refuse and does not, `check.check_quantised` finds.

The pairs are inserted here rather than by ONNX Runtime's quantizer. That quantizer lets all readers of a tensor read
the rounded one, residual sums too, and quantises a weight also for layers that were not chosen but share it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

from fctl.runtime.errors import BundleError

from .layers import Layer, layers
from .plain import drop_unread, read_by
from .ranges import LARGEST

_TINY = float(np.finfo(np.float32).tiny)  # engines may take what is smaller for 0

FloatArray = NDArray[np.float32]


def quantised(
    model: onnx.ModelProto,
    chosen: Collection[str],
    amax: Mapping[str, float],
    biases: Mapping[str, FloatArray] | None = None,
) -> onnx.ModelProto:
    """Insert Q/DQ on the activation and weight of some layers of a graph.

    Args:
        model: An fp32 graph made `plain`; it is not changed.
        chosen: The names of the layers that become int8.
        amax: By activation tensor, the largest |value| that int8 holds; values beyond are clipped.
        biases: By the name of a layer, chosen or not, (channels,) float32 that is added to its bias. A layer without a
            bias gets one; that of a MatMul is the Add after it, which is how linear layers are exported.

    Returns:
        A copy of the graph with Q/DQ, with all shapes inferred.

    Raises:
        BundleError: A name is none of `layers`, or a range is missing or not finite.
    """
    known = {layer.name: layer for layer in layers(model)}
    for name in (*chosen, *(biases or {})):
        if name not in known:
            raise BundleError(
                expected="layers that may be int8", found=repr(name), remedy="take them from calib.layers.layers"
            )
    model = copy.deepcopy(model)
    _insert_pairs(model.graph, [known[name] for name in known if name in chosen], amax)
    for name, bias in (biases or {}).items():
        _add_bias(model.graph, name, bias)
    drop_unread(model.graph)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def _insert_pairs(graph: onnx.GraphProto, chosen: Sequence[Layer], amax: Mapping[str, float]) -> None:
    """Insert one Q and DQ for each activation and one DQ for each weight, before the first layer that reads them."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    by_name = {layer.name: layer for layer in chosen}
    made: dict[tuple[str, int | None], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if layer := by_name.get(node.name):
            activation, weight = (layer.input, None), (layer.weight, layer.axis)
            if activation not in made:
                nodes += _activation_pair(graph, layer.input, amax)
            made[activation] = f"{layer.input}/int8/float"
            if weight not in made:
                shared = any(name == layer.weight for name, _ in made)  # by layers with channels on different axes
                made[weight] = f"{layer.weight}/int8{f'/{layer.axis}' if shared else ''}"
                nodes.append(_weight_dequantised(graph, stored[layer.weight], layer.axis, made[weight]))
            node.input[0], node.input[1] = made[activation], f"{made[weight]}/float"
        nodes.append(node)
    nodes = [copy.deepcopy(node) for node in nodes]  # those of the graph are deleted in the next line
    del graph.node[:]
    graph.node.extend(nodes)


def _activation_pair(graph: onnx.GraphProto, name: str, amax: Mapping[str, float]) -> list[onnx.NodeProto]:
    """Store scale and zero point of an activation; returns its Q and DQ."""
    peak = float(amax.get(name, np.nan))
    if not 0 <= peak < np.inf:
        raise BundleError(
            subject=name, expected="a finite range", found=peak, remedy="calibrate it, or leave its layers float"
        )
    int8 = f"{name}/int8"
    parameters = _store_parameters(graph, int8, np.array(peak, np.float32))
    return [
        onnx.helper.make_node("QuantizeLinear", [name, *parameters], [int8], name=f"{name}/quantise"),
        onnx.helper.make_node("DequantizeLinear", [int8, *parameters], [f"{int8}/float"], name=f"{name}/dequantise"),
    ]


def _weight_dequantised(graph: onnx.GraphProto, weight: onnx.TensorProto, axis: int, int8: str) -> onnx.NodeProto:
    """Store a weight as int8, with one scale per output channel; returns its DQ."""
    values = onnx.numpy_helper.to_array(weight)
    peaks = np.abs(values).max(axis=tuple(other for other in range(values.ndim) if other != axis), keepdims=True)
    parameters = _store_parameters(graph, int8, peaks.reshape(-1))
    rounded = np.clip(np.rint(values / _scale(peaks)), -LARGEST, LARGEST).astype(np.int8)
    graph.initializer.append(onnx.numpy_helper.from_array(rounded, int8))
    return onnx.helper.make_node(
        "DequantizeLinear", [int8, *parameters], [f"{int8}/float"], name=f"{int8}/dequantise", axis=axis
    )


def _store_parameters(graph: onnx.GraphProto, int8: str, peaks: FloatArray) -> list[str]:
    """Store scale and zero point of an int8 tensor; returns their names."""
    names = [f"{int8}/scale", f"{int8}/zero"]
    zeros = np.zeros(peaks.shape, np.int8)
    graph.initializer.append(onnx.numpy_helper.from_array(_scale(peaks), names[0]))
    graph.initializer.append(onnx.numpy_helper.from_array(zeros, names[1]))
    return names


def _scale(peaks: FloatArray) -> FloatArray:
    """The size of one int8 step; 1 where all values are 0, because a scale of 0 is invalid."""
    scale = peaks.astype(np.float32) / np.float32(LARGEST)
    return np.where(scale < _TINY, np.float32(1), scale)


def _add_bias(graph: onnx.GraphProto, name: str, bias: FloatArray) -> None:
    """Add to the bias of a layer: its own constant, or the one that an Add after a MatMul adds."""
    index = next(i for i, node in enumerate(graph.node) if node.name == name)
    node, stored = graph.node[index], {tensor.name: tensor for tensor in graph.initializer}
    if node.op_type != "MatMul":
        place, position = node, 2
        node.input.extend([""] * (3 - len(node.input)))
    else:
        place, position = _bias_after(graph, index, stored)
    old = place.input[position]
    values = bias.astype(np.float32)
    if old:
        values = onnx.numpy_helper.to_array(stored[old]) + values
    place.input[position] = f"{name}/bias"
    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, np.float32), f"{name}/bias"))


def _bias_after(graph: onnx.GraphProto, index: int, stored: Collection[str]) -> tuple[onnx.NodeProto, int]:
    """The Add that alone reads a MatMul, and which of its inputs is constant; inserted where there is none."""
    product = graph.node[index]
    result = product.output[0]
    readers = read_by(graph).get(result, [])
    if len(readers) == 1 and readers[0].op_type == "Add" and result not in {value.name for value in graph.output}:
        for position, other in enumerate(readers[0].input):
            if other in stored:
                return readers[0], position
    product.output[0] = f"{result}/product"
    add = onnx.helper.make_node("Add", [product.output[0], ""], [result], name=f"{product.name}/bias")
    graph.node.insert(index + 1, add)
    return graph.node[index + 1], 1
