"""CUDA through PyCUDA, imported nowhere else. Handles are objects, which are freed when nothing refers to them.

PyCUDA keeps a stack of contexts of its own for every thread, and needs ours on it wherever it makes or frees something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceMemoryError, EngineError
from .provider import (
    NO_DRIVER,
    NON_BLOCKING,
    NOT_STARTED,
    PORTABLE,
    RESTART,
    Argument,
    Context,
    Dims,
    Native,
    first_line,
)

T = TypeVar("T")


class PyCuda:
    """The provider "pycuda"; `provider.Api` describes its methods. It cannot capture graphs.

    Handles are opaque, so that methods are called through their classes: ``Stream.synchronize(stream)``.
    """

    name = "pycuda"

    def __init__(self) -> None:
        try:
            import pycuda.driver as cuda
        except Exception as error:  # its module is linked to the driver, and fails where that does
            reason = f"pycuda cannot be loaded: {first_line(error)}: install it again, for this CUDA"
            raise EngineError(NO_DRIVER if "libcuda" in str(error) else reason) from error
        self._cuda = cuda
        try:
            cuda.init()
        except cuda.Error as error:
            if "no CUDA-capable device" not in str(error):  # `count` reports that
                raise EngineError(f"{NOT_STARTED}: {first_line(error)}: {RESTART}") from error

    def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """What the library's function returns; its exceptions become ours."""
        try:
            return function(*arguments)
        except self._cuda.MemoryError as error:
            raise DeviceMemoryError(f"CUDA: {first_line(error)}: free GPU memory, or use a smaller batch") from error
        except self._cuda.Error as error:  # "cuMemAlloc failed: ..."
            raise EngineError(f"CUDA: {first_line(error)}") from error

    def version(self) -> int:
        """The CUDA version that the driver supports."""
        return int(self._call(self._cuda.get_driver_version))

    def count(self) -> int:
        """How many GPUs are visible; 0 where the driver has not started."""
        try:
            return int(self._call(self._cuda.Device.count))
        except EngineError:
            return 0

    def describe(self, index: int) -> tuple[str, tuple[int, int]]:
        """Name and compute capability of a GPU."""
        device = self._call(self._cuda.Device, index)
        major, minor = self._call(device.compute_capability)
        return str(self._call(device.name)), (int(major), int(minor))

    def multiprocessors(self, index: int) -> int:
        """How many streaming multiprocessors a GPU has."""
        device = self._call(self._cuda.Device, index)
        return int(self._call(device.get_attribute, self._cuda.device_attribute.MULTIPROCESSOR_COUNT))

    def current(self) -> Context | None:
        """The context that PyCUDA made current; another library's is not seen, but nearly all use the primary one."""
        context = self._cuda.Context.get_current()
        if context is None:
            return None
        return Context(context, self._index(self._call(context.get_device)))

    def _index(self, device: object) -> int:
        return next(index for index in range(self.count()) if self._cuda.Device(index) == device)

    def retain(self, index: int) -> Context:
        """The primary context of a GPU."""
        return Context(self._call(self._call(self._cuda.Device, index).retain_primary_context), index)

    def push(self, context: object) -> None:
        """Make a context current in this thread."""
        self._call(self._cuda.Context.push, context)

    def pop(self) -> None:
        """Make the context before it current again."""
        self._call(self._cuda.Context.pop)

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU in bytes."""
        free, total = self._call(self._cuda.mem_get_info)
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Native:
        """Memory of the GPU."""
        memory = self._call(self._cuda.mem_alloc, nbytes)
        return Native(memory, int(memory), lambda: self._call(memory.free))

    def pinned(self, nbytes: int) -> Native:
        """Page-locked memory of the host."""
        array = self._call(self._cuda.pagelocked_empty, nbytes, np.uint8, "C", PORTABLE)
        return Native(array, array.ctypes.data, lambda: self._call(array.base.free))

    def stream(self) -> Native:
        """A stream that does not wait for the default one."""
        stream = self._call(self._cuda.Stream, NON_BLOCKING)
        return Native(stream, int(stream.handle), _nothing)

    def event(self, flags: int) -> Native:
        """An event."""
        return Native(self._call(self._cuda.Event, flags), 0, _nothing)

    def module(self, ptx: bytes) -> Native:
        """A module, compiled from PTX."""
        return Native(self._call(self._cuda.module_from_buffer, ptx + b"\0"), 0, _nothing)

    def kernel(self, module: object, name: str) -> object:
        """A kernel of a module."""
        return self._call(self._cuda.Module.get_function, module, name)

    def copy_in(self, target: int, source: NDArray[np.generic], stream: object) -> None:
        """Enqueue the copy of a host array to the GPU."""
        self._call(self._cuda.memcpy_htod_async, target, source, stream)

    def copy_out(self, target: NDArray[np.generic], source: int, stream: object) -> None:
        """Enqueue the copy from the GPU to a host array."""
        self._call(self._cuda.memcpy_dtoh_async, target, source, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: object) -> None:
        """Enqueue a copy within the GPU."""
        self._call(self._cuda.memcpy_dtod_async, target, source, nbytes, stream)

    def fill(self, target: int, value: int, nbytes: int, stream: object) -> None:
        """Enqueue the setting of bytes to one value."""
        self._call(self._cuda.memset_d8_async, target, value, nbytes, stream)

    def wait(self, stream: object, event: object) -> None:
        """Let later work of a stream wait for an event."""
        self._call(self._cuda.Stream.wait_for_event, stream, event)

    def follow(self, stream: object, handle: int) -> None:
        """Wait for the whole context: PyCUDA cannot record an event in a stream that it has not made."""
        self._call(self._cuda.Context.synchronize)

    def launch(self, kernel: object, grid: Dims, block: Dims, arguments: Sequence[Argument], stream: object) -> None:
        """Enqueue a kernel."""
        letters = [argument._type_ for argument in arguments]  # ctypes' letters are struct's
        self._call(self._cuda.Function.prepare, kernel, letters)
        values = [argument.value for argument in arguments]
        self._call(self._cuda.Function.prepared_async_call, kernel, grid, block, stream, *values)

    def finish_stream(self, stream: object) -> None:
        """Wait until a stream is idle."""
        self._call(self._cuda.Stream.synchronize, stream)

    def capture(self, stream: object, work: Callable[[], None]) -> Native | None:
        """None: PyCUDA has no graphs."""
        return None

    def launch_graph(self, graph: object, stream: object) -> None:
        """Raise EngineError: there are no graphs."""
        raise EngineError("pycuda cannot launch CUDA graphs: pip install cuda-bindings")

    def record(self, event: object, stream: object) -> None:
        """Set an event after the work so far of a stream."""
        self._call(self._cuda.Event.record, event, stream)

    def finish_event(self, event: object) -> None:
        """Wait until an event is reached."""
        self._call(self._cuda.Event.synchronize, event)

    def query(self, event: object) -> bool:
        """Whether an event is reached."""
        return bool(self._call(self._cuda.Event.query, event))

    def elapsed(self, start: object, end: object) -> float:
        """Milliseconds between two events."""
        return float(self._call(self._cuda.Event.time_since, end, start))


def _nothing() -> None:
    """Free an object of PyCUDA: it suffices that nothing refers to it."""
