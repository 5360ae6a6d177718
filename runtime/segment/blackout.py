"""A network that is shown some of its contexts black: what each of them is worth (§4.4, Table 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context
from ..tiling.sources import Stack
from ..tiling.turns import Turn
from ..tiling.windows import Grid
from .network import Merges, Network


class WithoutContexts(Network[Any, Any]):
    """A network whose contexts `names` are black, as everything beyond a raster is (§3.2); else as it was.

    For windows that were cut on the host.
    """

    def __init__(self, network: Network[Any, Any], names: Sequence[str]) -> None:
        super().__init__(network.bundle, network.engine, network.batch)
        self._network, self._names = network, frozenset(names)

    def encode(self, context: Context, windows: Stack) -> Any:
        """Features of a context, or of black."""
        return self._network.encode(context, np.zeros_like(windows) if context.name in self._names else windows)

    def join(self, context: Context, features: Sequence[Any]) -> Any:
        """As it was."""
        return self._network.join(context, features)

    def segment(self, patch: Stack, features: Mapping[str, Any], positions: Mapping[str, NDArray[np.float32]]) -> Any:
        """As it was."""
        return self._network.segment(patch, features, positions)

    def averaged(self, turns: Sequence[Turn], infer: Callable[[Turn], Any]) -> Any:
        """As it was."""
        return self._network.averaged(turns, infer)

    def on_host(self, scores: Any) -> NDArray[np.float32]:
        """As it was."""
        return self._network.on_host(scores)

    def merger(self, grid: Grid, probabilities: bool) -> Merges[Any]:
        """As it was."""
        return self._network.merger(grid, probabilities)

    def close(self) -> None:
        """Let go of the network."""
        self._network.close()
