"""Checkpoints: weights together with everything that says what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fctl.runtime.bundle.records import RecordError, decode, encode
from fctl.runtime.errors import CheckpointError

from ..config import ConfigError, NetworkConfig, ServingConfig
from ..network import FCtL

_FORMAT = "fctl-checkpoint-1"
_SHOWN = 10  # keys named in an error


@dataclass(frozen=True, kw_only=True)
class ClassLabel:
    """Name and colour (red, green, blue) of a class."""

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint says beside its weights.

    ground_sample_distance: metres per pixel of the training images, if known. training: recipe and data, as text and
    numbers.
    """

    network: NetworkConfig
    serving: ServingConfig
    classes: tuple[ClassLabel, ...]
    ground_sample_distance: float | None
    licence: str | None
    training: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A card, None where the file held bare weights, and the weights."""

    card: Card | None
    state: Mapping[str, Tensor]


def save_checkpoint(path: Path, card: Card, state: Mapping[str, Tensor]) -> None:
    """Write a checkpoint of ours."""
    torch.save({"format": _FORMAT, "card": encode(card), "state_dict": dict(state)}, path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours, or a bare ``state_dict`` (PyTorch's format or safetensors). Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint, found {'a folder' if path.is_dir() else 'no such file'}")
    try:
        content = _load(path)
    except Exception as error:  # garbage can fail anywhere in unpickling
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: expected a PyTorch checkpoint of tensors, found none ({reason})") from error
    if isinstance(content, dict) and content.get("format") == _FORMAT:
        return _ours(path, content)
    if content and _is_state(content):
        return Checkpoint(card=None, state=content)
    raise CheckpointError(f"{path}: expected a checkpoint of fctl or a state_dict, found {_describe(content)}")


def load_network(config: NetworkConfig, state: Mapping[str, Tensor], origin: str) -> FCtL:
    """The network with these weights, in evaluation mode. Raises CheckpointError unless every key fits."""
    try:
        network = FCtL(config)
    except ConfigError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    wanted = network.state_dict()
    names = {key: key for key in wanted}
    network.load_state_dict(take(wanted, names, state, f"{origin}: the weights do not fit {config.backbone}"))
    return network.eval()


def take(
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str],
    state: Mapping[str, Tensor],
    complaint: str,
    ignored: re.Pattern[str] | None = None,
) -> dict[str, Tensor]:
    """The tensors of `state` by our names, strictly.

    wanted: tensors of the shapes that are needed, by our names. names: what `state` calls each of them. ignored: keys
    of `state` that are known and of no use. Raises CheckpointError: `complaint`, then keys that are missing, misshapen
    or unknown.
    """
    needed = set(names.values())
    problems = [f"{theirs} (missing)" for theirs in names.values() if theirs not in state]
    for ours, theirs in names.items():
        if theirs in state and state[theirs].shape != wanted[ours].shape:
            problems.append(f"{theirs} {tuple(state[theirs].shape)}, expected {tuple(wanted[ours].shape)}")
    problems += [f"{key} (unknown)" for key in state if key not in needed and not (ignored and ignored.fullmatch(key))]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(f"{complaint}: {'; '.join(problems[:_SHOWN])}{more}; choose the --arch it was trained as")
    return {ours: state[theirs] for ours, theirs in names.items()}


def differences(a: NetworkConfig, b: NetworkConfig) -> list[str]:
    """Names of the settings in which two networks differ."""
    return [field.name for field in fields(a) if getattr(a, field.name) != getattr(b, field.name)]


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _ours(path: Path, content: dict[str, Any]) -> Checkpoint:
    try:
        card = decode(Card, content.get("card"))
    except (RecordError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    state = content.get("state_dict")
    if state is None or not _is_state(state):
        raise CheckpointError(f"{path}: state_dict: expected tensors by name, found {_describe(state)}")
    return Checkpoint(card=card, state=state)


def _is_state(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values())


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dictionary with {', '.join(map(str, list(content)[:5]))}"
    return type(content).__name__
