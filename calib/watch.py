"""How large the values inside a bundle's graphs become on real patches, and how often.

One patch is run at a time, and what is kept of it are maxima and integer counts: results depend neither on batches nor
on their order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import SEGMENTER, Manifest
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.errors import BundleError
from fctl.runtime.segment.batches import PatchBatch

from .onnx_session import InferenceSession, load_session
from .ranges import BINS, Histogram, count, finite

Arrays = dict[str, NDArray[Any]]
Peaks = dict[str, float]
Shape = tuple[int, ...]

_PEAK, _SAMPLE = "/peak", "/sample"
_SAMPLED = 2**20  # elements of a tensor that are given out per patch


def peaks(bundle: Bundle, batches: Iterable[PatchBatch], *, inputs: bool = False) -> dict[str, Peaks]:
    """By role and tensor, max |value| of all that a bundle's fp32 graphs compute; NaN for what is not finite.

    batches: real patches, one per batch. inputs: also of what fp32 graphs are given as fp32, such as features.
    """
    graphs = {role: _Watched(path, inputs) for role, path in _paths(bundle).items()}
    feed(bundle, batches, graphs)
    return {role: graph.peaks for role, graph in graphs.items()}


def histograms(
    bundle: Bundle,
    batches: Iterable[PatchBatch],
    peaks: Mapping[str, Mapping[str, float]],
    tensors: Mapping[str, Collection[str]],
) -> dict[str, dict[str, Histogram]]:
    """By role and tensor, the values of chosen tensors of a bundle's fp32 graphs, inputs of graphs among them.

    batches: those that `peaks` was told of. Of a tensor of more than 2^20 elements a sample of at most as many is
    counted, the same places in each patch. Raises BundleError for a peak that is not finite, or a tensor whose size
    cannot be told.
    """
    graphs = {
        role: _Counted(path, {name: peaks[role][name] for name in tensors.get(role, ())})
        for role, path in _paths(bundle).items()
    }
    feed(bundle, batches, graphs)
    return {role: graph.histograms() for role, graph in graphs.items()}


class Runs(Protocol):
    """A graph that can be run."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name."""


def _paths(bundle: Bundle) -> dict[str, Path]:
    """The fp32 graphs, by role."""
    return {graph.role: bundle.folder / graph.file for graph in bundle.manifest.graphs if graph.precision == "fp32"}


def feed(bundle: Bundle, batches: Iterable[PatchBatch], graphs: Mapping[str, Runs]) -> None:
    """Run the graphs, by role, on one patch after the other."""
    manifest = bundle.manifest
    for batch in batches:
        features: Arrays = {}
        for context in manifest.contexts:
            window = batch.contexts[context.name]
            encoder = graphs[context.encoder] if context.encoder else None
            features[context.name] = encoder.run({"window": window})["features"] if encoder else window
        graphs[SEGMENTER].run(segmenter_inputs(manifest, filled(batch, manifest.fixed_batch), features))


def segmenter_inputs(manifest: Manifest, batch: PatchBatch, features: Mapping[str, NDArray[Any]]) -> Arrays:
    """What the segmenter's graph takes, by name. features: by context, or the raw windows of a fused graph."""
    inputs: Arrays = {"patch": batch.patch}
    for context in manifest.contexts:
        inputs[context.input] = features[context.name]
        if context.cells:
            inputs[context.positions] = batch.positions[context.name]
    return inputs


def filled(batch: PatchBatch, fixed: int | None) -> PatchBatch:
    """The patch as often as a bundle whose batch is fixed asks for it."""
    if not fixed:
        return batch
    return replace(batch, patch=np.repeat(batch.patch, fixed, axis=0))


class _Watched:
    """A graph that also tells the peak of every fp32 tensor in it."""

    def __init__(self, path: Path, inputs: bool) -> None:
        model = onnx.load(path)
        graph = model.graph
        types = types_of(onnx.shape_inference.infer_shapes(model))
        given = {value.name for value in graph.input}
        graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), np.float32), "peak/zero"))
        for name in reversed(_names(graph)):
            if types.get(name) == onnx.TensorProto.FLOAT and (inputs or name not in given):
                _watch(graph, name)
        self._session = load_session(model)
        self.peaks: Peaks = {}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name."""
        outputs, found = run_watched(self._session, inputs, _PEAK)
        for name, peak in found.items():
            self.peaks[name] = float(np.maximum(self.peaks.get(name, 0.0), peak))  # keeps NaN
        return outputs


class _Counted:
    """A graph that also counts the values of some tensors, whose peaks are given.

    ONNX has no histogram, and what could stand for one (indices, then ScatterElements) needs several times the memory
    of a tensor. So values are given out, of large tensors a sample: those of VGG16 at 508 pixels have up to 128 MB.
    """

    def __init__(self, path: Path, peaks: Mapping[str, float]) -> None:
        model = onnx.load(path)
        graph = model.graph
        self._peaks = {name: finite(peak, f"{path}: {name}") for name, peak in peaks.items()}
        self._counts = {name: np.zeros(BINS, np.int64) for name in peaks}
        shapes = shapes_of(model, peaks)
        for name in reversed(_names(graph)):
            if name in peaks:
                _sample(graph, name, _step(math.prod(shapes[name])))
        self._session = load_session(model)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name."""
        outputs, found = run_watched(self._session, inputs, _SAMPLE)
        for name, values in found.items():
            self._counts[name] += count(values, self._peaks[name])
        return outputs

    def histograms(self) -> dict[str, Histogram]:
        """Of all patches that were run."""
        return {name: Histogram(counts=counts, peak=self._peaks[name]) for name, counts in self._counts.items()}


def run_watched(session: InferenceSession, inputs: Mapping[str, NDArray[Any]], suffix: str) -> tuple[Arrays, Arrays]:
    """Outputs of a graph by name; and those whose names end so, by what comes before."""
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    found = {name.removesuffix(suffix): outputs.pop(name) for name in names if name.endswith(suffix)}
    return outputs, found


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


def _sample(graph: onnx.GraphProto, name: str, step: int) -> None:
    """Every `step`-th value of a tensor, as an output."""
    sample = name + _SAMPLE
    constants = {"shape": -1, "start": 0, "end": np.iinfo(np.int64).max, "step": step}
    for key, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([value], np.int64), f"{sample}/{key}"))
    ends = [f"{sample}/{key}" for key in ("start", "end", "start", "step")]  # a start of 0 is axis 0 too
    graph.node.extend([
        onnx.helper.make_node("Reshape", [name, f"{sample}/shape"], [f"{sample}/flat"]),
        onnx.helper.make_node("Slice", [f"{sample}/flat", *ends], [sample]),
    ])  # fmt: skip
    graph.output.append(onnx.helper.make_tensor_value_info(sample, onnx.TensorProto.FLOAT, None))


def _step(size: int) -> int:
    """Between elements of a sample: it shares no divisor with the size, so all rows, columns and channels are met."""
    step = max(1, -(-size // _SAMPLED))
    while math.gcd(step, size) > 1:
        step += 1
    return step


def _names(graph: onnx.GraphProto) -> list[str]:
    """Of what a graph is given and makes, in order.

    What is to watch them is appended last first: only then does ONNX Runtime run it early, and let go of large tensors.
    """
    return [*(value.name for value in graph.input), *(name for node in graph.node for name in node.output if name)]


def shapes_of(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, Shape]:
    """Shapes of some tensors, by name, with a symbolic batch as 1. Raises BundleError where one cannot be told."""
    model = copy.deepcopy(model)
    graph = model.graph
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for side in value.type.tensor_type.shape.dim[:1]:
            side.dim_value = side.dim_value or 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(side.HasField("dim_value") for side in kind.shape.dim):
            known[value.name] = tuple(side.dim_value for side in kind.shape.dim)
    for name in names:
        if name not in known:
            raise BundleError(
                f"expected a tensor {name!r} of known shape, found none: export the network with fixed sizes"
            )
    return {name: known[name] for name in names}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors, by name; values must have been inferred."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}
