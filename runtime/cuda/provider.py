"""What a CUDA library has to offer to `driver`: the few calls of the driver API that fctl needs.

Streams, events, modules and the like are objects of the library. Nobody but the provider that made them looks into
them, so that their type here is `object`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import c_float, c_int, c_int64, c_uint64
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Dims = tuple[int, int, int]
"""Sizes along x, y and z."""

Argument: TypeAlias = "c_int | c_int64 | c_uint64 | c_float"
"""An argument of a kernel, of exactly the parameter's type; pointers are c_uint64."""

NON_BLOCKING = 1  # these three as in cuda.h: CU_STREAM_NON_BLOCKING,
PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE,
NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING

NO_DRIVER = "no NVIDIA driver was found: install the driver of your GPU, or run in a container that has it"
NOT_STARTED, RESTART = "the NVIDIA driver does not start", "see whether nvidia-smi works, or restart the machine"


@dataclass(frozen=True, slots=True)
class Native:
    """Something that a provider made.

    Attributes:
        handle: The provider's own object.
        number: Its address or handle, as other libraries take it; 0 where it has none.
        free: Frees it; needs the context that it was made in.
    """

    handle: object
    number: int
    free: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Context:
    """A context of a GPU.

    Attributes:
        handle: The provider's own object.
        index: Number of the GPU among the visible ones.
    """

    handle: object
    index: int


class Api(Protocol):
    """The calls of the driver that fctl needs; each raises EngineError.

    All methods that follow `pop` need a context that is current in the calling thread.

    Attributes:
        name: The provider: "cuda-bindings" or "pycuda".
    """

    name: str

    def version(self) -> int:
        """The CUDA version that the driver supports, as 12060 for 12.6."""
        ...

    def count(self) -> int:
        """How many GPUs are visible."""
        ...

    def describe(self, index: int) -> tuple[str, tuple[int, int]]:
        """Name and compute capability, as (8, 6), of a GPU."""
        ...

    def multiprocessors(self, index: int) -> int:
        """How many streaming multiprocessors a GPU has."""
        ...

    def current(self) -> Context | None:
        """The context that is current in this thread, as far as the provider sees it."""
        ...

    def retain(self, index: int) -> Context:
        """The primary context of a GPU, kept alive from now on."""
        ...

    def push(self, context: object) -> None:
        """Make a context current in this thread, on top of the one before."""
        ...

    def pop(self) -> None:
        """Make the context before the last `push` current again."""
        ...

    def memory(self) -> tuple[int, int]:
        """Free and total memory of the GPU in bytes."""
        ...

    def allocate(self, nbytes: int) -> Native:
        """Memory of the GPU; raises DeviceMemoryError where there is not enough."""
        ...

    def pinned(self, nbytes: int) -> Native:
        """Page-locked memory of the host; raises DeviceMemoryError where there is not enough."""
        ...

    def stream(self) -> Native:
        """A stream that does not wait for the default one."""
        ...

    def event(self, flags: int) -> Native:
        """An event; the flags are the driver's."""
        ...

    def module(self, ptx: bytes) -> Native:
        """A module, compiled from PTX for the GPU of the context."""
        ...

    def kernel(self, module: object, name: str) -> object:
        """A kernel of a module."""
        ...

    def copy_in(self, target: int, source: NDArray[np.generic], stream: object) -> None:
        """Enqueue the copy of a contiguous host array to an address on the GPU."""
        ...

    def copy_out(self, target: NDArray[np.generic], source: int, stream: object) -> None:
        """Enqueue the copy from an address on the GPU to a contiguous host array."""
        ...

    def copy(self, target: int, source: int, nbytes: int, stream: object) -> None:
        """Enqueue a copy between two addresses on the GPU."""
        ...

    def fill(self, target: int, value: int, nbytes: int, stream: object) -> None:
        """Enqueue the setting of bytes on the GPU to one value from 0 to 255."""
        ...

    def wait(self, stream: object, event: object) -> None:
        """Let later work of a stream wait for an event."""
        ...

    def follow(self, stream: object, handle: int) -> None:
        """Let later work of a stream wait for the work so far of another library's stream, given by its address."""
        ...

    def launch(self, kernel: object, grid: Dims, block: Dims, arguments: Sequence[Argument], stream: object) -> None:
        """Enqueue a kernel: blocks in the grid, threads in a block, and the kernel's arguments in order."""
        ...

    def finish_stream(self, stream: object) -> None:
        """Wait on the host until a stream is idle."""
        ...

    def capture(self, stream: object, work: Callable[[], None]) -> Native | None:
        """A CUDA graph of what `work` enqueues on a stream, which is not run; None where that cannot be captured."""
        ...

    def launch_graph(self, graph: object, stream: object) -> None:
        """Enqueue a CUDA graph."""
        ...

    def record(self, event: object, stream: object) -> None:
        """Set an event after the work so far of a stream."""
        ...

    def finish_event(self, event: object) -> None:
        """Wait on the host until an event is reached."""
        ...

    def query(self, event: object) -> bool:
        """Whether an event is reached."""
        ...

    def elapsed(self, start: object, end: object) -> float:
        """Milliseconds between two events that are reached."""
        ...


def first_line(error: Exception) -> str:
    """What an exception says, in one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
