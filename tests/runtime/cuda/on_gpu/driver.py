from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from fctl.runtime.cuda import driver
from fctl.runtime.cuda.driver import Device
from fctl.runtime.cuda.kernels import PTX
from fctl.runtime.errors import DeviceMemoryError, EngineError

from .. import simulated

NOTHING = {"memory": 0, "pinned": 0, "streams": 0, "events": 0, "modules": 0, "graphs": 0, "bytes": 0}


def left() -> dict[str, int]:
    return {name: count for name, count in simulated.report().items() if name in NOTHING}


@pytest.fixture
def device() -> Iterator[Device]:
    device = driver.open_device()
    yield device
    device.close()
    assert left() == NOTHING


def test_the_device_is_described(device: Device) -> None:
    assert driver.missing() is None
    assert (device.name, device.compute_capability, device.driver) == ("Simulated GPU", (8, 6), "13.0")
    assert (device.index, device.provider) == (0, "cuda-bindings")
    free, total = device.free_memory()
    assert free == total == 1 << 30
    with pytest.raises(EngineError, match="expected a GPU from 0 to 0, found 3"):
        driver.open_device(3)


def test_everything_is_freed_on_close(device: Device) -> None:
    memory, pinned = device.allocate(1000), device.pinned(500)
    made = [memory, pinned, device.stream(), device.event(), device.kernels(PTX.read_bytes())]
    assert left() == {
        "memory": 1, "pinned": 1, "streams": 1, "events": 1, "modules": 1, "graphs": 0, "bytes": 1000,
    }  # fmt: skip
    assert device.free_memory()[0] == (1 << 30) - 1000
    memory.free()
    memory.free()
    assert left()["memory"] == 0
    device.close()
    device.close()
    assert left() == NOTHING
    for thing in made:
        thing.free()


def test_what_nobody_holds_is_freed_and_outlives_the_name_of_its_device() -> None:
    memory = driver.open_device().allocate(10)
    gc.collect()
    assert left()["memory"] == 1
    del memory
    gc.collect()
    assert left() == NOTHING


def test_a_view_of_pinned_memory_keeps_it(device: Device) -> None:
    view = device.pinned(100).array((3, 5), np.uint16)
    gc.collect()
    assert left()["pinned"] == 1
    view[:] = 7
    assert view.sum() == 105
    del view
    gc.collect()
    assert left()["pinned"] == 0
    with pytest.raises(EngineError, match="at most 8 bytes of pinned memory, found 12"):
        device.pinned(8).array(3, np.float32)


def test_out_of_memory_is_told_as_such(device: Device) -> None:
    with pytest.raises(DeviceMemoryError, match=r"CUDA: cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY: .*smaller batch"):
        device.allocate(1 << 40)
    with pytest.raises(MemoryError):
        device.pinned(1 << 40)
    device.allocate(0)


def test_an_error_names_the_call(device: Device) -> None:
    with pytest.raises(EngineError, match=r"^CUDA: cuModuleLoadData failed: CUDA_ERROR_INVALID_PTX"):
        device.kernels(b"no PTX")
    with device.active(), pytest.raises(EngineError, match=r"^CUDA: cuModuleGetFunction failed: CUDA_ERROR_NOT_FOUND"):
        device.kernels(PTX.read_bytes())["no kernel"]


def test_bytes_go_in_about_and_out(device: Device) -> None:
    source, target = np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros((3, 4), np.float32)
    memory, stream = device.allocate(2 * source.nbytes), device.stream()
    with device.active():
        stream.copy_in(memory.pointer, source)
        stream.copy(memory.pointer + source.nbytes, memory.pointer, source.nbytes)
        stream.fill(memory.pointer, 0, source.nbytes)
        stream.copy_out(target, memory.pointer + source.nbytes)
        assert not target.any()  # the simulated GPU is as late as it may be
        stream.synchronize()
        np.testing.assert_array_equal(target, source)
        stream.copy_out(target, memory.pointer)
        stream.synchronize()
        assert not target.any()
        with pytest.raises(EngineError, match="C-contiguous"):
            stream.copy_in(memory.pointer, source.T)


def test_a_stream_waits_for_an_event_and_for_nothing_else(device: Device) -> None:
    first, second, event = device.stream(), device.stream(), device.event()
    memory, late = device.allocate(4), np.zeros(1, np.int32)
    with device.active():
        first.fill(memory.pointer, 1, 4)
        event.record(first)
        first.fill(memory.pointer, 2, 4)
        second.wait(event)
        second.copy_out(late, memory.pointer)
        second.synchronize()
        assert late[0] == 0x01010101
        assert event.done()


def test_without_a_wait_the_numbers_are_wrong(device: Device) -> None:
    first, second = device.stream(), device.stream()
    memory, late = device.allocate(4), np.zeros(1, np.int32)
    with device.active():
        first.fill(memory.pointer, 1, 4)
        second.copy_out(late, memory.pointer)
        second.synchronize()
    assert late[0] != 0x01010101


def test_a_buffer_that_is_filled_again_too_early_gives_wrong_numbers(device: Device) -> None:
    stream, memory, back = device.stream(), device.allocate(4), np.zeros(1, np.int32)
    host = device.pinned(4).array(1, np.int32)
    with device.active():
        host[0] = 1
        stream.copy_in(memory.pointer, host)
        host[0] = 2
        stream.copy_out(back, memory.pointer)
        stream.synchronize()
    assert back[0] == 2


def test_another_librarys_stream_is_followed(device: Device) -> None:
    theirs, ours = device.stream(), device.stream()
    memory, late = device.allocate(4), np.zeros(1, np.int32)
    with device.active():
        theirs.fill(memory.pointer, 3, 4)
        ours.follow(theirs.handle)
        ours.follow(1)
        ours.copy_out(late, memory.pointer)
        ours.synchronize()
    assert late[0] == 0x03030303


def test_work_on_freed_memory_fails_and_close_still_frees() -> None:
    device = driver.open_device()
    stream, memory = device.stream(), device.allocate(4)
    with device.active():
        stream.fill(memory.pointer, 1, 4)
        memory.free()
        with pytest.raises(EngineError, match="cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
            stream.synchronize()
    simulated.driver().fake_recover()
    device.close()
    assert left() == NOTHING


def test_events_measure_time(device: Device) -> None:
    stream, start, end = device.stream(), device.event(timing=True), device.event(timing=True)
    with device.active():
        start.record(stream)
        simulated.enqueue(stream.handle, lambda: time.sleep(0.01))
        end.record(stream)
        assert not end.done()
        end.synchronize()
        assert end.done()
        assert end.since(start) > 0


def test_kernels_run(device: Device) -> None:
    values, result = np.array([1, 2, 3], np.float32), np.zeros(3, np.float32)
    memory, stream, kernels = device.allocate(12), device.stream(), device.kernels(PTX.read_bytes())
    with device.active():
        stream.copy_in(memory.pointer, values)
        arguments = (ctypes.c_uint64(memory.pointer), ctypes.c_int64(3), ctypes.c_float(4))
        stream.launch(kernels["divide"], (1, 1, 1), (32, 1, 1), arguments)
        stream.copy_out(result, memory.pointer)
        stream.synchronize()
        np.testing.assert_array_equal(result, values / 4)
        with pytest.raises(EngineError, match="cuLaunchKernel failed: CUDA_ERROR_INVALID_VALUE"):
            stream.launch(kernels["divide"], (1, 1, 1), (2048, 1, 1), arguments)


def test_a_graph_is_captured_without_running_and_launched_again_and_again(device: Device) -> None:
    memory, stream, result = device.allocate(4), device.stream(), np.zeros(1, np.uint32)
    with device.active():
        stream.fill(memory.pointer, 5, 4)

        def work() -> None:
            stream.copy_out(result, memory.pointer)
            stream.fill(memory.pointer, 6, 4)

        graph = stream.capture(work)
        assert graph is not None
        stream.synchronize()
        assert result[0] == 0
        for expected in (0x05050505, 0x06060606):
            graph.launch(stream)
            stream.synchronize()
            assert result[0] == expected


def test_a_failed_capture_leaves_the_stream_usable(device: Device) -> None:
    memory, stream = device.allocate(4), device.stream()

    def failing() -> None:
        stream.fill(memory.pointer, 5, 4)
        raise ValueError("a library does not like this")

    with device.active():
        assert stream.capture(failing) is None
        assert stream.capture(stream.synchronize) is None
        stream.fill(memory.pointer, 1, 4)
        stream.synchronize()
    assert left()["graphs"] == 0


def test_contexts_nest_and_leave_the_threads_own_alone(device: Device) -> None:
    from cuda.bindings import driver as cuda

    with device.active():
        with device.active():
            assert int(cuda.cuCtxGetCurrent()[1])
        assert int(cuda.cuCtxGetCurrent()[1])
    assert not int(cuda.cuCtxGetCurrent()[1])


def test_enqueueing_outside_the_context_is_an_error(device: Device) -> None:
    memory, stream = device.allocate(4), device.stream()
    with pytest.raises(EngineError, match="cuMemsetD8Async failed: CUDA_ERROR_INVALID_CONTEXT"):
        stream.fill(memory.pointer, 0, 4)


def test_the_applications_context_is_used_and_kept() -> None:
    from cuda.bindings import driver as cuda

    context = cuda.cuCtxCreate(None, 0, 0)[1]
    device = driver.open_device()
    device.allocate(10)
    assert not device.in_primary
    device.close()
    assert int(cuda.cuCtxGetCurrent()[1]) == int(context)
    assert left() == NOTHING
    cuda.cuCtxDestroy(context)


def test_the_primary_context_stays_for_the_libraries_that_share_it(device: Device) -> None:
    assert device.in_primary
    device.close()
    assert simulated.report()["contexts"] == 1
    driver.open_device().close()
    assert simulated.report()["contexts"] == 1


def test_what_is_given_away_outlives_the_device() -> None:
    device = driver.open_device()
    memory, other = device.allocate(10), device.allocate(20)
    memory.give_away()
    device.close()
    assert (left()["memory"], left()["bytes"]) == (1, 10)
    del memory, other, device
    gc.collect()
    assert left() == NOTHING


def test_threads_share_a_device(device: Device) -> None:
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        stream = device.stream()
        host, back = np.full(1000, number, np.int32), np.zeros(1000, np.int32)
        for _ in range(20):
            memory = device.allocate(host.nbytes)
            with device.active():
                stream.copy_in(memory.pointer, host)
                stream.copy_out(back, memory.pointer)
                stream.synchronize()
            memory.free()
        results[number] = bool((back == number).all())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)
