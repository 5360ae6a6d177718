"""An encoder: raw pixels to features by stage, of which contexts enhance one (§3.3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from .backbones import backbone_class, stage_of
from .config import NetworkConfig


class Encoder(nn.Module):
    """Scales raw pixels and computes features by stage, of which the enhanced one is brought to C channels.

    Args:
        config: The network.
        last: The deepest stage that is built.
        more: How many bands the backbone takes beside those of the image.
    """

    def __init__(self, config: NetworkConfig, last: str, more: int = 0) -> None:
        super().__init__()
        kind = backbone_class(config.backbone)
        self.stage = stage_of(config.backbone, config.stage)
        self.backbone = kind(bands=config.bands + more, last=last, width=config.width)
        self._plain = partial(kind, bands=config.bands, last=last, width=config.width)
        self.neck = _neck(self.backbone.channels[config.stage], config.channels)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config.mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, raw: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Compute features.

        Args:
            raw: Raw pixels (N, bands, H, W) of any dtype.
            last: The deepest stage that is computed; None for as deep as built.

        Returns:
            Features (N, C, h, w) by stage.
        """
        features: dict[str, Tensor] = self.backbone(self.scaled(raw), last)
        features[self.stage.name] = self.neck(features[self.stage.name])
        return features

    def inside(self, raw: Tensor) -> Tensor:
        """Compute features of the enhanced stage of windows of a larger image, whose outer cells will be dropped.

        Args:
            raw: Raw pixels (N, bands, H, W) of any dtype.

        Returns:
            Features (N, C, h, w), whose cells lie at `Backbone.inside_grid`.
        """
        features: Tensor = self.neck(self.backbone.inside(self.scaled(raw), self.stage.name)[self.stage.name])
        return features

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load published weights of the backbone, see `Backbone.load_imagenet`.

        What the first convolution makes of bands beside those of the image stays as it is.
        """
        plain = self._plain()
        if plain.bands == self.backbone.bands:
            self.backbone.load_imagenet(state)
            return
        plain.load_imagenet(state)
        own = self.backbone.state_dict()
        for name, weights in plain.state_dict().items():
            if own[name].shape == weights.shape:
                own[name] = weights
            else:
                own[name][:, : weights.shape[1]] = weights
        self.backbone.load_state_dict(own)

    def scaled(self, raw: Tensor) -> Tensor:
        """Scaled pixels (N, bands, H, W) of raw ones."""
        return (raw.to(self.mean.dtype) - self.mean) / self.std


def _neck(inputs: int, outputs: int) -> nn.Module:
    # No batch norm here: one shared encoder sees contexts of several scales, and statistics of the mix fit none.
    return nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
