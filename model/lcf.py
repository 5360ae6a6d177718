"""Locality-aware context fusion (§3.3, Fig. 5 left, Eq. 1-5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import LcfConfig
from .geometry import apply_separable
from .layers import tokens


@dataclass(frozen=True, kw_only=True)
class Offsets:
    """Offsets from the patch's cells to those of a context, in cells of the context.

    Attributes:
        rows: Offsets (h, H) along the rows, or (N, h, H) where they differ from item to item.
        columns: Offsets (w, W) along the columns, or (N, w, W).
    """

    rows: Tensor
    columns: Tensor


class PositionTerm(nn.Module):
    """softmax(r W_r) of Eq. 2 and its gate z.

    exp(w1 dx + w2 dy + w3 (dx^2 + dy^2)) is a product over the axes. So the (HW x HW) softmax is the Kronecker product
    of one softmax for each axis: two small matrices instead of a large one, and exactly equal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.0, 0.0, -0.5]))  # W_r for (dx, dy, dx^2 + dy^2)
        self.gate = nn.Parameter(torch.zeros(()))  # z

    def matrices(self, offsets: Offsets) -> tuple[Tensor, Tensor]:
        """The softmax along each axis.

        Args:
            offsets: Offsets of the cells.

        Returns:
            Rows and columns, shaped as the offsets; their last axis sums to 1.
        """
        wx, wy, w2 = self.weight.unbind()
        rows = torch.softmax(wy * offsets.rows + w2 * offsets.rows.square(), dim=-1)
        columns = torch.softmax(wx * offsets.columns + w2 * offsets.columns.square(), dim=-1)
        return rows, columns

    def share(self) -> Tensor:
        """s(z) of Eq. 2: the share of the feature correlation in the attention map, a scalar."""
        return torch.sigmoid(self.gate)


class ContextAttention(nn.Module):
    """X_{I|U} = M_U X_U: the patch's cells attend to the cells of one context.

    Both softmaxes of Eq. 2 have rows that sum to 1, so Norm is the identity and the two terms are applied apart.
    The key has no bias: it would shift all logits of a row alike, which the softmax ignores. For the same reason
    only the query is centred where the release centres both (subtracts their mean over the cells).

    Args:
        channels: Channels C of the features.
        config: Which of the terms there are.
    """

    def __init__(self, channels: int, config: LcfConfig) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, config.key_channels, 1)
        self.key = nn.Conv2d(channels, config.key_channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.scale = config.key_channels**-0.5 if config.scale_logits else 1.0
        self.position = PositionTerm() if config.position else None
        self.centre_query = config.centre_query
        self.gamma = nn.Parameter(torch.zeros(1)) if config.gamma else None

    def forward(self, x: Tensor, u: Tensor, offsets: Offsets | None) -> Tensor:
        """Attend to a context.

        Args:
            x: Features X_I (N, C, h, w) of the patch.
            u: Features X_U (N, C, H, W) of the context.
            offsets: Offsets for the position term, or None where there is none.

        Returns:
            X_{I|U} (N, C, h, w).
        """
        value = self.value(u)
        attended = (self.attention(x, u) @ tokens(value)).transpose(1, 2).reshape(-1, *x.shape[1:])
        if self.position is not None and offsets is not None:
            share = self.position.share()
            rows, columns = self.position.matrices(offsets)
            attended = share * attended + (1 - share) * apply_separable(rows, value, columns)
        return attended if self.gamma is None else self.gamma * attended

    def attention(self, x: Tensor, u: Tensor) -> Tensor:
        """softmax(R_U) of Eq. 1.

        Args:
            x: Features X_I (N, C, h, w) of the patch.
            u: Features X_U (N, C, H, W) of the context.

        Returns:
            Attention (N, h*w, H*W), whose rows sum to 1.
        """
        query, key = tokens(self.query(x)), tokens(self.key(u))
        if self.centre_query:
            query = query - query.mean(dim=1, keepdim=True)
        return torch.softmax((query * self.scale) @ key.transpose(1, 2), dim=-1)


class AdaptiveFusion(nn.Module):
    """Squeeze-and-split: weight maps H_U, made from all locality-aware features, that sum to 1 over U (Eq. 3-4).

    Args:
        count: How many members U has.
        channels: Channels C of the features.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.count = count
        self.squeeze = nn.Conv2d(count * channels, channels, 1)
        self.split = nn.Conv2d(channels, count * channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """X_LCF (N, C, h, w) from X_{I|U} (N, C, h, w) of every U."""
        logits = self.split(torch.relu(self.squeeze(torch.cat(features, dim=1))))
        weights = torch.softmax(logits.reshape(-1, self.count, *features[0].shape[1:]), dim=1)
        return sum_of([weights[:, i] * feature for i, feature in enumerate(features)])


class LccFusion(nn.Module):
    """The mixing of the public release, of the paper's predecessor LCC: softmax over U of a sigmoid of mixed features.

    Args:
        count: How many members U has.
        channels: Channels C of the features.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(count))
        self.mix = nn.Conv2d(count * channels, count * channels, 1)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(count))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Mixed features (N, C, h, w) from X_{I|U} (N, C, h, w) of every U."""
        projected = [conv(feature) for conv, feature in zip(self.inputs, features, strict=True)]
        mixed = self.mix(torch.cat(projected, dim=1)).split(features[0].shape[1], dim=1)
        scores = [torch.sigmoid(conv(part)) for conv, part in zip(self.outputs, mixed, strict=True)]
        weights = torch.softmax(torch.stack(scores, dim=1), dim=1)
        return sum_of([weights[:, i] * feature for i, feature in enumerate(features)])


class WeightedFusion(nn.Module):
    """One learned constant weight for each context (Table 6).

    Args:
        count: How many members U has.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(count))

    def forward(self, features: list[Tensor]) -> Tensor:
        """X_LCF (N, C, h, w) from X_{I|U} (N, C, h, w) of every U."""
        weights = torch.softmax(self.logits, dim=0)
        return sum_of([weights[i] * feature for i, feature in enumerate(features)])


class AverageFusion(nn.Module):
    """The mean over contexts (Table 6)."""

    def forward(self, features: list[Tensor]) -> Tensor:
        """X_LCF (N, C, h, w) from X_{I|U} (N, C, h, w) of every U."""
        return sum_of(features) / len(features)


class LocalityAwareContextFusion(nn.Module):
    """F_LCF of Eq. 5.

    Args:
        names: The members of U; the patch is among them where it attends to itself.
        channels: Channels C of the features.
        config: How attention and fusion work.
    """

    def __init__(self, names: tuple[str, ...], channels: int, config: LcfConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: ContextAttention(channels, config) for name in names})
        self.fusion = _fusion(config.fusion, len(names), channels)

    def forward(self, x: Tensor, contexts: dict[str, Tensor], offsets: Mapping[str, Offsets | None]) -> Tensor:
        """Fuse what the patch attends to.

        Args:
            x: Features X_I (N, C, h, w) of the patch.
            contexts: By name, features X_U (N, C, H, W) of the members of U.
            offsets: By name, offsets for the position term, or None where there is none.

        Returns:
            X_LCF (N, C, h, w).
        """
        features = [layer(x, contexts[name], offsets[name]) for name, layer in self.attention.items()]
        fused: Tensor = self.fusion(features)
        return fused


def _fusion(kind: str, count: int, channels: int) -> nn.Module:
    """The fusion of that kind (`LcfConfig.fusion`) for so many members of U."""
    if count == 1 or kind == "average":  # one context has weight 1 whatever would be learned
        return AverageFusion()
    if kind == "lcc":
        return LccFusion(count, channels)
    return AdaptiveFusion(count, channels) if kind == "adaptive" else WeightedFusion(count)


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Sum tensors of one shape, without the leading zero that the built-in would put into an exported graph."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
