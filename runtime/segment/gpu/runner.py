"""One graph on a GPU: the buffers of its inputs, and its runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ...cuda.driver import CudaGraph, Device, Pinned
from ...cuda.tensors import Tensor
from ...engines.base import DeviceSession
from .windows import DeviceWindows
from .work import GpuWork

log = logging.getLogger(__name__)

Input = NDArray[np.generic] | Tensor | DeviceWindows
"""What a graph is given: a host array, a tensor on the GPU, or windows that are still to be cut."""

_MOST_CAPTURED = 4  # launch sequences of one graph that are kept as CUDA graphs: each input has two buffers
_TRIALS = 10  # runs that decide whether a CUDA graph helps


class Runner:
    """One graph at one batch size.

    Args:
        work: The GPU and its streams.
        session: The graph, loaded.
        specs: Shape and dtype of each of its tensors, by name.
    """

    def __init__(self, work: GpuWork, session: DeviceSession, specs: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        self._work, self._session, self._specs = work, session, specs
        self._feeds: dict[str, _Feed] = {}
        self._captured: dict[tuple[int, ...], CudaGraph] | None = {} if session.capturable else None
        self._last: dict[str, int] = {}

    def allocate(self, name: str) -> Tensor:
        """Memory for one of the graph's tensors."""
        return Tensor.allocate(self._work.device, *self._specs[name])

    def blank(self, name: str) -> NDArray[np.generic]:
        """An input of zeros."""
        return np.zeros(*self._specs[name])

    def run(self, inputs: Mapping[str, Input], outputs: Mapping[str, Tensor]) -> None:
        """Queue one run.

        Args:
            inputs: By name, what the graph is given.
            outputs: By name, where its outputs go.

        Raises:
            EngineError: The engine refuses to run.
        """
        pointers = {name: self._placed(name, value) for name, value in inputs.items()}
        self._launch(pointers | {name: tensor.pointer for name, tensor in outputs.items()})
        for name in inputs.keys() & self._feeds.keys():
            self._feeds[name].release()

    def settle(self) -> None:
        """Keep CUDA graphs only if a run as one is faster, counting the time that the host takes to queue it."""
        if self._captured is None:
            return
        stream = self._work.compute
        graph = stream.capture(self._enqueue_last)
        if graph is None:
            self._captured = None
            return
        graph.launch(stream)  # the first launch also copies it to the GPU
        plain = self._seconds(self._enqueue_last)
        captured = self._seconds(lambda: graph.launch(stream))
        log.debug("%d runs: %.4f s, as a CUDA graph %.4f s", _TRIALS, plain, captured)
        if captured >= plain:
            self._captured = None

    def close(self) -> None:
        """Release the library's session."""
        self._captured = None
        self._session.close()

    def _placed(self, name: str, value: Input) -> int:
        """The address at which the compute stream will find an input."""
        if isinstance(value, Tensor):
            return value.pointer
        if name not in self._feeds:
            self._feeds[name] = _Feed(self._work, self.allocate(name), self.allocate(name))
        feed = self._feeds[name]
        return feed.cut(value) if isinstance(value, DeviceWindows) else feed.copy(value)

    def _launch(self, pointers: dict[str, int]) -> None:
        self._last = pointers
        key = tuple(pointers.values())
        if self._captured is None:
            self._session.enqueue(pointers)
        elif key in self._captured:
            self._captured[key].launch(self._work.compute)
        else:
            self._session.enqueue(pointers)
            self._capture(key, pointers)

    def _capture(self, key: tuple[int, ...], pointers: dict[str, int]) -> None:
        """Remember a run whose addresses will come again; features of shared contexts lie elsewhere every time."""
        assert self._captured is not None
        if len(self._captured) < _MOST_CAPTURED and (
            graph := self._work.compute.capture(lambda: self._session.enqueue(pointers))
        ):
            self._captured[key] = graph

    def _enqueue_last(self) -> None:
        self._session.enqueue(self._last)

    def _seconds(self, run: Callable[[], None]) -> float:
        started = time.perf_counter()
        for _ in range(_TRIALS):
            run()
        self._work.compute.synchronize()
        return time.perf_counter() - started


class _Feed:
    """Two buffers of one input: while the graph reads one, the next batch goes into the other."""

    def __init__(self, work: GpuWork, *tensors: Tensor) -> None:
        self._work, self._index = work, 0
        self._slots = tuple(_Slot(work.device, tensor) for tensor in tensors)

    def copy(self, array: NDArray[np.generic]) -> int:
        """Copy a host array in; returns the address at which the compute stream will find it."""
        work, slot = self._work, self._next()
        host = slot.host()
        slot.copied.synchronize()  # what was in the host's buffer has left it by then
        np.copyto(host, array)
        work.feed.wait(slot.used)
        work.feed.copy_in(slot.tensor.pointer, host)
        slot.copied.record(work.feed)
        work.compute.wait(slot.copied)
        return slot.tensor.pointer

    def cut(self, windows: DeviceWindows) -> int:
        """Cut windows of an image on the GPU, on the compute stream itself; returns their address."""
        slot = self._next()
        self._work.kernels.cut_stack(
            self._work.compute, windows.source.image, windows.windows, windows.side, windows.resampling, windows.count,
            slot.tensor.pointer, windows.turn,
        )  # fmt: skip
        return slot.tensor.pointer

    def release(self) -> None:
        """Note that the run which reads the buffer is queued."""
        self._slots[self._index].used.record(self._work.compute)

    def _next(self) -> _Slot:
        self._index = (self._index + 1) % len(self._slots)
        return self._slots[self._index]


class _Slot:
    """A buffer on the GPU and its double on the host, with an event for when it was filled and one for when read."""

    def __init__(self, device: Device, tensor: Tensor) -> None:
        self.tensor, self._device = tensor, device
        self.copied, self.used = device.event(), device.event()
        self._pinned: Pinned | None = None

    def host(self) -> NDArray[np.generic]:
        """Page-locked memory of the host, made when it is first needed."""
        self._pinned = self._pinned or self._device.pinned(self.tensor.nbytes)
        return self._pinned.array(self.tensor.shape, self.tensor.dtype)
