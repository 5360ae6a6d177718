"""A bundle's graphs on a GPU: windows go in, finished rows come out, and all between stays in the GPU's memory.

Each input has two buffers, so that one is filled while the other is read. Features of contexts are written where the
segmenter reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import SEGMENTER, Context, GraphSpec
from ...bundle.store import Bundle
from ...cuda.kernels import Patchwork
from ...cuda.tensors import Tensor
from ...engines.base import GpuEngine, shape_of
from ...errors import DeviceMemoryError
from ...tiling.turns import Turn, Windows
from ...tiling.windows import Region
from ..batches import Positions
from ..network import Accumulator, Cut, EngineNetwork, Features, HostAccumulator, Scores, segmenter_inputs
from .accumulate import DeviceAccumulator
from .runner import Input, Runner
from .windows import DeviceWindows
from .work import GpuWork

log = logging.getLogger(__name__)

_WARM_UPS = 2  # libraries allocate and compile in their first runs


class DeviceNetwork(EngineNetwork):
    """A network whose features and scores are tensors in a GPU's memory, valid until the next batch.

    Everything is tried once when the network is loaded, so that a batch that is too large shows at once.

    Raises:
        DeviceMemoryError: The batch is too large for the GPU's memory.
        EngineError: The engine refuses a graph.
    """

    def __init__(self, bundle: Bundle, engine: GpuEngine, batch: int, *, once: bool = False) -> None:
        super().__init__(bundle, engine, batch, once=once)
        self._gpu = engine
        self._runners: dict[tuple[str, int], Runner] = {}
        self._features: dict[str, Tensor] = {}
        self._spare: dict[str, list[Tensor]] = {}
        self._strips: dict[tuple[int, ...], Tensor] = {}  # cells before they are interpolated, by shape
        self.work = GpuWork.on(engine.gpu)
        try:
            self._open()
        except BaseException:
            self._release()  # now, and not when the collector comes by: a smaller batch is to find the memory free
            raise

    def _open(self) -> None:
        with self.work.active():
            segmenter = self._runner(SEGMENTER, self.batch)
            self._scores = segmenter.allocate(self.manifest.scores)
            for context in self.manifest.contexts:
                if context.encoder:
                    self._features[context.name] = segmenter.allocate(context.input)
                    if context.name in self.lattices:
                        self._shared_runner(context)
                    else:
                        self._encoder(context)
            self._warm_up()

    def encode(self, context: Context, windows: Windows) -> Features:
        """Features (N, C, H, W) of raw windows (N, bands, S, S), where the segmenter will read them.

        Features of a shared context get memory of their own, for they outlive the batch.
        """
        if context.encoder is None:
            return windows
        with self.work.active():
            target = (
                self._lent(self._encoder(context), context.name)
                if context.window.shared
                else self._features[context.name]
            )
            self._encoder(context).run({"window": _input(windows)}, {"features": target})
        return target

    def join(self, context: Context, features: Sequence[Features]) -> Features:
        """Features (1, C, H, W), one for each patch, as features (N, C, H, W)."""
        if context.encoder is None:
            return _joined(features)
        target = self._features[context.name]
        with self.work.active():
            for index, tensor in enumerate(features):
                assert isinstance(tensor, Tensor)
                self.work.compute.copy(target.pointer + index * tensor.nbytes, tensor.pointer, tensor.nbytes)
        return target

    def encode_once(self, context: Context, window: Windows) -> Features:
        """Features (1, C, H, W) of a raw window (1, bands, S, S) of the context's lattice, in memory of their own."""
        with self.work.active():
            encoder = self._shared_runner(context)
            target = self._lent(encoder, f"{context.name} once")
            encoder.run({"window": _input(window)}, {"features": target})
        return target

    def gather(self, context: Context, cuts: Sequence[Cut]) -> Features:
        """Features (N, C, H, W) of a context, from the cells that each patch needs, where the segmenter reads them."""
        target = self._features[context.name]
        with self.work.active():
            for index, cut in enumerate(cuts):
                self._gather(cut, target, target.pointer + index * (target.nbytes // target.shape[0]))
        return target

    def _gather(self, cut: Cut, target: Tensor, pointer: int) -> None:
        """Gather the cells of one patch, at an address of the target."""
        _, channels, height, width = target.shape
        kernels, stream = self.work.kernels, self.work.compute
        shape = tuple(sum(piece.count for piece in place.pieces) for place in (cut.rows, cut.columns))
        if shape == (height, width):
            kernels.paste(stream, _patchwork(cut, target.dtype), pointer, *shape)
            return
        strip = self._strip((channels, *shape), str(target.dtype))
        kernels.paste(stream, _patchwork(cut, target.dtype), strip.pointer, *shape)
        down, across = (float(target.dtype.type(float(place.beyond))) for place in (cut.rows, cut.columns))
        kernels.interpolate(stream, strip, pointer, height, width, (down, across))

    def _strip(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Memory for cells before they are interpolated: one for all, as the compute stream keeps the order."""
        if shape not in self._strips:
            self._strips[shape] = Tensor.allocate(self.work.device, shape, dtype)
        return self._strips[shape]

    def segment(self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]) -> Tensor:
        """Scores (N, classes, P, P) float32 of raw patches (N, bands, P, P)."""
        inputs = segmenter_inputs(self.manifest, patch, features, positions)
        placed = {name: _input(value) for name, value in inputs.items()}
        with self.work.active():
            self._runner(SEGMENTER, self.batch).run(placed, {self.manifest.scores: self._scores})
        return self._scores

    def on_host(self, scores: Scores) -> NDArray[np.float32]:
        """Scores as an array (N, classes, P, P); waits for them."""
        assert isinstance(scores, Tensor)
        array = np.empty(scores.shape, np.float32)
        with self.work.active():
            self.work.compute.copy_out(array, scores.pointer)
            self.work.compute.synchronize()
        return array

    def accumulator(self, region: Region, turns: tuple[Turn, ...], probabilities: bool) -> Accumulator:
        """What merges on the GPU, or on the host where the GPU's memory is too small for the sums of a wide raster."""
        try:
            return DeviceAccumulator(self.work, self.manifest, region, turns, probabilities)
        except DeviceMemoryError as error:
            log.warning("merging on the host, which is slower: %s", error)
            return HostAccumulator(self, region, turns)

    def close(self) -> None:
        """Wait for the GPU, and release graphs, memory and device."""
        self._release()
        super().close()

    def _release(self) -> None:
        """Release what the libraries hold, in the GPU's context."""
        with self.work.active():
            self.work.finish()
            for runner in self._runners.values():
                runner.close()
            self._runners.clear()

    def _lent(self, encoder: Runner, name: str) -> Tensor:
        """Memory for features that outlive the batch; once given back it is used again, as streams keep the order."""
        spare = self._spare.setdefault(name, [])
        tensor = replace(spare.pop()) if spare else encoder.allocate("features")
        finalize(tensor, spare.append, replace(tensor)).atexit = False
        return tensor

    def _encoder(self, context: Context) -> Runner:
        assert context.encoder is not None
        return self._runner(context.encoder, self.batch_of(context))

    def _shared_runner(self, context: Context) -> Runner:
        return self._opened(*self.bundle.shared_graph(context, self.precision), 1)

    def _runner(self, role: str, batch: int) -> Runner:
        return self._opened(*self.bundle.graph(role, self.precision), batch)

    def _opened(self, path: Path, graph: GraphSpec, batch: int) -> Runner:
        role = graph.role
        if (role, batch) not in self._runners:
            session = self._gpu.device_session(path, graph, batch, self.work.compute.handle)
            specs = {spec.name: (shape_of(spec, batch), spec.dtype) for spec in (*graph.inputs, *graph.outputs)}
            self._runners[role, batch] = Runner(self.work, session, specs)
        return self._runners[role, batch]

    def _warm_up(self) -> None:
        """Run blank batches, and see whether CUDA graphs help."""
        for _ in range(_WARM_UPS):
            self._run_blank()
            self.work.compute.synchronize()
        for runner in self._runners.values():
            runner.settle()

    def _run_blank(self) -> None:
        segmenter, features = self._runner(SEGMENTER, self.batch), dict[str, Features]()
        for context in self.manifest.contexts:
            if context.encoder is None:
                features[context.name] = segmenter.blank(context.input)
                continue
            if context.name in self.lattices:
                self.encode_once(context, self._shared_runner(context).blank("window"))
                features[context.name] = self._features[context.name]
                continue
            found = self.encode(context, self._encoder(context).blank("window"))
            features[context.name] = self.join(context, [found] * self.batch) if context.window.shared else found
        positions: dict[str, Positions] = {
            c.name: segmenter.blank(c.positions).astype(np.float32) for c in self.manifest.contexts if c.cells
        }
        patch = segmenter.blank("patch") if self.manifest.sees_patch else np.zeros(0)
        self.segment(patch, features, positions)


def _input(value: object) -> Input:
    assert isinstance(value, (np.ndarray, Tensor, DeviceWindows))
    return value


def _patchwork(cut: Cut, dtype: np.dtype[np.generic]) -> list[Patchwork]:
    """The rectangles of cells that a patch needs."""
    parts, y = list[Patchwork](), 0
    for strip in cut.parts:
        x = 0
        for cells, row, column in strip:
            assert isinstance(cells, Tensor) and cells.dtype == dtype, "features as the segmenter takes them"
            parts.append(Patchwork(cells, (row.first, column.first), (row.count, column.count), (y, x)))
            x += column.count
        y += strip[0][1].count
    return parts


def _joined(windows: Sequence[object]) -> Windows:
    """Windows (1, bands, S, S), one for each patch, as windows (N, bands, S, S)."""
    arrays = [part for part in windows if isinstance(part, np.ndarray)]
    lazy = [part for part in windows if isinstance(part, DeviceWindows)]
    return np.concatenate(arrays) if arrays else DeviceWindows.joined(lazy)
