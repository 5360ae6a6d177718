"""The graphs of one bundle in one engine: contexts to features, patches and features to scores.

A `Network` keeps features and scores wherever its engine works, and gives out what it merged of them: on the host here,
on a GPU in `cuda.network`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context
from ..bundle.store import Bundle
from ..engines.base import Engine, graphs_for
from ..tiling.merge import FinishedRows
from ..tiling.sources import Stack
from ..tiling.turns import Turn
from ..tiling.windows import Grid, Window

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
