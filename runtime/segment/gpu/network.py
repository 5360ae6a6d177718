"""A bundle's graphs on a GPU: windows go in, finished rows come out, all between stays in its memory.

Three streams work at once: `feed` copies the next batch in, `compute` runs the graphs and merges, `drain` copies
finished rows out. Each input has two buffers: one is filled while the other is read. Features of contexts are written
where the segmenter reads them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import SEGMENTER, Context
from ...bundle.store import Bundle
from ...cuda.driver import Stream
from ...cuda.kernels import KernelSet
from ...cuda.tensors import Tensor
from ...engines.base import GpuEngine, shape_of
from ...errors import DeviceMemoryError, EngineError
from ...tiling.sources import Stack
from ...tiling.turns import UPRIGHT, Turn
from ...tiling.windows import Grid
from ..network import Merges, Network
from .merge import DeviceMerger, DownloadingMerger
from .runner import _Runner
from .windows import DeviceStack

log = logging.getLogger(__name__)

_WARM_UPS = 2  # libraries allocate and compile in their first runs


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
