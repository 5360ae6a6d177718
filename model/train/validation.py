"""A network in training against labelled images, cut and merged by the runtime as its bundle will be (§4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.runtime.bundle import Context
from fctl.runtime.contexts import Stack
from fctl.runtime.datasets import Dataset
from fctl.runtime.evaluation import Progress
from fctl.runtime.inference import Network
from fctl.runtime.labels import open_mask
from fctl.runtime.merge import Merger
from fctl.runtime.metrics import Confusion
from fctl.runtime.pipeline import segment_rows
from fctl.runtime.raster import open_raster
from fctl.runtime.turns import Turn
from fctl.runtime.windows import Grid

from .checkpoints import Card
from .network import FCtL
from .serving import draft_manifest

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


def validate(
    network: FCtL,
    card: Card,
    dataset: Dataset,
    bands: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Confusion:
    """Segment all images of a data set whose classes are the card's, one by one, in fp32: their pooled confusion.

    The network is left in evaluation mode. Raises RasterError for a damaged image.
    """
    module = ModuleNetwork(network.eval(), card)
    classes, labels = len(card.classes), dataset.description.labels
    total = Confusion.empty(classes)
    for index, sample in enumerate(dataset.samples):
        cached = 4 * module.manifest.tile
        with (
            torch.inference_mode(),
            open_raster(sample.image, module.manifest.input, bands, cached) as source,
            open_mask(sample.mask, labels) as mask,
        ):
            for rows in segment_rows(module, source):
                total += Confusion.of(mask.read(rows.y, len(rows.ids)), rows.ids, classes)
        if progress:
            progress("validating", index + 1, len(dataset.samples))
    return total
