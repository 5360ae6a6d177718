"""Tensors and types in ONNX files: their fields in onnx.proto, and whether a tensor's values fill its shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .protobuf import FIXED32, FIXED64, LENGTH, VARINT, Field, Reader

MOST_SIDES = 64
"""Axes of a tensor, and numbers in one axis-wise attribute; engines take at most 8."""

LARGEST_GRAPH = (1 << 31) - 1
"""Bytes of the largest file that protobuf reads."""

_DIMS, _DTYPE, _NAME, _RAW, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 8, 9, 13, 14  # fields of a tensor
_FLOATS, _INT32S, _STRINGS, _INT64S, _DOUBLES, _UINT64S = 4, 5, 6, 7, 10, 11
_ONCE = {_DTYPE: VARINT, 3: LENGTH, _NAME: LENGTH, _RAW: LENGTH, _DATA_LOCATION: VARINT}
_MANY = {
    _DIMS: VARINT, _FLOATS: FIXED32, _INT32S: VARINT, _STRINGS: LENGTH, _INT64S: VARINT, _DOUBLES: FIXED64,
    _UINT64S: VARINT, _EXTERNAL_DATA: LENGTH,
}  # fmt: skip
_SEGMENT = 3  # of a tensor in several messages, which no library writes


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a type of elements is stored.

    Attributes:
        name: As NumPy or ONNX call it.
        bits: Of an element.
        field: The field that holds elements which are not stored as raw bytes.
        entries: How many entries of that field an element takes.
    """

    name: str
    bits: int
    field: int
    entries: float = 1


_KINDS = {
    1: _Kind("float32", 32, _FLOATS),
    2: _Kind("uint8", 8, _INT32S),
    3: _Kind("int8", 8, _INT32S),
    4: _Kind("uint16", 16, _INT32S),
    5: _Kind("int16", 16, _INT32S),
    6: _Kind("int32", 32, _INT32S),
    7: _Kind("int64", 64, _INT64S),
    8: _Kind("string", 0, _STRINGS),
    9: _Kind("bool", 8, _INT32S),
    10: _Kind("float16", 16, _INT32S),
    11: _Kind("float64", 64, _DOUBLES),
    12: _Kind("uint32", 32, _UINT64S),
    13: _Kind("uint64", 64, _UINT64S),
    14: _Kind("complex64", 64, _FLOATS, 2),
    15: _Kind("complex128", 128, _DOUBLES, 2),
    16: _Kind("bfloat16", 16, _INT32S),
    **{
        number: _Kind(name, 8, _INT32S)
        for number, name in enumerate(("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"), 17)
    },
    **{number: _Kind(name, 4, _INT32S, 0.5) for number, name in enumerate(("uint4", "int4", "float4e2m1"), 21)},
    24: _Kind("float8e8m0", 8, _INT32S),
    **{number: _Kind(name, 2, _INT32S, 0.25) for number, name in enumerate(("uint2", "int2"), 25)},
}


@dataclass(frozen=True, slots=True)
class TensorType:
    """What a graph says of one of its inputs or outputs.

    Attributes:
        dtype: Its dtype, as NumPy calls it.
        sides: Its shape; None for a side that is open, or for a shape that is not stated.
    """

    dtype: str
    sides: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor whose values are known, such as weights.

    Attributes:
        name: Its name, which may be empty.
        external: Whether its values lie elsewhere.
        fault: What is wrong with it; None where nothing is.
        sides: Its shape.
    """

    name: str
    external: bool
    fault: str | None
    sides: tuple[int, ...]


def read_tensor(reader: Reader, start: int, end: int) -> StoredTensor:
    """Read a tensor, but for its values.

    Args:
        reader: The file.
        start: Where the tensor begins.
        end: Where it ends.

    Returns:
        The tensor.

    Raises:
        NoGraphError: The bytes are no protobuf.
    """
    sides, dtype, name, external, segment = list[int](), 0, "", False, False
    stored = dict[int, int]()
    for field in reader.fields(start, end, _ONCE, _MANY):
        number = field.number
        if number == _DIMS:
            sides += reader.numbers(field, MOST_SIDES)
        elif number == _DTYPE:
            dtype = field.value
        elif number == _NAME:
            name = reader.text(field)
        elif number == _EXTERNAL_DATA:
            external = True
        elif number == _DATA_LOCATION:
            external |= field.value != 0
        elif number == _SEGMENT:
            segment = True
        elif number == _RAW:
            stored[number] = field.end - field.value
        elif number in _MANY:
            stored[number] = stored.get(number, 0) + _entries(reader, field)
    fault = "a part of a tensor" if segment else _fault(sides, dtype, stored)
    return StoredTensor(name, external, f"tensor {name!r:.60} with {fault}" if fault else None, tuple(sides))


def _entries(reader: Reader, field: Field) -> int:
    """How many values a field adds to its list."""
    if field.wire == LENGTH and field.number in (_FLOATS, _DOUBLES):
        return (field.end - field.value) // (4 if field.number == _FLOATS else 8)
    return 1 if field.number == _STRINGS else reader.count(field)


def _fault(sides: list[int], dtype: int, stored: dict[int, int]) -> str | None:
    """What is wrong with the size of a tensor."""
    kind = _KINDS.get(dtype)
    if kind is None:
        return f"elements of the unknown type {dtype}"
    if len(sides) > MOST_SIDES:
        return f"{len(sides)} axes"
    if any(not 0 <= side <= LARGEST_GRAPH for side in sides) or math.prod(sides) > LARGEST_GRAPH:
        return f"the shape {tuple(sides)!s:.60}"
    elements = math.prod(sides)
    needed = {_RAW: -(-elements * kind.bits // 8), kind.field: math.ceil(elements * kind.entries)}
    if kind.name == "string":
        del needed[_RAW]
    if len(stored) > 1 or not stored.keys() <= needed.keys():
        return f"values in another form than {kind.name} has"
    for number, found in stored.items():
        if found != needed[number]:
            what = "bytes" if number == _RAW else "values"
            return f"{found} {what}, expected {needed[number]} for {kind.name} {tuple(sides)!s:.60}"
    return None if stored or not elements else f"no values for {kind.name} {tuple(sides)!s:.60}"


def read_type(reader: Reader, start: int, end: int) -> TensorType | None:
    """Read the type of a graph's input or output.

    Args:
        reader: The file.
        start: Where the type begins.
        end: Where it ends.

    Returns:
        The type; None for what is no dense tensor, or has no known type of elements.

    Raises:
        NoGraphError: The bytes are no protobuf.
    """
    dtype, sides, found = 0, None, False
    for field in reader.fields(start, end, {1: LENGTH, 4: LENGTH, 5: LENGTH, 8: LENGTH, 9: LENGTH}, {}):
        if field.number in (4, 5, 8, 9):  # sequences, maps, sparse and optional values
            return None
        if field.number == 1:
            found = True
            for part in reader.fields(field.value, field.end, {1: VARINT, 2: LENGTH}, {}):
                if part.number == 1:
                    dtype = part.value
                elif part.number == 2:
                    sides = _sides(reader, part)
    kind = _KINDS.get(dtype)
    return TensorType(kind.name, sides) if found and kind else None


def _sides(reader: Reader, shape: Field) -> tuple[int | None, ...]:
    """The sides of a shape; None where they are open."""
    sides = list[int | None]()
    for axis in reader.fields(shape.value, shape.end, {}, {1: LENGTH}):
        if axis.number != 1:
            continue
        length = None
        for part in reader.fields(axis.value, axis.end, {1: VARINT, 2: LENGTH}, {}):
            length = part.signed if part.number == 1 else length
        sides.append(length)
    return tuple(sides)
