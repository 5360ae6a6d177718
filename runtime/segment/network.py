"""The graphs of one bundle in one engine: contexts to features, patches and features to scores.

A `Network` keeps features and scores wherever its engine works, and gives out what it merged of them: on the host here,
on a GPU in `cuda.network`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .bundle import SEGMENTER, Bundle, Context
from .contexts import Stack
from .engines import Engine, GpuEngine, HostEngine, RunPrecision, Session, choose_engine, graphs_for
from .errors import DeviceMemoryError
from .merge import FinishedRows, Merger
from .turns import Turn
from .windows import Grid, Window

log = logging.getLogger(__name__)

F = TypeVar("F")  # features of a context
S = TypeVar("S")  # scores of patches
S_contra = TypeVar("S_contra", contravariant=True)


class Merges(Protocol[S_contra]):
    """Adds tiles of scores in reading order, and hands out rows as they are finished."""

    def add(self, tiles: Sequence[Window], scores: S_contra) -> Iterator[FinishedRows]:
        """Add the scores of a batch's tiles; yields the rows that lie above them."""
        ...

    def flush(self) -> Iterator[FinishedRows]:
        """The rows that are left after the last tile."""
        ...


class Network(ABC, Generic[F, S]):
    """A bundle's graphs, loaded for batches of a fixed size. A context's features can be used for many patches.

    batch: the size asked for, unless the bundle's own is fixed.
    """

    def __init__(self, bundle: Bundle, engine: Engine, batch: int) -> None:
        self.bundle, self.manifest, self.engine = bundle, bundle.manifest, engine
        self.precision = graphs_for(engine.precision)
        self.batch = self.manifest.fixed_batch or batch

    @abstractmethod
    def encode(self, context: Context, windows: Stack) -> F:
        """Raw context windows (N, bands, S, S) -> features (N, C, H, W); the windows, if the segmenter takes those.

        N is the batch size, but 1 for a context that moves: it is the same for many patches.
        """

    @abstractmethod
    def join(self, context: Context, features: Sequence[F]) -> F:
        """Features (1, C, H, W) of a context that moves, one for each patch -> (N, C, H, W)."""

    @abstractmethod
    def segment(self, patch: Stack, features: Mapping[str, F], positions: Mapping[str, NDArray[np.float32]]) -> S:
        """Raw patches (N, bands, P, P), features and positions by context -> scores (N, classes, P, P)."""

    @abstractmethod
    def averaged(self, turns: Sequence[Turn], infer: Callable[[Turn], S]) -> S:
        """Scores that `infer` gives of a batch in each turn, turned back and averaged."""

    @abstractmethod
    def on_host(self, scores: S) -> NDArray[np.float32]:
        """Scores as an array."""

    @abstractmethod
    def merger(self, grid: Grid, probabilities: bool) -> Merges[S]:
        """What merges the tiles of one raster. probabilities: whether its rows will be asked for them."""

    def close(self) -> None:
        """Let go of the graphs and of the engine."""
        self.engine.close()

    def batch_of(self, context: Context) -> int:
        """How many windows of a context are encoded at once."""
        return 1 if context.window.moves else self.batch


class StagedNetwork(Network[Any, NDArray[np.float32]]):
    """On the host: features and scores are arrays."""

    def __init__(self, bundle: Bundle, engine: Engine, batch: int) -> None:
        super().__init__(bundle, engine, batch)
        assert isinstance(engine, HostEngine)
        self._host = engine
        self._sessions: dict[tuple[str, int], Session] = {}
        self._session(SEGMENTER, self.batch)
        for context in self.manifest.contexts:
            if context.encoder:
                self._session(context.encoder, self.batch_of(context))

    def encode(self, context: Context, windows: Stack) -> NDArray[Any]:
        """Raw context windows (N, bands, S, S) -> features (N, C, H, W)."""
        if context.encoder is None:
            return windows  # type: ignore[no-any-return]
        return self._session(context.encoder, self.batch_of(context)).run({"window": windows})["features"]

    def join(self, context: Context, features: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Features (1, C, H, W), one for each patch -> (N, C, H, W)."""
        return np.concatenate(features)

    def segment(
        self, patch: Stack, features: Mapping[str, NDArray[Any]], positions: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Raw patches (N, bands, P, P), features and positions by context -> scores (N, classes, P, P)."""
        inputs = {"patch": patch}
        for context in self.manifest.contexts:
            inputs[context.input] = features[context.name]
            if context.cells:
                inputs[context.positions] = positions[context.name]
        scores: NDArray[np.float32] = self._session(SEGMENTER, self.batch).run(inputs)[self.manifest.scores]
        return scores

    def averaged(self, turns: Sequence[Turn], infer: Callable[[Turn], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Scores of a batch in each turn, turned back and averaged."""
        if len(turns) == 1:
            return turns[0].back(infer(turns[0]))
        total = turns[0].back(infer(turns[0]))
        for turn in turns[1:]:
            total = total + turn.back(infer(turn))
        averaged: NDArray[Any] = total / np.float32(len(turns))
        return averaged

    def on_host(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores as they are."""
        return scores

    def merger(self, grid: Grid, probabilities: bool) -> Merger:
        """What merges the tiles of one raster."""
        return Merger(grid, len(self.manifest.classes), self.manifest.merge, self.manifest.scores)

    def _session(self, role: str, batch: int) -> Session:
        if (role, batch) not in self._sessions:
            path, graph = self.bundle.graph(role, self.precision)
            self._sessions[role, batch] = self._host.session(path, graph, batch)
        return self._sessions[role, batch]


def load_network(bundle: Bundle, engine: Engine, batch: int) -> Network[Any, Any]:
    """The network where its engine works. Raises EngineError; DeviceMemoryError where the batch is too large."""
    if isinstance(engine, GpuEngine):
        from .cuda.network import DeviceNetwork

        return DeviceNetwork(bundle, engine, batch)
    return StagedNetwork(bundle, engine, batch)


def open_network(bundle: Bundle, backend: str, precision: RunPrecision, batch: int, build: bool) -> Network[Any, Any]:
    """The network in the engine asked for; where a GPU's memory is too small for a batch, in a smaller one.

    Raises EngineError.
    """
    batch = bundle.manifest.fixed_batch or batch
    while True:
        engine = choose_engine(backend, precision, bundle, batch=batch, build=build)
        backend = engine.name  # a smaller batch is for the same one
        try:
            return load_network(bundle, engine, batch)
        except DeviceMemoryError as error:
            engine.close()
            if batch == 1 or bundle.manifest.fixed_batch:
                raise
            log.warning("warning: out of memory at batch %d, trying %d: %s", batch, batch // 2, error)
            batch //= 2
        except BaseException:
            engine.close()
            raise
