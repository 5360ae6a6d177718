"""What a device makes: memory, streams, events, graphs and kernels. `driver.Device` is what makes them.

Work is enqueued inside `driver.Device.active` only; waiting and freeing go in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from .provider import Argument, Dims, Native
from .scope import Owned, Scope

Scalar = TypeVar("Scalar", bound=np.generic)


class Memory(Owned):
    """Memory of the GPU.

    Attributes:
        pointer: Its address on the GPU.
        nbytes: Its size in bytes.
    """

    def __init__(self, scope: Scope, native: Native, nbytes: int) -> None:
        super().__init__(scope, native)
        self.pointer, self.nbytes = native.number, nbytes

    def give_away(self) -> None:
        """Leave it to whoever refers to it: `driver.Device.close` will not free it."""
        self._scope.alive.discard(self)


class Pinned(Owned):
    """Page-locked memory of the host.

    Attributes:
        nbytes: Its size in bytes.
    """

    def __init__(self, scope: Scope, native: Native, nbytes: int) -> None:
        super().__init__(scope, native)
        self.nbytes = nbytes
        self.__array_interface__ = {"data": (native.number, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}

    def array(self, shape: int | tuple[int, ...], dtype: np.dtype[Scalar] | type[Scalar]) -> NDArray[Scalar]:
        """A view of the first bytes; it keeps the memory, unless that is freed by hand.

        Args:
            shape: Shape of the view.
            dtype: Its dtype.

        Returns:
            A C-contiguous array that can be written to.

        Raises:
            EngineError: The memory is too small for such an array.
        """
        wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if wanted > self.nbytes:
            raise EngineError(
                expected=f"at most {self.nbytes} bytes of pinned memory", found=wanted, remedy="ask for more"
            )
        return np.asarray(self)[:wanted].view(dtype).reshape(shape)


class Stream(Owned):
    """A queue of work that a GPU does in order.

    Host arrays must be C-contiguous, and must stay alive and untouched until the stream has come to their copy.

    Attributes:
        handle: Address of the CUstream, as other libraries take it.
    """

    def __init__(self, scope: Scope, native: Native) -> None:
        super().__init__(scope, native)
        self.handle = native.number

    def copy_in(self, target: int, source: NDArray[np.generic]) -> None:
        """Enqueue the copy of a host array to an address on the GPU.

        Raises:
            EngineError: The array is not contiguous, or the driver refuses.
        """
        if source.nbytes:
            self._api.copy_in(target, _contiguous(source), self._handle)

    def copy_out(self, target: NDArray[np.generic], source: int) -> None:
        """Enqueue the copy from an address on the GPU that fills a host array.

        Raises:
            EngineError: The array is not contiguous, or the driver refuses.
        """
        if target.nbytes:
            self._api.copy_out(_contiguous(target), source, self._handle)

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Enqueue the copy of some bytes between two addresses on the GPU."""
        if nbytes:
            self._api.copy(target, source, nbytes, self._handle)

    def fill(self, target: int, value: int, nbytes: int) -> None:
        """Enqueue the setting of some bytes to one value from 0 to 255."""
        if nbytes:
            self._api.fill(target, value, nbytes, self._handle)

    def wait(self, event: Event) -> None:
        """Let later work of this stream wait for an event; the host does not wait."""
        self._api.wait(self._handle, event._handle)

    def follow(self, handle: int) -> None:
        """Let later work wait for what another library has enqueued so far on its stream.

        Args:
            handle: Address of that stream; 1 is the default one.
        """
        self._api.follow(self._handle, handle)

    def launch(self, kernel: object, grid: Dims, block: Dims, arguments: Sequence[Argument]) -> None:
        """Enqueue a kernel.

        Args:
            kernel: One of a module's (`Kernels`).
            grid: Blocks along x, y and z.
            block: Threads of a block along x, y and z.
            arguments: The kernel's arguments in order.

        Raises:
            EngineError: The driver refuses.
        """
        self._api.launch(kernel, grid, block, arguments, self._handle)

    def synchronize(self) -> None:
        """Wait until the work is done, in any thread.

        Raises:
            EngineError: Some of the work failed.
        """
        with self._scope.active():
            self._api.finish_stream(self._handle)

    def capture(self, work: Callable[[], None]) -> CudaGraph | None:
        """Record what `work` enqueues on this stream as a CUDA graph, without running it.

        Args:
            work: Enqueues on this stream, and waits for nothing.

        Returns:
            The graph, or None where the work or the provider cannot be captured.
        """
        native = self._api.capture(self._handle, work)
        return CudaGraph(self._scope, native) if native else None


class Event(Owned):
    """A mark in a stream."""

    def record(self, stream: Stream) -> None:
        """Set the mark after the stream's work so far."""
        self._api.record(self._handle, stream._handle)

    def synchronize(self) -> None:
        """Wait until the mark is reached, in any thread."""
        with self._scope.active():
            self._api.finish_event(self._handle)

    def done(self) -> bool:
        """Whether the mark is reached."""
        return self._api.query(self._handle)

    def since(self, earlier: Event) -> float:
        """Milliseconds between two events that were made with timing and are reached."""
        return self._api.elapsed(earlier._handle, self._handle)


class CudaGraph(Owned):
    """Work that was captured once, to be launched many times with the same addresses."""

    def launch(self, stream: Stream) -> None:
        """Enqueue all of the work."""
        self._api.launch_graph(self._handle, stream._handle)


class Kernels(Owned):
    """A compiled module: kernels by name."""

    def __getitem__(self, name: str) -> object:
        return self._api.kernel(self._handle, name)


def _contiguous(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The array, if it is contiguous; else raises EngineError."""
    if not array.flags.c_contiguous:
        raise EngineError(
            expected="a C-contiguous host array", found=f"strides {array.strides}", remedy="copy it first"
        )
    return array
