"""A feature pyramid (FPN) over the stages of a backbone, to which another branch may add its maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .layers import resize

Maps = Mapping[str, Tensor]


class Pyramid(nn.Module):
    """A top-down pyramid: each stage is projected, the coarser sum is enlarged and added, and the sum is smoothed.

    Smoothed maps are refined to half the width, enlarged to the finest and concatenated. As in FPN, nothing but the
    backbone has an activation. With `shared`, the stages and the smoothed maps of another branch are concatenated to
    those of the pyramid's own, at every level.

    Args:
        channels: Channels of the stages by level, finest first.
        width: Channels of the smoothed maps.
        shared: Whether maps of another branch are added.
    """

    def __init__(self, channels: Mapping[str, int], width: int, *, shared: bool) -> None:
        super().__init__()
        many, self.levels = 2 if shared else 1, tuple(channels)
        self.lateral = nn.ModuleDict({level: nn.Conv2d(many * channels[level], width, 1) for level in self.levels})
        self.smooth = nn.ModuleDict({level: nn.Conv2d(width, width, 3, padding=1) for level in self.levels})
        half = width // 2
        self.refine = nn.ModuleDict({level: nn.Conv2d(many * width, half, 3, padding=1) for level in self.levels})
        self.channels = len(self.levels) * half

    def smoothed(self, stages: Maps, other: Maps) -> dict[str, Tensor]:
        """The smoothed maps.

        Args:
            stages: Features (N, C, h, w) of the backbone, "c" and the level each.
            other: Maps of another branch by the same names; empty without one.

        Returns:
            Maps (N, width, h, w), "p" and the level each, finest first.
        """
        sums: dict[str, Tensor] = {}
        x: Tensor | None = None
        for level in reversed(self.levels):
            finer = self.lateral[level](_with(stages, other, f"c{level}"))
            x = finer if x is None else finer + resize(x, finer.shape[-1])
            sums[level] = x
        return {f"p{level}": self.smooth[level](sums[level]) for level in self.levels}

    def last(self, smoothed: Maps, other: Maps) -> Tensor:
        """The last features (N, 2 * width, h, w) of four levels, on the finest grid; arguments as in `smoothed`."""
        maps = [self.refine[level](_with(smoothed, other, f"p{level}")) for level in self.levels]
        side = maps[0].shape[-1]
        return torch.cat([maps[0], *(resize(one, side) for one in maps[1:])], dim=1)


def _with(maps: Maps, other: Maps, name: str) -> Tensor:
    """A map, and that of the other branch behind it."""
    return torch.cat([maps[name], other[name]], dim=1) if other else maps[name]
