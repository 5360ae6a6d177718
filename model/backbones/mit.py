"""Mix Transformer (MiT), the encoder of SegFormer.

Its patch embeddings overlap, its attention reduces the grid of keys and values, and its feed-forward layers have a
depthwise convolution in place of position embeddings. Tokens are (N, h*w, C). Strides and paddings put cell u of every
stage right on pixel stride * u.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ConfigError
from ..layers import tokens
from .base import Stage, scaled
from .chain import Chain

log = logging.getLogger(__name__)

_HEADS = (1, 2, 5, 8)
_REDUCTION = (8, 4, 2, 1)
_EXPANSION = 4
_NAMES = ("s4", "s8", "s16", "s32")
NON_COMMERCIAL = (
    "weights in SegFormer's public layout: those that NVIDIA publishes are for non-commercial use only; "
    "make sure that your licence allows what you do"
)


class _Attention(nn.Module):
    """Self-attention in which keys and values come from a smaller grid."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.reduce = nn.Conv2d(channels, channels, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(channels) if reduction > 1 else None
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        fewer = x
        if self.reduce is not None and self.norm is not None:
            fewer = self.norm(tokens(self.reduce(_image(x, height, width))))
        query, key, value = self._split(self.query(x)), self._split(self.key(fewer)), self._split(self.value(fewer))
        scale = query.shape[-1] ** -0.5
        attended = ((query * scale) @ key.transpose(-1, -2)).softmax(dim=-1) @ value
        result: Tensor = self.out(attended.transpose(1, 2).reshape(-1, *x.shape[1:]))
        return result

    def _split(self, x: Tensor) -> Tensor:
        """(N, tokens, C) -> (N, heads, tokens, C / heads)."""
        return x.reshape(-1, x.shape[1], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class _FeedForward(nn.Module):
    """Two dense layers with a depthwise convolution in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _EXPANSION * channels
        self.dense1 = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dense2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        hidden = tokens(self.depthwise(_image(self.dense1(x), height, width)))
        result: Tensor = self.dense2(F.gelu(hidden))
        return result


class _Block(nn.Module):
    """Attention and feed-forward layers, both with a residual."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = _Attention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _FeedForward(channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.attention(self.norm1(x), height, width)
        result: Tensor = x + self.mlp(self.norm2(x), height, width)
        return result


class _Level(nn.Module):
    """One stage: patch embedding and blocks."""

    def __init__(self, inputs: int, channels: int, index: int, depth: int) -> None:
        super().__init__()
        kernel, stride = (7, 4) if index == 0 else (3, 2)
        self.embed = nn.Conv2d(inputs, channels, kernel, stride, padding=kernel // 2)
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(_Block(channels, _HEADS[index], _REDUCTION[index]) for _ in range(depth))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        height, width = x.shape[2:]
        x = self.embed_norm(tokens(x))
        for block in self.blocks:
            x = block(x, height, width)
        return _image(self.norm(x), height, width)


class MixTransformer(Chain):
    """What MitB0 to MitB5 share: the stages s4, s8, s16 and s32.

    Attributes:
        depths: Blocks of each stage.
    """

    depths: ClassVar[tuple[int, int, int, int]]
    lattice_scale = lattice_limit = 1  # attention spans the whole window: a larger one is another picture

    @classmethod
    def level(cls, index: int, inputs: int, width: float) -> tuple[nn.Module, int]:
        """Make the module of one stage; every head keeps as many channels as another, see `Chain`."""
        channels = _HEADS[index] * scaled(cls.stages[index].channels // _HEADS[index], width)
        return _Level(inputs, channels, index, cls.depths[index]), channels

    @classmethod
    def check_size(cls, size: int) -> None:
        """Every stride must divide the size."""
        if size < 1 or size % 32:
            raise ConfigError(f"mit needs sides divisible by 32, found {size}; use {max(1, -(-size // 32)) * 32}")

    def load_imagenet(self, state: Mapping[str, Tensor]) -> None:
        """Load a SegFormer encoder in the layout that `transformers` saves, see `Backbone`; log its licence."""
        if self.bands != 3:
            raise ConfigError(f"ImageNet weights have 3 bands, this network {self.bands}")
        log.warning(NON_COMMERCIAL)
        theirs = {ours: published_key(ours) for ours in self.state_dict()}
        deeper = tuple(f"{part}.{index}." for index in range(len(self.levels), 4) for part in _PUBLISHED_PARTS)
        found = {key.removeprefix("segformer.").removeprefix("encoder."): value for key, value in state.items()}
        left = {k: v for k, v in found.items() if not k.startswith((*deeper, "classifier.", "decode_head."))}
        ours = {theirs[key]: key for key in theirs}
        self.load_state_dict({ours.get(key, key): value for key, value in left.items()}, strict=True)


def published_key(key: str) -> str:
    """The name of a parameter in a SegFormer encoder that `transformers` saves.

    Args:
        key: Its name in `MixTransformer`.

    Returns:
        Its name there, without the prefix of the encoder.

    Raises:
        KeyError: There is no such parameter.
    """
    _, stage, rest = key.split(".", 2)
    level = str(_NAMES.index(stage))
    for pattern, theirs in _PUBLISHED:
        if match := pattern.fullmatch(rest):
            return match.expand(theirs.replace("LEVEL", level))
    raise KeyError(key)


_PUBLISHED_PARTS = ("patch_embeddings", "block", "layer_norm")
_PUBLISHED = tuple(
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r"embed\.(\w+)", r"patch_embeddings.LEVEL.proj.\1"),
        (r"embed_norm\.(\w+)", r"patch_embeddings.LEVEL.layer_norm.\1"),
        (r"norm\.(\w+)", r"layer_norm.LEVEL.\1"),
        (r"blocks\.(\d+)\.norm([12])\.(\w+)", r"block.LEVEL.\1.layer_norm_\2.\3"),
        (r"blocks\.(\d+)\.attention\.(query|key|value)\.(\w+)", r"block.LEVEL.\1.attention.self.\2.\3"),
        (r"blocks\.(\d+)\.attention\.reduce\.(\w+)", r"block.LEVEL.\1.attention.self.sr.\2"),
        (r"blocks\.(\d+)\.attention\.norm\.(\w+)", r"block.LEVEL.\1.attention.self.layer_norm.\2"),
        (r"blocks\.(\d+)\.attention\.out\.(\w+)", r"block.LEVEL.\1.attention.output.dense.\2"),
        (r"blocks\.(\d+)\.mlp\.(dense[12])\.(\w+)", r"block.LEVEL.\1.mlp.\2.\3"),
        (r"blocks\.(\d+)\.mlp\.depthwise\.(\w+)", r"block.LEVEL.\1.mlp.dwconv.dwconv.\2"),
    )
)


def _stages(*channels: int) -> tuple[Stage, ...]:
    """The stages, by their channels."""
    return tuple(
        Stage(name=name, channels=count, stride=4 << index, offset=0)
        for index, (name, count) in enumerate(zip(_NAMES, channels, strict=True))
    )


class MitB0(MixTransformer):
    """MiT-B0: 3.3 million parameters."""

    stages, depths = _stages(32, 64, 160, 256), (2, 2, 2, 2)


class MitB1(MixTransformer):
    """MiT-B1: 13.2 million parameters."""

    stages, depths = _stages(64, 128, 320, 512), (2, 2, 2, 2)


class MitB2(MixTransformer):
    """MiT-B2: 24.2 million parameters."""

    stages, depths = _stages(64, 128, 320, 512), (3, 4, 6, 3)


class MitB3(MixTransformer):
    """MiT-B3: 44.1 million parameters."""

    stages, depths = _stages(64, 128, 320, 512), (3, 4, 18, 3)


class MitB4(MixTransformer):
    """MiT-B4: 60.8 million parameters."""

    stages, depths = _stages(64, 128, 320, 512), (3, 8, 27, 3)


class MitB5(MixTransformer):
    """MiT-B5: 81.4 million parameters."""

    stages, depths = _stages(64, 128, 320, 512), (3, 6, 40, 3)


def _image(x: Tensor, height: int, width: int) -> Tensor:
    """Tokens (N, h*w, C) as features (N, C, h, w)."""
    return x.transpose(1, 2).reshape(-1, x.shape[2], height, width)
