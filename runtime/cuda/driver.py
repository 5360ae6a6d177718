"""One GPU through CUDA's driver API: context, memory, streams, events, graphs and kernels.

cuda-bindings and PyCUDA are two providers of the same few calls: the first that is installed is taken.
The context is the application's where its thread has one, else the primary one, which all frameworks share.

What is made here is freed by `free`, by the garbage collector, by `Device.close` or at exit, whichever comes first;
it must be idle by then. Making and freeing works in any thread, enqueueing only inside `Device.active`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any
from weakref import WeakSet, finalize

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import EngineError
from ._provider import NO_TIMING, Api, Context, Dims, Native

OLDEST_DRIVER = 12000  # CUDA 12.0: the newest syntax in kernels.ptx
OLDEST_GPU = (7, 5)  # Turing: the target of kernels.ptx


def missing() -> str | None:
    """What keeps a GPU from being used, and the remedy, in one clause; None where nothing does. Never raises."""
    try:
        _unfit(_provider(), 0)
    except EngineError as error:
        return str(error)
    return None


def open_device(index: int | None = None) -> Device:
    """The GPU of the context that the application has made current in this thread, else the first one.

    index: that GPU, in the application's context where it is of the same GPU. Raises EngineError with the text of
    `missing`.
    """
    api = _provider()
    context = api.current()
    if context is None or index not in (None, context.index):
        _unfit(api, index or 0)
        context = _primary(api, index or 0)
    return Device(api, context)


class Device:
    """One GPU in one context.

    index: its number among the visible GPUs. name: as the driver has it. driver: the CUDA version that the driver
    supports, as "13.0". provider: "cuda-bindings" or "pycuda". multiprocessors: how many SMs it has.
    """

    def __init__(self, api: Api, context: Context) -> None:
        self._api, self._context = api, context
        self._left: WeakSet[_Owned] = WeakSet()
        self.index, self.provider, self.driver = context.index, api.name, _version(api.version())
        self.name, self.compute_capability = api.describe(context.index)
        self.multiprocessors = api.multiprocessors(context.index)

    @property
    def in_primary(self) -> bool:
        """Whether the context is the GPU's primary one, the only one that libraries on CUDA's runtime work in."""
        return bool(self._context.handle == _primary(self._api, self.index).handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread, and restore the previous one after. Any thread, any depth."""
        self._api.push(self._context.handle)
        try:
            yield
        finally:
            self._api.pop()

    def free_memory(self) -> tuple[int, int]:
        """Free and total memory in bytes."""
        with self.active():
            return self._api.memory()

    def allocate(self, nbytes: int) -> Memory:
        """Device memory, not cleared. Raises DeviceMemoryError where there is not enough."""
        with self.active():
            return Memory(self, self._api.allocate(max(nbytes, 1)), nbytes)

    def pinned(self, nbytes: int) -> Pinned:
        """Page-locked host memory, which copies need to be asynchronous. Raises DeviceMemoryError likewise."""
        with self.active():
            return Pinned(self, self._api.pinned(max(nbytes, 1)), nbytes)

    def stream(self) -> Stream:
        """A stream that does not wait for the default one."""
        with self.active():
            return Stream(self, self._api.stream())

    def event(self, timing: bool = False) -> Event:
        """A mark to set in streams."""
        with self.active():
            return Event(self, self._api.event(0 if timing else NO_TIMING))

    def kernels(self, ptx: bytes) -> Kernels:
        """Compile PTX for this GPU."""
        with self.active():
            return Kernels(self, self._api.module(ptx))

    def close(self) -> None:
        """Wait for the streams, and free all that is left but for memory that was given away. Idempotent."""
        left = list(self._left)
        with suppress(EngineError), self.active():  # after a failed kernel, every call fails
            for stream in (owned for owned in left if isinstance(owned, Stream)):
                stream.synchronize()
        for owned in left:
            owned.free()


class _Owned:
    """Something of a device's that is freed once."""

    def __init__(self, device: Device, native: Native) -> None:
        self._device, self._api = device, device._api
        self._held = [native]
        self._end = finalize(self, _free, device, self._held)  # its reference keeps the context as long as needed
        device._left.add(self)

    @property
    def _thing(self) -> Any:
        if not self._held:
            raise EngineError(f"this {type(self).__name__.lower()} of the GPU is freed: make a new one")
        return self._held[0].thing

    def free(self) -> None:
        """Give it back now. Idempotent."""
        self._end()


def _free(device: Device, held: list[Native]) -> None:
    with suppress(EngineError), device.active():  # nothing to be done: the driver has ended, or a kernel failed
        held.pop().free()  # the only reference: PyCUDA frees what has none left, and must do so inside the context


class Memory(_Owned):
    """Device memory. pointer: its address on the GPU."""

    def __init__(self, device: Device, native: Native, nbytes: int) -> None:
        super().__init__(device, native)
        self.pointer, self.nbytes = native.number, nbytes

    def give_away(self) -> None:
        """Leave it to whoever refers to it: `Device.close` will not free it."""
        self._device._left.discard(self)


class Pinned(_Owned):
    """Page-locked host memory."""

    def __init__(self, device: Device, native: Native, nbytes: int) -> None:
        super().__init__(device, native)
        self.nbytes = nbytes
        self.__array_interface__ = {"data": (native.number, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def array(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A view of its start; it keeps the memory, unless that is freed by hand."""
        wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if wanted > self.nbytes:
            raise EngineError(f"expected at most {self.nbytes} bytes of pinned memory, found {wanted}; ask for more")
        return np.asarray(self)[:wanted].view(dtype).reshape(shape)


class Stream(_Owned):
    """Work in order. handle: the CUstream's address, as other libraries take it.

    Host arrays must be C-contiguous, and must stay alive and untouched until the stream has come to their copy.
    """

    def __init__(self, device: Device, native: Native) -> None:
        super().__init__(device, native)
        self.handle = native.number

    def copy_in(self, target: int, source: NDArray[Any]) -> None:
        """Copy a host array to the device."""
        if source.nbytes:
            self._api.copy_in(target, _contiguous(source), self._thing)

    def copy_out(self, target: NDArray[Any], source: int) -> None:
        """Fill a host array from the device."""
        if target.nbytes:
            self._api.copy_out(_contiguous(target), source, self._thing)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device."""
        if nbytes:
            self._api.copy(target, source, nbytes, self._thing)

    def fill(self, target: int, value: int, nbytes: int) -> None:
        """Set bytes to one value."""
        if nbytes:
            self._api.fill(target, value, nbytes, self._thing)

    def wait(self, event: Event) -> None:
        """Let later work of this stream wait for an event, on the device."""
        self._api.wait(self._thing, event._thing)

    def follow(self, handle: int) -> None:
        """Let later work wait for what another library has enqueued so far on its stream (1: the default one)."""
        self._api.follow(self._thing, handle)

    def launch(self, kernel: Any, grid: Dims, block: Dims, arguments: Sequence[ctypes._SimpleCData[Any]]) -> None:
        """Run a kernel. arguments: ctypes scalars of exactly the parameters' types, pointers as c_uint64."""
        self._api.launch(kernel, grid, block, arguments, self._thing)

    def synchronize(self) -> None:
        """Wait until its work is done, in any thread. Raises EngineError where some of it failed."""
        with self._device.active():
            self._api.finish_stream(self._thing)

    def capture(self, work: Callable[[], None]) -> CudaGraph | None:
        """A CUDA graph of what `work` enqueues here; it is not run. None where work or provider cannot be captured."""
        native = self._api.capture(self._thing, work)
        return CudaGraph(self._device, native) if native else None


class Event(_Owned):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Set it after the stream's work so far."""
        self._api.record(self._thing, stream._thing)

    def synchronize(self) -> None:
        """Wait until it is reached, in any thread."""
        with self._device.active():
            self._api.finish_event(self._thing)

    def done(self) -> bool:
        """Whether it is reached."""
        return self._api.query(self._thing)

    def since(self, earlier: Event) -> float:
        """Milliseconds between two events that were made with timing and are reached."""
        return self._api.elapsed(earlier._thing, self._thing)


class CudaGraph(_Owned):
    """Work that was captured once, to be launched many times with the same addresses."""

    def launch(self, stream: Stream) -> None:
        """Enqueue all of it."""
        self._api.launch_graph(self._thing, stream._thing)


class Kernels(_Owned):
    """A compiled module: kernels by name."""

    def __getitem__(self, name: str) -> Any:
        return self._api.kernel(self._thing, name)


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    if not array.flags.c_contiguous:
        raise EngineError(f"expected a C-contiguous host array, found strides {array.strides}; copy it first")
    return array


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


_retained: dict[tuple[str, int], Context] = {}


def _primary(api: Api, index: int) -> Context:
    """The primary context, retained until the process ends: TensorRT and ONNX Runtime may still free things in it."""
    key = api.name, index
    if key not in _retained:
        _retained[key] = api.retain(index)
    return _retained[key]


def _unfit(api: Api, index: int) -> None:
    """Raise EngineError where a GPU cannot be used."""
    if api.version() < OLDEST_DRIVER:
        found, needed = _version(api.version()), _version(OLDEST_DRIVER)
        raise EngineError(f"the NVIDIA driver supports CUDA {found}, fctl needs {needed}: install a newer driver")
    count = api.count()
    if not count:
        raise EngineError("the NVIDIA driver finds no GPU: see whether nvidia-smi and CUDA_VISIBLE_DEVICES show one")
    if not 0 <= index < count:
        raise EngineError(f"expected a GPU from 0 to {count - 1}, found {index}: choose another one")
    name, capability = api.describe(index)
    if capability < OLDEST_GPU:
        raise EngineError("{} has compute capability {}.{}, fctl needs 7.5: use a newer GPU".format(name, *capability))


def _provider() -> Api:
    """The first provider that is installed, ready to use."""
    if _installed("cuda.bindings"):
        from ._bindings import Bindings

        return Bindings()
    if _installed("pycuda"):
        from ._pycuda import PyCuda

        return PyCuda()
    raise EngineError("neither cuda-bindings nor pycuda is installed: pip install 'fctl[cuda]'")


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent
        return False
