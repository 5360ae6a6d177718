"""ONNX models: the passes over a graph after tracing, and writing it. Needs no torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from fctl.calib.plain import drop_unread, made_by
from fctl.calib.watch import types_of
from fctl.runtime.bundle.manifest import BATCH, TensorSpec

OPSET = 20
IR_VERSION = 10  # newer ones are refused by ONNX Runtime before 1.20 and TensorRT 10.3
_FEW = 1024  # elements; smaller tensors stay fp32
_COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"}
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}


def save_model(model: onnx.ModelProto, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Check a model and write it, without traces of the machine that made it.

    Args:
        model: The model; its metadata are replaced in place.
        path: The file to write.

    Returns:
        The specs of its inputs and of its outputs.

    Raises:
        onnx.checker.ValidationError: The model is invalid.
        onnx.shape_inference.InferenceError: Its types or shapes contradict each other.
    """
    model.ir_version = IR_VERSION
    model.producer_name = "fctl"
    model.graph.doc_string = model.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of this machine
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return tuple(map(_spec, model.graph.input)), tuple(map(_spec, model.graph.output))


def merge_pads(model: onnx.ModelProto) -> None:
    """Replace constant zero Pads before convolutions, in place, by (asymmetric) padding of the convolutions.

    A Pad that other nodes read too, or that pads batch or channels, is kept.

    Args:
        model: The model, which is changed in place.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers, readers = made_by(graph), Counter(name for node in graph.node for name in node.input)
    for node in list(graph.node):
        pad = makers.get(node.input[0]) if node.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or readers[pad.output[0]] > 1 or not _is_zero_pad(pad, constants):
            continue
        amounts = onnx.numpy_helper.to_array(constants[pad.input[1]])
        rank = len(amounts) // 2
        if amounts[:2].any() or amounts[rank : rank + 2].any():
            continue
        _set_pads(node, [*amounts[2:rank], *amounts[rank + 2 :]])
        node.input[0] = pad.input[0]
        graph.node.remove(pad)
    drop_unread(graph)


def spell_out_softmax(model: onnx.ModelProto) -> None:
    """Replace each Softmax over an axis that is not the last, in place, by the five steps that it stands for.

    ONNX Runtime moves such an axis to the end and back: for the default bundle's weights over U (Eq. 4) this took a
    fifteenth of the segmenter's time. The results are the same up to rounding.

    Args:
        model: The model, which is changed in place.
    """
    graph = model.graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    for node in [node for node in graph.node if node.op_type == "Softmax"]:
        axis = next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), -1)
        if axis in (-1, ranks.get(node.input[0], 0) - 1) or node.input[0] not in ranks:
            continue
        name, place = node.name, list(graph.node).index(node)
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([axis]), f"{name}/axis"))
        steps = (
            ("ReduceMax", [node.input[0], f"{name}/axis"], f"{name}/max"),
            ("Sub", [node.input[0], f"{name}/max"], f"{name}/below"),
            ("Exp", [f"{name}/below"], f"{name}/exp"),
            ("ReduceSum", [f"{name}/exp", f"{name}/axis"], f"{name}/sum"),
            ("Div", [f"{name}/exp", f"{name}/sum"], node.output[0]),
        )
        graph.node.remove(node)
        for offset, (op, inputs, output) in enumerate(steps):
            graph.node.insert(place + offset, onnx.helper.make_node(op, inputs, [output], name=f"{name}/{op}"))


def store_half(model: onnx.ModelProto) -> None:
    """Store weights as fp16 behind a Cast, in place, where that changes no value; engines fold the Cast on loading.

    Args:
        model: The model, which is changed in place.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _FEW:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_fp16"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}_fp16"], [name], name=f"{name}_cast", to=onnx.TensorProto.FLOAT)
        )
    for index, node in enumerate(casts):
        graph.node.insert(index, node)


def compares_features(model: onnx.ModelProto) -> bool:
    """Whether a graph compares computed floats with each other, so that rounding may decide which way it goes."""
    if not (found := [node for node in model.graph.node if node.op_type in _COMPARISONS]):
        return False
    types = types_of(onnx.shape_inference.infer_shapes(model))
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    return any(not constants & set(node.input) and types.get(node.input[0]) in _FLOATS for node in found)


def _is_zero_pad(pad: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Whether a Pad adds constant amounts of zeros to all axes."""
    mode = next((a.s.decode() for a in pad.attribute if a.name == "mode"), "constant")
    if mode != "constant" or pad.input[1] not in constants or len([name for name in pad.input if name]) > 3:
        return False
    value = pad.input[2] if len(pad.input) > 2 else ""
    return not value or (value in constants and not onnx.numpy_helper.to_array(constants[value]).any())


def _set_pads(conv: onnx.NodeProto, pads: list[int]) -> None:
    """Add to the padding of a convolution."""
    attributes = {attribute.name: attribute for attribute in conv.attribute}
    if "auto_pad" in attributes:
        conv.attribute.remove(attributes["auto_pad"])
    old = list(attributes["pads"].ints) if "pads" in attributes else [0] * len(pads)
    if "pads" in attributes:
        conv.attribute.remove(attributes["pads"])
    conv.attribute.append(onnx.helper.make_attribute("pads", [int(a + b) for a, b in zip(old, pads, strict=True)]))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    sides = [side.dim_value if side.HasField("dim_value") else BATCH for side in kind.shape.dim]
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(sides))
