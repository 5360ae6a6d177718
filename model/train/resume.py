"""Going on with a training that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fctl.runtime.bundle.records import decode, encode
from fctl.runtime.errors import InputError, OutputError

from .records import LOG, STATE
from .settings import TrainingConfig

FORMAT = "fctl-training-1"
SCENES = "scenes"  # folder of decoded scenes


def saved_state(out: Path, config: TrainingConfig, resume: bool) -> dict[str, Any] | None:
    """The state that a training's folder holds.

    Args:
        out: The folder.
        config: The configuration of the training that is to start or to go on.
        resume: Whether the training may go on.

    Returns:
        The state, or None where the training starts anew.

    Raises:
        OutputError: The folder holds a training that is not to be resumed, or something else.
        InputError: The state is damaged, or belongs to another configuration.
    """
    path = out / STATE
    if not path.is_file():
        names = {child.name for child in out.iterdir()} if out.is_dir() else {"a file"} if out.exists() else set()
        if names - {SCENES} and LOG not in names:
            raise OutputError(
                subject=out, expected="a new folder, or one of a training", found="others", remedy="choose another out"
            )
        return None
    if not resume:
        raise OutputError(f"{out} holds a training already", remedy="go on with `resume`, or choose another out")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = state["format"] == FORMAT
        trained = encode(decode(TrainingConfig, state["config"]), complete=True) if known else None
    except Exception as error:  # garbage can fail anywhere in unpickling
        raise InputError(
            subject=path, expected="the state of a training", found=f"none ({type(error).__name__})"
        ) from None
    if not known:
        raise InputError(
            subject=path, expected=FORMAT, found=repr(state["format"]), remedy="resume with a matching fctl"
        )
    if changed := _difference(trained, encode(config, complete=True)):
        raise InputError(
            f"{changed} is not what it was trained with",
            subject=out,
            remedy="change it back, or choose another out",
        )
    return state


def random_state() -> dict[str, Any]:
    """The state of PyTorch's random numbers, from which jitter is drawn.

    Patches need no state: they are drawn by the number of their step.
    """
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with random numbers from a state that `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _difference(old: object, new: object, path: str = "") -> str | None:
    """The path of the first field in which two configurations differ."""
    if old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in (*old, *new):
            if old.get(key) != new.get(key) or (key in old) != (key in new):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        index = next(index for index, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        return _difference(old[index], new[index], f"{path}[{index}]")
    return path
