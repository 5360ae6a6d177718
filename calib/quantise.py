"""fp32 graphs with Q/DQ: int8 where TensorRT, OpenVINO and ONNX Runtime all have it. Needs no torch.

What is int8 is what goes *into* a convolution or linear layer: its activation, per tensor, and its weight, per output
channel, both symmetric with a zero point of 0. What comes out, biases, residual sums, activation functions,
normalisations, softmaxes and the products of attention stay float; engines merge a ReLU or Clip, and the next layer's
Q, into the layer before by themselves. Constants other than weights are never quantised, and biases never int32:
TensorRT refuses either. A wrong axis or one scale per channel of an activation it takes without a word, hence
`check_quantised`.

The pairs are put in here rather than by ONNX Runtime's quantizer: that lets all readers of a tensor read the rounded
one, residual sums too, and quantises a weight for layers that were not chosen where these share it.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from numpy.typing import NDArray

from fctl.runtime.errors import BundleError

from .plain import FLOAT, drop_unread
from .ranges import LARGEST
from .watch import types_of

_LAYERS = ("Conv", "Gemm", "MatMul")
_PRODUCTS = frozenset((*_LAYERS, "ConvTranspose"))
PAIR = ("QuantizeLinear", "DequantizeLinear")
_OPSET = 13  # the first with one scale per channel
_RANK = {"Conv": 4, "Gemm": 2, "MatMul": 2}  # of weights that become int8
_TINY = float(np.finfo(np.float32).tiny)  # engines may take what is smaller for 0
_ON_TO_SCORES = frozenset((
    "Add", "Cast", "Concat", "ConvTranspose", "Identity", "Reshape", "Resize", "Slice", "Sum", "Transpose",
))  # fmt: skip
_REMEDY = "make the int8 graphs again"

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A convolution or linear layer that may be int8.

    name: its node's. op: Conv, Gemm or MatMul. input: its activation. weight: its initialiser. axis: of the
    weight's output channels.
    """

    name: str
    op: str
    input: str
    weight: str
    axis: int


def layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """What may be int8 in a graph made `plain`, in the order of its nodes. Raises BundleError for a graph with Q/DQ."""
    view = _view(model)
    return tuple(
        Layer(name=node.name, op=node.op_type, input=node.input[0], weight=node.input[1], axis=_axis(node))
        for node in view.nodes
        if node.op_type in _LAYERS and not _reason(view, node)
    )


def float_layers(model: onnx.ModelProto) -> dict[str, str]:
    """The other products of a graph made `plain`, by node, and why each stays float."""
    view = _view(model)
    found = {node.name: _reason(view, node) for node in view.nodes if node.op_type in _PRODUCTS}
    return {name: reason for name, reason in found.items() if reason}


def quantised(
    model: onnx.ModelProto,
    chosen: Collection[str],
    amax: Mapping[str, float],
    biases: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A copy of a graph made `plain`, with Q/DQ on activation and weight of the layers chosen by name.

    amax: max |value| by activation tensor; what lies beyond is clipped. biases: (channels,) float32 by layer, chosen or
    not, added to its bias; a layer without one gets one: a MatMul as the Add after it, which is how linear layers are
    exported. Raises BundleError for a name that is none of `layers`, and for a range that is missing or not finite.
    """
    known = {layer.name: layer for layer in layers(model)}
    for name in (*chosen, *(biases or {})):
        if name not in known:
            raise BundleError(f"expected layers that may be int8, found {name!r}; take them from quantise.layers")
    model = copy.deepcopy(model)
    _insert_pairs(model.graph, [known[name] for name in known if name in chosen], amax)
    for name, bias in (biases or {}).items():
        _add_bias(model.graph, name, bias)
    drop_unread(model.graph)
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


# What may be int8.


@dataclass(frozen=True)
class _View:
    """A graph, looked at.

    fixed: constants, and what is made of them alone. pixels: what no product went into.
    """

    nodes: Sequence[onnx.NodeProto]
    made_by: Mapping[str, onnx.NodeProto]
    read_by: Mapping[str, Sequence[onnx.NodeProto]]
    constants: Mapping[str, onnx.TensorProto]
    fixed: frozenset[str]
    pixels: frozenset[str]
    types: Mapping[str, int]


def _view(model: onnx.ModelProto) -> _View:
    graph = model.graph
    if found := next((node for node in graph.node if node.op_type in PAIR), None):
        raise BundleError(f"expected a graph in fp32, found {found.op_type} ({found.name}); quantise the fp32 graph")
    fixed = {tensor.name for tensor in graph.initializer}
    pixels = {value.name for value in graph.input} | fixed
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if fixed.issuperset(inputs):
            fixed.update(node.output)
        if node.op_type not in _PRODUCTS and pixels.issuperset(inputs):
            pixels.update(node.output)
    return _View(
        nodes=list(graph.node),
        made_by={name: node for node in graph.node for name in node.output},
        read_by=_readers(graph),
        constants={tensor.name: tensor for tensor in graph.initializer},
        fixed=frozenset(fixed),
        pixels=frozenset(pixels),
        types=types_of(model),
    )


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def _reason(view: _View, node: onnx.NodeProto) -> str:
    """Why a product stays float; empty where it may be int8."""
    if node.op_type == "ConvTranspose":
        return "ConvTranspose"
    activation, weight, *bias = node.input
    if activation in view.fixed:
        return "constant on the left"
    if weight not in view.fixed:
        return "product of two activations"
    if weight not in view.constants or any(name and name not in view.constants for name in bias):
        return "computed weight or bias"
    if view.types.get(activation) != FLOAT or view.types[weight] != FLOAT:
        return "not fp32"
    if len(view.constants[weight].dims) != _RANK[node.op_type]:
        return f"weight of {len(view.constants[weight].dims)} axes"
    if node.op_type == "Gemm" and (_get(node, "transA", 0), _get(node, "alpha", 1), _get(node, "beta", 1)) != (0, 1, 1):
        return "Gemm with factors"
    if node.op_type == "MatMul" and (_is_half_of_a_pair(view, node) or _is_shares(view.constants[weight])):
        return "positions or resampling"
    return "scores of a scaled skip" if _is_scaled_skip(view, node) else ""


def _is_half_of_a_pair(view: _View, node: onnx.NodeProto) -> bool:
    """Whether it is the (x C) of a separable R (x C), which mixes places and not channels: ALE's crop, LCF's positions.

    A linear layer's result goes elsewhere: a constant on the left would mix its places alone.
    """
    readers = view.read_by.get(node.output[0], ())
    return bool(readers) and all(r.op_type == "MatMul" and r.input[0] in view.fixed for r in readers)


def _is_shares(weight: onnx.TensorProto) -> bool:
    """Whether a matrix on the right gives weighted means, as interpolation and softmax do, and no linear layer does."""
    values = onnx.numpy_helper.to_array(weight)
    return bool((values >= 0).all() and np.allclose(values.sum(axis=0), 1, rtol=0, atol=1e-4))


def _is_scaled_skip(view: _View, node: onnx.NodeProto) -> bool:
    """Whether it scores features times a number, and its scores are added to others: FCN-8s's skips.

    Pixels are scaled too, before the first layer: these may be int8.
    """
    scale = view.made_by.get(node.input[0])
    if scale is None or scale.op_type not in ("Mul", "Div") or scale.output[0] in view.pixels:
        return False
    numbers = [name for name in scale.input if name in view.constants and np.prod(view.constants[name].dims) == 1]
    if len(numbers) != 1:
        return False
    queue, added = list(view.read_by.get(node.output[0], ())), False
    while queue:
        reader = queue.pop()
        if reader.op_type not in _ON_TO_SCORES:
            return False
        added |= reader.op_type in ("Add", "Sum") and view.fixed.isdisjoint(reader.input)
        queue += view.read_by.get(reader.output[0], ())
    return added


def _axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's output channels in its weight; depthwise convolutions are convolutions."""
    return 0 if node.op_type == "Conv" or (node.op_type == "Gemm" and _get(node, "transB", 0)) else 1


def _get(node: onnx.NodeProto, name: str, default: float) -> Any:
    """A number among a node's attributes."""
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


# Putting Q/DQ in.


def _insert_pairs(graph: onnx.GraphProto, chosen: Sequence[Layer], amax: Mapping[str, float]) -> None:
    """One Q and DQ for each activation and one DQ for each weight, before the first layer that reads them."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    by_name = {layer.name: layer for layer in chosen}
    made: dict[tuple[str, int | None], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if layer := by_name.get(node.name):
            activation, weight = (layer.input, None), (layer.weight, layer.axis)
            if activation not in made:
                nodes += _activation_pair(graph, layer.input, amax)
            made[activation] = f"{layer.input}/int8/float"
            if weight not in made:
                shared = any(name == layer.weight for name, _ in made)  # by layers with channels on different axes
                made[weight] = f"{layer.weight}/int8{f'/{layer.axis}' if shared else ''}"
                nodes.append(_weight_dequantised(graph, stored[layer.weight], layer.axis, made[weight]))
            node.input[0], node.input[1] = made[activation], f"{made[weight]}/float"
        nodes.append(node)
    nodes = [copy.deepcopy(node) for node in nodes]  # what is about to be deleted
    del graph.node[:]
    graph.node.extend(nodes)


def _activation_pair(graph: onnx.GraphProto, name: str, amax: Mapping[str, float]) -> list[onnx.NodeProto]:
    peak = float(amax.get(name, np.nan))
    if not 0 <= peak < np.inf:
        raise BundleError(f"{name}: expected a finite range, found {peak}; calibrate it, or leave its layers float")
    int8 = f"{name}/int8"
    parameters = _store_parameters(graph, int8, np.array(peak, np.float32))
    return [
        onnx.helper.make_node("QuantizeLinear", [name, *parameters], [int8], name=f"{name}/quantise"),
        onnx.helper.make_node("DequantizeLinear", [int8, *parameters], [f"{int8}/float"], name=f"{name}/dequantise"),
    ]


def _weight_dequantised(graph: onnx.GraphProto, weight: onnx.TensorProto, axis: int, int8: str) -> onnx.NodeProto:
    """Stores a weight as int8; what gives it back as float."""
    values = onnx.numpy_helper.to_array(weight)
    peaks = np.abs(values).max(axis=tuple(other for other in range(values.ndim) if other != axis), keepdims=True)
    parameters = _store_parameters(graph, int8, peaks.reshape(-1))
    rounded = np.clip(np.rint(values / _scale(peaks)), -LARGEST, LARGEST).astype(np.int8)
    graph.initializer.append(onnx.numpy_helper.from_array(rounded, int8))
    return onnx.helper.make_node(
        "DequantizeLinear", [int8, *parameters], [f"{int8}/float"], name=f"{int8}/dequantise", axis=axis
    )


def _store_parameters(graph: onnx.GraphProto, int8: str, peaks: Array) -> list[str]:
    """Stores scale and zero point of an int8 tensor; their names."""
    names = [f"{int8}/scale", f"{int8}/zero"]
    for name, values in zip(names, (_scale(peaks), np.zeros(peaks.shape, np.int8)), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return names


def _scale(peaks: Array) -> Array:
    """What one step of int8 is worth; 1 where all is 0, for a scale of 0 is none."""
    scale = peaks.astype(np.float32) / np.float32(LARGEST)
    return np.where(scale < _TINY, np.float32(1), scale)


def _add_bias(graph: onnx.GraphProto, name: str, bias: Array) -> None:
    """Add to the bias of a layer: its own constant, or the one that an Add after a MatMul adds."""
    index = next(i for i, node in enumerate(graph.node) if node.name == name)
    node, stored = graph.node[index], {tensor.name: tensor for tensor in graph.initializer}
    if node.op_type != "MatMul":
        place, position = node, 2
        node.input.extend([""] * (3 - len(node.input)))
    else:
        place, position = _bias_after(graph, index, stored)
    old = place.input[position]
    values = bias.astype(np.float32)
    if old:
        values = onnx.numpy_helper.to_array(stored[old]) + values
    place.input[position] = f"{name}/bias"
    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values, np.float32), f"{name}/bias"))


def _bias_after(graph: onnx.GraphProto, index: int, stored: Collection[str]) -> tuple[onnx.NodeProto, int]:
    """The Add that alone reads a MatMul, and which of its inputs is constant; put in where there is none."""
    product = graph.node[index]
    result = product.output[0]
    readers = _readers(graph).get(result, [])
    if len(readers) == 1 and readers[0].op_type == "Add" and result not in {value.name for value in graph.output}:
        for position, other in enumerate(readers[0].input):
            if other in stored:
                return readers[0], position
    product.output[0] = f"{result}/product"
    add = onnx.helper.make_node("Add", [product.output[0], ""], [result], name=f"{product.name}/bias")
    graph.node.insert(index + 1, add)
    return graph.node[index + 1], 1


# Checking it.


def check_quantised(model: onnx.ModelProto, origin: str) -> None:
    """Raise BundleError, naming the node, unless all Q/DQ is as TensorRT has it and as this module puts it in.

    TensorRT builds some of what is wrong without a word. origin: what errors call the graph.
    """
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    if opset < _OPSET:
        raise BundleError(f"{origin}: expected opset {_OPSET} or newer for int8, found {opset}; export it again")
    graph = model.graph
    finished = _Finished(
        made_by={name: node for node in graph.node for name in node.output},
        read_by=_readers(graph),
        constants={tensor.name: tensor for tensor in graph.initializer},
        outputs=frozenset(value.name for value in graph.output),
    )
    for node in graph.node:
        if fault := next(_faults(finished, node), None):
            raise BundleError(f"{origin}: {node.name} ({node.op_type}): expected {fault}; {_REMEDY}")
    for name in finished.constants.keys() - finished.read_by.keys() - finished.outputs:
        raise BundleError(f"{origin}: expected constants that are read, found {name}; {_REMEDY}")


@dataclass(frozen=True)
class _Finished:
    """A graph with Q/DQ, looked at."""

    made_by: Mapping[str, onnx.NodeProto]
    read_by: Mapping[str, Sequence[onnx.NodeProto]]
    constants: Mapping[str, onnx.TensorProto]
    outputs: frozenset[str]


def _faults(graph: _Finished, node: onnx.NodeProto) -> Iterator[str]:
    """What is wrong with a node, as "one thing, found another"."""
    if node.op_type in PAIR:
        if node.output[0] in graph.outputs or node.output[0] not in graph.read_by:
            yield "a node that reads it, found none or an output of the graph"
        yield from _parameter_faults(graph, node)
        if node.op_type == "QuantizeLinear":
            yield from _quantise_faults(graph, node)
        elif node.input[0] in graph.constants:
            yield from _weight_faults(graph, node)
        else:
            yield from _dequantise_faults(graph, node)
    elif node.op_type in _LAYERS:
        sides = [graph.made_by.get(name) for name in node.input[:2]]
        int8 = [side is not None and side.op_type == "DequantizeLinear" for side in sides]
        if int8[0] != int8[1]:
            yield f"Q/DQ on activation and weight, found it on the {'activation' if int8[0] else 'weight'} alone"


def _parameter_faults(graph: _Finished, node: onnx.NodeProto) -> Iterator[str]:
    """Of its scale and zero point."""
    for name in node.input[1:]:
        if name not in graph.constants:
            yield f"a constant scale and zero point, found {name or 'nothing'}"
            return
    if len(node.input) != 3:
        yield "a zero point, found none"
        return
    scale, zero = (graph.constants[name] for name in node.input[1:])
    values, zeros = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in (scale, zero))
    if zero.data_type != onnx.TensorProto.INT8:
        yield f"int8, found {_dtype(zero)}"
    if zeros.any():
        yield f"a zero point of 0, found {zeros[zeros != 0].flat[0]:g}"
    if zeros.shape != values.shape:
        yield f"a zero point for each scale, found shapes {zeros.shape} and {values.shape}"
    if wrong := [value for value in values.flat if not 0 < value < np.inf]:
        yield f"scales that are positive and finite, found {wrong[0]:g}"


def _quantise_faults(graph: _Finished, node: onnx.NodeProto) -> Iterator[str]:
    if node.input[0] in graph.constants:
        yield f"constants as they are, but for weights stored as int8, found Q on {node.input[0]}"
    if graph.constants[node.input[1]].dims:
        yield f"one scale for an activation, found shape {tuple(graph.constants[node.input[1]].dims)}"
    for reader in graph.read_by.get(node.output[0], ()):
        if reader.op_type != "DequantizeLinear":
            yield f"a DequantizeLinear after it, found {reader.op_type} ({reader.name})"


def _weight_faults(graph: _Finished, node: onnx.NodeProto) -> Iterator[str]:
    weight, scale = (graph.constants[name] for name in node.input[:2])
    if weight.data_type != onnx.TensorProto.INT8:
        yield f"int8, found {_dtype(weight)}"
    for reader in graph.read_by.get(node.output[0], ()):
        if reader.op_type not in _LAYERS or list(reader.input).index(node.output[0]) != 1:
            yield f"a constant that is a layer's weight, found {reader.op_type} ({reader.name}) reading it"
            continue
        axis = int(_get(node, "axis", 1))
        if axis != _axis(reader):
            yield f"axis {_axis(reader)} for {reader.op_type}, found {axis}"
        elif tuple(scale.dims) != (weight.dims[axis],):
            yield f"a scale for each of {weight.dims[axis]} channels, found shape {tuple(scale.dims)}"


def _dequantise_faults(graph: _Finished, node: onnx.NodeProto) -> Iterator[str]:
    before = graph.made_by.get(node.input[0])
    if before is None or before.op_type != "QuantizeLinear":
        yield f"a QuantizeLinear before it, found {before.op_type if before else node.input[0]}"
    elif list(before.input[1:]) != list(node.input[1:]):
        yield f"the scale and zero point of {before.name}, found {' and '.join(node.input[1:])}"
    for reader in graph.read_by.get(node.output[0], ()):
        if reader.op_type not in _LAYERS or list(reader.input).index(node.output[0]) != 0:
            yield f"a layer's activation, found {reader.op_type} ({reader.name}) reading it"


def _dtype(tensor: onnx.TensorProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
