"""Decoders: features of the patch by stage -> logits at the patch's size."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .config import ConfigError
from .layers import ConvBn


class PyramidDecoder(nn.Module):
    """Top-down pyramid for backbones with strides 4 to 32: upsample, add the finer stage, refine.

    Separable convolutions and ReLU6 throughout, as in EfficientNet-Lite0, so that it quantises alike.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        self.order = tuple(reversed(channels))  # deepest first
        self.lateral = nn.ModuleDict({name: ConvBn(channels[name], width, 1) for name in self.order})
        self.refine = nn.ModuleDict({name: _separable(width) for name in self.order})
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """{stage: (N, C, h, w)}, finest first -> logits (N, classes, size, size)."""
        x: Tensor | None = None
        for name in self.order:
            finer = self.lateral[name](features[name])
            x = finer if x is None else finer + _resize(x, finer.shape[-1])
            x = self.refine[name](x)
        return _resize(self.score(x), size)


def decoder(kind: str, channels: dict[str, int], width: int, classes: int) -> nn.Module:
    """The decoder of that name for stages of these channels, finest first."""
    if kind != "pyramid":
        raise ConfigError(f"unknown decoder {kind!r}; known: pyramid")
    return PyramidDecoder(channels, width, classes)


def _separable(width: int) -> nn.Sequential:
    depthwise, pointwise = ConvBn(width, width, 3, groups=width), ConvBn(width, width, 1)
    return nn.Sequential(nn.ReLU6(), depthwise, nn.ReLU6(), pointwise, nn.ReLU6())


def _resize(x: Tensor, size: int) -> Tensor:
    # By factor, not by size: the graph then holds a constant instead of asking for the batch's shape.
    return F.interpolate(x, scale_factor=size / x.shape[-1], mode="bilinear", align_corners=False)
