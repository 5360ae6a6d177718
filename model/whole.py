"""Global inference (Table 1): a network that is shown the whole image, shrunk, and whose scores are enlarged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from .backbones import Stage
from .config import NetworkConfig
from .encoder import Encoder
from .geometry import apply_separable, crop_matrix
from .interface import ContextNetwork
from .network import FCtL

PIXELS = Stage(name="pixels", channels=0, stride=1, offset=0.0)
"""Where scores lie: one at every pixel."""


class WholeImage(ContextNetwork):
    """A network for patches, shown the whole image: its features are its scores, of which patches are crops.

    Its weights are those of the network for patches, under the same names.

    Args:
        config: Everything that determines the network.

    Raises:
        ConfigError: There can be no such network for patches of the context's size.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        (self._context,) = config.contexts
        alone = FCtL(alone_of(config))
        self.encoder, self.decoder = alone.encoder, alone.decoder

    def encoders(self) -> tuple[Encoder, ...]:
        """The one encoder."""
        return (self.encoder,)

    def encode(self, name: str, window: Tensor) -> Tensor:
        """Logits (N, classes, S, S) of raw windows (N, bands, S, S): the whole image, shrunk."""
        logits: Tensor = self.decoder(self.encoder(window), self._context.size)
        return logits

    def segment(
        self, patch: Tensor, contexts: Mapping[str, Tensor], positions: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Logits (N, classes, P, P) where patches lie: bilinear between those of `encode`. Patches are not looked at.

        Args:
            patch: Anything.
            contexts: The logits (N, classes, S, S) of the whole image.
            positions: The pixels of the shrunken image on which those of the patches lie, (N, 2, P).

        Returns:
            Logits (N, classes, P, P), as `torch.nn.functional.interpolate` makes them of the whole image.
        """
        assert positions is not None, "scores are cropped where patches lie"
        name, size = self._context.name, self._context.size
        rows, columns = positions[name][:, 0], positions[name][:, 1]
        return apply_separable(crop_matrix(rows, size), contexts[name], crop_matrix(columns, size))


def alone_of(config: NetworkConfig) -> NetworkConfig:
    """The network for patches whose weights a network of kind "whole" has."""
    return replace(config, kind="fctl", contexts=(), patch=config.contexts[0].size)
