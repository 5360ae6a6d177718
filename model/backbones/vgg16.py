"""VGG16 as FCN-8s uses it (release, §4.2): 100 pixels of padding before the first convolution, pools that round up.

The padding lets 7x7 windows slide over inputs smaller than their field of view. Its cells therefore start well outside
of the image: cell 0 of ``pool5`` is centred 83.5 pixels before the first pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ConfigError
from .base import Backbone, Stage, scaled

PADDING = 100
_CONVOLUTIONS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # between two pools
_POOLS = {"pool3": 3, "pool4": 4, "pool5": 5}  # pools up to and including each stage


class Vgg16(Backbone):
    """VGG16 with the stages pool3 (256 channels), pool4 (512) and pool5 (512).

    Layers are numbered within each stage as in torchvision's `features`, counted anew from 0, as the release does.
    """

    stages = (
        Stage(name="pool3", channels=256, stride=8, offset=-95.5),
        Stage(name="pool4", channels=512, stride=16, offset=-91.5),
        Stage(name="pool5", channels=512, stride=32, offset=-83.5),
    )

    def __init__(self, *, bands: int, last: str, width: float = 1.0) -> None:
        super().__init__(bands=bands, last=last)
        self.blocks = nn.ModuleDict()
        self.channels = {}
        inputs, done = bands, 0
        for stage in self.stages:
            layers: list[nn.Module] = []
            for convolutions in _CONVOLUTIONS[done : _POOLS[stage.name]]:
                for channels in convolutions:
                    outputs = scaled(channels, width)
                    first = not self.blocks and not layers
                    layers += [nn.Conv2d(inputs, outputs, 3, padding=PADDING if first else 1), nn.ReLU(inplace=True)]
                    inputs = outputs
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            self.blocks[stage.name] = nn.Sequential(*layers)
            self.channels[stage.name] = inputs
            done = _POOLS[stage.name]
            if stage.name == last:
                break
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # without batch norm, what PyTorch starts with fades to nothing
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Features by stage, see `Backbone`."""
        return self._run(x, list(self.blocks), last)

    def inside(self, x: Tensor, last: str) -> dict[str, Tensor]:
        """Features by stage without the padding of 100, which frames whole images, see `Backbone`."""
        layers = list(self.blocks["pool3"].children())
        first = cast(nn.Conv2d, layers[0])
        features = {"pool3": nn.Sequential(*layers[1:])(F.conv2d(x, first.weight, first.bias, padding=1))}
        if last == "pool3":
            return features
        names = list(self.blocks)
        return features | self._run(features["pool3"], names[1:], last)

    def resume(self, x: Tensor, stage: str) -> dict[str, Tensor]:
        """Features of the stages after `stage`, see `Backbone`."""
        names = list(self.blocks)
        return self._run(x, names[names.index(stage) + 1 :], None)

    def _run(self, x: Tensor, names: list[str], last: str | None) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        for name in names:
            x = features[name] = self.blocks[name](x)
            if name == last:
                break
        return features

    @classmethod
    def check_size(cls, size: int) -> None:
        """Any size works."""
        if size < 1:
            raise ConfigError(f"vgg16 needs sides of at least 1 pixel, found {size}")

    @classmethod
    def grid(cls, size: int, stage: Stage) -> int:
        """The padded size, halved and rounded up by every pool."""
        side = size + 2 * PADDING - 2
        for _ in range(_POOLS[stage.name]):
            side = -(-side // 2)
        return side

    @classmethod
    def inside_grid(cls, size: int, stage: Stage) -> tuple[int, float]:
        """The cells that `inside` gives: the first one begins with the image."""
        return cls.grid(size - 2 * (PADDING - 1), stage), stage.offset + PADDING - 1

    def freeze(self, stage: str) -> None:
        """Freeze every block up to `stage`."""
        for name, block in self.blocks.items():
            block.requires_grad_(False)
            if name == stage:
                return

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load torchvision's VGG16, whose keys are ``features.{i}``, see `Backbone`."""
        if self.bands != 3:
            raise ConfigError(f"ImageNet weights have 3 bands, this network {self.bands}")
        renamed = {_rename(key): value for key, value in state.items() if not key.startswith("classifier.")}
        deeper = tuple(f"blocks.{stage.name}." for stage in self.stages if stage.name not in self.blocks)
        self.load_state_dict({k: v for k, v in renamed.items() if not deeper or not k.startswith(deeper)}, strict=True)


FIRST_FEATURE = {"pool3": 0, "pool4": 17, "pool5": 24}  # where each stage begins in torchvision's `features`


def _rename(key: str) -> str:
    """The name here of a parameter in torchvision's weights."""
    head, _, tail = key.partition(".")
    index, _, parameter = tail.partition(".")
    if head != "features" or not index.isdigit():
        return key
    stage = next(name for name, first in reversed(FIRST_FEATURE.items()) if int(index) >= first)
    return f"blocks.{stage}.{int(index) - FIRST_FEATURE[stage]}.{parameter}"
