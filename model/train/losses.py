"""Loss functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float, ignore: int) -> Tensor:
    """Focal loss (§3.5) on the softmax probability of the target, mean over the labelled pixels.

    logits (N, classes, H, W), target (N, H, W) int64 -> scalar.
    """
    cross_entropy = F.cross_entropy(logits, target, ignore_index=ignore, reduction="none")
    labelled = (target != ignore).sum().clamp(min=1)
    return ((1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).sum() / labelled
