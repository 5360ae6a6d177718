"""Decoders: features of the patch by stage -> logits at the patch's size."""

from __future__ import annotations

import torch
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


class SegFormerDecoder(nn.Module):
    """SegFormer's all-MLP head: every stage projected, upsampled to the finest, concatenated, fused and scored.

    Projection, upsampling, concatenation and fusion are linear, and bilinear weights sum to 1. So each stage's two 1x1
    convolutions are one, applied before upsampling, and the concatenation is a sum: equal, at a fraction of the work.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        self.order = tuple(reversed(channels))  # deepest first, as the published weights of `fuse` are laid out
        self.project = nn.ModuleDict({name: nn.Conv2d(channels[name], width, 1) for name in self.order})
        self.fuse = ConvBn(len(channels) * width, width, 1)
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """{stage: (N, C, h, w)}, finest first -> logits (N, classes, size, size)."""
        if self.training:
            x = self.fuse.bn(self.fused(features, self.merged(self.fuse.conv.weight, None)))
        else:
            x = self.fused(features, self.merged(*self.fuse.folded()))
        return self.scored(x, size)

    def scored(self, x: Tensor, size: int) -> Tensor:
        """Fused and normalised features (N, width, h, w) -> logits (N, classes, size, size)."""
        return _resize(self.score(F.relu(x)), size)

    def fused(self, features: dict[str, Tensor], merged: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Sum over the stages of their merged convolution, at the finest stage's size: (N, width, h, w)."""
        finest = self.order[-1]
        x = F.conv2d(features[finest], *merged[finest])
        for name in self.order[:-1]:
            x = x + _resize(F.conv2d(features[name], *merged[name]), features[finest].shape[-1])
        return x

    def merged(self, weight: Tensor, bias: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
        """By stage the weight and bias of `project` followed by its part of a fusion with `weight` and `bias`."""
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
    """The decoder of FCN-8s exactly as in the public release: conv6, conv7 and score over pool5, then fixed bilinear
    deconvolutions with the scores of pool4 and pool3 added, scaled by 0.01 and 0.0001, and crops in between.

    The crops fit Vgg16's padding of 100 pixels, and no other backbone.
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
        """{"pool3", "pool4", "pool5": (N, C, h, w)} -> logits (N, classes, size, size)."""
        x = F.relu(self.conv7(F.relu(self.conv6(features["pool5"]))))
        x = self.up_score(self.score(x))
        x = x + _crop(self.score_pool4(0.01 * features["pool4"]), 5, x.shape[-1])
        x = self.up_pool4(x)
        x = x + _crop(self.score_pool3(0.0001 * features["pool3"]), 9, x.shape[-1])
        return _crop(self.up_final(x), 31, size)


_DECODERS: dict[str, type[PyramidDecoder] | type[SegFormerDecoder] | type[Fcn8sDecoder]] = {
    "pyramid": PyramidDecoder,
    "segformer": SegFormerDecoder,
    "fcn8s": Fcn8sDecoder,
}


def decoder(kind: str, channels: dict[str, int], width: int, classes: int) -> nn.Module:
    """The decoder of that name for stages of these channels, finest first."""
    if kind not in _DECODERS:
        raise ConfigError(f"unknown decoder {kind!r}; known: {', '.join(_DECODERS)}")
    return _DECODERS[kind](channels, width, classes)


def _separable(width: int) -> nn.Sequential:
    depthwise, pointwise = ConvBn(width, width, 3, groups=width), ConvBn(width, width, 1)
    return nn.Sequential(nn.ReLU6(), depthwise, nn.ReLU6(), pointwise, nn.ReLU6())


def _bilinear_deconvolution(classes: int, kernel: int, stride: int) -> nn.ConvTranspose2d:
    """Every class upsampled by itself. The weights are fixed, but part of a checkpoint."""
    hat = 1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / stride
    layer = nn.ConvTranspose2d(classes, classes, kernel, stride, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.eye(classes)[:, :, None, None] * torch.outer(hat, hat))
    return layer


def _crop(x: Tensor, start: int, size: int) -> Tensor:
    return x[:, :, start : start + size, start : start + size]


def _resize(x: Tensor, size: int) -> Tensor:
    # By factor, not by size: the graph then holds a constant instead of asking for the batch's shape.
    return F.interpolate(x, scale_factor=size / x.shape[-1], mode="bilinear", align_corners=False)
