"""CUDA through PyCUDA, imported nowhere else. Objects, which are freed when nothing refers to them.

PyCUDA keeps a stack of contexts of its own for every thread, and needs ours on it wherever it makes or frees something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceMemoryError, EngineError
from ._provider import NO_DRIVER, NON_BLOCKING, NOT_STARTED, PORTABLE, RESTART, Context, Dims, Native, first_line


class PyCuda:
    """The provider "pycuda". It cannot capture graphs."""

    name = "pycuda"

    def __init__(self) -> None:
        try:
            import pycuda.driver as cuda
        except Exception as error:  # its module is linked to the driver, and fails where that does
            reason = f"pycuda cannot be loaded: {first_line(error)}: install it again, for this CUDA"
            raise EngineError(NO_DRIVER if "libcuda" in str(error) else reason) from error
        self._cuda: Any = cuda
        try:
            cuda.init()
        except cuda.Error as error:
            if "no CUDA-capable device" not in str(error):  # that is told by `count`
                raise EngineError(f"{NOT_STARTED}: {first_line(error)}: {RESTART}") from error

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.MemoryError as error:
            raise DeviceMemoryError(f"CUDA: {first_line(error)}: free GPU memory, or use a smaller batch") from error
        except self._cuda.Error as error:  # "cuMemAlloc failed: ..."
            raise EngineError(f"CUDA: {first_line(error)}") from error

    def version(self) -> int:
        return int(self._call(self._cuda.get_driver_version))

    def count(self) -> int:
        try:
            return int(self._call(self._cuda.Device.count))
        except EngineError:
            return 0

    def describe(self, index: int) -> tuple[str, tuple[int, int]]:
        device = self._call(self._cuda.Device, index)
        major, minor = self._call(device.compute_capability)
        return str(self._call(device.name)), (int(major), int(minor))

    def multiprocessors(self, index: int) -> int:
        device = self._call(self._cuda.Device, index)
        return int(self._call(device.get_attribute, self._cuda.device_attribute.MULTIPROCESSOR_COUNT))

    def current(self) -> Context | None:
        context = self._cuda.Context.get_current()
        if context is None:  # another library's is not seen, but nearly all use the primary one
            return None
        return Context(context, self._index(self._call(context.get_device)))

    def _index(self, device: Any) -> int:
        return next(index for index in range(self.count()) if self._cuda.Device(index) == device)

    def retain(self, index: int) -> Context:
        return Context(self._call(self._call(self._cuda.Device, index).retain_primary_context), index)

    def push(self, context: Any) -> None:
        self._call(context.push)

    def pop(self) -> None:
        self._call(self._cuda.Context.pop)

    def memory(self) -> tuple[int, int]:
        free, total = self._call(self._cuda.mem_get_info)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Native:
        memory = self._call(self._cuda.mem_alloc, nbytes)
        return Native(memory, int(memory), lambda: self._call(memory.free))

    def pinned(self, nbytes: int) -> Native:
        array = self._call(self._cuda.pagelocked_empty, nbytes, np.uint8, "C", PORTABLE)
        return Native(array, array.ctypes.data, lambda: self._call(array.base.free))

    def stream(self) -> Native:
        stream = self._call(self._cuda.Stream, NON_BLOCKING)
        return Native(stream, int(stream.handle), _nothing)

    def event(self, flags: int) -> Native:
        return Native(self._call(self._cuda.Event, flags), 0, _nothing)

    def module(self, ptx: bytes) -> Native:
        return Native(self._call(self._cuda.module_from_buffer, ptx + b"\0"), 0, _nothing)

    def kernel(self, module: Any, name: str) -> Any:
        return self._call(module.get_function, name)

    def copy_in(self, target: int, source: NDArray[Any], stream: Any) -> None:
        self._call(self._cuda.memcpy_htod_async, target, source, stream)

    def copy_out(self, target: NDArray[Any], source: int, stream: Any) -> None:
        self._call(self._cuda.memcpy_dtoh_async, target, source, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._call(self._cuda.memcpy_dtod_async, target, source, nbytes, stream)

    def fill(self, target: int, value: int, nbytes: int, stream: Any) -> None:
        self._call(self._cuda.memset_d8_async, target, value, nbytes, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._call(stream.wait_for_event, event)

    def follow(self, stream: Any, handle: int) -> None:
        self._call(self._cuda.Context.synchronize)  # it cannot record an event in a stream that it has not made

    def launch(self, kernel: Any, grid: Dims, block: Dims, arguments: Sequence[Any], stream: Any) -> None:
        kernel.prepare([argument._type_ for argument in arguments])  # ctypes' letters are struct's
        values = [argument.value for argument in arguments]
        self._call(kernel.prepared_async_call, grid, block, stream, *values)

    def finish_stream(self, stream: Any) -> None:
        self._call(stream.synchronize)

    def capture(self, stream: Any, work: Callable[[], None]) -> Native | None:
        return None

    def launch_graph(self, graph: Any, stream: Any) -> None:
        raise EngineError("pycuda cannot launch CUDA graphs: pip install cuda-bindings")

    def record(self, event: Any, stream: Any) -> None:
        self._call(event.record, stream)

    def finish_event(self, event: Any) -> None:
        self._call(event.synchronize)

    def query(self, event: Any) -> bool:
        return bool(self._call(event.query))

    def elapsed(self, start: Any, end: Any) -> float:
        return float(self._call(end.time_since, start))


def _nothing() -> None:
    """What PyCUDA needs to free an object: nothing but to be forgotten."""
