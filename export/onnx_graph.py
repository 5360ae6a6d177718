"""ONNX models: the passes over a graph after tracing, and writing it. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from fctl.runtime.bundle.manifest import BATCH, TensorSpec

OPSET = 20
IR_VERSION = 10  # newer ones are refused by ONNX Runtime before 1.20 and TensorRT 10.3
_FEW = 1024  # elements; smaller tensors stay fp32


def save_model(model: onnx.ModelProto, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Check and write a model, without what says where it was made; returns its input and output specs."""
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
    """Make each constant zero Pad before a convolution that convolution's own (asymmetric) padding."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in list(graph.node):
        pad = producers.get(node.input[0]) if node.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or readers[pad.output[0]] > 1 or not _is_zero_pad(pad, constants):
            continue
        amounts = onnx.numpy_helper.to_array(constants[pad.input[1]])
        rank = len(amounts) // 2
        if amounts[:2].any() or amounts[rank : rank + 2].any():
            continue
        _set_pads(node, [*amounts[2:rank], *amounts[rank + 2 :]])
        node.input[0] = pad.input[0]
        graph.node.remove(pad)
    _drop_unused(graph)


def store_half(model: onnx.ModelProto) -> None:
    """Store weights as fp16 behind a Cast where that is exact; engines fold the Cast when they load the graph."""
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


def _is_zero_pad(pad: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    mode = next((a.s.decode() for a in pad.attribute if a.name == "mode"), "constant")
    if mode != "constant" or pad.input[1] not in constants or len([name for name in pad.input if name]) > 3:
        return False
    value = pad.input[2] if len(pad.input) > 2 else ""
    return not value or (value in constants and not onnx.numpy_helper.to_array(constants[value]).any())


def _set_pads(conv: onnx.NodeProto, pads: list[int]) -> None:
    attributes = {attribute.name: attribute for attribute in conv.attribute}
    if "auto_pad" in attributes:
        conv.attribute.remove(attributes["auto_pad"])
    old = list(attributes["pads"].ints) if "pads" in attributes else [0] * len(pads)
    if "pads" in attributes:
        conv.attribute.remove(attributes["pads"])
    conv.attribute.append(onnx.helper.make_attribute("pads", [int(a + b) for a, b in zip(old, pads, strict=True)]))


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
    sides = [side.dim_value if side.HasField("dim_value") else BATCH for side in kind.shape.dim]
    return TensorSpec(name=value.name, dtype=dtype, shape=tuple(sides))
