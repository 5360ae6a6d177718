"""Graphs made ready for surgery: names, constants and types that can be relied on. Needs no torch."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference

from fctl.runtime.errors import BundleError

from .watch import types_of

FLOAT = onnx.TensorProto.FLOAT


def plain(model: onnx.ModelProto, origin: str, precision: str) -> onnx.ModelProto:
    """A copy whose nodes have names of their own, whose constants are initialisers, and whose types are all known.

    origin: what errors call the graph; precision: what it is for. Raises BundleError where there is control flow, or a
    tensor whose type cannot be told.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    for node in graph.node:
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            raise BundleError(
                f"{origin}: {precision} needs a graph without branches and loops, found {node.op_type}: export the "
                "network with fixed sizes, without control flow"
            )
    _name_nodes(graph)
    _fold_constants(graph)
    del graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model)
    known = types_of(model)
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                raise BundleError(
                    f"{origin}: {precision} needs the types of all tensors, found none for {name!r} of {node.op_type}: "
                    "export the network with standard ONNX operators"
                )
    return model


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Keep names that tell nodes apart; others become the operator's and a number."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)


def _fold_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes and casts of initialisers (weights stored as fp16) become initialisers."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
        elif node.op_type == "Cast" and node.input[0] in stored and cast_target(node) == FLOAT:
            values = onnx.numpy_helper.to_array(stored[node.input[0]])
            tensor = onnx.numpy_helper.from_array(values.astype(np.float32))
        else:
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        stored[tensor.name] = graph.initializer[-1]
        graph.node.remove(node)
    drop_unread(graph)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Take out initialisers that no node reads."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


def cast_target(cast: onnx.NodeProto) -> int:
    """The element type that a Cast gives."""
    return next((int(attribute.i) for attribute in cast.attribute if attribute.name == "to"), 0)
