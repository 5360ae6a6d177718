"""Protobuf's wire format, read field by field from files that nobody vouches for.

Only what is asked for is read, so that a file of gigabytes costs no more than its structure does. Encodings that a
library could understand in another way than this reader are refused: a field that may be there once and is there twice,
and a known field of another wire type. https://protobuf.dev/programming-guides/encoding describes the format.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types. Groups (3 and 4) are not used by ONNX."""

_MOST_FIELDS = 10_000_000  # some seconds' work; a graph of 10,000 nodes has about 300,000
_LONGEST_TEXT = 4096  # bytes of a name that is read
_DAMAGED = "bytes that are no protobuf"


class NoGraphError(ValueError):
    """A file that is no ONNX graph, or larger or deeper than any network; the text says what was found."""


@dataclass(slots=True)
class Field:
    """A field of a message that was read.

    Attributes:
        number: Its number in the message.
        wire: Its wire type.
        value: Its value; for a field of wire type `LENGTH`, where its bytes begin.
        end: Where it ends.
    """

    number: int
    wire: int
    value: int
    end: int

    @property
    def signed(self) -> int:
        """The value as a signed number of 64 bits."""
        return self.value - (1 << 64) if self.value >> 63 else self.value


class Reader:
    """Reads the messages of one file.

    Args:
        content: The bytes of the file.
    """

    def __init__(self, content: mmap.mmap | bytes) -> None:
        self._content = content
        self._fields = 0

    @property
    def size(self) -> int:
        """How many bytes the file has."""
        return len(self._content)

    def fields(self, start: int, end: int, once: Mapping[int, int], many: Mapping[int, int]) -> Iterator[Field]:
        """Read the fields of a message.

        Args:
            start: Where the message begins.
            end: Where it ends.
            once: By number, the wire types of the fields that may be there once.
            many: By number, the wire types of the fields that may be repeated; numbers may be packed.

        Yields:
            Each field, of which neither the others nor the messages within are read.

        Raises:
            NoGraphError: The bytes are no protobuf, or could be understood in another way.
        """
        seen = set[int]()
        while start < end:
            field = self._field(start, end)
            number, start = field.number, field.end
            if number in once:
                if number in seen or field.wire != once[number]:
                    raise NoGraphError(_DAMAGED)
                seen.add(number)
            elif number in many and field.wire not in (many[number], LENGTH):
                raise NoGraphError(_DAMAGED)
            yield field

    def text(self, field: Field) -> str:
        """The text of a field.

        Raises:
            NoGraphError: It is longer than any name, or no UTF-8.
        """
        if field.end - field.value > _LONGEST_TEXT:
            raise NoGraphError(f"a name of {field.end - field.value} bytes")
        try:
            return self._content[field.value : field.end].decode("utf-8")
        except UnicodeDecodeError:
            raise NoGraphError(_DAMAGED) from None

    def numbers(self, field: Field, most: int) -> list[int]:
        """The signed numbers of a field of varints, packed or not.

        Raises:
            NoGraphError: There are more than `most`.
        """
        if field.wire != LENGTH:
            return [field.signed]
        found, place = [], field.value
        while place < field.end:
            value, place = self._varint(place, field.end)
            found.append(Field(0, VARINT, value, place).signed)
            if len(found) > most:
                raise NoGraphError(f"more than {most} numbers in a list of sides or attributes")
        return found

    def count(self, field: Field) -> int:
        """How many varints a field holds, packed or not."""
        if field.wire != LENGTH:
            return 1
        ends = bytes(range(128))  # a varint's last byte is below 128
        return sum(
            len(part) - len(part.translate(None, ends))
            for start in range(field.value, field.end, 1 << 20)
            for part in (self._content[start : min(start + (1 << 20), field.end)],)
        )

    def _field(self, place: int, end: int) -> Field:
        """The field that begins here."""
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise NoGraphError(f"more than {_MOST_FIELDS} fields")
        tag, place = self._varint(place, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, after = self._varint(place, end)
        elif wire == LENGTH:
            length, value = self._varint(place, end)
            after = value + length
        elif wire in (FIXED32, FIXED64):
            value, after = place, place + (4 if wire == FIXED32 else 8)
        else:
            raise NoGraphError(_DAMAGED)
        if not number or after > end:
            raise NoGraphError(_DAMAGED)
        return Field(number, wire, value, after)

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        """A number of seven bits a byte, and where it ends."""
        if place < end and (byte := self._content[place]) < 128:  # as most are
            return byte, place + 1
        value = 0
        for index in range(min(10, end - place)):
            byte = self._content[place + index]
            value |= (byte & 127) << 7 * index
            if byte < 128:
                return value & (1 << 64) - 1, place + index + 1
        raise NoGraphError(_DAMAGED)
