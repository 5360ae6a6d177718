"""Arrays on the GPU, to and from applications without a copy: CUDA Array Interface (v3) and DLPack (1.0 and before)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, TypedDict

import numpy as np
from numpy.typing import DTypeLike

from ..errors import InputError
from . import dlpack
from .resources import Stream

LEGACY_STREAM = 1  # the default stream, as both protocols number it
_NO_WAIT = -1  # a consumer's stream: it will see to the order itself


class _Required(TypedDict):
    shape: tuple[int, ...]
    typestr: str
    data: tuple[int | None, bool]
    version: int


class Interface(_Required, total=False):
    """What ``__cuda_array_interface__`` holds, in versions 2 and 3: address and read-only flag, strides in bytes."""

    strides: tuple[int, ...] | None
    stream: int | None
    mask: object


class _Exporter(Protocol):
    """Another library's array that speaks DLPack; libraries before DLPack 1.0 know no `max_version`."""

    def __dlpack__(self, *, stream: int | None, max_version: tuple[int, int] = ...) -> object: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceArray:
    """An array in a GPU's memory.

    Attributes:
        pointer: Address of the first value.
        shape: The shape.
        dtype: The dtype.
        strides: The strides in bytes.
        device: Number of the GPU; None where the owner of the memory does not tell.
        owner: What keeps the memory.
        stream: Where the work that fills the array was enqueued, an address where that is the application's stream;
            None where there is nothing to wait for.
        readonly: Whether nobody may write to it.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    strides: tuple[int, ...]
    device: int | None
    owner: object
    stream: Stream | int | None = None
    readonly: bool = False

    @classmethod
    def dense(
        cls,
        pointer: int,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        device: int,
        owner: object,
        stream: Stream | None = None,
    ) -> DeviceArray:
        """Describe a C-contiguous array.

        Args:
            pointer: Address of the first value.
            shape: The shape.
            dtype: The dtype.
            device: Number of the GPU.
            owner: What keeps the memory.
            stream: Where the work that fills the array was enqueued, or None.

        Returns:
            The array.
        """
        kind = np.dtype(dtype)
        return cls(
            pointer=pointer,
            shape=shape,
            dtype=kind,
            strides=_dense_strides(shape, kind.itemsize),
            device=device,
            owner=owner,
            stream=stream,
        )

    @property
    def contiguous(self) -> bool:
        """Whether the array is C-contiguous."""
        dense = _dense_strides(self.shape, self.dtype.itemsize)
        return all(a == b for a, b, side in zip(self.strides, dense, self.shape, strict=True) if side > 1)

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> Interface:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer if self.nbytes else 0, self.readonly),
            "strides": None if self.contiguous else self.strides,
            "stream": self.stream.handle if isinstance(self.stream, Stream) else self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device or 0

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule for consumers. Waits for the array's stream, unless the consumer's is the same."""
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("fctl's arrays are handed over where they are: copy them afterwards")
        self._finish(stream)
        return dlpack.pack(self, versioned=max_version is not None and max_version[0] >= 1)

    def _finish(self, consumer: int | None) -> None:
        """Wait until the array is ready for a consumer's stream."""
        if self.stream is None or consumer == _NO_WAIT:
            return
        if not isinstance(self.stream, Stream):
            raise BufferError(f"this array becomes ready on the stream {self.stream}: ask its owner for it")
        if consumer != self.stream.handle:
            self.stream.synchronize()


def as_device_array(thing: object, stream: Stream | None = None) -> DeviceArray:
    """Describe any library's array on the GPU, without copying it.

    Args:
        thing: An array with DLPack or ``__cuda_array_interface__``; the result keeps it alive.
        stream: Where the array will be read; a library that speaks DLPack makes this stream wait for its own.

    Returns:
        The array. Where it has a `stream`, that is still to be waited for (`Stream.follow`).

    Raises:
        InputError: The array does not lie on a GPU, or is none.
    """
    if isinstance(thing, DeviceArray):
        return thing
    name = type(thing).__name__
    if hasattr(thing, "__dlpack__") and hasattr(thing, "__dlpack_device__"):
        kind, index = thing.__dlpack_device__()
        if kind in (dlpack.CUDA, dlpack.CUDA_MANAGED):
            return _import(_capsule(thing, stream), index, None if stream else LEGACY_STREAM)
        if kind in (dlpack.HOST, dlpack.CUDA_PINNED):
            raise _on_host(name)
    if hasattr(thing, "__cuda_array_interface__"):
        return _described(thing, thing.__cuda_array_interface__)
    if hasattr(thing, "__array_interface__"):
        raise _on_host(name)
    expected = "an array on the GPU (DLPack or __cuda_array_interface__)"
    raise InputError(expected=expected, found=name, remedy="use segment() for host memory")


def _on_host(name: str) -> InputError:
    return InputError(expected="an array on the GPU", found=f"one in host memory ({name})", remedy="use segment()")


def _described(thing: object, interface: Interface) -> DeviceArray:
    """From version 2 or 3 of the CUDA Array Interface."""
    if interface.get("mask") is not None:
        raise InputError(
            expected="a GPU array without a mask", found="one with a mask", remedy="fill the masked values"
        )
    shape, dtype = tuple(map(int, interface["shape"])), np.dtype(interface["typestr"])
    pointer, readonly = interface["data"]
    stream = interface.get("stream")
    return DeviceArray(
        pointer=int(pointer or 0),
        shape=shape,
        dtype=dtype,
        strides=tuple(interface.get("strides") or _dense_strides(shape, dtype.itemsize)),
        device=None,
        owner=thing,
        stream=None if stream is None else int(stream),
        readonly=bool(readonly),
    )


def _capsule(thing: _Exporter, stream: Stream | None) -> object:
    """The DLPack capsule of another library's array, ready for a stream."""
    handle = stream.handle if stream else None
    try:
        return thing.__dlpack__(stream=handle, max_version=(1, 0))
    except TypeError:  # before DLPack 1.0
        return thing.__dlpack__(stream=handle)


def _import(capsule: object, index: int, stream: int | None) -> DeviceArray:
    """The array in a DLPack capsule, on a GPU of that number and ready on that stream."""
    taken = dlpack.unpack(capsule)
    return DeviceArray(
        pointer=taken.pointer,
        shape=taken.shape,
        dtype=taken.dtype,
        strides=taken.strides or _dense_strides(taken.shape, taken.dtype.itemsize),
        device=index,
        owner=taken.owner,
        stream=stream,
        readonly=taken.readonly,
    )


def _dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a C-contiguous array."""
    strides = [itemsize]
    for side in shape[:0:-1]:
        strides.insert(0, strides[0] * side)
    return tuple(strides[: len(shape)]) if shape else ()
