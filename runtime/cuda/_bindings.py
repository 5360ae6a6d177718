"""CUDA through NVIDIA's cuda-bindings, imported nowhere else. Everything is a number."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from ..errors import DeviceMemoryError, EngineError
from ._provider import (
    NO_DRIVER,
    NO_TIMING,
    NON_BLOCKING,
    NOT_STARTED,
    PORTABLE,
    RESTART,
    Context,
    Dims,
    Native,
    first_line,
)


class Bindings:
    """The provider "cuda-bindings"."""

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

    def _call(self, name: str, *arguments: Any, _expected: tuple[str, ...] = ()) -> Any:
        """What the driver's function returns beside its status."""
        try:
            status, *values = getattr(self._cuda, name)(*arguments)
        except RuntimeError as error:  # the driver is too old to have it
            raise EngineError(f"CUDA: {name} failed: {first_line(error)}: install a newer driver") from error
        if status.name == "CUDA_ERROR_OUT_OF_MEMORY":
            raise DeviceMemoryError(f"CUDA: {name} failed: {status.name}: free GPU memory, or use a smaller batch")
        if int(status) and status.name not in _expected:
            raise EngineError(f"CUDA: {name} failed: {status.name}")
        return values[0] if len(values) == 1 else (values or status)

    def version(self) -> int:
        return int(self._call("cuDriverGetVersion"))

    def count(self) -> int:
        status, count = self._cuda.cuDeviceGetCount()
        return 0 if int(status) else int(count)  # not initialised where there is none

    def describe(self, index: int) -> tuple[str, tuple[int, int]]:
        name = self._call("cuDeviceGetName", 256, index).split(b"\0")[0].decode(errors="replace")
        major, minor = (self._attribute(f"COMPUTE_CAPABILITY_{part}", index) for part in ("MAJOR", "MINOR"))
        return name, (major, minor)

    def multiprocessors(self, index: int) -> int:
        return self._attribute("MULTIPROCESSOR_COUNT", index)

    def _attribute(self, name: str, index: int) -> int:
        kind = getattr(self._cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("cuDeviceGetAttribute", kind, index))

    def current(self) -> Context | None:
        status, context = self._cuda.cuCtxGetCurrent()
        if int(status) or not int(context):
            return None
        return Context(int(context), int(self._call("cuCtxGetDevice")))

    def retain(self, index: int) -> Context:
        return Context(int(self._call("cuDevicePrimaryCtxRetain", index)), index)

    def push(self, context: Any) -> None:
        self._call("cuCtxPushCurrent", context)

    def pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def _made(self, free: str, made: Any) -> Native:
        return Native(int(made), int(made), lambda: self._call(free, int(made)))

    def allocate(self, nbytes: int) -> Native:
        return self._made("cuMemFree", self._call("cuMemAlloc", nbytes))

    def pinned(self, nbytes: int) -> Native:
        return self._made("cuMemFreeHost", self._call("cuMemHostAlloc", nbytes, PORTABLE))

    def stream(self) -> Native:
        return self._made("cuStreamDestroy", self._call("cuStreamCreate", NON_BLOCKING))

    def event(self, flags: int) -> Native:
        return self._made("cuEventDestroy", self._call("cuEventCreate", flags))

    def module(self, ptx: bytes) -> Native:
        return self._made("cuModuleUnload", self._call("cuModuleLoadData", ptx + b"\0"))

    def kernel(self, module: Any, name: str) -> Any:
        return int(self._call("cuModuleGetFunction", module, name.encode()))

    def copy_in(self, target: int, source: NDArray[Any], stream: Any) -> None:
        self._call("cuMemcpyHtoDAsync", target, source.ctypes.data, source.nbytes, stream)

    def copy_out(self, target: NDArray[Any], source: int, stream: Any) -> None:
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, source, target.nbytes, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, nbytes, stream)

    def fill(self, target: int, value: int, nbytes: int, stream: Any) -> None:
        self._call("cuMemsetD8Async", target, value, nbytes, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def follow(self, stream: Any, handle: int) -> None:
        event = self.event(NO_TIMING)
        try:
            self.record(event.thing, handle)
            self.wait(stream, event.thing)
        finally:
            event.free()  # the driver keeps it until it is reached

    def launch(self, kernel: Any, grid: Dims, block: Dims, arguments: Sequence[Any], stream: Any) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self._call("cuLaunchKernel", kernel, *grid, *block, 0, stream, ctypes.addressof(pointers), 0)

    def finish_stream(self, stream: Any) -> None:
        self._call("cuStreamSynchronize", stream)

    def capture(self, stream: Any, work: Callable[[], None]) -> Native | None:
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

    def launch_graph(self, graph: Any, stream: Any) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def record(self, event: Any, stream: Any) -> None:
        self._call("cuEventRecord", event, stream)

    def finish_event(self, event: Any) -> None:
        self._call("cuEventSynchronize", event)

    def query(self, event: Any) -> bool:
        status = self._call("cuEventQuery", event, _expected=("CUDA_ERROR_NOT_READY",))
        return int(status) == 0

    def elapsed(self, start: Any, end: Any) -> float:
        return float(self._call("cuEventElapsedTime", start, end))
