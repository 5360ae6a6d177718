"""Decoders, which turn the features of a patch into logits at the patch's size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import ConfigError
from .layers import ConvBn, resize
from .mirrored import SegNetDecoder, UNetDecoder
from .pooled import DeepLabDecoder, IcNetDecoder, PspDecoder


class PyramidDecoder(nn.Module):
    """A top-down pyramid for backbones with strides 4 to 32: upsample, add the finer stage, refine.

    All convolutions are separable and followed by ReLU6, as in EfficientNet-Lite0, so that both quantise alike.

    Args:
        channels: Channels by stage, finest first.
        width: Channels of the pyramid.
        classes: How many classes are scored.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        self.order = tuple(reversed(channels))  # deepest first
        self.lateral = nn.ModuleDict({name: ConvBn(channels[name], width, 1) for name in self.order})
        self.refine = nn.ModuleDict({name: _separable(width) for name in self.order})
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) by stage."""
        x: Tensor | None = None
        for name in self.order:
            finer = self.lateral[name](features[name])
            x = finer if x is None else finer + resize(x, finer.shape[-1])
            x = self.refine[name](x)
        return resize(self.score(x), size)


class SegFormerDecoder(nn.Module):
    """SegFormer's all-MLP head: every stage is projected and upsampled to the finest; all are concatenated and fused.

    Projection, upsampling, concatenation and fusion are linear, and bilinear weights sum to 1. So each stage's two 1x1
    convolutions are merged into one that is applied before upsampling, and the concatenation becomes a sum. The result
    is equal, at a fraction of the work.

    Args:
        channels: Channels by stage, finest first.
        width: Channels of the fused features.
        classes: How many classes are scored.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        self.order = tuple(reversed(channels))  # deepest first, as the published weights of `fuse` are laid out
        self.project = nn.ModuleDict({name: nn.Conv2d(channels[name], width, 1) for name in self.order})
        self.fuse = ConvBn(len(channels) * width, width, 1)
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) by stage."""
        if self.training:
            x = self.fuse.bn(self.fused(features, self.merged(self.fuse.conv.weight, None)))
        else:
            x = self.fused(features, self.merged(*self.fuse.folded()))
        return self.scored(x, size)

    def scored(self, x: Tensor, size: int) -> Tensor:
        """Score fused features.

        Args:
            x: Fused and normalised features (N, width, h, w).
            size: Side of the patch in pixels.

        Returns:
            Logits (N, classes, size, size).
        """
        return resize(self.score(F.relu(x)), size)

    def fused(self, features: dict[str, Tensor], merged: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Sum the merged convolutions of all stages at the finest stage's size.

        Args:
            features: Features (N, C, h, w) by stage.
            merged: By stage, weight and bias of its convolution (`merged`).

        Returns:
            Fused features (N, width, h, w) of the finest stage's size.
        """
        finest = self.order[-1]
        x = F.conv2d(features[finest], *merged[finest])
        for name in self.order[:-1]:
            x = x + resize(F.conv2d(features[name], *merged[name]), features[finest].shape[-1])
        return x

    def merged(self, weight: Tensor, bias: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
        """Merge each stage's projection with its part of the fusion.

        Args:
            weight: Weight of the fusion (width, stages * width, 1, 1).
            bias: Bias of the fusion (width,), or None.

        Returns:
            By stage, the weight (width, C, 1, 1) and the bias (width,) of one convolution that does both.
        """
        layers = {}
        for name, part in zip(self.order, weight.flatten(1).chunk(len(self.order), dim=1), strict=True):
            project = self.project[name]
            assert isinstance(project, nn.Conv2d) and project.bias is not None
            layers[name] = ((part @ project.weight.flatten(1))[:, :, None, None], part @ project.bias)
        if bias is not None:  # once, not once per stage
            last, (kernel, own) = self.order[-1], layers[self.order[-1]]
            layers[last] = (kernel, own + bias)
        return layers


class Fcn8sDecoder(nn.Module):
    """The decoder of FCN-8s exactly as in the public release.

    It applies conv6, conv7 and score to pool5. Fixed bilinear deconvolutions follow, to which the scores of pool4 and
    pool3 are added, scaled by 0.01 and 0.0001, with crops in between. The crops fit the padding of 100 pixels of
    `Vgg16` and no other backbone.

    Args:
        channels: Channels of pool3, pool4 and pool5.
        width: Channels of conv6 and conv7.
        classes: How many classes are scored.

    Raises:
        ConfigError: The stages are others.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        if list(channels) != ["pool3", "pool4", "pool5"]:
            raise ConfigError(f"decoder 'fcn8s' needs stages pool3, pool4 and pool5, found {', '.join(channels)}")
        self.conv6 = nn.Conv2d(channels["pool5"], width, 7)
        self.conv7 = nn.Conv2d(width, width, 1)
        self.score = nn.Conv2d(width, classes, 1)
        self.score_pool4 = nn.Conv2d(channels["pool4"], classes, 1)
        self.score_pool3 = nn.Conv2d(channels["pool3"], classes, 1)
        self.up_score = _bilinear_deconvolution(classes, 4, 2)
        self.up_pool4 = _bilinear_deconvolution(classes, 4, 2)
        self.up_final = _bilinear_deconvolution(classes, 16, 8)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) of pool3, pool4 and pool5."""
        x = F.relu(self.conv7(F.relu(self.conv6(features["pool5"]))))
        x = self.up_score(self.score(x))
        x = x + _crop(self.score_pool4(0.01 * features["pool4"]), 5, x.shape[-1])
        x = self.up_pool4(x)
        x = x + _crop(self.score_pool3(0.0001 * features["pool3"]), 9, x.shape[-1])
        return _crop(self.up_final(x), 31, size)


_DECODERS: dict[str, Callable[[dict[str, int], int, int], nn.Module]] = {
    "pyramid": PyramidDecoder,
    "segformer": SegFormerDecoder,
    "fcn8s": Fcn8sDecoder,
    "unet": UNetDecoder,
    "segnet": SegNetDecoder,
    "psp": PspDecoder,
    "deeplabv3plus": DeepLabDecoder,
    "icnet": IcNetDecoder,
}


def decoder(kind: str, channels: dict[str, int], width: int, classes: int) -> nn.Module:
    """Make a decoder.

    Args:
        kind: "pyramid", "segformer", "fcn8s", "unet", "segnet", "psp", "deeplabv3plus" or "icnet".
        channels: Channels by stage of the backbone, finest first.
        width: Width of the decoder in channels.
        classes: How many classes are scored.

    Returns:
        A module that takes features (N, C, h, w) by stage and the patch's side, and gives logits (N, classes, side,
        side).

    Raises:
        ConfigError: There is no such decoder, or it does not fit the backbone.
    """
    if kind not in _DECODERS:
        raise ConfigError(f"unknown decoder {kind!r}; known: {', '.join(_DECODERS)}")
    return _DECODERS[kind](channels, width, classes)


def _separable(width: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution between ReLU6."""
    depthwise, pointwise = ConvBn(width, width, 3, groups=width), ConvBn(width, width, 1)
    return nn.Sequential(nn.ReLU6(), depthwise, nn.ReLU6(), pointwise, nn.ReLU6())


def _bilinear_deconvolution(classes: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """A layer that upsamples every class by itself. Its weights are fixed, but part of a checkpoint."""
    hat = 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / stride
    layer = nn.ConvTranspose2d(classes, classes, kernel, stride, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.eye(classes)[:, :, None, None] * torch.outer(hat, hat))
    return layer


def _crop(x: Tensor, start: int, size: int) -> Tensor:
    return x[:, :, start : start + size, start : start + size]
