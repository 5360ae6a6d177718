"""The values inside a bundle's graphs on real patches: how large they become, and how often.

Patches are run one at a time, and only maxima and integer counts are kept of them. So results depend neither on batches
nor on their order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Context
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.errors import BundleError
from fctl.runtime.segment.batches import PatchBatch, on_host

from .network import GraphNetwork, Runs
from .onnx_session import InferenceSession, load_session
from .ranges import BINS, Histogram, count, finite

Arrays = dict[str, NDArray[np.generic]]
"""Arrays by name."""

Peaks = dict[str, float]
"""The largest absolute value, by tensor."""

Shape = tuple[int, ...]

_PEAK, _SAMPLE = "/peak", "/sample"  # what names of added outputs end with
_SAMPLED = 2**20  # elements of a tensor, at most, that are counted of a patch


def peaks(bundle: Bundle, batches: Iterable[PatchBatch], *, inputs: bool = False) -> dict[str, Peaks]:
    """Find the largest values of all fp32 tensors that a bundle's fp32 graphs compute.

    Args:
        bundle: The bundle.
        batches: Batches of one real patch.
        inputs: Whether fp32 inputs of the graphs, such as features, are looked at too.

    Returns:
        max |value| by role and tensor; NaN where a value is not finite.
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
    """Count the values of some tensors of a bundle's fp32 graphs.

    Of a tensor of more than 2^20 elements a sample of at most as many is counted, at the same places in each patch.

    Args:
        bundle: The bundle.
        batches: Batches of one patch, those that `peaks` was given.
        peaks: What `peaks` found.
        tensors: Names of the tensors by role; inputs of graphs may be among them.

    Returns:
        A histogram by role and tensor.

    Raises:
        BundleError: A peak is not finite, or the size of a tensor is not known.
    """
    graphs = {
        role: _Counted(path, {name: peaks[role][name] for name in tensors.get(role, ())})
        for role, path in _paths(bundle).items()
    }
    feed(bundle, batches, graphs)
    return {role: graph.histograms() for role, graph in graphs.items()}


def _paths(bundle: Bundle) -> dict[str, Path]:
    """The fp32 graphs, by role."""
    return {graph.role: bundle.folder / graph.file for graph in bundle.manifest.graphs if graph.precision == "fp32"}


def feed(bundle: Bundle, batches: Iterable[PatchBatch], graphs: Mapping[str, Runs]) -> None:
    """Run a bundle's graphs on one patch after the other.

    Args:
        bundle: The bundle.
        batches: Batches of one patch.
        graphs: What runs in place of the bundle's graphs, by role.
    """
    network = GraphNetwork(bundle.manifest, graphs)
    for batch in batches:
        network.run(network.filled(batch))
        for context in bundle.manifest.contexts:
            if context.sharing and context.sharing.encoder in graphs and context.sharing.encoder != context.encoder:
                graphs[context.sharing.encoder].run({"window": mirrored(batch, context)})


def mirrored(batch: PatchBatch, context: Context) -> NDArray[np.generic]:
    """A window as a context is encoded in once a raster: a patch's own, mirrored until it is as large.

    Args:
        batch: A batch of one patch, with its contexts.
        context: The context.

    Returns:
        Raw pixels (1, bands, S, S).
    """
    assert context.sharing is not None
    own = on_host(batch.contexts[context.name])[:1]
    more = context.sharing.size - own.shape[-1]
    return np.pad(own, ((0, 0), (0, 0), (0, more), (0, more)), mode="symmetric")


class _Watched:
    """A graph that also finds the largest value of every fp32 tensor in it.

    Attributes:
        peaks: The largest values so far, by tensor.
    """

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

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run the graph: outputs by name."""
        outputs, found = run_watched(self._session, inputs, _PEAK)
        for name, peak in found.items():
            self.peaks[name] = float(np.maximum(self.peaks.get(name, 0.0), peak))  # keeps NaN
        return outputs


class _Counted:
    """A graph that also counts the values of some tensors, whose largest values are known.

    ONNX has no histogram, and what could stand for one (indices, then ScatterElements) needs several times the memory
    of a tensor. So the values themselves become outputs, of large tensors a sample: tensors of VGG16 at 508 pixels have
    up to 128 MB.
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

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run the graph: outputs by name."""
        outputs, found = run_watched(self._session, inputs, _SAMPLE)
        for name, values in found.items():
            self._counts[name] += count(values, self._peaks[name])
        return outputs

    def histograms(self) -> dict[str, Histogram]:
        """The histograms over all patches that were run, by tensor."""
        return {name: Histogram(counts=counts, peak=self._peaks[name]) for name, counts in self._counts.items()}


def run_watched(
    session: InferenceSession, inputs: Mapping[str, NDArray[np.generic]], suffix: str
) -> tuple[Arrays, Arrays]:
    """Run a graph that has outputs for watching.

    Args:
        session: The graph.
        inputs: Its inputs by name.
        suffix: What the names of those outputs end with.

    Returns:
        The graph's own outputs by name, and those for watching by their names without the suffix.
    """
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    found = {name.removesuffix(suffix): outputs.pop(name) for name in names if name.endswith(suffix)}
    return outputs, found


def _watch(graph: onnx.GraphProto, name: str) -> None:
    """Add max |x| + sum 0x as an output; the sum is NaN where a value is not finite, which the maximum may overlook."""
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
    """Add every `step`-th value of a tensor as an output."""
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
    """The step between elements of a sample; it has no divisor in common with the size, so that no row is left out."""
    step = max(1, -(-size // _SAMPLED))
    while math.gcd(step, size) > 1:
        step += 1
    return step


def _names(graph: onnx.GraphProto) -> list[str]:
    """The names of a graph's inputs and of all that its nodes compute, in order.

    Nodes for watching must be appended in reverse order: only then does ONNX Runtime run them early, and release large
    tensors.
    """
    return [*(value.name for value in graph.input), *(name for node in graph.node for name in node.output if name)]


def shapes_of(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, Shape]:
    """Infer the shapes of some tensors.

    Args:
        model: The graph.
        names: The names of the tensors.

    Returns:
        Shapes by name, with 1 for a symbolic batch.

    Raises:
        BundleError: A shape is not known.
    """
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
            found = "none: export the network with fixed sizes"
            raise BundleError(expected=f"a tensor {name!r} of known shape", found=found)
    return {name: known[name] for name in names}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element types of all tensors by name, as ONNX numbers them; shapes must have been inferred."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values if value.type.tensor_type.elem_type}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}
