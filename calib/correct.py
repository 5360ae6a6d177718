"""Bias correction: the shift that rounding adds to the mean of a layer's channels is subtracted from its bias.

A rounded weight errs in the same direction on every patch, and depthwise convolutions have too few weights for the
errors to cancel. The shift of each layer is measured on fp32 inputs. Corrections are therefore independent: they hold
for all layers together and for each one alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from fctl.runtime.segment.batches import PatchBatch

from .layers import PAIR
from .onnx_session import load_session
from .plain import made_by
from .quantise import FloatArray, quantised
from .trials import Fp32Graphs
from .watch import feed, run_watched

_SHIFT, _ROUNDED = "/shift", "/rounded"

Arrays = dict[str, NDArray[np.generic]]


def corrections(
    graphs: Fp32Graphs, amax: Mapping[str, Mapping[str, float]], batches: Iterable[PatchBatch]
) -> dict[str, dict[str, FloatArray]]:
    """Measure what to add to the biases of all layers that may be int8.

    Args:
        graphs: The fp32 graphs of a bundle.
        amax: The ranges of activations, by role and tensor.
        batches: Real patches, one per batch.

    Returns:
        By role and layer, (channels,) float32: the mean of fp32 less the mean of int8, over all patches and places.
    """
    shifting = {role: _Shifting(graphs, role, amax[role]) for role in graphs.models}
    feed(graphs.bundle, batches, shifting)
    return {role: graph.means() for role, graph in shifting.items()}


class _Shifting:
    """A graph that also measures the shift of every layer, as if it alone were int8."""

    def __init__(self, graphs: Fp32Graphs, role: str, amax: Mapping[str, float]) -> None:
        self._session = load_session(_with_shifts(graphs, role, amax))
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._patches = 0

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run one patch; returns the graph's own outputs, by name."""
        outputs, shifts = run_watched(self._session, inputs, _SHIFT)
        for layer, shift in shifts.items():
            mean = shift.astype(np.float64).mean(axis=0).reshape(-1)
            self._sums[layer] = self._sums.get(layer, 0.0) + mean
        self._patches += 1
        return outputs

    def means(self) -> dict[str, FloatArray]:
        """The mean shift over all patches that were run, (channels,) by layer."""
        return {name: (total / self._patches).astype(np.float32) for name, total in self._sums.items()}


def _with_shifts(graphs: Fp32Graphs, role: str, amax: Mapping[str, float]) -> onnx.ModelProto:
    """A graph in fp32 in which every layer is computed once more, in int8, and compared.

    The last layer's comparison is appended first, with Q/DQ of its own. Only then does ONNX Runtime run each of them
    early, and free large tensors.
    """
    names = graphs.names[role]
    model = copy.deepcopy(graphs.models[role])
    graph, rounded = model.graph, quantised(model, names, amax).graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    graph.initializer.extend(tensor for tensor in rounded.initializer if tensor.name not in sizes)
    makers = made_by(rounded)
    layers = {layer.name: layer for layer in graphs.layers[role]}
    for node in reversed(rounded.node):
        if node.name in layers:
            layer = layers[node.name]
            graph.node.extend(_alone(node, makers))
            graph.node.extend(_compared(graph, graph.node[-1], layer.name, sizes[layer.weight][layer.axis]))
    return model


def _alone(node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Copies of a layer and of the Q/DQ before it, under names of their own."""
    found: list[onnx.NodeProto] = []
    queue = [node]
    while queue:
        other = copy.deepcopy(queue.pop())
        before = [makers[name] for name in other.input if name in makers and makers[name].op_type in PAIR]
        for names in (other.input, other.output):
            for index, name in enumerate(names):
                if name in other.output or (name in makers and makers[name].op_type in PAIR):
                    names[index] = f"{name}{_ROUNDED}/{node.name}"
        other.name += f"{_ROUNDED}/{node.name}"
        found.insert(0, other)
        queue += before
    return found


def _compared(graph: onnx.GraphProto, rounded: onnx.NodeProto, layer: str, channels: int) -> Iterator[onnx.NodeProto]:
    """Nodes that compare a layer in int8 with that in fp32; the mean by channel (N, channels, 1...) is an output."""
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
