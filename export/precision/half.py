"""fp32 graphs as fp16 graphs, but for what fp16 cannot hold. Needs no torch.

ONNX Runtime's converter does the conversion. It is told which nodes stay in fp32 (`EXCEPTIONS`), and is cleaned up
after: between two nodes that stay it rounds to fp16 and back, which is just where large values would overflow.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import ALWAYS_FLOAT_INPUTS, convert_float_to_float16

from fctl.calib.plain import cast_target, drop_unread, plain
from fctl.calib.watch import types_of

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
LARGEST = 65504.0  # of fp16
_LOSS = 1e-3  # relative; rounding to fp16 costs 5e-4 at most, unless values lie below its normal range

_CONVERTED = "_cast_to_fp16"  # what the converter appends to the names of fp32 tensors that it casts
_HEADROOM = 16  # between the largest value seen on real patches and fp16's largest

# Selections of their input's values, and pools, which never leave its range.
_MOVES = frozenset((
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
))  # fmt: skip
_POOLS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"))
_LINEAR = frozenset(("Conv", "Gemm", "MatMul"))
_POINTWISE = frozenset(("Add", "Div", "Mul", "Sub", "Sum", "Where"))
# Squares, exponentials and long sums leave fp16's range where what is made of them does not: a LayerNorm that was
# exported in parts squares values that may be above 255.
_WIDE = frozenset((
    "CumSum", "Exp", "GlobalLpPool", "GroupNormalization", "InstanceNormalization", "LpNormalization", "LRN",
    "MeanVarianceNormalization", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softplus", "Sqrt",
))  # fmt: skip

_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "int16": (-32768.0, 32767.0)}

Array = NDArray[Any]
Finder = Callable[["View"], Iterable[str]]


@dataclass(frozen=True)
class View:
    """A graph, looked at: nodes in order, who makes and who reads a tensor, constants, and raw inputs.

    raw: dtypes of the inputs with raw pixels. positions: inputs that say where patches lie. scores: outputs that are no
    features. peaks: max |value| of tensors on real patches.
    """

    nodes: Sequence[onnx.NodeProto]
    made_by: Mapping[str, onnx.NodeProto]
    read_by: Mapping[str, Sequence[onnx.NodeProto]]
    constants: Mapping[str, Array]
    raw: Mapping[str, str]
    positions: frozenset[str]
    scores: frozenset[str]
    peaks: Mapping[str, float]

    def variables(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of a node that are no constants."""
        return [name for name in node.input if name and name not in self.constants]

    def weights(self, node: onnx.NodeProto) -> list[Array]:
        """Inputs of a node that are floating-point constants."""
        return [self.constants[n] for n in node.input if n in self.constants and self.constants[n].dtype.kind == "f"]


@dataclass(frozen=True, kw_only=True)
class Half:
    """An fp16 graph, and by exception the nodes that stayed in fp32."""

    model: onnx.ModelProto
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def to_half(
    model: onnx.ModelProto, origin: str, peaks: Mapping[str, float], exceptions: Sequence[str] | None = None
) -> Half:
    """An fp16 copy of an fp32 graph, with all `EXCEPTIONS` or only those named.

    ``features`` become float16, at either end; raw pixels, positions and scores stay as they are. peaks: max |value| of
    tensors on real patches. Raises BundleError for a graph in which fp16 cannot be told from fp32.
    """
    model = plain(model, origin, "fp16")
    view = _view(model, peaks)
    chosen = EXCEPTIONS if exceptions is None else {name: EXCEPTIONS[name] for name in exceptions}
    kept = {name: tuple(dict.fromkeys(find(view))) for name, find in chosen.items()}
    blocked = {name for names in kept.values() for name in names} | set(_incapable(model))
    _round_constants(model, blocked)
    stay = [value.name for value in (*model.graph.input, *model.graph.output) if not _is_features(value.name)]
    model = convert_float_to_float16(
        model, keep_io_types=stay, disable_shape_infer=True, op_block_list=["Cast"], node_block_list=sorted(blocked)
    )
    _tidy(model)
    return Half(model=model, kept={name: names for name, names in kept.items() if names})


def _is_features(name: str) -> bool:
    return name == "features" or name.startswith("features_")


# What stays in fp32, and why; found by measuring (docs/precision.md has the figures).


def _raw_pixels(view: View) -> Iterator[str]:
    """Scaling of raw pixels: uint16 exceeds fp16, and integers above 2048 would be rounded before it.

    Where scaled pixels may still exceed fp16, so does the first layer that takes them.
    """
    ranges = {name: _RANGES.get(dtype, (-math.inf, math.inf)) for name, dtype in view.raw.items()}
    for node in view.nodes:
        inputs = view.variables(node)
        if not inputs or any(name not in ranges for name in inputs):
            continue
        low, high = min(ranges[n][0] for n in inputs), max(ranges[n][1] for n in inputs)
        if node.op_type in _POINTWISE and len(inputs) == 1 and (found := _pointwise_range(view, node, low, high)):
            low, high = found
        elif node.op_type not in _MOVES | _POOLS | {"Cast"}:
            if max(-low, high) > LARGEST:
                yield node.name
            continue
        yield node.name
        ranges |= dict.fromkeys(node.output, (low, high))


def _pointwise_range(view: View, node: onnx.NodeProto, low: float, high: float) -> tuple[float, float] | None:
    """Range of (x op constant) for x in a range."""
    weights = view.weights(node)
    functions = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
    if node.op_type not in functions or len(weights) != 1:
        return None
    constant = weights[0].astype(np.float64)
    swapped = node.input[0] in view.constants
    if node.op_type == "Div" and (swapped or not constant.all()):
        return None
    function = functions[node.op_type]
    with np.errstate(invalid="ignore"):
        ends = [function(constant, end) if swapped else function(end, constant) for end in (low, high)]
    found = float(np.min(ends)), float(np.max(ends))
    return (-math.inf, math.inf) if any(map(math.isnan, found)) else found


def _positions(view: View) -> Iterator[str]:
    """What is computed from positions alone: squared offsets of a hundred cells would be off by whole cells."""
    found = set(view.positions)
    for node in view.nodes:
        inputs = view.variables(node)
        if inputs and found.issuperset(inputs):
            found.update(node.output)
            yield node.name


def _softmax(view: View) -> Iterator[str]:
    """Softmax: its exponentials span more than fp16, and shares of many cells lie in its subnormals."""
    return (node.name for node in view.nodes if node.op_type in ("Softmax", "LogSoftmax"))


def _unscaled_attention(view: View) -> Iterator[str]:
    """Products that go into a softmax without a scale, as in the paper's LCF, from the projections on.

    They grow with the number of channels, beyond fp16 or at least to where its steps are whole units of the exponent.
    Scaled products, as in SegFormer, stay in fp16: only so are they fused into one attention kernel.
    """
    for node in view.nodes:
        if node.op_type not in ("Softmax", "LogSoftmax"):
            continue
        between = list(_upstream(view, node))
        products = [other for other in between if other.op_type == "MatMul" and len(view.variables(other)) == 2]
        if products and not any(_shrinks(view, other) for other in between):
            yield from (other.name for other in between)


def _upstream(view: View, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Nodes from one back to the layers with weights that feed it."""
    queue, seen = list(view.variables(node)), set[str]()
    while queue:
        made = view.made_by.get(queue.pop())
        if made is None or made.name in seen or (made.op_type in _LINEAR and view.weights(made)):
            continue
        if made.op_type not in _MOVES | _POINTWISE | {"MatMul", "ReduceMean", "Cast"}:
            continue
        seen.add(made.name)
        yield made
        queue += view.variables(made)


def _shrinks(view: View, node: onnx.NodeProto) -> bool:
    """Whether it scales by a number below one."""
    weights = view.weights(node)
    if node.op_type not in ("Mul", "Div") or len(weights) != 1 or weights[0].size != 1:
        return False
    factor = abs(float(weights[0].reshape(())))
    return 0 < factor < 1 if node.op_type == "Mul" else factor > 1


def _wide(view: View) -> Iterator[str]:
    """Operators whose results, or what they add up, leave fp16's range before their users' results do."""
    for node in view.nodes:
        squares = node.op_type == "Mul" and len(node.input) == 2 and node.input[0] == node.input[1]
        if node.op_type in _WIDE or squares:
            yield node.name


def _scores(view: View) -> Iterator[str]:
    """From the last layers to the scores: these are fp32 anyway, and fp16 would round close classes to a tie."""
    queue = list(view.scores)
    while queue:
        node = view.made_by.get(queue.pop())
        if node is None or node.op_type in _LINEAR:
            continue
        if node.op_type in _MOVES | _POINTWISE | {"Cast", "ConvTranspose", "Resize", "Sigmoid", "Softmax", "Upsample"}:
            yield node.name
            queue += view.variables(node)


def _large_values(view: View) -> Iterator[str]:
    """What took or gave values near fp16's largest on real patches, as products of products do in ALE."""
    limit = LARGEST / _HEADROOM
    for node in view.nodes:
        if any(not view.peaks.get(name, 0.0) <= limit for name in (*view.variables(node), *node.output)):
            yield node.name


def _constants(view: View) -> Iterator[str]:
    """Nodes with constants beyond fp16, or so small that it loses their digits (1e-3 of them, by norm).

    A layer's bias may be small: what fp16 loses of it is as small beside the products that it is added to.
    """
    for node in view.nodes:
        fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
        for index, name in enumerate(node.input):
            bias = index == 2 and node.op_type in ("Conv", "ConvTranspose", "Gemm")
            if name in view.constants and index not in fixed and _is_lost(view.constants[name], small=not bias):
                yield node.name


def _is_lost(values: Array, small: bool) -> bool:
    """Whether fp16 does not hold constants for being large, or small too."""
    if values.dtype != np.float32 or not values.size:
        return False
    finite = values[np.isfinite(values)].astype(np.float64)
    with np.errstate(over="ignore"):
        half = finite.astype(np.float16)
    error = float(np.linalg.norm(finite - half)) if small else 0.0
    return not np.isfinite(half).all() or error > _LOSS * float(np.linalg.norm(finite))


EXCEPTIONS: Mapping[str, Finder] = {
    "raw pixels": _raw_pixels,
    "positions": _positions,
    "softmax": _softmax,
    "unscaled attention": _unscaled_attention,
    "wide operators": _wide,
    "scores": _scores,
    "large values": _large_values,
    "constants": _constants,
}


# Before the conversion.


def _view(model: onnx.ModelProto, peaks: Mapping[str, float]) -> View:
    graph = model.graph
    read_by: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            read_by.setdefault(name, []).append(node)
    types = {v.name: str(onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)) for v in graph.input}
    positions = frozenset(name for name in types if name.startswith("positions_"))
    return View(
        nodes=list(graph.node),
        made_by={name: node for node in graph.node for name in node.output},
        read_by=read_by,
        constants={tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer},
        raw={name: kind for name, kind in types.items() if name not in positions and not _is_features(name)},
        positions=positions,
        scores=frozenset(value.name for value in graph.output if not _is_features(value.name)),
        peaks=peaks,
    )


def _incapable(model: onnx.ModelProto) -> Iterator[str]:
    """Nodes that take no fp16 where they are given fp32, by ONNX's own schemas."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    types = types_of(model)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield node.name
            continue
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        formal = [*schema.inputs, *[schema.inputs[-1]] * len(node.input)] if schema.inputs else []
        fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
        for index, (name, parameter) in enumerate(zip(node.input, formal, strict=False)):
            takes = allowed.get(parameter.type_str, [parameter.type_str])
            if types.get(name) == FLOAT and "tensor(float16)" not in takes and index not in fixed:
                yield node.name
                break


def _round_constants(model: onnx.ModelProto, blocked: set[str]) -> None:
    """Give fp32 nodes constants of their own, and round the others to what fp16 holds.

    The converter would share rounded ones, clip large values, and raise tiny ones to the smallest that fp16 has.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
    stays: set[str] = set()
    halves: set[str] = set()
    for node in graph.node:
        fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
        for index, name in enumerate(node.input):
            if name in stored:
                (stays if node.name in blocked or index in fixed or node.op_type == "Cast" else halves).add(name)
    for name in sorted(stays & halves):
        graph.initializer.add().CopyFrom(stored[name])
        graph.initializer[-1].name = f"{name}/fp32"
        for node in graph.node:
            fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
            for index, other in enumerate(node.input):
                if other == name and (node.name in blocked or index in fixed):
                    node.input[index] = f"{name}/fp32"
    for name in halves:
        with np.errstate(over="ignore"):
            rounded = onnx.numpy_helper.to_array(stored[name]).astype(np.float16).astype(np.float32)
        stored[name].CopyFrom(onnx.numpy_helper.from_array(rounded, name))


# After the conversion.


def _tidy(model: onnx.ModelProto) -> None:
    """Take out superfluous casts, and put the others where they belong in the order of nodes."""
    graph = model.graph
    del graph.value_info[:]
    types = types_of(onnx.shape_inference.infer_shapes(_sorted(model)))
    _skip_casts(graph, types)
    _drop_dead_nodes(graph)
    drop_unread(graph)
    _restore_names(graph)


def _skip_casts(graph: onnx.GraphProto, types: Mapping[str, int]) -> None:
    """Read a tensor itself rather than its cast to the type that it had, or to its own."""
    made_by = {name: node for node in graph.node for name in node.output}
    same: dict[str, str] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        if node.op_type != "Cast" or cast_target(node) not in (FLOAT, HALF):
            continue
        source = node.input[0]
        first = made_by.get(source)
        before = first.input[0] if first is not None and first.op_type == "Cast" else source
        for name in (source, before):
            if types.get(name) == cast_target(node) and (name == source or types.get(source) in (FLOAT, HALF)):
                same[node.output[0]] = name
                break
    for value in graph.output:
        if value.name in same:
            _rename(graph, same[value.name], value.name, made_by)


def _rename(graph: onnx.GraphProto, old: str, new: str, made_by: Mapping[str, onnx.NodeProto]) -> None:
    """Let the node that makes a tensor make a graph's output instead of the cast that did."""
    maker, cast = made_by.get(old), made_by[new]
    if maker is None:  # an input of the graph, passed on
        return
    graph.node.remove(cast)
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def _drop_dead_nodes(graph: onnx.GraphProto) -> None:
    read = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if read.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            read.update(node.input)


def _restore_names(graph: onnx.GraphProto) -> None:
    """Give tensors their own names back where the casts that the converter named them for are gone."""
    taken = {name for node in graph.node for name in node.output}
    old = {name: name.removesuffix(_CONVERTED) for name in taken if name.endswith(_CONVERTED)}
    back = {name: own for name, own in old.items() if own not in taken}
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = back.get(name, name)


def _sorted(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, with each node after those that it reads from, otherwise in their order."""
    graph = model.graph
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output}
    nodes, order, done = list(graph.node), list[int](), set[int]()
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            index = stack[-1]
            waiting = [made_by[n] for n in nodes[index].input if n in made_by and made_by[n] not in done]
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
    return model
