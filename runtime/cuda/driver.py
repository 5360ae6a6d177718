"""One GPU through CUDA's driver API: context, memory, streams, events, graphs and kernels.

cuda-bindings and PyCUDA are two providers of the same few calls: the first that is installed is taken.
The context is the application's where its thread has one, else the primary one, which all frameworks share.

What is made here is freed by `free`, by the garbage collector, by `Device.close` or at exit, whichever comes first;
it must be idle by then. Making and freeing works in any thread, enqueueing only inside `Device.active`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from .. import remedies
from ..errors import EngineError
from .provider import NO_TIMING, Api, Context
from .resources import CudaGraph, Event, Kernels, Memory, Pinned, Stream
from .scope import Scope

__all__ = [
    "OLDEST_DRIVER",
    "OLDEST_GPU",
    "CudaGraph",
    "Device",
    "Event",
    "Kernels",
    "Memory",
    "Pinned",
    "Stream",
    "missing",
    "open_device",
]

OLDEST_DRIVER = 12000  # CUDA 12.0: the newest syntax in kernels.ptx
OLDEST_GPU = (7, 5)  # Turing: the target of kernels.ptx


def missing() -> str | None:
    """Tell what keeps a GPU from being used.

    Returns:
        The problem and its remedy in one line, or None where a GPU can be used. Never raises.
    """
    try:
        _check_fit(_provider(), 0)
    except EngineError as error:
        return str(error)
    return None


def open_device(index: int | None = None) -> Device:
    """Open the GPU of the context that the application has made current in this thread, else the first one.

    Args:
        index: Number of another GPU among the visible ones. It is opened in the application's context where that is
            of this GPU.

    Returns:
        The device, to be closed after use.

    Raises:
        EngineError: No such GPU can be used; the text is that of `missing`.
    """
    api = _provider()
    context = api.current()
    if context is None or index not in (None, context.index):
        _check_fit(api, index or 0)
        context = _primary(api, index or 0)
    return Device(api, context)


class Device:
    """One GPU in one context.

    Attributes:
        index: Number of the GPU among the visible ones.
        name: Its name, as the driver has it.
        compute_capability: What it can do, as (8, 6).
        driver: The CUDA version that the driver supports, as "13.0".
        provider: "cuda-bindings" or "pycuda".
        multiprocessors: How many streaming multiprocessors it has.
    """

    def __init__(self, api: Api, context: Context) -> None:
        self._api, self._scope = api, Scope(api, context)
        self.index, self.provider, self.driver = context.index, api.name, _version(api.version())
        self.name, self.compute_capability = api.describe(context.index)
        self.multiprocessors = api.multiprocessors(context.index)

    @property
    def in_primary(self) -> bool:
        """Whether the context is the GPU's primary one, the only one that libraries on CUDA's runtime work in."""
        return bool(self._scope.context.handle == _primary(self._api, self.index).handle)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread, and restore the previous one afterwards; may be nested."""
        with self._scope.active():
            yield

    def free_memory(self) -> tuple[int, int]:
        """Free and total memory in bytes."""
        with self.active():
            return self._api.memory()

    def allocate(self, nbytes: int) -> Memory:
        """Allocate memory of the GPU.

        Args:
            nbytes: Size in bytes.

        Returns:
            The memory, not cleared.

        Raises:
            DeviceMemoryError: There is not enough.
        """
        with self.active():
            return Memory(self._scope, self._api.allocate(max(nbytes, 1)), nbytes)

    def pinned(self, nbytes: int) -> Pinned:
        """Allocate page-locked memory of the host, which copies need to be asynchronous.

        Args:
            nbytes: Size in bytes.

        Returns:
            The memory, not cleared.

        Raises:
            DeviceMemoryError: There is not enough.
        """
        with self.active():
            return Pinned(self._scope, self._api.pinned(max(nbytes, 1)), nbytes)

    def stream(self) -> Stream:
        """Make a stream that does not wait for the default one."""
        with self.active():
            return Stream(self._scope, self._api.stream())

    def event(self, timing: bool = False) -> Event:
        """Make a mark to set in streams; with timing, `Event.since` can measure between two of them."""
        with self.active():
            return Event(self._scope, self._api.event(0 if timing else NO_TIMING))

    def kernels(self, ptx: bytes) -> Kernels:
        """Compile kernels for this GPU.

        Args:
            ptx: Their PTX code.

        Returns:
            The kernels by name.

        Raises:
            EngineError: The driver cannot compile the code.
        """
        with self.active():
            return Kernels(self._scope, self._api.module(ptx))

    def close(self) -> None:
        """Wait for the streams, and free all that is left but for memory that was given away. Idempotent."""
        left = list(self._scope.alive)
        with suppress(EngineError), self.active():  # after a failed kernel, every call fails
            for stream in (owned for owned in left if isinstance(owned, Stream)):
                stream.synchronize()
        for owned in left:
            owned.free()


def _version(number: int) -> str:
    """12060 as "12.6"."""
    return f"{number // 1000}.{number % 1000 // 10}"


_retained: dict[tuple[str, int], Context] = {}


def _primary(api: Api, index: int) -> Context:
    """The primary context, retained until the process ends: TensorRT and ONNX Runtime may still free things in it."""
    key = api.name, index
    if key not in _retained:
        _retained[key] = api.retain(index)
    return _retained[key]


def _check_fit(api: Api, index: int) -> None:
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
    raise EngineError("neither cuda-bindings nor pycuda is installed", remedy=remedies.install("cuda"))


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent
        return False
