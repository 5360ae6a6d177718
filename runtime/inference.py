"""The graphs of one bundle in one engine: contexts to features, patches and features to logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import SEGMENTER, Bundle, Context
from .engines import Engine, Session


class StagedNetwork:
    """A bundle's graphs, loaded for batches of a fixed size. A context's features can be used for many patches.

    batch: the size asked for, unless the bundle's own is fixed.
    """

    def __init__(self, bundle: Bundle, engine: Engine, batch: int) -> None:
        self.manifest, self.engine = bundle.manifest, engine
        self.batch = self.manifest.fixed_batch or batch
        self._bundle = bundle
        self._sessions: dict[tuple[str, int], Session] = {}
        self._session(SEGMENTER, self.batch)
        for context in self.manifest.contexts:
            if context.encoder:
                self._session(context.encoder, self._batch_of(context))

    def encode(self, context: Context, windows: NDArray[Any]) -> NDArray[Any]:
        """Raw context windows (N, bands, S, S) -> features (N, C, H, W); the windows, if the segmenter takes those.

        N is the batch size, but 1 for a context that moves: it is the same for many patches.
        """
        if context.encoder is None:
            return windows
        features: NDArray[np.float32] = self._session(context.encoder, self._batch_of(context)).run(
            {"window": windows}
        )["features"]
        return features

    def segment(
        self,
        patch: NDArray[Any],
        features: Mapping[str, NDArray[Any]],
        positions: Mapping[str, NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Raw patches (N, bands, P, P), features and positions by context -> scores (N, classes, P, P)."""
        inputs: dict[str, NDArray[Any]] = {"patch": patch}
        for context in self.manifest.contexts:
            inputs[context.input] = features[context.name]
            if context.cells:
                inputs[context.positions] = positions[context.name]
        scores: NDArray[np.float32] = self._session(SEGMENTER, self.batch).run(inputs)[self.manifest.scores]
        return scores

    def _batch_of(self, context: Context) -> int:
        return 1 if context.window.moves else self.batch

    def _session(self, role: str, batch: int) -> Session:
        if (role, batch) not in self._sessions:
            path, graph = self._bundle.graph(role, "fp32")
            self._sessions[role, batch] = self.engine.session(path, graph, batch)
        return self._sessions[role, batch]
