"""DLPack (1.0 and before): capsules that hand an array in a GPU's memory over without a copy.

The structures are those of dlpack.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol
from weakref import finalize

import numpy as np

from ..errors import InputError

HOST, CUDA, CUDA_PINNED, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
_READ_ONLY = 1  # a flag of DLManagedTensorVersioned
_KINDS = {"i": 0, "u": 1, "f": 2, "b": 6}  # DLDataTypeCode by numpy's kind


class Described(Protocol):
    """An array in a GPU's memory, as far as a capsule describes it."""

    @property
    def pointer(self) -> int:
        """Address of the first value."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype."""
        ...

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides in bytes."""
        ...

    @property
    def device(self) -> int | None:
        """Number of the GPU; None, which is taken for 0, where the owner does not tell."""
        ...

    @property
    def readonly(self) -> bool:
        """Whether nobody may write to it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An array that was taken out of a capsule.

    Attributes:
        pointer: Address of the first value.
        shape: The shape.
        dtype: The dtype.
        strides: The strides in bytes; None for a C-contiguous array.
        readonly: Whether nobody may write to it.
        owner: What keeps the memory: the producer is told when nobody refers to it any longer.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    strides: tuple[int, ...] | None
    readonly: bool
    owner: object


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


# Names of a capsule before and after somebody takes the tensor. The bytes must live as long as the capsules.
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

_exported: dict[int, tuple[object, ...]] = {}  # by address: what lives until its consumer calls the deleter


def _delete(address: int) -> None:
    """Forget what was exported: its consumer is done with it."""
    _exported.pop(address, None)


def _drop(capsule: int) -> None:
    """The capsule's destructor: nobody has taken the tensor."""
    for name, _ in _NAMES.values():
        if _is_dying(capsule, name):
            _exported.pop(_dying_pointer(capsule, name) or 0, None)


_CALLBACKS = _Deleter(_delete), _Deleter(_drop)  # kept: C calls them at any time
_DELETE, _DROP = (ctypes.cast(callback, ctypes.c_void_p).value for callback in _CALLBACKS)


def pack(array: Described, *, versioned: bool) -> object:
    """Put an array into a capsule, which keeps it alive until its consumer is done with it.

    Args:
        array: The array.
        versioned: Whether the consumer knows DLPack 1.0 or newer.

    Returns:
        The capsule.

    Raises:
        BufferError: DLPack, or the consumer's version of it, cannot describe such an array.
    """
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
        device_type=CUDA,
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
    capsule: object = _new_capsule(address, _NAMES[type(managed)][0], _DROP)
    return capsule


def unpack(capsule: object) -> Taken:
    """Take an array out of a capsule.

    Args:
        capsule: A capsule of any producer that nobody has taken yet.

    Returns:
        The array.

    Raises:
        InputError: The capsule is used up, of a newer DLPack, or of numbers that NumPy has no dtype for.
    """
    kind = next((kind for kind, (name, _) in _NAMES.items() if _is_capsule(capsule, name)), None)
    if kind is None:
        expected, remedy = "a DLPack capsule that nobody has taken yet", "ask its producer for a new one"
        raise InputError(f"expected {expected}", remedy=remedy)
    name, used = _NAMES[kind]
    address = _capsule_pointer(capsule, name)
    managed = kind.from_address(address)
    _rename_capsule(capsule, used)
    owner = _Owner(address, managed.deleter)  # from here on, whatever happens, the producer is told
    if isinstance(managed, _Versioned) and managed.major > 1:
        raise InputError(expected="DLPack 1", found=managed.major, remedy="ask for max_version (1, 0)")
    tensor: _Tensor = managed.tensor
    dtype = _dtype(tensor)
    items = tensor.strides[: tensor.ndim] if tensor.strides else None
    return Taken(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        shape=tuple(tensor.shape[: tensor.ndim]),
        dtype=dtype,
        strides=tuple(dtype.itemsize * item for item in items) if items else None,
        readonly=isinstance(managed, _Versioned) and bool(managed.flags & _READ_ONLY),
        owner=owner,
    )


class _Owner:
    """A tensor taken out of its capsule: its producer is told when nobody refers to it any longer."""

    def __init__(self, address: int, deleter: int | None) -> None:
        if deleter:
            finalize(self, _Deleter(deleter), address).atexit = False


def _dtype(tensor: _Tensor) -> np.dtype[np.generic]:
    """NumPy's dtype of a tensor; raises InputError where it has none."""
    kind = next((kind for kind, code in _KINDS.items() if code == tensor.code), None)
    if kind is None or tensor.lanes != 1 or tensor.bits % 8:
        found = f"DLPack type {tensor.code} of {tensor.bits} bits x {tensor.lanes}"
        raise InputError(expected="integers or floats", found=found, remedy="convert it first")
    dtype: np.dtype[np.generic] = np.dtype(f"{kind}{tensor.bits // 8}")
    return dtype
