"""Alternating local enhancement (§3.4, Fig. 5 right, Fig. 13, Alg. 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import LOCAL, AleConfig

_ROUNDS = {"a": 1, "b": 2, "c": 1, "d": 2, "e": 3}


class GroupDepthConv(nn.Module):
    """One depthwise convolution per channel group, each with its own window (Eq. 6)."""

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
        """X_ref (N, C, h, w) -> E (N, C, h, w)."""
        parts = torch.split(x, self.sizes, dim=1)
        return torch.cat([conv(part) for conv, part in zip(self.groups, parts, strict=True)], dim=1)


class LocalFeatureInteraction(nn.Module):
    """f(tar; refs): tar + E * tar with the attention map E made from the tokenised references (Eq. 6-7).

    n references are tokenised to C / n channels each, so that their concatenation has C again. The target is
    tokenised C to C, and it is the tokenised target that E strengthens.
    """

    def __init__(self, references: int, channels: int, windows: tuple[int, ...]) -> None:
        super().__init__()
        self.target = nn.Conv2d(channels, channels, 1)
        self.references = nn.ModuleList(nn.Conv2d(channels, part, 1) for part in even_parts(channels, references))
        self.enhance = GroupDepthConv(channels, windows)

    def forward(self, target: Tensor, references: list[Tensor]) -> Tensor:
        """(N, C, h, w) each -> (N, C, h, w)."""
        tokens = [conv(reference) for conv, reference in zip(self.references, references, strict=True)]
        target = self.target(target)
        enhanced: Tensor = target + self.enhance(torch.cat(tokens, dim=1)) * target
        return enhanced


class AlternatingLocalEnhancement(nn.Module):
    """X_ALE from the patch's features and the contexts', cropped to the patch and upsampled to its grid.

    Structures (a) to (e) of Fig. 13: in every round but the last each member is enhanced by all the others at
    once, and the last round enhances the patch alone. Every block has its own weights.
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
        """Patch (N, C, h, w), cropped contexts (N, C, h, w) by name -> (N, C, h, w)."""
        features = {LOCAL: x, **cropped}
        for blocks in self.rounds:
            assert isinstance(blocks, nn.ModuleDict)  # for the type checker: a ModuleList hands out plain modules
            features = {
                name: block(features[name], [features[other] for other in self.members if other != name])
                for name, block in blocks.items()
            }
        return features[LOCAL]


class ConcatEnhancement(nn.Module):
    """The "Concat" row of Table 7: a 1x1 convolution over the patch's features and all cropped contexts."""

    def __init__(self, contexts: tuple[str, ...], channels: int) -> None:
        super().__init__()
        self.contexts = contexts
        self.mix = nn.Conv2d((len(contexts) + 1) * channels, channels, 1)

    def forward(self, x: Tensor, cropped: dict[str, Tensor]) -> Tensor:
        """Patch (N, C, h, w), cropped contexts (N, C, h, w) by name -> (N, C, h, w)."""
        mixed: Tensor = self.mix(torch.cat([x, *(cropped[name] for name in self.contexts)], dim=1))
        return mixed


def enhancement(contexts: tuple[str, ...], channels: int, config: AleConfig) -> nn.Module:
    """The module that `config` asks for."""
    if config.structure == "concat":
        return ConcatEnhancement(contexts, channels)
    return AlternatingLocalEnhancement(contexts, channels, config)


def even_parts(total: int, count: int) -> list[int]:
    """`total` in `count` parts that differ by at most one."""
    return [total // count + (index < total % count) for index in range(count)]
