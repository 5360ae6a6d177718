"""A bundle's graphs in an engine that takes host arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import SEGMENTER, Context
from ..bundle.store import Bundle
from ..engines.base import HostEngine, Session
from ..tiling.turns import Windows
from .batches import Positions, on_host
from .network import EngineNetwork, Features, segmenter_inputs


class HostNetwork(EngineNetwork):
    """A network whose features and scores are host arrays.

    Raises:
        EngineError: The engine refuses a graph.
    """

    def __init__(self, bundle: Bundle, engine: HostEngine, batch: int) -> None:
        super().__init__(bundle, engine, batch)
        self._host = engine
        self._sessions: dict[tuple[str, int], Session] = {}
        self._session(SEGMENTER, self.batch)
        for context in self.manifest.contexts:
            if context.encoder:
                self._session(context.encoder, self.batch_of(context))

    def encode(self, context: Context, windows: Windows) -> NDArray[np.generic]:
        """Features (N, C, H, W) of raw windows (N, bands, S, S)."""
        pixels = on_host(windows)
        if context.encoder is None:
            return pixels
        return self._session(context.encoder, self.batch_of(context)).run({"window": pixels})["features"]

    def join(self, context: Context, features: Sequence[Features]) -> NDArray[np.generic]:
        """Features (1, C, H, W), one for each patch, as features (N, C, H, W)."""
        return np.concatenate([_array(part) for part in features])

    def segment(
        self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]
    ) -> NDArray[np.generic]:
        """Scores (N, classes, P, P) float32 of raw patches (N, bands, P, P)."""
        inputs = segmenter_inputs(self.manifest, patch, features, positions)
        arrays = {name: _array(value) for name, value in inputs.items()}
        return self._session(SEGMENTER, self.batch).run(arrays)[self.manifest.scores]

    def _session(self, role: str, batch: int) -> Session:
        if (role, batch) not in self._sessions:
            path, graph = self.bundle.graph(role, self.precision)
            self._sessions[role, batch] = self._host.session(path, graph, batch)
        return self._sessions[role, batch]


def _array(value: object) -> NDArray[np.generic]:
    assert isinstance(value, np.ndarray)
    return value
