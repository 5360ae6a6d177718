"""A network that is shown some of its contexts black: what each of them is worth (§4.4, Table 4)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Context
from ..tiling.turns import Turn, Windows
from ..tiling.windows import Region
from .batches import Positions, on_host
from .network import Accumulator, Cut, Features, Network, Scores


class BlackoutNetwork(Network):
    """Another network, some of whose contexts are black, as everything beyond a raster is (§3.2).

    It is for windows that were cut on the host.

    Args:
        network: The network, which this one closes.
        names: The contexts that are black.
    """

    def __init__(self, network: Network, names: Collection[str]) -> None:
        super().__init__(network.manifest, network.batch, network.lattices)
        self._network, self._names = network, frozenset(names)

    def encode(self, context: Context, windows: Windows) -> Features:
        """Features of a context, or of black."""
        black = context.name in self._names
        return self._network.encode(context, np.zeros_like(on_host(windows)) if black else windows)

    def join(self, context: Context, features: Sequence[Features]) -> Features:
        """What the other network does."""
        return self._network.join(context, features)

    def encode_once(self, context: Context, window: Windows) -> Features:
        """Features of a window of a context's lattice, or of black."""
        black = context.name in self._names
        return self._network.encode_once(context, np.zeros_like(on_host(window)) if black else window)

    def gather(self, context: Context, cuts: Sequence[Cut]) -> Features:
        """What the other network does."""
        return self._network.gather(context, cuts)

    def segment(self, patch: Windows, features: Mapping[str, Features], positions: Mapping[str, Positions]) -> Scores:
        """What the other network does."""
        return self._network.segment(patch, features, positions)

    def on_host(self, scores: Scores) -> NDArray[np.float32]:
        """What the other network does."""
        return self._network.on_host(scores)

    def accumulator(self, region: Region, turns: tuple[Turn, ...], probabilities: bool) -> Accumulator:
        """What the other network does."""
        return self._network.accumulator(region, turns, probabilities)

    def close(self) -> None:
        """Close the other network."""
        self._network.close()
