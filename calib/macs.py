"""The cost of a graph's layers, in multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx

from .watch import Shape, shapes_of

_COUNTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Count the multiply-accumulates of one patch in every Conv, ConvTranspose, Gemm and MatMul.

    A symbolic batch counts as 1 and a fixed one as it is. Padding counts like data; biases do not count.

    Args:
        model: A graph whose nodes have unique names, as `plain` gives them.

    Returns:
        The multiply-accumulates, by the name of the node.

    Raises:
        BundleError: A shape cannot be inferred.
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
