"""Both protocols without a GPU: nobody reads at the addresses, and numpy takes and makes the same capsules."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.runtime.cuda import arrays, dlpack
from fctl.runtime.cuda.arrays import DeviceArray, as_device_array
from fctl.runtime.errors import InputError


class Owner:
    """Something that keeps memory, and can be watched."""


def array(**changes: Any) -> DeviceArray:
    dense = DeviceArray.dense(0x70000000, (4, 5, 3), "uint16", device=1, owner=Owner())
    return replace(dense, **changes)


def capsule_name(capsule: Any) -> bytes:
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    found: bytes = name(capsule)
    return found


@dataclass
class Tensor:
    """A library's array, which speaks DLPack as far as `versions` goes."""

    array: DeviceArray
    versioned: bool = True
    device: tuple[int, int] = (2, 1)
    stream: object = "not asked"

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int | None = None, **newer: Any) -> Any:
        if newer and not self.versioned:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.stream = stream
        return self.array.__dlpack__(stream=-1, **newer)


def described(one: DeviceArray) -> tuple[Any, ...]:
    return one.pointer, one.shape, one.dtype, one.strides, one.readonly


def test_a_dense_array_is_described() -> None:
    assert array().strides == (30, 6, 2)
    assert array().nbytes == 120
    assert array().contiguous
    assert not array(strides=(60, 6, 2)).contiguous
    assert array(shape=(1, 5, 3), strides=(999, 6, 2)).contiguous
    assert DeviceArray.dense(1, (), "float32", device=0, owner=None).strides == ()


def test_the_interface_has_version_3() -> None:
    assert array().__cuda_array_interface__ == {
        "version": 3,
        "shape": (4, 5, 3),
        "typestr": "<u2",
        "data": (0x70000000, False),
        "strides": None,
        "stream": None,
    }
    strided = array(strides=(60, 6, 2), readonly=True, stream=7).__cuda_array_interface__
    assert (strided["strides"], strided["data"], strided["stream"]) == ((60, 6, 2), (0x70000000, True), 7)
    assert array(shape=(0, 5, 3)).__cuda_array_interface__["data"] == (0, False)


@pytest.mark.parametrize("changes", [{}, {"strides": (60, 6, 2)}, {"readonly": True, "stream": 7}])
def test_the_interface_is_taken(changes: dict[str, Any]) -> None:
    class Described:
        __cuda_array_interface__ = array(**changes).__cuda_array_interface__

    thing = Described()
    taken = as_device_array(thing)
    assert described(taken) == described(array(**changes))
    assert (taken.owner, taken.device, taken.stream) == (thing, None, changes.get("stream"))


def test_the_interface_of_version_2_is_taken() -> None:
    class Described:
        __cuda_array_interface__ = {"version": 2, "shape": (4, 5), "typestr": "|u1", "data": (256, False)}  # noqa: RUF012

    taken = as_device_array(Described())
    assert (taken.pointer, taken.shape, taken.strides, taken.stream) == (256, (4, 5), (5, 1), None)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize(
    "changes", [{}, {"strides": (-60, 2, 10)}, {"dtype": np.dtype("float32"), "strides": (60, 12, 4)}]
)
def test_dlpack_makes_the_round(versioned: bool, changes: dict[str, Any]) -> None:
    original = array(**changes)
    tensor = Tensor(original, versioned)
    taken = as_device_array(tensor)
    assert described(taken) == described(original)
    assert (taken.device, taken.stream, tensor.stream) == (1, arrays.LEGACY_STREAM, None)


@pytest.mark.parametrize("versioned", [True, False])
def test_the_owner_lives_as_long_as_somebody_has_the_capsule_or_the_tensor(versioned: bool) -> None:
    original = array()
    owner = weakref.ref(original.owner)
    version = (1, 0) if versioned else None
    capsule = original.__dlpack__(max_version=version)
    references = sys.getrefcount(capsule)
    del original
    gc.collect()
    assert owner() is not None
    taken = arrays._import(capsule, 1, None)
    assert sys.getrefcount(capsule) == references
    assert capsule_name(capsule) == (b"used_dltensor_versioned" if versioned else b"used_dltensor")
    with pytest.raises(InputError, match="nobody has taken"):
        arrays._import(capsule, 1, None)
    del capsule
    gc.collect()
    assert owner() is not None
    del taken
    gc.collect()
    assert owner() is None
    assert not dlpack._exported


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_capsule_that_nobody_takes_lets_go(version: tuple[int, int] | None) -> None:
    original = array()
    owner = weakref.ref(original.owner)
    for _ in range(100):
        original.__dlpack__(max_version=version)
    assert not dlpack._exported
    del original
    assert owner() is None


def test_a_read_only_array_needs_a_consumer_that_knows_of_it() -> None:
    assert as_device_array(Tensor(array(readonly=True))).readonly
    with pytest.raises(BufferError, match=r"DLPack 1\.0"):
        array(readonly=True).__dlpack__()


def test_what_cannot_be_handed_over_is_refused() -> None:
    with pytest.raises(BufferError, match="where they are"):
        array().__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="where they are"):
        array().__dlpack__(copy=True)
    with pytest.raises(BufferError, match="whole items"):
        array(strides=(31, 6, 2)).__dlpack__()
    with pytest.raises(BufferError, match="ask its owner"):
        array(stream=7).__dlpack__()
    assert array().__dlpack_device__() == (2, 1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64", "float16", "float32", "bool"])
@pytest.mark.parametrize("view", [np.s_[:], np.s_[::2, ::-1], np.s_[1:, :, 0]], ids=str)
def test_numpys_capsules_are_read(dtype: str, view: Any) -> None:
    host: NDArray[Any] = np.ones((4, 5, 3), dtype)[view]
    references = sys.getrefcount(host)
    taken = arrays._import(host.__dlpack__(), 0, None)
    assert described(taken) == (host.ctypes.data, host.shape, host.dtype, host.strides, False)
    del taken
    gc.collect()
    assert sys.getrefcount(host) == references


@pytest.mark.parametrize("view", [np.s_[:], np.s_[::2, ::-1], np.s_[1:, :, 0]], ids=str)
def test_numpy_reads_our_capsules(view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host = np.arange(60, dtype=np.int16).reshape(4, 5, 3)[view]
    monkeypatch.setattr(dlpack, "CUDA", dlpack.HOST)
    ours = DeviceArray(
        pointer=host.ctypes.data, shape=host.shape, dtype=host.dtype, strides=host.strides, device=0, owner=host
    )
    taken = np.from_dlpack(ours)
    np.testing.assert_array_equal(taken, host)
    assert taken.ctypes.data == host.ctypes.data
    del ours, taken
    gc.collect()
    assert not dlpack._exported


@pytest.mark.parametrize("device", [(1, 0), (3, 0)])
def test_host_memory_is_refused(device: tuple[int, int]) -> None:
    message = r"^expected an array on the GPU, found one in host memory \(.*\); use segment\(\)$"
    with pytest.raises(InputError, match=message):
        as_device_array(Tensor(array(), device=device))
    with pytest.raises(InputError, match=message):
        as_device_array(np.zeros(3))


def test_what_is_no_array_is_refused() -> None:
    with pytest.raises(InputError, match="found list; use segment"):
        as_device_array([1, 2])
    with pytest.raises(InputError, match="expected an array on the GPU"):
        as_device_array(Tensor(array(), device=(10, 0)))


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="expected integers or floats, found DLPack type 5"):
        arrays._import(np.zeros(3, np.complex64).__dlpack__(), 0, None)
    with pytest.raises(BufferError, match="complex64"):
        array(dtype=np.dtype("complex64"), strides=(120, 24, 8)).__dlpack__()


def test_our_own_are_returned_as_they_are() -> None:
    ours = array()
    assert as_device_array(ours) is ours
