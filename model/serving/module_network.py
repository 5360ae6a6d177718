"""A network in PyTorch behind the runtime's `Network`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.runtime.bundle.manifest import Context
from fctl.runtime.segment.network import Network
from fctl.runtime.tiling.merge import Merger
from fctl.runtime.tiling.sources import Stack
from fctl.runtime.tiling.turns import Turn
from fctl.runtime.tiling.windows import Grid

from ..network import FCtL
from ..weights.checkpoints import Card
from .manifest import draft_manifest

_BATCH = 4  # tiles at once


class ModuleNetwork(Network[Tensor, NDArray[np.float32]]):
    """The module in place of a bundle's graphs. It has neither bundle nor engine."""

    def __init__(self, network: FCtL, card: Card) -> None:
        encoders = {name: name for name in card.network.context_names}
        self.manifest, self.batch = draft_manifest("in training", card, encoders), _BATCH
        self._network, self._device = network, next(network.parameters()).device

    def encode(self, context: Context, windows: Stack) -> Tensor:
        """Raw context windows (N, bands, S, S) -> features (N, C, H, W)."""
        return self._network.encode(context.name, self._tensor(windows))

    def join(self, context: Context, features: Sequence[Tensor]) -> Tensor:
        """Features (1, C, H, W), one for each patch -> (N, C, H, W)."""
        return torch.cat(list(features))

    def segment(
        self, patch: Stack, features: Mapping[str, Tensor], positions: Mapping[str, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Raw patches (N, bands, P, P) and features by context -> logits (N, classes, P, P)."""
        places = {name: self._tensor(place) for name, place in positions.items()}
        logits: NDArray[np.float32] = self._network.segment(self._tensor(patch), features, places).cpu().numpy()
        return logits

    def averaged(self, turns: Sequence[Turn], infer: Callable[[Turn], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Scores of a batch upright: there is no test-time augmentation in validation."""
        (turn,) = turns
        return infer(turn)

    def on_host(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores as they are."""
        return scores

    def merger(self, grid: Grid, probabilities: bool) -> Merger:
        """What merges the tiles of one raster."""
        return Merger(grid, len(self.manifest.classes), self.manifest.merge)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
