"""Messages between two processes: the length of a header, the header as JSON, and the arrays that it lists, as bytes.

What the other side sends is not trusted: a header of bounded length, and no array but those that are expected.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .base import Arrays

_LONGEST_HEADER = 1 << 20  # bytes


def send(stream: io.RawIOBase, header: Mapping[str, object], arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a message.

    Args:
        stream: Where to.
        header: What it says, as plain values.
        arrays: The arrays that belong to it, by name.

    Raises:
        OSError: The other side has ended.
    """
    listed = [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]
    content = json.dumps({**header, "arrays": listed}).encode()
    _write(stream, memoryview(len(content).to_bytes(8, "little") + content))
    for array in arrays.values():
        _write(stream, _bytes_of(np.ascontiguousarray(array)))


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _write(stream: io.RawIOBase, content: memoryview) -> None:
    while len(content):
        content = content[stream.write(content) or 0 :]


def receive(
    stream: io.RawIOBase, expected: Mapping[str, tuple[str, tuple[int, ...]]] | None
) -> tuple[dict[str, object], Arrays]:
    """Read a message.

    Args:
        stream: Where from.
        expected: Dtypes and shapes of the arrays that must come with it, unless it is an error; None for any arrays.

    Returns:
        Its header, and its arrays by name.

    Raises:
        EOFError: The other side has ended.
        ValueError: It is no message, or has other arrays.
    """
    length = int.from_bytes(_read(stream, 8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"a header of {length} bytes")
    try:
        header = json.loads(_read(stream, length))
        listed = {name: (dtype, tuple(shape)) for name, dtype, shape in header["arrays"]}
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no header: {type(error).__name__}") from None
    wanted = listed if expected is None else {} if "error" in header else dict(expected)
    if listed != wanted:
        raise ValueError(f"arrays {listed!s:.200}")
    arrays: Arrays = {}
    for name, (dtype, shape) in listed.items():
        array = np.empty(shape, dtype)
        _read_into(stream, _bytes_of(array))
        arrays[name] = array
    return header, arrays


def _read(stream: io.RawIOBase, count: int) -> bytes:
    content = bytearray(count)
    _read_into(stream, memoryview(content))
    return bytes(content)


def _read_into(stream: io.RawIOBase, place: memoryview) -> None:
    done = 0
    while done < len(place):
        count = stream.readinto(place[done:])
        if not count:
            raise EOFError("the other side has ended")
        done += count
