"""The three branches of ICNet over one ResNet-50: the image at its full size, at a half, and at a quarter.

As in the public release of ICNet, the half and the quarter share what they can: the image is halved and goes through
the stem, the first stage and the first block of the second one; these features are halved again, and the other blocks
of a ResNet-50 with dilated stages follow. At full size there are but three small convolutions. The release has its own
variant of ResNet-50, halves its channels after training, and aligns the centres of corner pixels when it resamples.
Here the ResNet is torchvision's, unpruned, and halving is a mean of 2x2: that is bilinear resampling by a half.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ConfigError
from ..layers import conv_relu
from .base import Backbone, Stage, scaled
from .chain import check_divisible
from .resnet50 import ResNet50Os8


class IcNet(Backbone):
    """ICNet's branches as stages: full (64 channels at 1/8), half (512 at 1/16) and quarter (2048 at 1/32)."""

    stages = (
        Stage(name="full", channels=64, stride=8, offset=0),
        Stage(name="half", channels=512, stride=16, offset=0.5),
        Stage(name="quarter", channels=2048, stride=32, offset=8.5),
    )
    resumes = False

    def __init__(self, *, bands: int, last: str, width: float = 1.0) -> None:
        super().__init__(bands=bands, last=last)
        thin, wide = scaled(32, width), scaled(64, width)
        self.full = nn.Sequential(
            conv_relu(bands, thin, 3, stride=2), conv_relu(thin, thin, 3, stride=2), conv_relu(thin, wide, 3, stride=2)
        )
        self.resnet = ResNet50Os8(bands=bands, last="layer4" if last == "quarter" else "layer2", width=width)
        theirs = list(self.resnet.channels.values())
        every = {"full": wide, "half": theirs[1], "quarter": theirs[-1]}
        names = [stage.name for stage in self.stages]
        self.channels = {name: every[name] for name in names[: names.index(last) + 1]}

    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Features by stage, see `Backbone`."""
        deepest = last or list(self.channels)[-1]
        features = {"full": self.full(x)}
        if deepest == "full":
            return features
        features["half"] = self._before(_halved(x))
        if deepest == "half":
            return features
        y = self._after(_halved(features["half"]))
        return features | {"quarter": self.resnet.resume(y, "layer2")["layer4"]}

    def _before(self, x: Tensor) -> Tensor:
        """The ResNet up to the first block of its second stage."""
        y: Tensor = self._second()[0](self.resnet(x, "layer1")["layer1"])
        return y

    def _after(self, x: Tensor) -> Tensor:
        """The other blocks of the ResNet's second stage."""
        for block in self._second()[1:]:
            x = block(x)
        return x

    def _second(self) -> list[nn.Module]:
        return list(self.resnet.levels["layer2"].children())

    def resume(self, x: Tensor, stage: str) -> dict[str, Tensor]:
        """Branches begin with the image and not with each other's features, see `Backbone`."""
        raise ConfigError("the branches of icnet begin with the image: they cannot be resumed")

    @classmethod
    def check_size(cls, size: int) -> None:
        """Every stride must divide the size."""
        check_divisible(cls, size, cls.stages[-1].stride)

    @classmethod
    def grid(cls, size: int, stage: Stage) -> int:
        """The size over the stride."""
        return size // stage.stride

    def freeze(self, stage: str) -> None:
        """Freeze the branches up to `stage`, the ResNet as far as they use it."""
        self.full.requires_grad_(False)
        if stage == "half":
            self.resnet.freeze("layer1")
            self._second()[0].requires_grad_(False)
        elif stage == "quarter":
            self.resnet.requires_grad_(False)

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load torchvision's ``resnet50``; the branch of the full size stays as it is, see `Backbone`."""
        self.resnet.load_imagenet(state)


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)
