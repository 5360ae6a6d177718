"""Simulation of fp16 graphs on a CPU: the same graphs in fp32, with every fp16 tensor really rounded to fp16.

An fp16 graph itself says nothing about fp16 on a CPU. ONNX Runtime has few fp16 kernels there: it runs most fp16 nodes
in fp32 and drops the casts in between, so that an overflow goes unseen; or it merges constants in fp16 first, and finds
an overflow where there is none. It keeps casts to fp16 and back in an fp32 graph, at every level of optimisation.

Simulated are fp16 weights, and one rounding to nearest of the result of each fp16 node, with fp16's overflow to
infinity and its subnormals. Not simulated are how a GPU adds up inside a node (here in fp32, as TensorRT's convolutions
and matrix products mostly do), and the roundings that it saves where it fuses nodes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from fctl.calib.plain import FLOAT, HALF
from fctl.calib.watch import peaks, types_of
from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.segment.batches import PatchBatch

from ..onnx_graph import save_model

# Operators whose results are among their inputs' values, which fp16 holds already.
_EXACT = frozenset((
    "Abs", "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Neg", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip
_ROUNDING, _ROUNDED = "/rounding/", "/rounded/"


def rounding_bundle(bundle: Bundle, precision: Precision, folder: Path) -> Bundle:
    """Write fp32 graphs that compute what a bundle's fp16 graphs do.

    Args:
        bundle: A bundle with fp16 graphs.
        precision: The precision of the graphs to simulate.
        folder: An existing folder for the files.

    Returns:
        A bundle of the simulating graphs, labelled fp32, which has no manifest on disk.
    """
    graphs = []
    for graph in bundle.manifest.graphs:
        if graph.precision == precision:
            ins, outs = save_model(rounded(onnx.load(bundle.folder / graph.file)), folder / graph.file)
            graphs.append(replace(graph, precision="fp32", inputs=ins, outputs=outs))
    return Bundle(folder, replace(bundle.manifest, graphs=tuple(graphs)))


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn an fp16 graph into an fp32 graph that rounds.

    Args:
        model: An fp16 graph; it is not changed.

    Returns:
        A graph in which each fp16 tensor is an fp32 tensor of values that fp16 holds.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    types = types_of(onnx.shape_inference.infer_shapes(model))
    halves = {name for name, kind in types.items() if kind == HALF}
    for tensor in graph.initializer:
        if tensor.data_type == HALF:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == HALF:
            value.type.tensor_type.elem_type = FLOAT
    nodes = [part for node in graph.node for part in _rounding(node, halves)]
    del graph.value_info[:], graph.node[:]
    graph.node.extend(nodes)
    return model


def _rounding(node: onnx.NodeProto, halves: set[str]) -> Iterator[onnx.NodeProto]:
    """A node in fp32, and the nodes that round its fp16 outputs."""
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == HALF:
            attribute.i = FLOAT
        elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == HALF:
            values = onnx.numpy_helper.to_array(attribute.t).astype(np.float32)
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(values, attribute.t.name))
    outputs = [] if node.op_type in _EXACT else [name for name in node.output if name in halves]
    for index, name in enumerate(node.output):
        if name in outputs:
            node.output[index] = f"{name}/exact"
    yield node
    for name in outputs:
        origin, half = f"{node.name} ({node.op_type})", f"{name}/half"
        yield onnx.helper.make_node("Cast", [f"{name}/exact"], [half], name=f"{origin}{_ROUNDING}{name}", to=HALF)
        yield onnx.helper.make_node("Cast", [half], [name], name=f"{origin}{_ROUNDED}{name}", to=FLOAT)


def overflows(simulated: Bundle, batches: Sequence[PatchBatch]) -> tuple[str, ...]:
    """Find the nodes that make infinity or NaN of finite inputs.

    Args:
        simulated: A bundle from `rounding_bundle`.
        batches: Real patches, one per batch.

    Returns:
        The nodes, each as "role: node (operator)".
    """
    found = list[str]()
    for role, measured in peaks(simulated, batches).items():
        bad = set[str]()
        for node in onnx.load(simulated.graph(role, "fp32")[0]).graph.node:
            inherits = not bad.isdisjoint(node.input)
            unknown = math.nan if inherits else 0.0  # of fp16 tensors, which nobody measures
            wrong = {name for name in node.output if not math.isfinite(measured.get(name, unknown))}
            bad |= wrong
            if wrong and not inherits:
                found.append(f"{role}: {node.name.partition(_ROUNDED)[0]}")
    return tuple(found)
