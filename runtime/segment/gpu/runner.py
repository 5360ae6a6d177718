"""One graph on a GPU: the buffers of its inputs, and its runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cuda.driver import CudaGraph, Device, Pinned
from ...cuda.tensors import Tensor
from ...engines.base import DeviceSession
from .network import DeviceNetwork, log
from .windows import DeviceStack

_ADDRESSES = 4  # of one graph that become CUDA graphs: its inputs have two buffers each
_TRIALS = 10  # runs that decide whether a CUDA graph helps


class _Runner:
    """One graph at one batch size, and the buffers of its inputs."""

    def __init__(
        self, network: DeviceNetwork, session: DeviceSession, specs: Mapping[str, tuple[tuple[int, ...], str]]
    ) -> None:
        self._network, self._session, self._specs = network, session, specs
        self._feeds: dict[str, _Feed] = {}
        self._captured: dict[tuple[int, ...], CudaGraph] | None = {} if session.capturable else None
        self._last: dict[str, int] = {}

    def allocate(self, name: str) -> Tensor:
        """Memory for one of its tensors."""
        return Tensor.allocate(self._network.device, *self._specs[name])

    def blank(self, name: str) -> NDArray[Any]:
        """An input of zeros."""
        return np.zeros(*self._specs[name])

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> None:
        """Queue one run: inputs are tensors, host arrays or stacks that are still to be cut."""
        pointers = {name: self._placed(name, value) for name, value in inputs.items()}
        self._launch(pointers | {name: tensor.pointer for name, tensor in outputs.items()})
        for name in inputs.keys() & self._feeds.keys():
            self._feeds[name].release()

    def settle(self) -> None:
        """Keep CUDA graphs only if a run as one is faster, in the time that the host takes to queue it included."""
        if self._captured is None:
            return
        graph = self._network.compute.capture(self._enqueue_last)
        if graph is None:
            self._captured = None
            return
        graph.launch(self._network.compute)  # the first launch also copies it to the GPU
        plain = self._seconds(self._enqueue_last)
        captured = self._seconds(lambda: graph.launch(self._network.compute))
        log.debug("%d runs: %.4f s, as a CUDA graph %.4f s", _TRIALS, plain, captured)
        if captured >= plain:
            self._captured = None

    def close(self) -> None:
        """Let go of the library's session."""
        self._captured = None
        self._session.close()

    def _placed(self, name: str, value: Any) -> int:
        if isinstance(value, Tensor):
            return value.pointer
        if name not in self._feeds:
            self._feeds[name] = _Feed(self._network, self.allocate(name), self.allocate(name))
        feed = self._feeds[name]
        return feed.cut(value) if isinstance(value, DeviceStack) else feed.copy(value)

    def _launch(self, pointers: dict[str, int]) -> None:
        self._last = pointers
        stream, key = self._network.compute, tuple(pointers.values())
        if self._captured is None:
            self._session.enqueue(pointers)
        elif key in self._captured:
            self._captured[key].launch(stream)
        else:
            self._session.enqueue(pointers)
            self._capture(key, pointers)

    def _capture(self, key: tuple[int, ...], pointers: dict[str, int]) -> None:
        """Remember a run whose addresses will come again; features of contexts that move lie elsewhere every time."""
        assert self._captured is not None
        if len(self._captured) < _ADDRESSES and (
            graph := self._network.compute.capture(lambda: self._session.enqueue(pointers))
        ):
            self._captured[key] = graph

    def _enqueue_last(self) -> None:
        self._session.enqueue(self._last)

    def _seconds(self, run: Callable[[], None]) -> float:
        started = time.perf_counter()
        for _ in range(_TRIALS):
            run()
        self._network.compute.synchronize()
        return time.perf_counter() - started


class _Feed:
    """Two buffers of one input: while the graph reads one, the next batch goes into the other."""

    def __init__(self, network: DeviceNetwork, *tensors: Tensor) -> None:
        self._network, self._index = network, 0
        self._slots = tuple(_Slot(network.device, tensor) for tensor in tensors)

    def copy(self, array: NDArray[Any]) -> int:
        """Copy a host array in; the address where the compute stream will find it."""
        network, slot = self._network, self._turn()
        host = slot.host()
        slot.copied.synchronize()  # what was in the host's buffer is on its way no more
        np.copyto(host, array)
        network.feed.wait(slot.used)
        network.feed.copy_in(slot.tensor.pointer, host)
        slot.copied.record(network.feed)
        network.compute.wait(slot.copied)
        return slot.tensor.pointer

    def cut(self, stack: DeviceStack) -> int:
        """Cut windows of an image on the GPU, on the compute stream itself."""
        slot = self._turn()
        self._network.kernels.cut_stack(
            self._network.compute, stack.source.image, stack.windows, stack.side, stack.resampling, stack.count,
            slot.tensor.pointer, stack.turn,
        )  # fmt: skip
        return slot.tensor.pointer

    def release(self) -> None:
        """The run that reads the buffer is queued."""
        self._slots[self._index].used.record(self._network.compute)

    def _turn(self) -> _Slot:
        self._index = (self._index + 1) % len(self._slots)
        return self._slots[self._index]


class _Slot:
    """A buffer on the GPU and its double on the host. copied: it was filled; used: it was read."""

    def __init__(self, device: Device, tensor: Tensor) -> None:
        self.tensor, self._device = tensor, device
        self.copied, self.used = device.event(), device.event()
        self._pinned: Pinned | None = None

    def host(self) -> NDArray[Any]:
        """Page-locked memory of the host, made when it is first needed."""
        self._pinned = self._pinned or self._device.pinned(self.tensor.nbytes)
        return self._pinned.array(self.tensor.shape, self.tensor.dtype)
