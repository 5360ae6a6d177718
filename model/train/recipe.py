"""The recipe of one stage: all settings by which a network is trained, checked and free of references to the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fctl.runtime.errors import InputError

from .config import stage_settings
from .settings import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one stage trains a network.

    Attributes:
        steps: Steps of the optimiser.
        batch: Patches of a batch.
        rate: Initial learning rate of new layers; all rates fall with (1 - step / steps)^power.
        encoder_rate: Initial learning rate of the pretrained backbones.
        position_rate: Initial learning rate of the position terms (W_r and z of Eq. 2): few numbers that must go far.
        weight_decay: Weight decay of all but the position terms.
        gamma: Focusing parameter of the focal loss.
        balance: Share of patches that are drawn by class.
        scale: Windows of patches have from 1/scale to scale times the patch's side; contexts likewise.
        colour: Strength of the colour jitter.
        stem: Stage of the backbone up to which weights are frozen, or None.
        average: Decay of the running average of the weights.
        seed: Seed of patches and jitter.
        optimiser: Adam or AdamW.
        power: Exponent of the decay of the rates.
        accumulate: Batches of a step.
        class_weights: Weights of the classes in the loss, in order, or None.
        turns: Whether scenes are flipped and turned by quarters.
        statistics: Whether batch statistics of backbones are trained.
        frozen: Further parts of the network that are not trained, by the start of their parameters' names.
        precision: Precision of the forward pass.
        context_dropout: Share of contexts that are shown black, each drawn by itself.
    """

    steps: int
    batch: int
    rate: float
    encoder_rate: float
    position_rate: float
    weight_decay: float
    gamma: float
    balance: float
    scale: float
    colour: float
    stem: str | None
    average: float
    seed: int
    optimiser: Literal["adam", "adamw"] = "adamw"
    power: float = 0.9
    accumulate: int = 1
    class_weights: tuple[float, ...] | None = None
    turns: bool = True
    statistics: bool = False
    frozen: tuple[str, ...] = ()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    context_dropout: float = 0.0


def recipe_of(config: TrainingConfig, index: int, side: int, names: Sequence[str], pixels: Sequence[int]) -> Recipe:
    """The recipe of one stage.

    Args:
        config: The training.
        index: Index of the stage.
        side: Side in pixels of what one patch shows of the labels.
        names: Names of the classes.
        pixels: Labelled pixels to train on, by class.

    Returns:
        The recipe.

    Raises:
        InputError: A weight is given for an unknown class.
    """
    stage = config.stages[index]
    optimisation, augmentation = stage_settings(config, index)
    patches = optimisation.batch * optimisation.accumulate
    epoch = config.epoch or math.ceil(sum(pixels) / (side**2 * patches))
    return Recipe(
        steps=stage.epochs * epoch,
        batch=optimisation.batch,
        rate=optimisation.rate,
        encoder_rate=optimisation.encoder_rate,
        position_rate=optimisation.position_rate,
        weight_decay=optimisation.weight_decay,
        gamma=optimisation.gamma,
        balance=augmentation.balance,
        scale=augmentation.scale,
        colour=augmentation.colour,
        stem=stage.stem,
        average=optimisation.average,
        seed=config.seed + index,
        optimiser=optimisation.optimiser,
        power=optimisation.power,
        accumulate=optimisation.accumulate,
        class_weights=class_weights(optimisation.class_weights, names, pixels),
        turns=augmentation.turns,
        statistics=optimisation.statistics,
        frozen=stage.frozen,
        precision=config.precision,
        context_dropout=augmentation.context_dropout,
    )


def class_weights(
    weights: Mapping[str, float] | Literal["balanced"] | None, names: Sequence[str], pixels: Sequence[int]
) -> tuple[float, ...] | None:
    """Weights of the classes in the loss.

    Args:
        weights: Weights by name, where others weigh 1; "balanced" for the inverse root of each class's share of the
            pixels, 1 on average; or None.
        names: Names of the classes.
        pixels: Labelled pixels by class.

    Returns:
        The weights in the order of the names, or None.

    Raises:
        InputError: A name is unknown.
    """
    if weights is None:
        return None
    if weights != "balanced":
        if unknown := [name for name in weights if name not in names]:
            field = f"optimisation.class_weights.{unknown[0]}"
            raise InputError(f"unknown class; expected some of {', '.join(names)}", subject=field)
        return tuple(weights.get(name, 1.0) for name in names)
    inverse = [1 / math.sqrt(count) if count else 0.0 for count in pixels]
    mean = sum(inverse) / sum(1 for count in pixels if count)
    return tuple(value / mean if value else 1.0 for value in inverse)
