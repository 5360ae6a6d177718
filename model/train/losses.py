"""Loss functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float, ignore: int) -> Tensor:
    """The focal loss (§3.5) on the softmax probability of the target.

    Args:
        logits: Scores (N, classes, ...).
        target: Class ids (N, ...) int64.
        gamma: Focusing parameter; 0 makes it the cross entropy.
        ignore: Class id of pixels that are not labelled.

    Returns:
        A scalar, the mean over the labelled pixels; 0 where nothing is labelled.
    """
    cross_entropy = F.cross_entropy(logits, target, ignore_index=ignore, reduction="none")
    labelled = (target != ignore).sum().clamp(min=1)
    return ((1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).sum() / labelled


def weighted_focal_loss(
    logits: Tensor, target: Tensor, weights: Sequence[float] | None, *, gamma: float, ignore: int
) -> Tensor:
    """The focal loss, where pixels weigh what their class does.

    Args:
        logits: Scores (N, classes, H, W).
        target: Class ids (N, H, W) int64.
        weights: Weights of the classes, in order, or None for 1 each.
        gamma: Focusing parameter.
        ignore: Class id of pixels that are not labelled.

    Returns:
        A scalar, the weighted mean over the labelled pixels; 0 where all weights are 0.
    """
    if weights is None:
        return focal_loss(logits, target, gamma=gamma, ignore=ignore)
    pixels, total, weighed = logits.movedim(1, -1), logits.sum() * 0, 0.0
    for index, weight in enumerate(weights):
        here = target == index
        mass = weight * float(here.sum())
        weighed += mass
        if mass:
            total = total + mass * focal_loss(pixels[here], target[here], gamma=gamma, ignore=ignore)
    return total / weighed if weighed else total
