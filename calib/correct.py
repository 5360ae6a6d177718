"""Bias correction: what rounding adds to the mean of a layer's channels, taken off its bias.

Rounded weights err alike on every patch, and depthwise convolutions have few of them to even that out. The shift of
each layer is measured on inputs in fp32, so that layers can be corrected all at once, and one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from fctl.runtime.segment.batches import PatchBatch

from .onnx_session import load_session
from .quantise import PAIR, quantised
from .trials import Fp32Graphs
from .watch import feed, run_watched

_SHIFT, _ROUNDED = "/shift", "/rounded"

Arrays = dict[str, NDArray[Any]]


def corrections(graphs: Fp32Graphs, amax: Mapping[str, Mapping[str, float]], batches: Iterable[PatchBatch]) -> dict[str, Arrays]:
    """By role and layer, (channels,) float32: mean of fp32 less mean of int8, over all patches and places.

    batches: real patches, one per batch.
    """
    shifting = {role: _Shifting(graphs, role, amax[role]) for role in graphs.models}
    feed(graphs.bundle, batches, shifting)
    return {role: graph.means() for role, graph in shifting.items()}


class _Shifting:
    """A graph that also tells the shift of every layer, alone in int8."""

    def __init__(self, graphs: Fp32Graphs, role: str, amax: Mapping[str, float]) -> None:
        self._session = load_session(_with_shifts(graphs, role, amax))
        self._sums: Arrays = {}
        self._patches = 0

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name."""
        outputs, shifts = run_watched(self._session, inputs, _SHIFT)
        for layer, shift in shifts.items():
            mean = shift.astype(np.float64).mean(axis=0).reshape(-1)
            self._sums[layer] = self._sums.get(layer, 0.0) + mean
        self._patches += 1
        return outputs

    def means(self) -> Arrays:
        """Of all patches that were run."""
        return {name: (total / self._patches).astype(np.float32) for name, total in self._sums.items()}


def _with_shifts(graphs: Fp32Graphs, role: str, amax: Mapping[str, float]) -> onnx.ModelProto:
    """A graph in fp32 in which every layer is computed once more, in int8, and compared.

    The last layer's comparison is appended first, with Q/DQ of its own: only then does ONNX Runtime run each early, and
    let go of large tensors.
    """
    names = graphs.names[role]
    model = copy.deepcopy(graphs.models[role])
    graph, rounded = model.graph, quantised(model, names, amax).graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in rounded.initializer if tensor.name not in sizes)
    made_by = {name: node for node in rounded.node for name in node.output}
    layers = {layer.name: layer for layer in graphs.layers[role]}
    for node in reversed(rounded.node):
        if node.name in layers:
            layer = layers[node.name]
            graph.node.extend(_alone(node, made_by))
            graph.node.extend(_compared(graph, graph.node[-1], layer.name, sizes[layer.weight][layer.axis]))
    return model


def _alone(node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Copies of a layer and of the Q/DQ before it, which give tensors of their own."""
    found: list[onnx.NodeProto] = []
    queue = [node]
    while queue:
        other = copy.deepcopy(queue.pop())
        before = [made_by[name] for name in other.input if name in made_by and made_by[name].op_type in PAIR]
        for names in (other.input, other.output):
            for index, name in enumerate(names):
                if name in other.output or (name in made_by and made_by[name].op_type in PAIR):
                    names[index] = f"{name}{_ROUNDED}/{node.name}"
        other.name += f"{_ROUNDED}/{node.name}"
        found.insert(0, other)
        queue += before
    return found


def _compared(graph: onnx.GraphProto, rounded: onnx.NodeProto, layer: str, channels: int) -> Iterator[onnx.NodeProto]:
    """What compares a layer in int8 with that in fp32: the mean by channel (N, channels, 1...) becomes an output."""
    shift, result = layer + _SHIFT, rounded.output[0].partition(_ROUNDED)[0]
    yield onnx.helper.make_node("Sub", [result, rounded.output[0]], [f"{shift}/all"])
    if rounded.op_type == "Conv":
        channels_first = f"{shift}/all"
    else:  # channels are last, whatever stands before them
        channels_first = f"{shift}/turned"
        for name, sides in (("rows", (-1, channels)), ("stack", (1, channels, -1))):
            values = np.array(sides, np.int64)
            graph.initializer.append(onnx.numpy_helper.from_array(values, f"{shift}/{name}/shape"))
        yield onnx.helper.make_node("Reshape", [f"{shift}/all", f"{shift}/rows/shape"], [f"{shift}/rows"])
        yield onnx.helper.make_node("Transpose", [f"{shift}/rows"], [f"{shift}/columns"], perm=[1, 0])
        yield onnx.helper.make_node("Reshape", [f"{shift}/columns", f"{shift}/stack/shape"], [channels_first])
    yield onnx.helper.make_node("GlobalAveragePool", [channels_first], [shift])
    graph.output.append(onnx.helper.make_tensor_value_info(shift, onnx.TensorProto.FLOAT, None))
