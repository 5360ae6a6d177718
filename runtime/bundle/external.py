"""ONNX files looked through for weights that lie elsewhere, without a library that would follow them.

An ONNX tensor may name a file, or to newer libraries an address in memory, instead of holding its values. A bundle from
elsewhere could so make a library read any file of the machine, or crash. So the file's protobuf is read here down to
its tensors, field by field, as far as that question needs: https://protobuf.dev/programming-guides/encoding and
onnx.proto have the numbers.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO

LARGEST_GRAPH = (1 << 31) - 1
"""Bytes of the largest file that protobuf reads."""

_MOST_FIELDS = 10_000_000  # some seconds' work; a graph of 10,000 nodes has about 300,000
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types; groups (3 and 4) are not used by ONNX
_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 8, 13, 14  # fields of a tensor
_TENSOR = "tensor"
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
"""By kind of message, the kinds of the messages in its fields, as far as they can hold tensors."""


class NoGraphError(ValueError):
    """A file that is no ONNX graph, or too large to be one."""


def external_tensor(path: Path) -> str | None:
    """Find a tensor whose values do not lie in its ONNX file.

    All tensors are looked at: initialisers, sparse ones, those in attributes, in subgraphs, in functions and in graphs
    for training.

    Args:
        path: A regular file.

    Returns:
        The name of the first one, which may be empty; None where there is none.

    Raises:
        NoGraphError: The file is no protobuf, or has more fields than any network.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return _external(file)


def _external(file: BinaryIO) -> str | None:
    """The same for an open file."""
    file.seek(0, 2)
    if not file.tell():
        raise NoGraphError("an empty file")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _Scan(content).external()


class _Scan:
    """One pass over the fields of a message and of the messages within."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._fields = 0

    def external(self) -> str | None:
        """The name of a tensor that lies elsewhere."""
        open_messages = [("model", 0, len(self._content))]  # a list: recursion would be limited
        while open_messages:
            kind, start, end = open_messages.pop()
            name, elsewhere = b"", False
            while start < end:
                number, wire, value, start = self._field(start, end)
                if wire == _LENGTH and number in _MESSAGES[kind]:
                    open_messages.append((_MESSAGES[kind][number], value, start))
                elif kind == _TENSOR and number == _NAME and wire == _LENGTH:
                    name = self._content[value : min(start, value + 80)]
                elif kind == _TENSOR:
                    elsewhere |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)
            if elsewhere:
                return name.decode("utf-8", "replace")
        return None

    def _field(self, place: int, end: int) -> tuple[int, int, int, int]:
        """Number, wire type, value (of a length-delimited field: where its bytes begin) and end of a field."""
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise NoGraphError(f"more than {_MOST_FIELDS} fields")
        tag, place = self._varint(place, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, after = self._varint(place, end)
        elif wire == _LENGTH:
            length, value = self._varint(place, end)
            after = value + length
        elif wire in (_FIXED32, _FIXED64):
            value, after = place, place + (4 if wire == _FIXED32 else 8)
        else:
            raise NoGraphError("bytes that are no protobuf")
        if not number or after > end:
            raise NoGraphError("bytes that are no protobuf")
        return number, wire, value, after

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        """A number of seven bits a byte, and where it ends."""
        value = 0
        for index in range(min(10, end - place)):
            byte = self._content[place + index]
            value |= (byte & 127) << 7 * index
            if byte < 128:
                return value, place + index + 1
        raise NoGraphError("bytes that are no protobuf")
