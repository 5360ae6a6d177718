"""What the layers of a graph cost, by counting."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from .watch import Shape, shapes_of

_COUNTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of one patch, by node, of Conv, ConvTranspose, Gemm and MatMul.

    Nodes need names of their own, as `plain` gives them. A symbolic batch is 1, a fixed one is counted as it is; so is
    what falls on padding; biases are not. Raises BundleError where a shape cannot be told.
    """
    nodes = [node for node in model.graph.node if node.op_type in _COUNTED]
    shapes = shapes_of(model, {name for node in nodes for name in (*node.input[:2], *node.output)})
    return {node.name: _macs(node, shapes) for node in nodes}


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    first, second, made = (shapes[name] for name in (*node.input[:2], *node.output))
    if node.op_type == "Conv":
        return math.prod(made) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    swapped = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(made) * first[0 if swapped else -1]
