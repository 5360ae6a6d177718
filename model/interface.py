"""What every network here is to training, export and serving: contexts are encoded, then patches are segmented."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from .config import NetworkConfig
from .encoder import Encoder

ScoresKind = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class TrainingScores:
    """What the loss of a training is computed from.

    Attributes:
        logits: Logits (N, classes, P, P) as `ContextNetwork.segment` gives them.
        auxiliary: More logits of the same patches, whose losses are added.
        penalty: A scalar that is added; None for nothing.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()
    penalty: Tensor | None = None


class ContextNetwork(nn.Module, ABC):
    """A network that segments patches together with their contexts.

    There are two steps, so that a context's features can be computed once and used for many patches: `encode` for each
    context, then `segment`. `forward` does both.

    Args:
        config: Everything that determines the network.

    Attributes:
        config: The same.
        fixed: Parts that training leaves as they are, by the start of their parameters' names.
        decoder: What computes logits; the bias of its `score` shifts them by class.
        scores: What `segment` gives.
    """

    scores: ClassVar[ScoresKind] = "logits"
    decoder: nn.Module
    fixed: tuple[str, ...] = ()

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

    def scored(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> TrainingScores:
        """Segment patches in training, with all that the loss wants to know; arguments as in `segment`."""
        return TrainingScores(self.segment(patch, contexts, positions))

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


class SharingNetwork(ContextNetwork):
    """A network of branches that hand maps to each other: contexts of several maps, encoded with what patches know.

    Each map of a context is features of their own, which `segment` takes by "NAME_MAP" (`maps`).
    """

    def forward(
        self,
        patch: Tensor,
        contexts: Mapping[str, Tensor],
        positions: Mapping[str, Tensor] | None = None,
        gathered: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Tensor:
        """Segment patches, see `ContextNetwork.forward`.

        Args:
            patch: As there.
            contexts: As there.
            positions: As there.
            gathered: By name of the contexts that gather them, maps (N, C, H, W) of all patches in their windows.

        Returns:
            Logits (N, classes, P, P).
        """
        features: dict[str, Tensor] = {}
        for name, window in contexts.items():
            found = self.encode_maps(name, window, (gathered or {}).get(name, {}))
            features |= zip(self.feature_names(name), found, strict=True)
        return self.segment(patch, features, positions)

    @abstractmethod
    def maps(self, name: str) -> tuple[str, ...]:
        """The maps that a context hands over; empty where these are features by the context's name alone."""

    def feature_names(self, name: str) -> tuple[str, ...]:
        """The names by which `segment` takes the features of a context: one for each map, or the context's own."""
        return tuple(f"{name}_{one}" for one in self.maps(name)) or (name,)

    @abstractmethod
    def encode_maps(self, name: str, window: Tensor, gathered: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Compute the maps of a context.

        Args:
            name: Name of the context.
            window: Raw windows (N, bands, S, S).
            gathered: Maps (N, C, H, W) of all patches in the windows, pasted together, by name; empty for a context
                that gathers nothing.

        Returns:
            Maps (N, C, H, W) in the order of `maps`, or the features alone.
        """

    @abstractmethod
    def maps_of_patches(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute what is gathered of patches; arguments as in `segment`, of the context they are encoded with.

        Returns:
            Maps (N, C, h, w) by name.
        """
