"""What every network here is to training, export and serving: contexts are encoded, then patches are segmented."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

from .config import NetworkConfig
from .encoder import Encoder

ScoresKind = Literal["logits", "probabilities"]


class ContextNetwork(nn.Module, ABC):
    """A network that segments patches together with their contexts.

    There are two steps, so that a context's features can be computed once and used for many patches: `encode` for each
    context, then `segment`. `forward` does both.

    Args:
        config: Everything that determines the network.

    Attributes:
        config: The same.
        decoder: What computes logits; the bias of its `score` shifts them by class.
        scores: What `segment` gives.
    """

    scores: ClassVar[ScoresKind] = "logits"
    decoder: nn.Module

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def encoders(self) -> tuple[Encoder, ...]:
        """The patch's encoder, then the contexts' own, if they have any: what published weights are loaded into."""

    @abstractmethod
    def encode(self, name: str, window: Tensor) -> Tensor:
        """Compute the features of a context.

        Args:
            name: Name of the context.
            window: Raw windows (N, bands, S, S).

        Returns:
            Features (N, C, H, W).
        """

    def encode_once(self, name: str, window: Tensor) -> Tensor:
        """Compute the features of a context in a window of its raster, from whose inner cells those of patches are cut.

        Args:
            name: Name of the context.
            window: Raw windows (N, bands, S, S) of any side that the backbone takes.

        Returns:
            Features (N, C, h, w), whose cells lie at `Backbone.inside_grid`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no contexts that are encoded once a raster")

    @abstractmethod
    def segment(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Segment patches whose contexts are encoded.

        Args:
            patch: Raw patches (N, bands, P, P) of any dtype.
            contexts: By name, features (N, C, H, W) of the contexts (`encode`).
            positions: By name, positions (N, 2, h) of the patches in the contexts that are placed
                (`NetworkConfig.placed`), rows then columns, in cells of the context (`geometry.cells_of_patch`).

        Returns:
            Logits (N, classes, P, P).
        """

    def forward(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Segment patches.

        Args:
            patch: Raw patches (N, bands, P, P) of any dtype.
            contexts: By name, raw windows (N, bands, S, S) of the contexts.
            positions: As in `segment`.

        Returns:
            Logits (N, classes, P, P).
        """
        features = {name: self.encode(name, window) for name, window in contexts.items()}
        return self.segment(patch, features, positions)
