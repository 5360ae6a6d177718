"""CUDA through NVIDIA's cuda-bindings, imported nowhere else. All handles are numbers."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, SupportsInt

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceMemoryError, EngineError
from .provider import (
    NO_DRIVER,
    NO_TIMING,
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


class Bindings:
    """The provider "cuda-bindings"; `provider.Api` describes its methods."""

    name = "cuda-bindings"

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except Exception as error:  # whatever a broken installation raises
            raise EngineError(f"cuda-bindings cannot be loaded: {first_line(error)}: install it again") from error
        self._cuda = driver
        try:
            driver.cuGetErrorName(driver.CUresult.CUDA_SUCCESS)  # loads the driver; older releases: a RuntimeError
        except RuntimeError as error:
            raise EngineError(NO_DRIVER) from error
        (status,) = driver.cuInit(0)
        if status.name not in ("CUDA_SUCCESS", "CUDA_ERROR_NO_DEVICE"):
            raise EngineError(f"{NOT_STARTED}: {status.name}: {RESTART}")

    def _call(self, name: str, *arguments: object, expected: tuple[str, ...] = ()) -> Any:
        """What the driver's function returns beside its status: a value, a list of several, or the status alone."""
        try:
            status, *values = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # the driver is too old to have it
            raise EngineError(f"CUDA: {name} failed: {first_line(error)}: install a newer driver") from error
        if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
            raise DeviceMemoryError(f"CUDA: {name} failed: {status.name}: free GPU memory, or use a smaller batch")
        if int(status) and status.name not in expected:
            raise EngineError(f"CUDA: {name} failed: {status.name}")
        return values[0] if len(values) == 1 else (values or status)

    def version(self) -> int:
        """The CUDA version that the driver supports."""
        return int(self._call("cuDriverGetVersion"))

    def count(self) -> int:
        """How many GPUs are visible; 0 where the driver has not started."""
        status, count = self._cuda.cuDeviceGetCount()
        return 0 if int(status) else int(count)  # not initialised where there is none

    def describe(self, index: int) -> tuple[str, tuple[int, int]]:
        """Name and compute capability of a GPU."""
        name = self._call("cuDeviceGetName", 256, index).split(b"\0")[0].decode(errors="replace")
        major, minor = (self._attribute(f"COMPUTE_CAPABILITY_{part}", index) for part in ("MAJOR", "MINOR"))
        return name, (major, minor)

    def multiprocessors(self, index: int) -> int:
        """How many streaming multiprocessors a GPU has."""
        return self._attribute("MULTIPROCESSOR_COUNT", index)

    def _attribute(self, name: str, index: int) -> int:
        kind = getattr(self._cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("cuDeviceGetAttribute", kind, index))

    def current(self) -> Context | None:
        """The context that is current in this thread, whoever made it so."""
        status, context = self._cuda.cuCtxGetCurrent()
        if int(status) or not int(context):
            return None
        return Context(int(context), int(self._call("cuCtxGetDevice")))

    def retain(self, index: int) -> Context:
        """The primary context of a GPU."""
        return Context(int(self._call("cuDevicePrimaryCtxRetain", index)), index)

    def push(self, context: object) -> None:
        """Make a context current in this thread."""
        self._call("cuCtxPushCurrent", context)

    def pop(self) -> None:
        """Make the context before it current again."""
        self._call("cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU in bytes."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def _made(self, free: str, made: SupportsInt) -> Native:
        return Native(int(made), int(made), lambda: self._call(free, int(made)))

    def allocate(self, nbytes: int) -> Native:
        """Memory of the GPU."""
        return self._made("cuMemFree", self._call("cuMemAlloc", nbytes))

    def pinned(self, nbytes: int) -> Native:
        """Page-locked memory of the host."""
        return self._made("cuMemFreeHost", self._call("cuMemHostAlloc", nbytes, PORTABLE))

    def stream(self) -> Native:
        """A stream that does not wait for the default one."""
        return self._made("cuStreamDestroy", self._call("cuStreamCreate", NON_BLOCKING))

    def event(self, flags: int) -> Native:
        """An event."""
        return self._made("cuEventDestroy", self._call("cuEventCreate", flags))

    def module(self, ptx: bytes) -> Native:
        """A module, compiled from PTX."""
        return self._made("cuModuleUnload", self._call("cuModuleLoadData", ptx + b"\0"))

    def kernel(self, module: object, name: str) -> object:
        """A kernel of a module."""
        return int(self._call("cuModuleGetFunction", module, name.encode()))

    def copy_in(self, target: int, source: NDArray[np.generic], stream: object) -> None:
        """Enqueue the copy of a host array to the GPU."""
        self._call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, stream)

    def copy_out(self, target: NDArray[np.generic], source: int, stream: object) -> None:
        """Enqueue the copy from the GPU to a host array."""
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: object) -> None:
        """Enqueue a copy within the GPU."""
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def fill(self, target: int, value: int, nbytes: int, stream: object) -> None:
        """Enqueue the setting of bytes to one value."""
        self._call("cuMemsetD8Async", target, value, nbytes, stream)

    def wait(self, stream: object, event: object) -> None:
        """Let later work of a stream wait for an event."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def follow(self, stream: object, handle: int) -> None:
        """Let later work of a stream wait for the work so far of another library's stream."""
        event = self.event(NO_TIMING)
        try:
            self.record(event.handle, handle)
            self.wait(stream, event.handle)
        finally:
            event.free()  # the driver keeps it until it is reached

    def launch(self, kernel: object, grid: Dims, block: Dims, arguments: Sequence[Argument], stream: object) -> None:
        """Enqueue a kernel."""
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._call("cuLaunchKernel", kernel, *grid, *block, 0, stream, ctypes.addressof(pointers), 0)

    def finish_stream(self, stream: object) -> None:
        """Wait until a stream is idle."""
        self._call("cuStreamSynchronize", stream)

    def capture(self, stream: object, work: Callable[[], None]) -> Native | None:
        """A CUDA graph of what `work` enqueues; None where a call in it cannot be captured."""
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with suppress(EngineError):
            self._call("cuStreamBeginCapture", stream, mode)
            captured = self._captured(work)
            graph = self._call("cuStreamEndCapture", stream)
            try:
                return (
                    self._made("cuGraphExecDestroy", self._call("cuGraphInstantiate", graph, 0)) if captured else None
                )
            finally:
                self._call("cuGraphDestroy", graph)
        return None

    def _captured(self, work: Callable[[], None]) -> bool:
        """Do the work; whether all of it could be captured."""
        collecting = gc.isenabled()
        gc.disable()  # what it frees on the GPU would end the capture
        try:
            work()
        except Exception:  # whatever a library raises where it cannot be captured; uncaptured, it raises it again
            return False
        finally:
            if collecting:
                gc.enable()
        return True

    def launch_graph(self, graph: object, stream: object) -> None:
        """Enqueue a CUDA graph."""
        self._call("cuGraphLaunch", graph, stream)

    def record(self, event: object, stream: object) -> None:
        """Set an event after the work so far of a stream."""
        self._call("cuEventRecord", event, stream)

    def finish_event(self, event: object) -> None:
        """Wait until an event is reached."""
        self._call("cuEventSynchronize", event)

    def query(self, event: object) -> bool:
        """Whether an event is reached."""
        status = self._call("cuEventQuery", event, expected=("CUDA_ERROR_NOT_READY",))
        return int(status) == 0

    def elapsed(self, start: object, end: object) -> float:
        """Milliseconds between two events."""
        return float(self._call("cuEventElapsedTime", start, end))
