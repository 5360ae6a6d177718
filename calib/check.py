"""A check that all Q/DQ of a graph is as TensorRT, OpenVINO and ONNX Runtime all have it.

TensorRT builds an engine from some wrong Q/DQ without an error, such as a wrong axis or one scale per channel of an
activation. Graphs are therefore checked before they are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from fctl.runtime.errors import BundleError

from .layers import LAYERS, PAIR, number, output_axis
from .plain import made_by, opset_of, read_by

_OPSET = 13  # the first with one scale per channel
_REMEDY = "make the int8 graphs again"


def check_quantised(model: onnx.ModelProto, origin: str) -> None:
    """Check that all Q/DQ of a graph is as `quantise.quantised` inserts it, and as TensorRT takes it.

    Args:
        model: An int8 graph.
        origin: The name of the graph in error messages.

    Raises:
        BundleError: Q/DQ differs; the message names the node. Or the opset is too old, or a constant is never read.
    """
    opset = opset_of(model)
    if opset < _OPSET:
        raise BundleError(
            subject=origin, expected=f"opset {_OPSET} or newer for int8", found=opset, remedy="export it again"
        )
    view = _view(model.graph)
    for node in model.graph.node:
        if fault := next(_faults(view, node), None):
            raise BundleError(f"{node.name} ({node.op_type}): expected {fault}", subject=origin, remedy=_REMEDY)
    for name in view.constants.keys() - view.read_by.keys() - view.outputs:
        raise BundleError(subject=origin, expected="constants that are read", found=name, remedy=_REMEDY)


@dataclass(frozen=True)
class _View:
    """A graph with Q/DQ: who makes and who reads each tensor, its constants and its outputs, all by name."""

    made_by: Mapping[str, onnx.NodeProto]
    read_by: Mapping[str, Sequence[onnx.NodeProto]]
    constants: Mapping[str, onnx.TensorProto]
    outputs: frozenset[str]


def _view(graph: onnx.GraphProto) -> _View:
    return _View(
        made_by=made_by(graph),
        read_by=read_by(graph),
        constants={tensor.name: tensor for tensor in graph.initializer},
        outputs=frozenset(value.name for value in graph.output),
    )


def _faults(view: _View, node: onnx.NodeProto) -> Iterator[str]:
    """What is wrong with a node, as "one thing, found another"."""
    if node.op_type in PAIR:
        if node.output[0] in view.outputs or node.output[0] not in view.read_by:
            yield "a node that reads it, found none or an output of the graph"
        yield from _parameter_faults(view, node)
        if node.op_type == "QuantizeLinear":
            yield from _quantise_faults(view, node)
        elif node.input[0] in view.constants:
            yield from _weight_faults(view, node)
        else:
            yield from _dequantise_faults(view, node)
    elif node.op_type in LAYERS:
        sides = [view.made_by.get(name) for name in node.input[:2]]
        int8 = [side is not None and side.op_type == "DequantizeLinear" for side in sides]
        if int8[0] != int8[1]:
            yield f"Q/DQ on activation and weight, found it on the {'activation' if int8[0] else 'weight'} alone"


def _parameter_faults(view: _View, node: onnx.NodeProto) -> Iterator[str]:
    """Faults of the scale and zero point of a Q or DQ."""
    for name in node.input[1:]:
        if name not in view.constants:
            yield f"a constant scale and zero point, found {name or 'nothing'}"
            return
    if len(node.input) != 3:
        yield "a zero point, found none"
        return
    scale, zero = (view.constants[name] for name in node.input[1:])
    values, zeros = (onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in (scale, zero))
    if zero.data_type != onnx.TensorProto.INT8:
        yield f"int8, found {_dtype(zero)}"
    if zeros.any():
        yield f"a zero point of 0, found {zeros[zeros != 0].flat[0]:g}"
    if zeros.shape != values.shape:
        yield f"a zero point for each scale, found shapes {zeros.shape} and {values.shape}"
    if wrong := [value for value in values.flat if not 0 < value < np.inf]:
        yield f"scales that are positive and finite, found {wrong[0]:g}"


def _quantise_faults(view: _View, node: onnx.NodeProto) -> Iterator[str]:
    """Faults of the QuantizeLinear of an activation."""
    if node.input[0] in view.constants:
        yield f"constants as they are, but for weights stored as int8, found Q on {node.input[0]}"
    if view.constants[node.input[1]].dims:
        yield f"one scale for an activation, found shape {tuple(view.constants[node.input[1]].dims)}"
    for reader in view.read_by.get(node.output[0], ()):
        if reader.op_type != "DequantizeLinear":
            yield f"a DequantizeLinear after it, found {reader.op_type} ({reader.name})"


def _weight_faults(view: _View, node: onnx.NodeProto) -> Iterator[str]:
    """Faults of the DequantizeLinear of a weight that is stored as int8."""
    weight, scale = (view.constants[name] for name in node.input[:2])
    if weight.data_type != onnx.TensorProto.INT8:
        yield f"int8, found {_dtype(weight)}"
    for reader in view.read_by.get(node.output[0], ()):
        if reader.op_type not in LAYERS or list(reader.input).index(node.output[0]) != 1:
            yield f"a constant that is a layer's weight, found {reader.op_type} ({reader.name}) reading it"
            continue
        axis = int(number(node, "axis", 1))
        if axis != output_axis(reader):
            yield f"axis {output_axis(reader)} for {reader.op_type}, found {axis}"
        elif tuple(scale.dims) != (weight.dims[axis],):
            yield f"a scale for each of {weight.dims[axis]} channels, found shape {tuple(scale.dims)}"


def _dequantise_faults(view: _View, node: onnx.NodeProto) -> Iterator[str]:
    """Faults of the DequantizeLinear of an activation."""
    before = view.made_by.get(node.input[0])
    if before is None or before.op_type != "QuantizeLinear":
        yield f"a QuantizeLinear before it, found {before.op_type if before else node.input[0]}"
    elif list(before.input[1:]) != list(node.input[1:]):
        yield f"the scale and zero point of {before.name}, found {' and '.join(node.input[1:])}"
    for reader in view.read_by.get(node.output[0], ()):
        if reader.op_type not in LAYERS or list(reader.input).index(node.output[0]) != 0:
            yield f"a layer's activation, found {reader.op_type} ({reader.name}) reading it"


def _dtype(tensor: onnx.TensorProto) -> str:
    """The NumPy name of a tensor's element type."""
    return str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
