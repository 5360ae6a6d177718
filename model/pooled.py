"""Decoders that see the whole patch by pooling it: PSPNet, DeepLab v3+ and ICNet.

Pooling to a grid and enlarging it again are linear maps, the same for rows and columns. Sizes are fixed, so they are
two small constant matrices: exact for every size, while engines know adaptive pooling only where the grid divides it.

Left out, because a network has one loss here: the auxiliary scores that PSPNet and ICNet are trained with. Dropout is
left out too. Resampling aligns the corners of pixels, as elsewhere in fctl, where the originals align the centres of
corner pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones import scaled
from .geometry import apply_separable
from .layers import ConvBn, conv_relu, resize
from .mirrored import check_stages

_BINS = (1, 2, 3, 6)  # of PSPNet and ICNet
_RATES = (6, 12, 18)  # of DeepLab v3+ over a grid of 1/16
_LOW, _DEEPLAB = 48, 256  # channels of DeepLab's fine features where its decoder has so many

Matrix = list[list[float]]


class PooledBranch(nn.Module):
    """Average the features in a grid of bins, apply a 1x1 convolution, and enlarge the grid to what it was.

    Args:
        inputs: Channels of the features.
        outputs: Channels of the result.
        bins: Side of the grid.
    """

    def __init__(self, inputs: int, outputs: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.project = conv_relu(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, outputs, h, h) of features (N, inputs, h, h)."""
        return enlarged(self.project(pooled(x, self.bins)), x.shape[-1])


class PspDecoder(nn.Module):
    """PSPNet's pyramid pooling: features and their means in grids of 1, 2, 3 and 6 bins, concatenated and convolved.

    Args:
        channels: Channels by stage, finest first; only the deepest stage is used.
        width: Channels of each grid and of the features that are scored.
        classes: How many classes are scored.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        self.deepest = list(channels)[-1]
        inputs = channels[self.deepest]
        self.grids = nn.ModuleList(PooledBranch(inputs, width, bins) for bins in _BINS)
        self.fuse = conv_relu(inputs + len(_BINS) * width, width, 3)
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) by stage."""
        return resize(self.score(self.fused(features)), size)

    def fused(self, features: dict[str, Tensor]) -> Tensor:
        """What is scored (N, width, h, h), of features (N, C, h, w) by stage."""
        x = features[self.deepest]
        fused: Tensor = self.fuse(torch.cat([x, *(grid(x) for grid in self.grids)], dim=1))
        return fused


class DeepLabDecoder(nn.Module):
    """DeepLab v3+: convolutions at several dilations beside a mean over the patch, then joined with fine features.

    All convolutions are plain, as is usual over ResNet, and not separable, as over Xception.

    Args:
        channels: Channels by stage, finest first; the finest and the deepest one are used.
        width: Channels of every branch and of the features that are scored.
        classes: How many classes are scored.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        self.finest, self.deepest = next(iter(channels)), list(channels)[-1]
        inputs, low = channels[self.deepest], scaled(_LOW, width / _DEEPLAB)
        self.branches = nn.ModuleList(
            [
                conv_relu(inputs, width, 1),
                *(conv_relu(inputs, width, 3, dilation=rate) for rate in _RATES),
                PooledBranch(inputs, width, 1),
            ]
        )
        self.project = conv_relu(len(self.branches) * width, width, 1)
        self.fine = conv_relu(channels[self.finest], low, 1)
        self.join = nn.Sequential(conv_relu(width + low, width, 3), conv_relu(width, width, 3))
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) by stage."""
        x, fine = features[self.deepest], self.fine(features[self.finest])
        x = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        joined = self.join(torch.cat([resize(x, fine.shape[-1]), fine], dim=1))
        return resize(self.score(joined), size)


class IcNetDecoder(nn.Module):
    """ICNet's cascade: the coarsest branch is pooled, and is fused with the half and then with the full size.

    Args:
        channels: Channels of the stages full, half and quarter.
        width: Channels of the fused features; the coarsest branch has twice as many.
        classes: How many classes are scored.

    Raises:
        ConfigError: The stages are others.
    """

    def __init__(self, channels: dict[str, int], width: int, classes: int) -> None:
        super().__init__()
        check_stages("icnet", channels, ("full", "half", "quarter"))
        self.coarse = conv_relu(channels["quarter"], 2 * width, 1)
        self.fuse_half = _Fusion(2 * width, channels["half"], width)
        self.fuse_full = _Fusion(width, channels["full"], width)
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, features: dict[str, Tensor], size: int) -> Tensor:
        """Logits (N, classes, size, size) of features (N, C, h, w) by stage."""
        x = features["quarter"]
        for bins in _BINS:  # sums, where PSPNet concatenates
            x = x + enlarged(pooled(features["quarter"], bins), x.shape[-1])
        x = self.fuse_half(self.coarse(x), features["half"])
        x = self.fuse_full(x, features["full"])
        return resize(self.score(resize(x, 2 * x.shape[-1])), size)


class _Fusion(nn.Module):
    """ICNet's fusion of two branches: the coarse one is enlarged and convolved with dilation, and both are added."""

    def __init__(self, coarse: int, fine: int, width: int) -> None:
        super().__init__()
        self.coarse = ConvBn(coarse, width, 3, dilation=2)
        self.fine = ConvBn(fine, width, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return F.relu(self.coarse(resize(coarse, fine.shape[-1])) + self.fine(fine))


def pooled(x: Tensor, bins: int) -> Tensor:
    """Average features in a grid of bins, which share cells where they do not divide the size.

    Args:
        x: Features (N, C, h, h).
        bins: Side of the grid.

    Returns:
        Means (N, C, bins, bins), those of ``torch.nn.AdaptiveAvgPool2d``.
    """
    return _applied(_means(x.shape[-1], bins), x)


def enlarged(x: Tensor, size: int) -> Tensor:
    """Enlarge a grid bilinearly, as `resize` does.

    Args:
        x: Features (N, C, h, h).
        size: The side that is wanted.

    Returns:
        Features (N, C, size, size).
    """
    return _applied(_hats(size, x.shape[-1]), x)


def _means(size: int, bins: int) -> Matrix:
    """Rows that average `size` cells in each of some bins."""
    spans = [(index * size // bins, math.ceil((index + 1) * size / bins)) for index in range(bins)]
    return [[(start <= cell < end) / (end - start) for cell in range(size)] for start, end in spans]


def _hats(size: int, bins: int) -> Matrix:
    """Rows that interpolate `size` cells between the centres of bins."""
    places = (min(max((cell + 0.5) * bins / size - 0.5, 0), bins - 1) for cell in range(size))
    return [[max(0.0, 1 - abs(index - place)) for index in range(bins)] for place in places]


def _applied(matrix: Matrix, x: Tensor) -> Tensor:
    """One matrix along the rows and along the columns."""
    rows = torch.tensor(matrix, dtype=x.dtype, device=x.device)
    return apply_separable(rows, x, rows)
