"""Removal of superfluous casts from an fp16 graph.

ONNX Runtime's converter rounds to fp16 and back even between two nodes that both stay in fp32, which is where large
values would overflow.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import onnx
import onnx.shape_inference

from fctl.calib.plain import FLOAT, HALF, cast_target, drop_unread, made_by
from fctl.calib.watch import types_of

_CONVERTED = "_cast_to_fp16"  # what the converter appends to the names of fp32 tensors that it casts


def drop_superfluous_casts(model: onnx.ModelProto) -> None:
    """Remove casts that undo another cast or change nothing, and sort the nodes.

    Afterwards each node stands behind those that it reads from, and every node and initialiser is read.

    Args:
        model: A graph from the converter, which is changed in place.
    """
    graph = model.graph
    del graph.value_info[:]
    _sort(graph)
    types = types_of(onnx.shape_inference.infer_shapes(model))
    _skip_casts(graph, types)
    _drop_dead_nodes(graph)
    drop_unread(graph)
    _restore_names(graph)


def _sort(graph: onnx.GraphProto) -> None:
    """Put each node behind those that it reads from; otherwise nodes keep their order."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    nodes, order, done = list(graph.node), list[int](), set[int]()
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            index = stack[-1]
            waiting = [makers[n] for n in nodes[index].input if n in makers and makers[n] not in done]
            if waiting and index not in done:
                stack += waiting
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                order.append(index)
    ordered = [copy.deepcopy(nodes[index]) for index in order]
    del graph.node[:]
    graph.node.extend(ordered)


def _skip_casts(graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
    """Let nodes read a tensor itself rather than its cast to the type that it has, or had before another cast."""
    makers = made_by(graph)
    same: dict[str, str] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        if node.op_type != "Cast" or cast_target(node) not in (FLOAT, HALF):
            continue
        source = node.input[0]
        first = makers.get(source)
        before = first.input[0] if first is not None and first.op_type == "Cast" else source
        for name in (source, before):
            if types.get(name) == cast_target(node) and (name == source or types.get(source) in (FLOAT, HALF)):
                same[node.output[0]] = name
                break
    for value in graph.output:
        if value.name in same:
            _make_output(graph, same[value.name], value.name, makers)


def _make_output(graph: onnx.GraphProto, old: str, new: str, makers: Mapping[str, onnx.NodeProto]) -> None:
    """Let the node that makes a tensor make an output of the graph, in place of the cast that did."""
    if old not in makers:  # an input of the graph that is passed on
        return
    graph.node.remove(makers[new])
    _rename(graph, {old: new})


def _drop_dead_nodes(graph: onnx.GraphProto) -> None:
    """Remove the nodes that nothing reads."""
    read = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if read.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            read.update(node.input)


def _restore_names(graph: onnx.GraphProto) -> None:
    """Give tensors their own names back where the casts that the converter named them for are gone."""
    taken = made_by(graph).keys()
    old = {name: name.removesuffix(_CONVERTED) for name in taken if name.endswith(_CONVERTED)}
    _rename(graph, {name: own for name, own in old.items() if own not in taken})


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names wherever nodes make or read them."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)
