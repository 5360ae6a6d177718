"""How large the values inside a bundle's graphs become on real patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

from fctl.runtime.bundle import SEGMENTER, Bundle
from fctl.runtime.pipeline import Batch

from .onnx_session import load_session

Arrays = dict[str, NDArray[Any]]
Peaks = dict[str, float]

_PEAK = "/peak"


def peaks(bundle: Bundle, batches: Sequence[Batch]) -> dict[str, Peaks]:
    """By role and tensor, max |value| of all that a bundle's fp32 graphs compute; NaN for what is not finite.

    batches: real patches, one per batch.
    """
    graphs = {graph.role: graph.file for graph in bundle.manifest.graphs if graph.precision == "fp32"}
    watched = {role: _Watched(bundle.folder / file) for role, file in graphs.items()}
    for batch in batches:
        inputs: Arrays = {"patch": np.repeat(batch.patch, bundle.manifest.fixed_batch or 1, axis=0)}
        for context in bundle.manifest.contexts:
            window = batch.contexts[context.name]
            encoder = watched[context.encoder] if context.encoder else None
            inputs[context.input] = encoder.run({"window": window})["features"] if encoder else window
            if context.cells:
                inputs[context.positions] = batch.positions[context.name]
        watched[SEGMENTER].run(inputs)
    return {role: graph.peaks for role, graph in watched.items()}


class _Watched:
    """A graph that also tells the peak of every fp32 tensor in it."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        graph = model.graph
        types = types_of(onnx.shape_inference.infer_shapes(model))
        made = [name for node in graph.node for name in node.output if types.get(name) == onnx.TensorProto.FLOAT]
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), np.float32), "peak/zero"))
        for name in made:
            _watch(graph, name)
        self._session = load_session(model)
        self.peaks: Peaks = {}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name."""
        names = [value.name for value in self._session.get_outputs()]
        outputs = dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        for name in names:
            if name.endswith(_PEAK):
                tensor = name.removesuffix(_PEAK)
                self.peaks[tensor] = float(np.maximum(self.peaks.get(tensor, 0.0), outputs.pop(name)))  # keeps NaN
        return outputs


def _watch(graph: onnx.GraphProto, name: str) -> None:
    """max |x| + sum 0x: the second is NaN where a value is not finite; the maximum may overlook NaN."""
    peak = name + _PEAK
    graph.node.extend([
        onnx.helper.make_node("Abs", [name], [f"{peak}/abs"]),
        onnx.helper.make_node("ReduceMax", [f"{peak}/abs"], [f"{peak}/max"], keepdims=0),
        onnx.helper.make_node("Mul", [name, "peak/zero"], [f"{peak}/zeros"]),
        onnx.helper.make_node("ReduceSum", [f"{peak}/zeros"], [f"{peak}/sum"], keepdims=0),
        onnx.helper.make_node("Add", [f"{peak}/max", f"{peak}/sum"], [peak]),
    ])  # fmt: skip
    graph.output.append(onnx.helper.make_tensor_value_info(peak, onnx.TensorProto.FLOAT, []))


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors, by name; values must have been inferred."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}
