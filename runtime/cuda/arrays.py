"""Arrays on the GPU, to and from applications without a copy: CUDA Array Interface (v3) and DLPack (1.0 and before)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import DTypeLike

from ..errors import InputError
from .driver import Stream

LEGACY_STREAM = 1  # the default stream, as both protocols number it
_NO_WAIT = -1  # a consumer's stream: it will see to the order itself
_HOST, _CUDA, _CUDA_PINNED, _CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
_READ_ONLY = 1  # a flag of DLManagedTensorVersioned
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode by numpy's kind


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceArray:
    """An array in a GPU's memory.

    pointer: address of its first value. strides: in bytes. device: the GPU's number, None where its owner does not
    say. owner: what keeps the memory. stream: where the work that fills it was enqueued, a number where that is the
    application's; None where there is nothing to wait for.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    device: int | None
    owner: Any
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
        owner: Any,
        stream: Stream | None = None,
    ) -> DeviceArray:
        """A C-contiguous array."""
        dtype = np.dtype(dtype)
        return cls(
            pointer=pointer,
            shape=shape,
            dtype=dtype,
            strides=_dense_strides(shape, dtype.itemsize),
            device=device,
            owner=owner,
            stream=stream,
        )

    @property
    def contiguous(self) -> bool:
        """Whether it is C-contiguous."""
        dense = _dense_strides(self.shape, self.dtype.itemsize)
        return all(a == b for a, b, side in zip(self.strides, dense, self.shape, strict=True) if side > 1)

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer if self.nbytes else 0, self.readonly),
            "strides": None if self.contiguous else self.strides,
            "stream": self.stream.handle if isinstance(self.stream, Stream) else self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self.device or 0

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule for consumers. Waits for the array's stream, unless the consumer's is the same."""
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("fctl's arrays are handed over where they are: copy them afterwards")
        self._finish(stream)
        return _export(self, versioned=max_version is not None and max_version[0] >= 1)

    def _finish(self, consumer: int | None) -> None:
        if self.stream is None or consumer == _NO_WAIT:
            return
        if not isinstance(self.stream, Stream):
            raise BufferError(f"this array becomes ready on the stream {self.stream}: ask its owner for it")
        if consumer != self.stream.handle:
            self.stream.synchronize()


def as_device_array(thing: Any, stream: Stream | None = None) -> DeviceArray:
    """Any library's array on the GPU, without copying it; it is kept alive by the result.

    stream: where it will be read; a library that speaks DLPack makes this stream wait for its own. Where the result
    has a `stream`, that is still to be waited for (`Stream.follow`). Raises InputError for what is not on a GPU.
    """
    if isinstance(thing, DeviceArray):
        return thing
    if hasattr(thing, "__dlpack__") and hasattr(thing, "__dlpack_device__"):
        kind, index = thing.__dlpack_device__()
        if kind in (_CUDA, _CUDA_MANAGED):
            return _import(_capsule(thing, stream), index, None if stream else LEGACY_STREAM)
        if kind in (_HOST, _CUDA_PINNED):
            raise InputError(
                f"expected an array on the GPU, found one in host memory ({type(thing).__name__}); use segment()"
            )
    if hasattr(thing, "__cuda_array_interface__"):
        return _described(thing, thing.__cuda_array_interface__)
    if hasattr(thing, "__array_interface__"):
        raise InputError(
            f"expected an array on the GPU, found one in host memory ({type(thing).__name__}); use segment()"
        )
    raise InputError(
        f"expected an array on the GPU (DLPack or __cuda_array_interface__), found {type(thing).__name__}; "
        "use segment() for host memory"
    )


def _described(thing: Any, interface: dict[str, Any]) -> DeviceArray:
    """From version 2 or 3 of the CUDA Array Interface."""
    if interface.get("mask") is not None:
        raise InputError("expected a GPU array without a mask, found one with a mask; fill the masked values")
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


def _dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for side in shape[:0:-1]:
        strides.insert(0, strides[0] * side)
    return tuple(strides[: len(shape)]) if shape else ()


# --- DLPack's structures (dlpack.h) -----------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """DLTensor; strides count items."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


# A capsule is called so until somebody takes it. The bytes must live as long as the capsules.
_NAMES: dict[type[_Managed] | type[_Versioned], tuple[bytes, bytes]] = {
    _Managed: (b"dltensor", b"used_dltensor"),
    _Versioned: (b"dltensor_versioned", b"used_dltensor_versioned"),
}

_api = ctypes.pythonapi
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _api)
)
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
# In a destructor the capsule is dying: as a py_object it would come back to life.
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_is_dying = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))

_exported: dict[int, tuple[Any, ...]] = {}  # by address: what lives until its consumer calls the deleter


def _delete(address: int) -> None:
    _exported.pop(address, None)


def _drop(capsule: int) -> None:
    """The capsule's destructor: nobody has taken the tensor."""
    for name, _ in _NAMES.values():
        if _is_dying(capsule, name):
            _exported.pop(_dying_pointer(capsule, name) or 0, None)


_CALLBACKS = _Deleter(_delete), _Deleter(_drop)  # kept: C calls them at any time
_DELETE, _DROP = (ctypes.cast(callback, ctypes.c_void_p).value for callback in _CALLBACKS)


def _export(array: DeviceArray, *, versioned: bool) -> Any:
    """A capsule that keeps the array until its consumer is done with it."""
    if array.readonly and not versioned:
        raise BufferError("a read-only array needs a consumer of DLPack 1.0 or newer")
    if array.dtype.kind not in _KINDS or not array.dtype.isnative:
        raise BufferError(f"DLPack has no {array.dtype}: convert it first")
    if any(stride % array.dtype.itemsize for stride in array.strides):
        raise BufferError(f"expected strides of whole items, found {array.strides} bytes; copy it first")
    sides = (ctypes.c_int64 * len(array.shape))(*array.shape)
    strides = (ctypes.c_int64 * len(array.shape))(*(stride // array.dtype.itemsize for stride in array.strides))
    pointer = ctypes.POINTER(ctypes.c_int64)
    tensor = _Tensor(
        data=array.pointer,
        device_type=_CUDA,
        device_id=array.device or 0,
        ndim=len(array.shape),
        code=_KINDS[array.dtype.kind],
        bits=8 * array.dtype.itemsize,
        lanes=1,
        shape=ctypes.cast(sides, pointer),
        strides=ctypes.cast(strides, pointer),
    )
    managed: _Managed | _Versioned
    if versioned:
        managed = _Versioned(major=1, deleter=_DELETE, flags=_READ_ONLY * array.readonly, tensor=tensor)
    else:
        managed = _Managed(tensor=tensor, deleter=_DELETE)
    address = ctypes.addressof(managed)
    _exported[address] = (managed, sides, strides, array)
    return _new_capsule(address, _NAMES[type(managed)][0], _DROP)


def _capsule(thing: Any, stream: Stream | None) -> Any:
    handle = stream.handle if stream else None
    try:
        return thing.__dlpack__(stream=handle, max_version=(1, 0))
    except TypeError:  # before DLPack 1.0
        return thing.__dlpack__(stream=handle)


class _Taken:
    """A tensor taken out of its capsule: its producer is told when nobody refers to it any longer."""

    def __init__(self, address: int, deleter: int | None) -> None:
        if deleter:
            finalize(self, _Deleter(deleter), address).atexit = False


def _import(capsule: Any, index: int, stream: int | None) -> DeviceArray:
    kind = next((kind for kind, (name, _) in _NAMES.items() if _is_capsule(capsule, name)), None)
    if kind is None:
        raise InputError("expected a DLPack capsule that nobody has taken yet; ask its producer for a new one")
    name, used = _NAMES[kind]
    address = _capsule_pointer(capsule, name)
    managed = kind.from_address(address)
    _rename_capsule(capsule, used)
    owner = _Taken(address, managed.deleter)  # from here on, whatever happens, the producer is told
    if isinstance(managed, _Versioned) and managed.major > 1:
        raise InputError(f"expected DLPack 1, found {managed.major}; ask for max_version (1, 0)")
    tensor: _Tensor = managed.tensor
    dtype, shape = _dtype(tensor), tuple(tensor.shape[: tensor.ndim])
    items = tensor.strides[: tensor.ndim] if tensor.strides else None
    return DeviceArray(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        dtype=dtype,
        strides=tuple(dtype.itemsize * item for item in items) if items else _dense_strides(shape, dtype.itemsize),
        device=index,
        owner=owner,
        stream=stream,
        readonly=isinstance(managed, _Versioned) and bool(managed.flags & _READ_ONLY),
    )


def _dtype(tensor: _Tensor) -> np.dtype[Any]:
    kind = next((kind for kind, code in _KINDS.items() if code == tensor.code), None)
    if kind is None or tensor.lanes != 1 or tensor.bits % 8:
        raise InputError(
            f"expected integers or floats, found DLPack type {tensor.code} of {tensor.bits} bits x {tensor.lanes}; "
            "convert it first"
        )
    return np.dtype(f"{kind}{tensor.bits // 8}")
