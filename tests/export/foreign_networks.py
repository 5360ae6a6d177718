"""Segmenters that fctl did not make, small and with random weights: shaped like U-Net, PSPNet and DeepLabV3+.

Each factory gives a module (N, 3, H, W) -> logits (N, 3, h, w) that predicts every class on the shipped images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fctl.calib.sample import shipped_images

SCALE, MEAN, STD = 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Layer(nn.Sequential):
    """Convolution, batch norm with statistics as after training, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> None:
        norm = nn.BatchNorm2d(outside)
        nn.init.uniform_(norm.weight, 0.8, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        nn.init.normal_(norm.running_mean, 0, 0.2)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.2, 0.8)  # type: ignore[arg-type]
        conv = nn.Conv2d(inside, outside, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
        super().__init__(conv, norm, nn.ReLU())


class UNet(nn.Module):
    """Two levels down, two up with transposed convolutions and skips; logits at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.top, self.middle, self.bottom = Layer(3, 8), Layer(8, 12), Layer(12, 16)
        self.up_middle, self.up_top = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.join_middle, self.join_top = Layer(24, 12), Layer(16, 8)
        self.score = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        top = self.top(image)
        middle = self.middle(F.max_pool2d(top, 2))
        bottom = self.bottom(F.max_pool2d(middle, 2))
        middle = self.join_middle(torch.cat([middle, self.up_middle(bottom)], 1))
        return self.score(self.join_top(torch.cat([top, self.up_top(middle)], 1)))  # type: ignore[no-any-return]


class PSPNet(nn.Module):
    """Pyramid pooling over the whole tile; logits at 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Layer(3, 8, stride=2), Layer(8, 12, stride=2), Layer(12, 16, stride=2))
        self.branches = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), Layer(16, 8, 1)) for n in (1, 2, 3, 6))
        self.score = nn.Conv2d(16 + 4 * 8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image)
        size = features.shape[2:]
        pooled = [F.interpolate(b(features), size, mode="bilinear", align_corners=False) for b in self.branches]
        return self.score(torch.cat([features, *pooled], 1))  # type: ignore[no-any-return]


class DeepLab(nn.Module):
    """Atrous branches and image pooling at 1/8, joined with a shallow layer; logits at 1/4, among others."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(Layer(3, 8, stride=2), Layer(8, 12, stride=2))
        self.deep = Layer(12, 16, stride=2)
        self.atrous = nn.ModuleList([Layer(16, 8, 1), *(Layer(16, 8, dilation=dilation) for dilation in (2, 4))])
        self.whole, self.project = Layer(16, 8, 1), Layer(32, 16, 1)
        self.reduce, self.join = Layer(12, 6, 1), Layer(22, 12)
        self.score, self.auxiliary = nn.Conv2d(12, 3, 1), nn.Conv2d(16, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        shallow = self.shallow(image)
        deep = self.deep(shallow)
        whole = self.whole(deep.mean((2, 3), keepdim=True)).expand(-1, -1, *deep.shape[2:])
        joined = self.project(torch.cat([*(branch(deep) for branch in self.atrous), whole], 1))
        joined = F.interpolate(joined, shallow.shape[2:], mode="bilinear", align_corners=False)
        return {
            "out": self.score(self.join(torch.cat([self.reduce(shallow), joined], 1))),
            "aux": self.auxiliary(deep),
        }


class OneByOne(nn.Module):
    """One convolution, in code that wants to know how many images there are."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.score(image[index : index + 1]) for index in range(int(image.shape[0]))])


def unet() -> nn.Module:
    return _balanced(UNet)


def pspnet() -> nn.Module:
    return _balanced(PSPNet)


def deeplab() -> nn.Module:
    return _balanced(DeepLab)


def one_by_one() -> nn.Module:
    return _balanced(OneByOne)


def as_taken(tiles: NDArray[Any]) -> Tensor:
    """Raw (N, height, width, 3) -> (N, 3, height, width) as the networks want it."""
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(tiles.transpose(0, 3, 1, 2).astype(np.float32)) * SCALE - mean) / std


def logits_of(module: nn.Module, images: Tensor) -> Tensor:
    """At the size that the network gives."""
    with torch.inference_mode():
        output = module(images)
    return output["out"] if isinstance(output, dict) else output  # type: ignore[no-any-return]


def _balanced(kind: type[nn.Module]) -> nn.Module:
    """A network whose logits have mean 0 and deviation 3 in every class on parts of the shipped images."""
    torch.manual_seed(0)
    network = kind().eval().requires_grad_(False)
    tiles = np.stack([np.asarray(Image.open(path))[:384, :384] for path in shipped_images()])
    logits = logits_of(network, as_taken(tiles))
    factor = 3 / logits.std((0, 2, 3))
    score: nn.Conv2d = network.score  # type: ignore[assignment]
    assert score.bias is not None
    score.weight *= factor.reshape(-1, 1, 1, 1)
    score.bias.copy_((score.bias - logits.mean((0, 2, 3))) * factor)
    return network
