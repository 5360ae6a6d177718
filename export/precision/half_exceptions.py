"""The nodes of an fp16 graph that stay in fp32, and why; found by measuring (docs/precision.md has the figures).

Exceptions that make no difference on these networks are kept because other networks exceed fp16's range there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import onnx
from onnxruntime.transformers.float16 import ALWAYS_FLOAT_INPUTS

from .half_view import Array, View

LARGEST = 65504.0  # of fp16
_LOSS = 1e-3  # relative; rounding to fp16 costs 5e-4 at most, unless values lie below its normal range
_HEADROOM = 16  # between the largest value seen on real patches and fp16's largest

# Selections of their input's values, and pools, which never leave its range.
_MOVES = frozenset((
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
))  # fmt: skip
_POOLS = frozenset(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"))
_LINEAR = frozenset(("Conv", "Gemm", "MatMul"))
_POINTWISE = frozenset(("Add", "Div", "Mul", "Sub", "Sum", "Where"))
# Squares, exponentials and long sums leave fp16's range although what is computed from them does not: a LayerNorm that
# was exported in parts squares values that may be above 255.
_WIDE = frozenset((
    "CumSum", "Exp", "GlobalLpPool", "GroupNormalization", "InstanceNormalization", "LpNormalization", "LRN",
    "MeanVarianceNormalization", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMean", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Softplus", "Sqrt",
))  # fmt: skip

_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "int16": (-32768.0, 32767.0)}

Finder = Callable[[View], Iterable[str]]


def _raw_pixels(view: View) -> Iterator[str]:
    """Scaling of raw pixels: uint16 exceeds fp16, and fp16 would round integers above 2048 before they are scaled.

    Where scaled pixels may still exceed fp16, the first layer that takes them stays in fp32 too.
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
    """The range of (x op constant) for x in a range; None where it is unknown."""
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
    """Nodes computed from positions alone: fp16 would round squared offsets of a hundred cells by several cells."""
    found = set(view.positions)
    for node in view.nodes:
        inputs = view.variables(node)
        if inputs and found.issuperset(inputs):
            found.update(node.output)
            yield node.name


def _softmax(view: View) -> Iterator[str]:
    """Softmax: its exponentials span more than fp16, and weights spread over many cells lie in fp16's subnormals.

    A softmax may be spelled out: exp(x - max x), divided by its sum.
    """
    for node in view.nodes:
        if node.op_type in ("Softmax", "LogSoftmax"):
            yield node.name
        elif node.op_type == "Div":
            yield from _spelled_out(view, node)


def _spelled_out(view: View, div: onnx.NodeProto) -> Iterator[str]:
    """The nodes of a softmax that ends with this Div; none where it is no softmax."""
    exp, total = (view.made_by.get(name) for name in div.input)
    below = view.made_by.get(exp.input[0]) if exp is not None else None
    highest = view.made_by.get(below.input[1]) if below is not None and below.op_type == "Sub" else None
    nodes = (highest, below, exp, total, div)
    if [node and node.op_type for node in nodes] == ["ReduceMax", "Sub", "Exp", "ReduceSum", "Div"]:
        yield from (node.name for node in nodes if node is not None)


def _unscaled_attention(view: View) -> Iterator[str]:
    """Products that go into a softmax without a scale, as in the paper's LCF, from the projections on.

    They grow with the number of channels: beyond fp16, or to where its steps are as large as one unit of the exponent.
    Scaled products, as in SegFormer, become fp16: only then do engines fuse them into one attention kernel.
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
    """Whether a node scales by a number below one."""
    weights = view.weights(node)
    if node.op_type not in ("Mul", "Div") or len(weights) != 1 or weights[0].size != 1:
        return False
    factor = abs(float(weights[0].astype(np.float64).reshape(())))
    return 0 < factor < 1 if node.op_type == "Mul" else factor > 1


def _wide(view: View) -> Iterator[str]:
    """Operators whose results, or the sums inside them, leave fp16's range although later results do not."""
    for node in view.nodes:
        squares = node.op_type == "Mul" and len(node.input) == 2 and node.input[0] == node.input[1]
        if node.op_type in _WIDE or squares:
            yield node.name


def _scores(view: View) -> Iterator[str]:
    """Nodes from the last layers to the scores: scores are fp32 anyway, and fp16 would round close classes to a tie."""
    queue = list(view.scores)
    while queue:
        node = view.made_by.get(queue.pop())
        if node is None or node.op_type in _LINEAR:
            continue
        if node.op_type in _MOVES | _POINTWISE | {"Cast", "ConvTranspose", "Resize", "Sigmoid", "Softmax", "Upsample"}:
            yield node.name
            queue += view.variables(node)


def _large_values(view: View) -> Iterator[str]:
    """Nodes that took or gave values near fp16's largest on real patches, as products of products do in ALE."""
    limit = LARGEST / _HEADROOM
    for node in view.nodes:
        if any(not view.peaks.get(name, 0.0) <= limit for name in (*view.variables(node), *node.output)):
            yield node.name


def _constants(view: View) -> Iterator[str]:
    """Nodes with constants beyond fp16, or so small that fp16 loses their digits (1e-3 of them, by norm).

    A layer's bias may be small: what fp16 loses of it is as small beside the products that it is added to.
    """
    for node in view.nodes:
        fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
        for index, name in enumerate(node.input):
            bias = index == 2 and node.op_type in ("Conv", "ConvTranspose", "Gemm")
            if name in view.constants and index not in fixed and _is_lost(view.constants[name], small=not bias):
                yield node.name


def _is_lost(values: Array, small: bool) -> bool:
    """Whether constants are too large for fp16, or where `small` is true also too small."""
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
