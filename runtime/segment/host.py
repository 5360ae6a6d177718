"""A bundle's graphs in an engine that takes host arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import SEGMENTER, Context
from ..bundle.store import Bundle
from ..engines.base import Engine, HostEngine, Session
from ..tiling.merge import Merger
from ..tiling.sources import Stack
from ..tiling.turns import Turn
from ..tiling.windows import Grid
from .network import Network


class HostNetwork(Network[Any, NDArray[np.float32]]):
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
