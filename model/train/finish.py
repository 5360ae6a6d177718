"""What follows the last stage: batch statistics and class offsets, on patches as serving sees them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fctl.runtime.evaluate.metrics import IGNORE, Confusion

from ..interface import ContextNetwork
from .lattices import Windows
from .optimise import predict, train_mode
from .recipe import Recipe
from .sampling import Sampler
from .scenes import Scene

_STEPS = (0.4, 0.2, 0.1)  # of the search for offsets, in logits


def recalibrate(
    network: ContextNetwork, scenes: Sequence[Scene], windows: Windows, recipe: Recipe, batches: int | None = None
) -> None:
    """Measure batch statistics anew: the decoder's, and those of backbones where the last stage trained them.

    Averaged weights have statistics of their own, and those of balanced patches are not those of a raster.

    Args:
        network: The network; it is changed, and left in training mode.
        scenes: The scenes.
        windows: By name, how the contexts are cut.
        recipe: The recipe of the last stage; its jitter and balance are left out.
        batches: How many batches are measured; None for a tenth of the steps and 10 more, but no more than 100.
    """
    batches = min(100, 10 + recipe.steps // 10) if batches is None else batches
    sampler = Sampler(scenes, network.config, windows, _as_served(recipe))
    measured = network if recipe.statistics else network.decoder
    norms = [m for m in measured.modules() if isinstance(m, nn.BatchNorm2d) and m.weight.requires_grad]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    train_mode(network, recipe.statistics)
    with torch.no_grad():
        for index in range(batches):
            predict(network, sampler.batch(recipe.steps + index), colour=0.0)


def fit_class_offsets(
    network: ContextNetwork, scenes: Sequence[Scene], windows: Windows, recipe: Recipe, batches: int = 50
) -> None:
    """Shift the score of each class so that the mIoU on training patches is highest.

    Training weighs pixels alike, and IoU does not: the best threshold between two classes is not where both are
    equally likely.

    Args:
        network: The network; its decoder's bias is changed, and it is left in evaluation mode.
        scenes: The scenes.
        windows: By name, how the contexts are cut.
        recipe: The recipe of the last stage; its jitter and balance are left out.
        batches: How many batches are looked at.
    """
    sampler = Sampler(scenes, network.config, windows, _as_served(recipe))
    logits, labels = [], []
    with torch.no_grad():
        for index in range(batches):
            batch = sampler.batch(2 * recipe.steps + index)
            known = batch.labels[:, ::2, ::2] != IGNORE  # every fourth pixel is enough
            scores = predict(network.eval(), batch, colour=0.0)[:, :, ::2, ::2].permute(0, 2, 3, 1).cpu()
            logits.append(scores[known].half())
            labels.append(batch.labels[:, ::2, ::2][known])
        offsets = best_offsets(torch.cat(logits).float().numpy(), torch.cat(labels).numpy())
        bias = cast(Tensor, cast(nn.Conv2d, network.decoder.score).bias)
        bias += torch.from_numpy(offsets).to(bias.device)


def best_offsets(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Search for the offsets of the classes' scores with which the mIoU is highest, one coordinate at a time.

    Args:
        logits: Scores (pixels, classes).
        labels: Class ids (pixels,).

    Returns:
        Offsets (classes,), 0 on average.
    """
    classes = logits.shape[1]

    def score(offsets: NDArray[np.float32]) -> float:
        return Confusion.of(labels, (logits + offsets).argmax(1), classes).miou()

    best = np.zeros(classes, np.float32)
    highest = score(best)
    for step, _, index, sign in itertools.product(_STEPS, range(2), range(classes), (-1, 1)):
        tried = best.copy()
        tried[index] += sign * step
        reached = score(tried)
        if reached > highest + 1e-5:
            best, highest = tried, reached
    centred: NDArray[np.float32] = best - best.mean()
    return centred


def _as_served(recipe: Recipe) -> Recipe:
    """The recipe without jitter and balance: patches as serving sees them."""
    return replace(recipe, balance=0.0, scale=1.0, colour=0.0, context_dropout=0.0)
