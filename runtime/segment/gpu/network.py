"""A bundle's graphs on a GPU: windows go in, finished rows come out, all between stays in its memory.

Three streams work at once: `feed` copies the next batch in, `compute` runs the graphs and merges, `drain` copies
finished rows out. Each input has two buffers: one is filled while the other is read. Features of contexts are written
where the segmenter reads them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ..bundle import SEGMENTER, Bundle, Context
from ..contexts import Stack
from ..engines.base import DeviceSession, GpuEngine, shape_of
from ..errors import DeviceMemoryError, EngineError
from ..inference import Merges, Network
from ..turns import UPRIGHT, Turn
from ..windows import Grid
from .driver import Device, Graph, Memory, Pinned, Stream
from .kernels import KernelSet
from .merge import DeviceMerger, DownloadingMerger
from .windows import DeviceStack

log = logging.getLogger(__name__)

_WARM_UPS = 2  # libraries allocate and compile in their first runs
_ADDRESSES = 4  # of one graph that become CUDA graphs: its inputs have two buffers each
_TRIALS = 10  # runs that decide whether a CUDA graph helps


@dataclass(frozen=True)
class Tensor:
    """A contiguous array in memory of the GPU, which it keeps."""

    memory: Memory
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def allocate(cls, device: Device, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Memory for one. Raises DeviceMemoryError."""
        kind = np.dtype(dtype)
        return cls(device.allocate(math.prod(shape) * kind.itemsize), shape, kind)

    @property
    def pointer(self) -> int:
        """Its address."""
        return self.memory.pointer

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


class DeviceNetwork(Network[Any, Tensor]):
    """On a GPU: features and scores are tensors in its memory, valid until the next batch.

    Everything is tried once when it is loaded, so that a batch that is too large shows at once: DeviceMemoryError.
    """

    def __init__(self, bundle: Bundle, engine: GpuEngine, batch: int) -> None:
        super().__init__(bundle, engine, batch)
        self.device, self._gpu = engine.gpu, engine
        self._runners: dict[tuple[str, int], _Runner] = {}
        self._streams: list[Stream] = []
        try:
            self._open()
        except BaseException:
            self._let_go()  # now, and not when the collector comes by: a smaller batch is to find the memory free
            raise

    def _open(self) -> None:
        with self.device.active():
            self._streams = [self.device.stream() for _ in range(3)]
            self.feed, self.compute, self.drain = self._streams
            self.kernels = KernelSet(self.device)
            segmenter = self._runner(SEGMENTER, self.batch)
            self._scores = segmenter.allocate(self.manifest.scores)
            self._total: Tensor | None = None
            self._features: dict[str, Tensor] = {}
            self._spare: dict[str, list[Tensor]] = {}
            for context in self.manifest.contexts:
                if context.encoder:
                    self._features[context.name] = segmenter.allocate(context.input)
                    self._encoder(context)
            self._warm_up()

    def encode(self, context: Context, windows: Stack) -> Any:
        """Raw context windows (N, bands, S, S) -> features (N, C, H, W), where the segmenter will read them.

        Those of a context that moves get memory of their own: they outlive the batch.
        """
        if context.encoder is None:
            return windows
        with self.device.active():
            encoder = self._encoder(context)
            target = self._lent(context) if context.window.moves else self._features[context.name]
            encoder.run({"window": windows}, {"features": target})
        return target

    def join(self, context: Context, features: Sequence[Any]) -> Any:
        """Features (1, C, H, W), one for each patch -> (N, C, H, W)."""
        if context.encoder is None:
            return np.concatenate(features) if isinstance(features[0], np.ndarray) else DeviceStack.joined(features)
        target = self._features[context.name]
        with self.device.active():
            for index, tensor in enumerate(features):
                self.compute.copy(target.pointer + index * tensor.nbytes, tensor.pointer, tensor.nbytes)
        return target

    def segment(
        self, patch: Stack, features: Mapping[str, Any], positions: Mapping[str, NDArray[np.float32]]
    ) -> Tensor:
        """Raw patches (N, bands, P, P), features and positions by context -> scores (N, classes, P, P)."""
        inputs: dict[str, Any] = {"patch": patch}
        for context in self.manifest.contexts:
            inputs[context.input] = features[context.name]
            if context.cells:
                inputs[context.positions] = positions[context.name]
        with self.device.active():
            self._runner(SEGMENTER, self.batch).run(inputs, {self.manifest.scores: self._scores})
        return self._scores

    def averaged(self, turns: Sequence[Turn], infer: Callable[[Turn], Tensor]) -> Tensor:
        """Scores of a batch in each turn, turned back and averaged."""
        if tuple(turns) == (UPRIGHT,):
            return infer(UPRIGHT)
        with self.device.active():
            self._total = self._total or self._runner(SEGMENTER, self.batch).allocate(self.manifest.scores)
            for index, turn in enumerate(turns):
                self.kernels.add_turned(
                    self.compute, self._total.pointer, infer(turn).pointer, self._total.shape, turn, begin=index == 0
                )
            self.kernels.divide(self.compute, self._total.pointer, math.prod(self._total.shape), len(turns))
        return self._total

    def on_host(self, scores: Tensor) -> NDArray[np.float32]:
        """Scores as an array; waits for them."""
        array = np.empty(scores.shape, scores.dtype)
        with self.device.active():
            self.compute.copy_out(array, scores.pointer)
            self.compute.synchronize()
        return array

    def merger(self, grid: Grid, probabilities: bool) -> Merges[Tensor]:
        """What merges the tiles of one raster: on the GPU, or on the host where its memory is too small for that."""
        try:
            return DeviceMerger(self, grid, probabilities)
        except DeviceMemoryError as error:
            log.warning("warning: merging on the host, which is slower: %s", error)
            return DownloadingMerger(self, grid)

    def close(self) -> None:
        """Wait for the GPU, and let go of graphs, memory and device."""
        self._let_go()
        super().close()

    def _let_go(self) -> None:
        """Of what the libraries hold, in the GPU's context."""
        with self.device.active():
            for stream in self._streams:
                with suppress(EngineError):  # its work failed: that was told when it did
                    stream.synchronize()
            for runner in self._runners.values():
                runner.close()
            self._runners.clear()

    def _lent(self, context: Context) -> Tensor:
        """Memory for features that outlive the batch. Back here it is used again: the stream keeps the order."""
        spare = self._spare.setdefault(context.name, [])
        tensor = replace(spare.pop()) if spare else self._encoder(context).allocate("features")
        finalize(tensor, spare.append, replace(tensor)).atexit = False
        return tensor

    def _encoder(self, context: Context) -> _Runner:
        assert context.encoder is not None
        return self._runner(context.encoder, self.batch_of(context))

    def _runner(self, role: str, batch: int) -> _Runner:
        if (role, batch) not in self._runners:
            path, graph = self.bundle.graph(role, self.precision)
            session = self._gpu.device_session(path, graph, batch, self.compute.handle)
            specs = {spec.name: (shape_of(spec, batch), spec.dtype) for spec in (*graph.inputs, *graph.outputs)}
            self._runners[role, batch] = _Runner(self, session, specs)
        return self._runners[role, batch]

    def _warm_up(self) -> None:
        """Run blank batches, and see whether CUDA graphs help."""
        for _ in range(_WARM_UPS):
            self._run_blank()
            self.compute.synchronize()
        for runner in self._runners.values():
            runner.settle()

    def _run_blank(self) -> None:
        segmenter, features = self._runner(SEGMENTER, self.batch), {}
        for context in self.manifest.contexts:
            if context.encoder is None:
                features[context.name] = segmenter.blank(context.input)
                continue
            features[context.name] = self.encode(context, self._encoder(context).blank("window"))
            if context.window.moves:
                features[context.name] = self.join(context, [features[context.name]] * self.batch)
        positions = {c.name: segmenter.blank(c.positions) for c in self.manifest.contexts if c.cells}
        self.segment(segmenter.blank("patch"), features, positions)


class _Runner:
    """One graph at one batch size, and the buffers of its inputs."""

    def __init__(
        self, network: DeviceNetwork, session: DeviceSession, specs: Mapping[str, tuple[tuple[int, ...], str]]
    ) -> None:
        self._network, self._session, self._specs = network, session, specs
        self._feeds: dict[str, _Feed] = {}
        self._captured: dict[tuple[int, ...], Graph] | None = {} if session.capturable else None
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
