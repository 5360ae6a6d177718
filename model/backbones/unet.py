"""The contracting half of U-Net: two 3x3 convolutions at each of five scales, and maxima of 2x2 pixels in between.

The paper of U-Net has no padding and no batch norm. Here convolutions are padded and followed by batch norm, as is
usual today: scores have the size of the patch, and a training, which can start from random weights only, converges.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..config import ConfigError
from ..layers import conv_relu
from .base import Stage, scaled
from .chain import PublishedChain


class UNet(PublishedChain):
    """U-Net's encoder with the stages s1 (64 channels), s2 (128), s4 (256), s8 (512) and s16 (1024)."""

    stages = tuple(
        Stage(name=f"s{1 << index}", channels=64 << index, stride=1 << index, offset=((1 << index) - 1) / 2)
        for index in range(5)
    )

    @classmethod
    def level(cls, index: int, inputs: int, width: float) -> tuple[nn.Module, int]:
        """A maximum of 2x2 pixels, except at the finest scale, and two convolutions, see `Chain`."""
        outputs = scaled(cls.stages[index].channels, width)
        pool = [nn.MaxPool2d(2)] if index else []
        return nn.Sequential(*pool, conv_relu(inputs, outputs, 3), conv_relu(outputs, outputs, 3)), outputs

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nobody publishes ImageNet weights of it, see `PublishedChain`."""
        raise ConfigError("there are no published ImageNet weights of unet; start it from null")
