"""Graphs made ready for surgery: names, constants and types that can be relied on. Needs no torch."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference

from fctl.runtime.errors import BundleError

from .watch import types_of

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def plain(model: onnx.ModelProto, origin: str, precision: str) -> onnx.ModelProto:
    """Copy a graph so that nodes have unique names, constants are initialisers, and all types are known.

    Args:
        model: A graph of any origin; it is not changed.
        origin: The name of the graph in error messages.
        precision: The precision that is to be made of it, for error messages.

    Returns:
        The copy, with all shapes inferred.

    Raises:
        BundleError: The graph has control flow, or a tensor whose type cannot be inferred.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    for node in graph.node:
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            raise BundleError(
                f"{precision} needs a graph without branches and loops, found {node.op_type}: export the network with "
                "fixed sizes, without control flow",
                subject=origin,
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
                    f"{precision} needs the types of all tensors, found none for {name!r} of {node.op_type}: export "
                    "the network with standard ONNX operators",
                    subject=origin,
                )
    return model


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Keep names that are unique; the other nodes are named after their operator and a number."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)


def _fold_constants(graph: onnx.GraphProto) -> None:
    """Make initialisers of Constant nodes and of casts of initialisers, behind which weights are stored as fp16."""
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


def cast_target(cast: onnx.NodeProto) -> int:
    """The element type that a Cast gives."""
    return next((int(attribute.i) for attribute in cast.attribute if attribute.name == "to"), 0)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove, in place, the initialisers that no node reads and that are no output of the graph."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


def made_by(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor, by the tensor's name."""
    return {name: node for node in graph.node for name in node.output}


def read_by(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, by the tensor's name, each once and in order."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written for."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
