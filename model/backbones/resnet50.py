"""ResNet-50 as torchvision publishes it: the stride of a block is in its 3x3 convolution ("v1.5").

Deeper stages can keep a finer grid: their convolutions are dilated instead of strided, as in torchvision's networks for
segmentation. The weights are the same. Strides and paddings put cell u of every stage right on pixel stride * u.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import ConvBn, conv_relu
from .base import Stage, scaled
from .chain import PublishedChain

_BLOCKS = (3, 4, 6, 3)
_CHANNELS = (64, 128, 256, 512)  # of the 3x3 convolutions
_EXPANSION = 4


class Bottleneck(nn.Module):
    """Reduce, convolve 3x3, expand, and add the input, which a 1x1 convolution fits where a stage begins.

    Args:
        inputs: Channels of the input.
        channels: Channels of the 3x3 convolution; four times as many come out.
        stride: Stride of the 3x3 convolution.
        dilation: Dilation of the 3x3 convolution.
        first: Whether a stage begins here.
    """

    def __init__(self, inputs: int, channels: int, *, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        outputs = _EXPANSION * channels
        self.reduce = ConvBn(inputs, channels, 1)
        self.spatial = ConvBn(channels, channels, 3, stride=stride, dilation=dilation)
        self.expand = ConvBn(channels, outputs, 1)
        self.shortcut = ConvBn(inputs, outputs, 1, stride=stride) if first else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, 4 * channels, h, w) of features (N, inputs, H, W)."""
        y = self.expand(F.relu(self.spatial(F.relu(self.reduce(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


def _stages(dilations: tuple[int, ...]) -> tuple[Stage, ...]:
    """The stages, by their dilations: a stage that is dilated more than the one before keeps its grid."""
    return tuple(
        Stage(name=f"layer{index + 1}", channels=_EXPANSION * channels, stride=(4 << index) // dilation, offset=0)
        for index, (channels, dilation) in enumerate(zip(_CHANNELS, dilations, strict=True))
    )


class ResNet50(PublishedChain):
    """ResNet-50 with the stages layer1 (256 channels), layer2 (512), layer3 (1024) and layer4 (2048).

    Attributes:
        dilations: Dilation of each stage.
    """

    dilations: ClassVar[tuple[int, ...]] = (1, 1, 1, 1)
    stages = _stages(dilations)

    @classmethod
    def level(cls, index: int, inputs: int, width: float) -> tuple[nn.Module, int]:
        """The blocks of a stage, after the stem in the first one, see `Chain`."""
        layers: list[nn.Module] = []
        before = cls.dilations[index]
        if index == 0:
            outputs = scaled(64, width)
            layers = [conv_relu(inputs, outputs, 7, stride=2), nn.MaxPool2d(3, 2, padding=1)]
            inputs, stride = outputs, 1
        else:
            before = cls.dilations[index - 1]
            stride = 2 if cls.dilations[index] == before else 1
        channels = scaled(_CHANNELS[index], width)
        for block in range(_BLOCKS[index]):
            first = block == 0
            layers.append(
                Bottleneck(
                    inputs,
                    channels,
                    stride=stride if first else 1,
                    dilation=before if first else cls.dilations[index],  # the first one still sees the grid before
                    first=first,
                )
            )
            inputs = _EXPANSION * channels
        return nn.Sequential(*layers), inputs

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename torchvision's ``resnet50``, see `PublishedChain`."""
        return {_rename(key): value for key, value in state.items() if not key.startswith("fc.")}


class ResNet50Os16(ResNet50):
    """ResNet-50 whose last stage keeps the grid of 1/16, as in DeepLab v3+."""

    dilations = (1, 1, 1, 2)
    stages = _stages(dilations)


class ResNet50Os8(ResNet50):
    """ResNet-50 whose last two stages keep the grid of 1/8, as in PSPNet."""

    dilations = (1, 1, 2, 4)
    stages = _stages(dilations)


_PARTS = {"1": "reduce", "2": "spatial", "3": "expand"}
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)")


def _rename(key: str) -> str:
    """The name here of a parameter in torchvision's weights."""
    head, _, parameter = key.partition(".")
    if head in ("conv1", "bn1"):
        return f"levels.layer1.0.0.{head.removesuffix('1')}.{parameter}"
    if (match := _BLOCK.fullmatch(key)) is None:
        return key
    layer, block, kind, part, shortcut, parameter = match.groups()
    place = int(block) + (2 if layer == "1" else 0)  # the stem comes first
    where = f"{_PARTS[part]}.{kind}" if part else f"shortcut.{('conv', 'bn')[int(shortcut)]}"
    return f"levels.layer{layer}.{place}.{where}.{parameter}"
