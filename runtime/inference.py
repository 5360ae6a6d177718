"""The graphs of one bundle in one engine: contexts to features, patches and features to logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import SEGMENTER, Bundle, Context
from .engines import Engine, Session


class StagedNetwork:
    """A bundle's graphs, loaded for batches of a fixed size. A context's features can be used for many patches."""

    def __init__(self, bundle: Bundle, engine: Engine, batch: int) -> None:
        self.manifest, self.engine, self.batch = bundle.manifest, engine, batch
        self._bundle = bundle
        self._sessions: dict[tuple[str, int], Session] = {}
        self._session(SEGMENTER, batch)
        for context in self.manifest.contexts:
            self._session(context.encoder, self._batch_of(context))

    def encode(self, context: Context, windows: NDArray[Any]) -> NDArray[np.float32]:
        """Raw context windows (N, bands, S, S) -> features (N, C, H, W).

        N is the batch size, but 1 for a context that moves: it is the same for every patch.
        """
        features: NDArray[np.float32] = self._session(context.encoder, self._batch_of(context)).run(
            {"window": windows}
        )["features"]
        return features

    def segment(
        self,
        patch: NDArray[Any],
        features: Mapping[str, NDArray[np.float32]],
        positions: Mapping[str, NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Raw patches (N, bands, P, P), features and positions by context -> logits (N, classes, P, P)."""
        inputs: dict[str, NDArray[Any]] = {"patch": patch}
        for context in self.manifest.contexts:
            known = features[context.name]
            inputs[context.features] = np.repeat(known, self.batch, axis=0) if len(known) < self.batch else known
            if context.window.moves:
                inputs[context.positions] = positions[context.name]
        logits: NDArray[np.float32] = self._session(SEGMENTER, self.batch).run(inputs)["logits"]
        return logits

    def _batch_of(self, context: Context) -> int:
        return 1 if context.window.moves else self.batch

    def _session(self, role: str, batch: int) -> Session:
        if (role, batch) not in self._sessions:
            path, graph = self._bundle.graph(role, "fp32")
            self._sessions[role, batch] = self.engine.session(path, graph, batch)
        return self._sessions[role, batch]
