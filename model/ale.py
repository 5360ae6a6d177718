"""Alternating local enhancement (§3.4, Fig. 5 right, Fig. 13, Alg. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import LOCAL, AleConfig

_ROUNDS = {"a": 1, "b": 2, "c": 1, "d": 2, "e": 3}


class GroupDepthConv(nn.Module):
    """One depthwise convolution for each group of channels, with windows of different sizes (Eq. 6).

    Args:
        channels: Channels in all.
        windows: Sides of the windows, one for each group.
    """

    def __init__(self, channels: int, windows: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = even_parts(channels, len(windows))
        self.groups = nn.ModuleList(
            nn.Conv2d(size, size, side, padding=side // 2, groups=size)
            for size, side in zip(self.sizes, windows, strict=True)
        )
        # E multiplies tokens by tokens: as PyTorch starts convolutions, two rounds make X_ALE several times X_I.
        with torch.no_grad():
            for parameter in self.groups.parameters():
                parameter.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """The attention map E (N, C, h, w) of tokenised references X_ref (N, C, h, w)."""
        parts = torch.split(x, self.sizes, dim=1)
        return torch.cat([conv(part) for conv, part in zip(self.groups, parts, strict=True)], dim=1)


class LocalFeatureInteraction(nn.Module):
    """f(tar; refs) = tar + E * tar, with the attention map E made from the tokenised references (Eq. 6-7).

    Each of n references is tokenised to C / n channels, so that their concatenation has C again. The target is
    tokenised from C to C channels, and E strengthens the tokenised target.

    Args:
        references: How many references there are.
        channels: Channels C.
        windows: Sides of the depthwise windows.
    """

    def __init__(self, references: int, channels: int, windows: tuple[int, ...]) -> None:
        super().__init__()
        self.target = nn.Conv2d(channels, channels, 1)
        self.references = nn.ModuleList(nn.Conv2d(channels, part, 1) for part in even_parts(channels, references))
        self.enhance = GroupDepthConv(channels, windows)

    def forward(self, target: Tensor, references: list[Tensor]) -> Tensor:
        """The enhanced target (N, C, h, w), from the target and its references (N, C, h, w) each."""
        tokens = [conv(reference) for conv, reference in zip(self.references, references, strict=True)]
        target = self.target(target)
        enhanced: Tensor = target + self.enhance(torch.cat(tokens, dim=1)) * target
        return enhanced


class AlternatingLocalEnhancement(nn.Module):
    """X_ALE from the features of the patch and of its contexts, which are cropped to the patch and brought to its grid.

    The structures are (a) to (e) of Fig. 13. In every round but the last, each member is enhanced by all others at
    once; the last round enhances the patch alone. Every block has its own weights.

    Args:
        contexts: Names of the contexts.
        channels: Channels C.
        config: The structure.
    """

    def __init__(self, contexts: tuple[str, ...], channels: int, config: AleConfig) -> None:
        super().__init__()
        self.members = (LOCAL, config.reference) if config.reference else (LOCAL, *contexts)
        rounds = _ROUNDS[config.structure]
        self.rounds = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: LocalFeatureInteraction(len(self.members) - 1, channels, config.windows)
                    for name in (self.members if index < rounds - 1 else (LOCAL,))
                }
            )
            for index in range(rounds)
        )

    def forward(self, x: Tensor, cropped: dict[str, Tensor]) -> Tensor:
        """X_ALE (N, C, h, w), from the patch (N, C, h, w) and by name the cropped contexts (N, C, h, w)."""
        features = {LOCAL: x, **cropped}
        for blocks in self.rounds:
            assert isinstance(blocks, nn.ModuleDict)  # for the type checker: a ModuleList hands out plain modules
            features = {
                name: block(features[name], [features[other] for other in self.members if other != name])
                for name, block in blocks.items()
            }
        return features[LOCAL]


class ConcatEnhancement(nn.Module):
    """The row "Concat" of Table 7: a 1x1 convolution over the patch's features and all cropped contexts.

    Args:
        contexts: Names of the contexts.
        channels: Channels C.
    """

    def __init__(self, contexts: tuple[str, ...], channels: int) -> None:
        super().__init__()
        self.contexts = contexts
        self.mix = nn.Conv2d((len(contexts) + 1) * channels, channels, 1)

    def forward(self, x: Tensor, cropped: dict[str, Tensor]) -> Tensor:
        """X_ALE (N, C, h, w), from the patch (N, C, h, w) and by name the cropped contexts (N, C, h, w)."""
        mixed: Tensor = self.mix(torch.cat([x, *(cropped[name] for name in self.contexts)], dim=1))
        return mixed


def enhancement(contexts: tuple[str, ...], channels: int, config: AleConfig) -> nn.Module:
    """The module that a configuration asks for.

    Args:
        contexts: Names of the contexts.
        channels: Channels C of the enhanced features.
        config: Which structure.

    Returns:
        A module that takes the patch's features (N, C, h, w) and, by name, the contexts' features (N, C, h, w),
        cropped to the patch, and gives X_ALE (N, C, h, w).
    """
    if config.structure == "concat":
        return ConcatEnhancement(contexts, channels)
    return AlternatingLocalEnhancement(contexts, channels, config)


def even_parts(total: int, count: int) -> list[int]:
    """Divide a number into parts that differ by at most one.

    Args:
        total: What is divided.
        count: How many parts.

    Returns:
        The parts, larger ones first.
    """
    return [total // count + (index < total % count) for index in range(count)]
