"""Graphs that are damaged at random, in ways that damage or malice could."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import onnx.helper

_NUMBERS = (0, 1, -1, 2, 3, 7, 64, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 40, 1 << 62, -(1 << 63))
_KINDS = (
    "Add", "Concat", "Conv", "Slice", "Reshape", "Gather", "Resize", "Cast", "Transpose", "MatMul", "Expand", "Pad",
    "Split", "TopK", "Softmax", "If", "Loop", "Scan", "Identity", "ConstantOfShape", "Tile", "MaxPool", "AveragePool",
    "GridSample", "ScatterND", "GatherND", "NonMaxSuppression", "LSTM", "ConvTranspose", "DepthToSpace", "RoiAlign",
    "QuantizeLinear", "DequantizeLinear", "Unsqueeze", "Squeeze", "ReduceMean", "OneHot", "CumSum", "Einsum", "Shape",
    "BatchNormalization", "LayerNormalization", "InstanceNormalization", "Range", "Where", "NonZero", "Compress",
    "Dropout", "SequenceAt", "Optional", "StringNormalizer", "RandomNormal", "Bernoulli", "EyeLike", "Nothing", "",
)  # fmt: skip
_NAMES = (
    "axis", "axes", "pads", "strides", "dilations", "group", "kernel_shape", "perm", "to", "mode", "blocksize",
    "auto_pad", "value", "body", "then_branch", "equation", "num_outputs", "output_shape", "ceil_mode", "",
)  # fmt: skip


def mutants(model: onnx.ModelProto, seed: int) -> Iterator[tuple[str, bytes]]:
    """Damage a graph again and again.

    Args:
        model: The graph; it is not changed.
        seed: What decides the damage.

    Yields:
        What was done, and the bytes of the file.
    """
    content, ways = model.SerializeToString(), list(_WAYS.items())
    for number in range(1 << 30):
        luck = random.Random(f"{seed}/{number}")
        copy, done = onnx.ModelProto.FromString(content), list[str]()
        for name, way in luck.choices(ways, k=luck.choice((1, 1, 1, 2, 3))):
            way(copy, luck)
            done.append(name)
        changed = bytearray(copy.SerializeToString())
        if luck.random() < 0.15:
            done.append("bytes")
            for _ in range(luck.choice((1, 1, 2, 8))):
                changed[luck.randrange(len(changed))] = luck.randrange(256)
        yield ", ".join(done), bytes(changed)


def _messages(message: Any) -> Iterator[Any]:
    """A message and all within."""
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for one in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(one)


def _one(model: onnx.ModelProto, kind: type, luck: random.Random) -> Any:
    """Any message of a kind; None where there is none."""
    found = [one for one in _messages(model) if isinstance(one, kind)]
    return luck.choice(found) if found else None


def _tensor(model: onnx.ModelProto, luck: random.Random) -> None:
    """Change what a tensor says of itself or of its values."""
    tensor = _one(model, onnx.TensorProto, luck)
    if tensor is None:
        return
    match luck.randrange(8):
        case 0 if tensor.dims:
            tensor.dims[luck.randrange(len(tensor.dims))] = luck.choice(_NUMBERS)
        case 1:
            tensor.dims.append(luck.choice(_NUMBERS))
        case 2:
            del tensor.dims[:]
        case 3:
            tensor.data_type = luck.choice(range(30))
        case 4:
            tensor.raw_data = tensor.raw_data[: luck.randrange(1 + len(tensor.raw_data))]
        case 5:
            tensor.raw_data = luck.randbytes(luck.choice((0, 1, len(tensor.raw_data), 64)))
        case 6:
            tensor.int64_data.extend(luck.choices(_NUMBERS, k=luck.randrange(5)))
        case _:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            location = luck.choice(("*/_ORT_MEM_ADDR_/*", "/etc/passwd", "weights.bin"))
            for key, value in {"location": location, "offset": "4096", "length": "64"}.items():
                tensor.external_data.add(key=key, value=value)


def _values(model: onnx.ModelProto, luck: random.Random) -> None:
    """Change the whole numbers in a small tensor, such as shapes, axes and indices."""
    found = [
        one for one in _messages(model)
        if isinstance(one, onnx.TensorProto) and one.data_type in (6, 7) and len(one.raw_data) <= 512
    ]  # fmt: skip
    if found:
        tensor = luck.choice(found)
        size = 8 if tensor.data_type == onnx.TensorProto.INT64 else 4
        count, raw = len(tensor.raw_data) // size, bytearray(tensor.raw_data)
        if count:
            place = size * luck.randrange(count)
            raw[place : place + size] = (luck.choice(_NUMBERS) & (1 << 8 * size) - 1).to_bytes(size, "little")
            tensor.raw_data = bytes(raw)


def _attribute(model: onnx.ModelProto, luck: random.Random) -> None:
    """Change an attribute, or add one."""
    attribute, node = _one(model, onnx.AttributeProto, luck), _one(model, onnx.NodeProto, luck)
    if node is not None and (attribute is None or luck.random() < 0.4):
        attribute = node.attribute.add(name=luck.choice(_NAMES), type=onnx.AttributeProto.INTS)
        attribute.ints.extend(luck.choices(_NUMBERS, k=luck.randrange(6)))
    if attribute is None:
        return
    match luck.randrange(6):
        case 0:
            attribute.i = luck.choice(_NUMBERS)
            attribute.type = onnx.AttributeProto.INT
        case 1 if attribute.ints:
            attribute.ints[luck.randrange(len(attribute.ints))] = luck.choice(_NUMBERS)
        case 2:
            attribute.ints.extend(luck.choices(_NUMBERS, k=luck.choice((1, 2, 70))))
        case 3:
            attribute.type = luck.randrange(15)
        case 4:
            attribute.name = luck.choice(_NAMES)
        case _:
            attribute.s = luck.choice((b"", b"\xff", b"SAME_UPPER", b"linear", b"ij,jk->ik", b"a" * 10_000))
            attribute.type = onnx.AttributeProto.STRING


def _wires(model: onnx.ModelProto, luck: random.Random) -> None:
    """Connect a node otherwise."""
    node = _one(model, onnx.NodeProto, luck)
    names = [name for one in model.graph.node for name in (*one.input, *one.output)]
    names += [one.name for one in (*model.graph.initializer, *model.graph.input)] + ["", "gone"]
    if node is None:
        return
    match luck.randrange(6):
        case 0 if node.input:
            node.input[luck.randrange(len(node.input))] = luck.choice(names)
        case 1 if node.output:
            node.output[luck.randrange(len(node.output))] = luck.choice(names)
        case 2:
            node.input.append(luck.choice(names))
        case 3:
            del node.input[:]
        case 4:
            node.output.append(luck.choice(names))
        case _:
            node.op_type = luck.choice(_KINDS)


def _nodes(model: onnx.ModelProto, luck: random.Random) -> None:
    """Take nodes away, double or move them, or change whose they are."""
    nodes = model.graph.node
    if not nodes:
        return
    node = luck.choice(list(nodes))
    match luck.randrange(5):
        case 0:
            nodes.remove(node)
        case 1:
            nodes.add().CopyFrom(node)
        case 2:
            node.domain = luck.choice(("com.microsoft", "org.openvinotoolkit", "own", "ai.onnx", "ai.onnx.ml"))
        case 3:
            moved = onnx.NodeProto.FromString(node.SerializeToString())
            nodes.remove(node)
            nodes.insert(luck.randrange(1 + len(nodes)), moved)
        case _:
            graph = onnx.GraphProto.FromString(model.graph.SerializeToString())  # it cannot be copied into itself
            branch = node.attribute.add(name=luck.choice(("body", "then_branch")), type=onnx.AttributeProto.GRAPH)
            branch.g.CopyFrom(graph)


def _model(model: onnx.ModelProto, luck: random.Random) -> None:
    """Change versions, inputs or outputs."""
    graph = model.graph
    match luck.randrange(6):
        case 0:
            model.ir_version = luck.choice((0, 1, 3, 8, 13, 99, 1 << 40, -1))
        case 1 if model.opset_import:
            model.opset_import[0].version = luck.choice((0, 1, 6, 9, 13, 20, 23, 99, 1 << 31, -1))
        case 2:
            model.opset_import.add(domain=luck.choice(("", "own", "com.microsoft")), version=luck.choice((1, 20)))
        case 3:
            values = [*graph.input, *graph.output]
            value = luck.choice(values)
            value.type.tensor_type.elem_type = luck.randrange(27)
        case 4:
            dims = [dim for value in (*graph.input, *graph.output, *graph.value_info)
                    for dim in value.type.tensor_type.shape.dim]  # fmt: skip
            if dims:
                luck.choice(dims).dim_value = luck.choice(_NUMBERS)
        case _:
            value = luck.choice([*graph.input, *graph.output])
            kind = onnx.TypeProto.FromString(value.type.SerializeToString())
            value.type.sequence_type.elem_type.CopyFrom(kind)


def _constant(model: onnx.ModelProto, luck: random.Random) -> None:
    """Put a node in front of a graph's node that makes its input from a constant of any size."""
    node = _one(model, onnx.NodeProto, luck)
    if node is None or not node.input:
        return
    name = f"made{luck.randrange(1000)}"
    made = onnx.helper.make_node("ConstantOfShape", [f"{name}_shape"], [name])
    sides = luck.choices(_NUMBERS, k=luck.randrange(5))
    sides = [max(-(1 << 63), min(side, (1 << 63) - 1)) for side in sides]
    model.graph.initializer.append(onnx.helper.make_tensor(f"{name}_shape", 7, [len(sides)], sides))
    model.graph.node.insert(0, made)
    node.input[luck.randrange(len(node.input))] = name


_WAYS: dict[str, Callable[[onnx.ModelProto, random.Random], None]] = {
    "tensor": _tensor, "values": _values, "attribute": _attribute, "wires": _wires, "nodes": _nodes, "model": _model,
    "constant": _constant,
}  # fmt: skip
