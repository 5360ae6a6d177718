"""Random files laid out as those of the public release, which cannot be had here. Needs torch.

Tensors that the real files store twice (`vgg.features` and `pool*`, `pool*` and `big_pool*`) are drawn apart, so that
whoever reads the wrong copy computes something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

LOCAL = "local"  # the role of the main file


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """One branch of the release. files: names by role; the main one is "local", the others are named by context."""

    arch: str
    classes: tuple[str, ...]
    files: dict[str, str]


INRIA = Branch(
    arch="release-inria",
    classes=("background", "building"),
    files={LOCAL: "all.epoch.pth", "medium": "B10.epoch.pth", "large": "B15.epoch.pth"},
)
DEEPGLOBE = Branch(
    arch="release-deepglobe",
    classes=("unknown", "urban", "agriculture", "rangeland", "forest", "water", "barren"),
    files={LOCAL: "all.epoch.pth", "medium": "medium.epoch.pth", "large": "global.epoch.pth"},
)
BRANCHES = {branch.arch: branch for branch in (INRIA, DEEPGLOBE)}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Shapes by key of one file: what the network needs, and what is stored beside it and never used."""

    needed: Shapes
    spare: Shapes


@dataclass(frozen=True, kw_only=True)
class Widths:
    """divisor: of every number of channels, 1 for the real files. keys: channels of queries and keys."""

    divisor: int
    keys: int

    def of(self, channels: int) -> int:
        """As many channels as there are in place of `channels`."""
        return channels // self.divisor


FULL = Widths(divisor=1, keys=512)
NARROW = Widths(divisor=8, keys=40)  # not 512 / 8: the files say how many, not the preset

# VGG16's convolutions among its `features`, the channels each gives, and which of them are in which block.
_FEATURES = dict(
    zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (64, 64, 128, 128, *3 * [256], *6 * [512]), strict=True)
)
_BLOCKS = {"pool3": (0, 17), "pool4": (17, 24), "pool5": (24, 31)}


def layout(branch: Branch, role: str, widths: Widths) -> Layout:
    """The keys of one file, without the prefix `module.`."""
    classes = len(branch.classes)
    spare = _vgg(widths)
    if role == LOCAL:
        attention = {INRIA.arch: _attention_of_inria, DEEPGLOBE.arch: _attention_of_deepglobe}[branch.arch](widths)
        needed = _blocks("", widths) | attention | _head(classes, widths)
        biases = {key: shape for key, shape in needed.items() if "conv_key" in key and key.endswith("bias")}
        return Layout(needed={k: s for k, s in needed.items() if k not in biases}, spare=spare | biases)
    spare |= _head(classes, widths)
    if branch == DEEPGLOBE and role == "large":
        return Layout(needed=_blocks("", widths), spare=spare)
    spare |= _blocks("", widths) | _attention("big_attention" if branch == INRIA else "big", "", widths)
    return Layout(needed=_blocks("big_", widths), spare=spare)


def draw(branch: Branch, widths: Widths, seed: int = 0) -> dict[str, State]:
    """The contents of the three files by role, with the prefix `module.`."""
    generator = torch.Generator().manual_seed(seed)
    states = {}
    for role in branch.files:
        found = layout(branch, role, widths)
        shapes = found.spare | found.needed
        states[role] = {f"module.{key}": _draw(key, shape, generator) for key, shape in shapes.items()}
    return states


def write(folder: Path, branch: Branch, states: dict[str, State]) -> dict[str, Path]:
    """Write the files of a branch, by role."""
    paths = {role: folder / name for role, name in branch.files.items()}
    for role, path in paths.items():
        torch.save(states[role], path)
    return paths


def _blocks(prefix: str, widths: Widths) -> Shapes:
    shapes, inputs = {}, 3
    for block, (first, end) in _BLOCKS.items():
        for index, channels in _FEATURES.items():
            if first <= index < end:
                outputs = widths.of(channels)
                shapes |= _convolution(f"{prefix}{block}.{index - first}", inputs, outputs, 3)
                inputs = outputs
    return shapes


def _vgg(widths: Widths) -> Shapes:
    shapes: Shapes = {}
    inputs = 3
    for index, channels in _FEATURES.items():
        shapes |= _convolution(f"vgg.features.{index}", inputs, widths.of(channels), 3)
        inputs = widths.of(channels)
    hidden = widths.of(4096)
    return shapes | {
        "vgg.classifier.0.weight": (hidden, 49 * inputs),
        "vgg.classifier.0.bias": (hidden,),
        "vgg.classifier.3.weight": (hidden, hidden),
        "vgg.classifier.3.bias": (hidden,),
        "vgg.classifier.6.weight": (1000, hidden),
        "vgg.classifier.6.bias": (1000,),
    }


def _head(classes: int, widths: Widths) -> Shapes:
    hidden = widths.of(4096)
    return (
        _convolution("output.0", widths.of(512), hidden, 7)
        | _convolution("output.3", hidden, hidden, 1)
        | _convolution("output.6", hidden, classes, 1)
        | _convolution("adj_pool4", widths.of(512), classes, 1)
        | _convolution("adj_pool3", widths.of(256), classes, 1)
        | {
            "up_output.weight": (classes, classes, 4, 4),
            "up_pool4_out.weight": (classes, classes, 4, 4),
            "up_final.weight": (classes, classes, 16, 16),
        }
    )


def _attention(module: str, suffix: str, widths: Widths) -> Shapes:
    channels = widths.of(512)
    return (
        _convolution(f"{module}.conv_query{suffix}", channels, widths.keys, 1)
        | _convolution(f"{module}.conv_key{suffix}", channels, widths.keys, 1)
        | {f"{module}.conv_value{suffix}.weight": (channels, channels, 1, 1), f"{module}.gamma{suffix}": (1,)}
    )


def _mixing(prefix: str, widths: Widths) -> Shapes:
    channels = widths.of(512)
    shapes = _convolution(f"{prefix}trans", 3 * channels, 3 * channels, 1)
    for place in (1, 2, 3):
        shapes |= _convolution(f"{prefix}in_{place}", channels, channels, 1)
        shapes |= _convolution(f"{prefix}out_{place}", channels, channels, 1)
    return shapes


def _attention_of_inria(widths: Widths) -> Shapes:
    shapes = _mixing("big_attention.", widths)
    for suffix in ("", "_1", "_2"):
        shapes |= _attention("big_attention", suffix, widths)
    return shapes


def _attention_of_deepglobe(widths: Widths) -> Shapes:
    shapes = _mixing("", widths)
    for module in ("local", "medium", "large"):
        shapes |= _attention(module, "", widths)
    return shapes


def _convolution(name: str, inputs: int, outputs: int, side: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


_GAINS = {  # of a convolution's weights over Kaiming's; 1 elsewhere
    "adj_pool4": 100.0,  # the decoder takes 0.01 of pool4 and 0.0001 of pool3
    "adj_pool3": 10000.0,
}


def _draw(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights under which differences between places of an image survive, as in a trained network.

    Filters sum to 0, else the means of rectified features outgrow all that varies within twenty layers.
    """
    values = torch.randn(shape, generator=generator)
    if "gamma" in key:
        return 1.5 + values.clamp(-1, 1)
    if key.endswith("bias"):
        return 0.1 * values
    if key.startswith("up_"):
        return _bilinear(shape) + 0.02 * values
    values = values - values.mean(dim=tuple(range(1, values.dim())), keepdim=True)
    layer = key.removesuffix(".weight")
    fan_in = values[0].numel()
    return _GAINS.get(layer, 1.0) * (3 / fan_in) ** 0.5 * values


def _bilinear(shape: tuple[int, ...]) -> Tensor:
    classes, _, side, _ = shape
    hat = 1 - (torch.arange(side) - (side - 1) / 2).abs() / (side / 2)
    return torch.eye(classes)[:, :, None, None] * torch.outer(hat, hat)
