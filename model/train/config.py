"""Reading the configuration of a training, strictly: a JSON file whose every field must be there."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from fctl.runtime.bundle.files import WrongFileError, read_json
from fctl.runtime.bundle.records import RecordError, decode, encode
from fctl.runtime.errors import InputError
from fctl.runtime.raster.scaling import ScaleRange

from .settings import FINISH, WHOLE, Augmentation, Optimisation, TrainingConfig

_RESERVED = ("best", "last", "state", FINISH)  # names of other files, and of rows in the logs

# By field of `Optimisation` and `Augmentation`: the values it may have, in words and as a test.
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "rate": ("a number above 0", lambda value: value > 0),
    "encoder_rate": ("0 or more", lambda value: value >= 0),
    "position_rate": ("0 or more", lambda value: value >= 0),
    "weight_decay": ("0 or more", lambda value: value >= 0),
    "power": ("0 or more", lambda value: value >= 0),
    "batch": ("1 or more", lambda value: value >= 1),
    "accumulate": ("1 or more", lambda value: value >= 1),
    "average": ("0, or more and below 1", lambda value: 0 <= value < 1),
    "gamma": ("0 or more", lambda value: value >= 0),
    "colour": ("0 to 1", lambda value: 0 <= value <= 1),
    "scale": ("1 to 4", lambda value: 1 <= value <= 4),
    "balance": ("0 to 1", lambda value: 0 <= value <= 1),
    "context_dropout": ("0 to 1", lambda value: 0 <= value <= 1),
    "perturb": ("0 to 1", lambda value: 0 <= value <= 1),
}


def read_config(path: Path) -> TrainingConfig:
    """Read and check the configuration of a training.

    Args:
        path: A JSON file.

    Returns:
        The configuration. Every value is in range; whether the network and the data fit is found out later.

    Raises:
        InputError: The file cannot be read, or a field does not fit; the error names the field.
    """
    try:
        config = decode(TrainingConfig, read_json(path))
        _check(config)
        _check_ranges(config.optimisation, "optimisation")
        _check_ranges(config.augmentation, "augmentation")
        for index in range(len(config.stages)):
            stage_settings(config, index)
    except WrongFileError as error:
        raise InputError(
            subject=path, expected="a training's config", found=error, remedy="see docs/training.md"
        ) from None
    except json.JSONDecodeError as error:
        found = f"a mistake in line {error.lineno}, column {error.colno}"
        raise InputError(subject=path, expected="JSON", found=found, remedy="see docs/training.md") from None
    except OSError as error:
        raise InputError(subject=path, expected="a training's config", found=error.strerror or error) from None
    except (RecordError, ValueError, RecursionError) as error:
        raise InputError(str(error), subject=path) from None
    return config


def stage_settings(config: TrainingConfig, index: int) -> tuple[Optimisation, Augmentation]:
    """The settings of one stage: those of the training with the stage's changes.

    Args:
        config: The training.
        index: Index of the stage.

    Returns:
        How the stage fits weights, and how it draws patches.

    Raises:
        RecordError: A change names an unknown field, or its value does not fit.
    """
    changes, place = config.stages[index].changes, f"stages[{index}].changes"
    settings = (config.optimisation, config.augmentation)
    known = [field.name for record in settings for field in fields(record)]
    if unknown := [name for name in changes if name not in known]:
        raise RecordError(f"{place}.{unknown[0]}: unknown key; expected only {', '.join(known)}")
    values = [
        encode(record) | {name: value for name, value in changes.items() if hasattr(record, name)}
        for record in settings
    ]
    optimisation, augmentation = decode(Optimisation, values[0], place), decode(Augmentation, values[1], place)
    _check_ranges(optimisation, place)
    _check_ranges(augmentation, place)
    return optimisation, augmentation


def _expect(holds: bool, field: str, expected: str, found: object) -> None:
    """Raise RecordError unless a condition on a field holds."""
    if not holds:
        raise RecordError(f"{field}: expected {expected}, found {found!r}")


def _check(config: TrainingConfig) -> None:
    """Check what types cannot say, but for ranges of settings that stages may change."""
    _expect(bool(config.out), "out", "a folder", config.out)
    _expect(config.seed >= 0, "seed", "0 or more", config.seed)
    _expect(config.workers >= 1, "workers", "1 or more", config.workers)
    _expect(config.epoch is None or config.epoch >= 1, "epoch", "1 or more steps, or null", config.epoch)
    mosaic, distance = config.data.mosaic, config.ground_sample_distance
    _expect(mosaic is None or mosaic.columns >= 1, "data.mosaic.columns", "1 or more", mosaic and mosaic.columns)
    _expect(distance is None or distance > 0, "ground_sample_distance", "metres above 0, or null", distance)
    _check_scale_range(config.data.scale_range)
    _expect(bool(config.stages), "stages", "at least one stage", [])
    names = [stage.name for stage in config.stages]
    allowed = f"letters, digits, - and _, but not {', '.join(_RESERVED)}"
    for index, stage in enumerate(config.stages):
        _expect(names.count(stage.name) == 1, f"stages[{index}].name", "a name that no other stage has", stage.name)
        fits = re.fullmatch(r"[\w-]+", stage.name) is not None and stage.name not in _RESERVED
        _expect(fits, f"stages[{index}].name", allowed, stage.name)
        _expect(stage.epochs >= 1, f"stages[{index}].epochs", "1 or more", stage.epochs)
    last = len(names) - 1
    _expect(config.stages[-1].network == WHOLE, f"stages[{last}].network", repr(WHOLE), config.stages[-1].network)


def _check_scale_range(text: str | None) -> None:
    """Check which values are scaled to uint8."""
    try:
        if text is not None:
            ScaleRange.parsed(text)
    except InputError as error:
        raise RecordError(error.worded({"scale_range": "data.scale_range"})) from None


def _check_ranges(settings: Optimisation | Augmentation, place: str) -> None:
    """Check the ranges of settings. place: The path of their fields in the file, for errors."""
    for name, value in encode(settings).items():
        if name in _RANGES:
            expected, holds = _RANGES[name]
            _expect(abs(value) <= sys.float_info.max and holds(value), f"{place}.{name}", expected, value)
    if isinstance(settings, Optimisation) and isinstance(settings.class_weights, dict):
        for name, weight in settings.class_weights.items():
            _expect(0 <= weight < math.inf, f"{place}.class_weights.{name}", "0 or more", weight)
