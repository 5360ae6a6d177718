from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest

from fctl.runtime.cuda.arrays import DeviceArray, as_device_array
from fctl.runtime.cuda.driver import Device, Stream, open_device


@pytest.fixture
def device() -> Iterator[Device]:
    device = open_device()
    with device.active():
        yield device
    device.close()


def filled(device: Device, stream: Stream) -> DeviceArray:
    """Sixteen bytes of 1, once the stream has come to it."""
    memory = device.allocate(16)
    stream.fill(memory.pointer, 0, 16)
    stream.synchronize()
    stream.fill(memory.pointer, 1, 16)
    return DeviceArray.dense(memory.pointer, (4, 4), "uint8", device=device.index, owner=memory, stream=stream)


def first_byte(array: DeviceArray) -> int:
    """Memory of the simulated GPU is memory of the host."""
    return ctypes.c_uint8.from_address(array.pointer).value


@pytest.mark.parametrize(
    ("consumer", "waits"), [("another", True), ("none", True), ("same", False), ("no wait", False)]
)
def test_a_capsule_is_ready_for_its_consumers_stream(device: Device, consumer: str, waits: bool) -> None:
    stream = device.stream()
    array, another = filled(device, stream), device.stream()
    handles = {"another": another.handle, "none": None, "same": stream.handle, "no wait": -1}
    array.__dlpack__(stream=handles[consumer])
    assert first_byte(array) == int(waits)


def test_the_interface_names_the_stream(device: Device) -> None:
    stream = device.stream()
    assert filled(device, stream).__cuda_array_interface__["stream"] == stream.handle


def test_a_library_is_told_where_its_array_will_be_read(device: Device) -> None:
    class Tensor:
        asked: list[Any] = []  # noqa: RUF012

        def __dlpack_device__(self) -> tuple[int, int]:
            return array.__dlpack_device__()

        def __dlpack__(self, *, stream: int | None, max_version: tuple[int, int]) -> Any:
            self.asked.append(stream)
            return array.__dlpack__(stream=stream, max_version=max_version)

    ours, theirs = device.stream(), device.stream()
    array = filled(device, theirs)
    taken = as_device_array(Tensor(), ours)
    assert (Tensor.asked, taken.stream, taken.pointer) == ([ours.handle], None, array.pointer)
    assert first_byte(taken) == 1


def test_an_array_of_the_interface_is_waited_for_on_its_stream(device: Device) -> None:
    ours, theirs = device.stream(), device.stream()
    array = filled(device, theirs)

    class Described:
        __cuda_array_interface__ = array.__cuda_array_interface__

    taken = as_device_array(Described(), ours)
    assert taken.stream == theirs.handle
    ours.follow(theirs.handle)
    ours.synchronize()
    assert first_byte(taken) == 1


def test_the_memory_lives_as_long_as_its_consumer(device: Device) -> None:
    free = device.free_memory()[0]
    stream = device.stream()
    capsule = filled(device, stream).__dlpack__()
    assert device.free_memory()[0] == free - 16
    del capsule
    assert device.free_memory()[0] == free
