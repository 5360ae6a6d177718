"""Checks of a training that need its device or its network, before hours of work."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fctl.runtime.errors import InputError

from ..presets import Preset
from .optimise import freeze
from .recipe import Recipe
from .settings import TrainingConfig
from .start import network_of_stage


def choose_device(config: TrainingConfig) -> torch.device:
    """The device that a training runs on.

    Args:
        config: The training.

    Returns:
        The device; for "auto" a GPU if there is one.

    Raises:
        InputError: There is no such device, or it cannot compute in the training's precision.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise InputError(subject="device", expected="auto, cpu, cuda or cuda:N", found=repr(config.device))
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(
            subject="device",
            expected="a GPU that PyTorch sees",
            found=torch.cuda.device_count(),
            remedy="choose cpu",
        )
    if config.precision == "fp16" and kind == "cpu":
        raise InputError("fp16 needs a GPU", subject="precision", remedy="choose fp32 or bf16")
    return torch.device(name)


def check_trainable(config: TrainingConfig, model: Preset, recipes: Sequence[Recipe]) -> None:
    """Check that what stages freeze exists, and that something is left to train: now rather than after hours.

    Args:
        config: The training.
        model: The network of the training.
        recipes: The recipes of its stages.

    Raises:
        InputError: A stage freezes everything, or something that its network does not have.
    """
    for index, (stage, recipe) in enumerate(zip(config.stages, recipes, strict=True)):
        network = network_of_stage(model.network, stage.network, {})
        names = [name for name, _ in network.named_parameters()]
        for part in stage.frozen:
            if not any(f"{name}.".startswith(f"{part}.") for name in names):
                known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
                raise InputError(
                    subject=f"stages[{index}].frozen",
                    expected=f"{known}, or what lies in them as context_encoders.medium",
                    found=repr(part),
                )
        freeze(network, recipe)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise InputError(subject=f"stages[{index}]", expected="something to train", found="all of it frozen")
