"""Which convolutions and linear layers of a graph may be int8, and why the other products stay float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from fctl.runtime.errors import BundleError

from .plain import FLOAT, made_by, read_by
from .watch import types_of

LAYERS = ("Conv", "Gemm", "MatMul")  # operators of which some may be int8
PAIR = ("QuantizeLinear", "DequantizeLinear")
_PRODUCTS = frozenset((*LAYERS, "ConvTranspose"))
_RANK = {"Conv": 4, "Gemm": 2, "MatMul": 2}  # of weights that become int8
_ON_TO_SCORES = frozenset((
    "Add", "Cast", "Concat", "ConvTranspose", "Identity", "Reshape", "Resize", "Slice", "Sum", "Transpose",
))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A convolution or linear layer that may be int8.

    Attributes:
        name: The name of its node.
        op: Its operator: Conv, Gemm or MatMul.
        input: The name of its activation.
        weight: The name of the initialiser that holds its weight.
        axis: The axis of the output channels in the weight.
    """

    name: str
    op: str
    input: str
    weight: str
    axis: int


def layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Find the layers of a graph that may be int8.

    Args:
        model: A graph made `plain`.

    Returns:
        The layers, in the order of their nodes.

    Raises:
        BundleError: The graph holds Q/DQ already.
    """
    view = _view(model)
    return tuple(
        Layer(name=node.name, op=node.op_type, input=node.input[0], weight=node.input[1], axis=output_axis(node))
        for node in view.nodes
        if node.op_type in LAYERS and not _reason(view, node)
    )


def float_layers(model: onnx.ModelProto) -> dict[str, str]:
    """Find the convolutions and matrix products that have to stay float.

    Args:
        model: A graph made `plain`.

    Returns:
        The reason why each stays float, by the name of its node.

    Raises:
        BundleError: The graph holds Q/DQ already.
    """
    view = _view(model)
    found = {node.name: _reason(view, node) for node in view.nodes if node.op_type in _PRODUCTS}
    return {name: reason for name, reason in found.items() if reason}


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's output channels in its weight; a depthwise convolution is like any other."""
    return 0 if node.op_type == "Conv" or (node.op_type == "Gemm" and number(node, "transB", 0)) else 1


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """The value of a node's numeric attribute, or the default where the node does not have it."""
    values = [onnx.helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name]
    return float(values[0]) if values else default


@dataclass(frozen=True)
class _View:
    """The parts of a graph that decide whether a layer may be int8.

    Attributes:
        nodes: All nodes, in order.
        made_by: The node that makes each tensor.
        read_by: The nodes that read each tensor.
        constants: The initialisers, by name.
        fixed: Constants and tensors that are computed from constants alone.
        pixels: Tensors that no convolution or matrix product leads to.
        types: ONNX element types, by tensor.
    """

    nodes: Sequence[onnx.NodeProto]
    made_by: Mapping[str, onnx.NodeProto]
    read_by: Mapping[str, Sequence[onnx.NodeProto]]
    constants: Mapping[str, onnx.TensorProto]
    fixed: frozenset[str]
    pixels: frozenset[str]
    types: Mapping[str, int]


def _view(model: onnx.ModelProto) -> _View:
    graph = model.graph
    if found := next((node for node in graph.node if node.op_type in PAIR), None):
        raise BundleError(
            expected="a graph in fp32", found=f"{found.op_type} ({found.name})", remedy="quantise the fp32 graph"
        )
    fixed = {tensor.name for tensor in graph.initializer}
    pixels = {value.name for value in graph.input} | fixed
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if fixed.issuperset(inputs):
            fixed.update(node.output)
        if node.op_type not in _PRODUCTS and pixels.issuperset(inputs):
            pixels.update(node.output)
    return _View(
        nodes=list(graph.node),
        made_by=made_by(graph),
        read_by=read_by(graph),
        constants={tensor.name: tensor for tensor in graph.initializer},
        fixed=frozenset(fixed),
        pixels=frozenset(pixels),
        types=types_of(model),
    )


def _reason(view: _View, node: onnx.NodeProto) -> str:
    """Why a product stays float; empty where it may be int8."""
    if node.op_type == "ConvTranspose":
        return "ConvTranspose"
    activation, weight, *bias = node.input
    if activation in view.fixed:
        return "constant on the left"
    if weight not in view.fixed:
        return "product of two activations"
    if weight not in view.constants or any(name and name not in view.constants for name in bias):
        return "computed weight or bias"
    if view.types.get(activation) != FLOAT or view.types[weight] != FLOAT:
        return "not fp32"
    if len(view.constants[weight].dims) != _RANK[node.op_type]:
        return f"weight of {len(view.constants[weight].dims)} axes"
    if node.op_type == "Gemm" and [number(node, *of) for of in (("transA", 0), ("alpha", 1), ("beta", 1))] != [0, 1, 1]:
        return "Gemm with factors"
    if node.op_type == "MatMul" and (_is_separable(view, node) or _is_average(view.constants[weight])):
        return "positions or resampling"
    return "scores of a scaled skip" if _is_scaled_skip(view, node) else ""


def _is_separable(view: _View, node: onnx.NodeProto) -> bool:
    """Whether a product is the (x C) of a separable R (x C), which mixes places and not channels.

    ALE's crop and LCF's positions are such products. The result of a linear layer is never multiplied by a constant on
    the left alone: that would mix its places.
    """
    readers = view.read_by.get(node.output[0], ())
    return bool(readers) and all(reader.op_type == "MatMul" and reader.input[0] in view.fixed for reader in readers)


def _is_average(weight: onnx.TensorProto) -> bool:
    """Whether a matrix on the right gives weighted means, as interpolation and softmax do, and no linear layer does."""
    values = onnx.numpy_helper.to_array(weight)
    return bool((values >= 0).all() and np.allclose(values.sum(axis=0), 1, rtol=0, atol=1e-4))


def _is_scaled_skip(view: _View, node: onnx.NodeProto) -> bool:
    """Whether a layer scores features times a number, and its scores are added to others, as in the skips of FCN-8s.

    Pixels are scaled too, before the first layer; the first layer may be int8.
    """
    scale = view.made_by.get(node.input[0])
    if scale is None or scale.op_type not in ("Mul", "Div") or scale.output[0] in view.pixels:
        return False
    numbers = [name for name in scale.input if name in view.constants and np.prod(view.constants[name].dims) == 1]
    if len(numbers) != 1:
        return False
    queue, added = list(view.read_by.get(node.output[0], ())), False
    while queue:
        reader = queue.pop()
        if reader.op_type not in _ON_TO_SCORES:
            return False
        added |= reader.op_type in ("Add", "Sum") and view.fixed.isdisjoint(reader.input)
        queue += view.read_by.get(reader.output[0], ())
    return added
