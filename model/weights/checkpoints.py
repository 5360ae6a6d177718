"""Checkpoints: weights together with everything that says what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from fctl.runtime.bundle.records import RecordError, decode, encode
from fctl.runtime.errors import CheckpointError

from ..build import build
from ..config import ConfigError, NetworkConfig, ServingConfig
from ..interface import ContextNetwork

_FORMAT = "fctl-checkpoint-1"
_SHOWN = 10  # keys named in an error
_LONGEST_NAME = 100  # characters of a key that an error shows
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours in PyTorch's messages
_WHOLE = "save the state_dict alone; or give the network as package.module:factory, as TorchScript or as MODEL.onnx"


@dataclass(frozen=True, kw_only=True)
class ClassLabel:
    """A class.

    Attributes:
        name: Its name.
        colour: Red, green and blue, from 0 to 255.
    """

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a checkpoint says beside its weights.

    Attributes:
        network: The network.
        serving: How it is run.
        classes: Its classes, in order.
        ground_sample_distance: Metres per pixel of the training images, or None where it is not known.
        licence: Licence of the weights, or None.
        training: How and on what the weights were trained, as plain values.
    """

    network: NetworkConfig
    serving: ServingConfig
    classes: tuple[ClassLabel, ...]
    ground_sample_distance: float | None
    licence: str | None
    training: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        card: What the file says about its weights; None where it held weights alone.
        state: The weights by name.
    """

    card: Card | None
    state: Mapping[str, Tensor]


def save_checkpoint(path: Path, card: Card, state: Mapping[str, Tensor]) -> None:
    """Write a checkpoint of fctl.

    Args:
        path: The file.
        card: What it says about its weights.
        state: The weights by name.
    """
    torch.save({"format": _FORMAT, "card": encode(card), "state_dict": dict(state)}, path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of fctl, or weights alone.

    Args:
        path: The file: a checkpoint, or a ``state_dict`` in PyTorch's format or as safetensors.

    Returns:
        The weights, and what the file says about them.

    Raises:
        CheckpointError: The file is missing or damaged, or holds something else.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise CheckpointError(subject=path, expected="a checkpoint", found=found)
    try:
        content = _load(path)
    except Exception as error:  # garbage can fail anywhere in unpickling
        text = _ESCAPES.sub("", str(error)).strip()
        reason = re.split(r"\. |\n", text)[0][:120] if text and not text.isdigit() else "a file of another kind"
        raise CheckpointError(
            subject=path, expected="a PyTorch checkpoint of tensors", found=f"none ({reason})", remedy=_WHOLE
        ) from error
    if isinstance(content, dict) and content.get("format") == _FORMAT:
        return _ours(path, content)
    if _is_state(content) and content:
        return Checkpoint(card=None, state=content)
    raise CheckpointError(subject=path, expected="a checkpoint of fctl or a state_dict", found=_describe(content))


def load_network(config: NetworkConfig, state: Mapping[str, Tensor], origin: str) -> ContextNetwork:
    """Make a network from its weights.

    Args:
        config: The network.
        state: Its weights by name.
        origin: Where they come from, for errors.

    Returns:
        The network, in evaluation mode and on the CPU.

    Raises:
        CheckpointError: A weight is missing, misshapen, unknown or not finite, or there can be no such network.
    """
    try:
        network = build(config)
    except ConfigError as error:
        raise CheckpointError(str(error), subject=origin) from error
    wanted = network.state_dict()
    names = {key: key for key in wanted}
    weights = take(wanted, names, state, f"{origin}: the weights do not fit {config.backbone}")
    for key, tensor in weights.items():
        if fault := _fault(tensor):
            raise CheckpointError(
                f"weight {key} {fault}", subject=origin, remedy="train it again, or take another epoch"
            )
    network.load_state_dict(weights)
    return network.eval()


def take(
    wanted: Mapping[str, Tensor],
    names: Mapping[str, str],
    state: Mapping[str, Tensor],
    complaint: str,
    ignored: re.Pattern[str] | None = None,
) -> dict[str, Tensor]:
    """Take tensors out of a state, strictly.

    Args:
        wanted: By their names here, tensors of the shapes that are needed.
        names: By their names here, the names of the tensors in the state.
        state: The state.
        complaint: How an error begins.
        ignored: Keys of the state that are known and of no use.

    Returns:
        The tensors, by their names here.

    Raises:
        CheckpointError: Keys are missing, misshapen or unknown; the error lists them.
    """
    needed = set(names.values())
    problems = [f"{theirs} (missing)" for theirs in names.values() if theirs not in state]
    for ours, theirs in names.items():
        if theirs in state and state[theirs].shape != wanted[ours].shape:
            problems.append(f"{theirs} {tuple(state[theirs].shape)}, expected {tuple(wanted[ours].shape)}")
    problems += [
        f"{key[:_LONGEST_NAME]} (unknown)"
        for key in state
        if key not in needed and not (ignored and ignored.fullmatch(key))
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            f"{'; '.join(problems[:_SHOWN])}{more}", subject=complaint, remedy="choose the `arch` it was trained as"
        )
    return {ours: state[theirs] for ours, theirs in names.items()}


def _fault(tensor: Tensor) -> str | None:
    """Why a tensor is no weight of a network; None where it may be one."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        return "is no plain tensor of numbers"
    return None if bool(torch.isfinite(tensor).all()) else "holds values that are not finite"


def differences(a: NetworkConfig, b: NetworkConfig) -> list[str]:
    """Names of the fields in which two networks differ."""
    return [field.name for field in fields(a) if getattr(a, field.name) != getattr(b, field.name)]


def _load(path: Path) -> object:
    """What a file holds; nothing but tensors and plain values is unpickled."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _ours(path: Path, content: dict[str, Any]) -> Checkpoint:
    """The checkpoint of fctl that a file holds."""
    try:
        card = decode(Card, content.get("card"))
    except (RecordError, ConfigError) as error:
        raise CheckpointError(str(error), subject=path) from error
    state = content.get("state_dict")
    if state is None or not _is_state(state):
        raise CheckpointError(subject=f"{path}: state_dict", expected="tensors by name", found=_describe(state))
    return Checkpoint(card=card, state=state)


def _is_state(content: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether a value is a dictionary of tensors."""
    return isinstance(content, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())


def _name(key: object) -> str:
    """A key in words."""
    return key[:_LONGEST_NAME] if isinstance(key, str) else f"a key of type {type(key).__name__}"


def _describe(content: object) -> str:
    """A value in words, for errors."""
    if isinstance(content, dict):
        return f"a dictionary with {', '.join(_name(key) for key in list(content)[:5])}"
    return type(content).__name__
