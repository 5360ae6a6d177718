"""Reading the configuration of a training, strictly: all that does not fit is told at once.

The file is JSON. A key that begins with ``//`` is a comment, whatever its value: the file stays valid JSON for every
editor and tool, and a field is commented out by putting ``//`` before its name.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from fctl.runtime.bundle.files import WrongFileError, read_json
from fctl.runtime.bundle.records import RecordError, decode, encode, unknown_keys
from fctl.runtime.errors import InputError
from fctl.runtime.raster.scaling import ScaleRange

from .settings import FINISH, WHOLE, Augmentation, Optimisation, TrainingConfig

COMMENT = "//"
"""What the key of a comment begins with."""

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
}


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainingConfig:
    """Read and check the configuration of a training.

    Args:
        path: A JSON file.
        changes: Fields that differ from the file's (`with_changes`).

    Returns:
        The configuration. Every value is in range; whether the network and the data fit is found out later.

    Raises:
        InputError: The file cannot be read, or fields do not fit; the error names all of them.
    """
    try:
        return checked(with_changes(read_json(path), changes))
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


def checked(document: object) -> TrainingConfig:
    """The configuration that a document holds.

    Args:
        document: Plain values, as JSON has them.

    Returns:
        The configuration.

    Raises:
        RecordError: Fields do not fit; the error names all of them.
    """
    config = decode(TrainingConfig, _without_comments(document))
    if problems := list(_problems(config)):
        raise RecordError(*problems)
    return config


def with_changes(document: object, changes: Sequence[str]) -> object:
    """A document with some fields that differ.

    Args:
        document: Plain values, as JSON has them.
        changes: For each field its path, an equals sign and its value as JSON, as in "network.overrides.ale=null" or
            "stages[0].epochs=5"; a value that is no JSON is a text.

    Returns:
        The document, in which objects on the way to a field are made where there are none.

    Raises:
        InputError: A change has no path or no value, or its path leads through something that has no fields.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        keys = re.findall(r"[^.\[\]]+", path)
        if not equals or not keys:
            raise InputError(subject="`changes`", expected="FIELD=VALUE", found=repr(change))
        try:
            value: object = json.loads(text)
        except json.JSONDecodeError:
            value = text
        document = _with_field(document, keys, value, path)
    return document


def _with_field(old: object, keys: Sequence[str], value: object, path: str) -> object:
    """Plain values in which one field differs. path: The field's, for errors."""
    if not keys:
        return value
    key, *rest = keys
    if isinstance(old, list) and key.isdecimal() and int(key) < len(old):
        return [_with_field(item, rest, value, path) if i == int(key) else item for i, item in enumerate(old)]
    if old is None or isinstance(old, dict):
        return {**(old or {}), key: _with_field((old or {}).get(key), rest, value, path)}
    raise InputError(subject=f"`changes` {path}", expected=f"an object or a list that has {key}", found=repr(old)[:60])


def _without_comments(value: object) -> object:
    """Plain values without keys that are comments."""
    if isinstance(value, dict):
        return {key: _without_comments(item) for key, item in value.items() if not key.startswith(COMMENT)}
    return [_without_comments(item) for item in value] if isinstance(value, list) else value


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
    if problems := unknown_keys(changes, known, place):
        raise RecordError(*problems)
    values = [
        encode(record) | {name: value for name, value in changes.items() if hasattr(record, name)}
        for record in settings
    ]
    return decode(Optimisation, values[0], place), decode(Augmentation, values[1], place)


def _problems(config: TrainingConfig) -> Iterator[str]:
    """What types cannot say."""
    yield from _expect(bool(config.out), "out", "a folder", config.out)
    yield from _expect(config.seed >= 0, "seed", "0 or more", config.seed)
    yield from _expect(config.workers >= 1, "workers", "1 or more", config.workers)
    yield from _expect(config.epoch is None or config.epoch >= 1, "epoch", "1 or more steps, or null", config.epoch)
    mosaic, distance = config.data.mosaic, config.ground_sample_distance
    if mosaic is not None:
        yield from _expect(mosaic.columns >= 1, "data.mosaic.columns", "1 or more", mosaic.columns)
    yield from _expect(distance is None or distance > 0, "ground_sample_distance", "metres above 0, or null", distance)
    yield from _scale_range_problems(config.data.scale_range)
    for name, settings in (("optimisation", config.optimisation), ("augmentation", config.augmentation)):
        yield from _out_of_range(settings, name, [field.name for field in fields(settings)])
    yield from _stage_problems(config)


def _stage_problems(config: TrainingConfig) -> Iterator[str]:
    """What is wrong with the stages."""
    yield from _expect(bool(config.stages), "stages", "at least one stage", [])
    names = [stage.name for stage in config.stages]
    allowed = f"letters, digits, - and _, but not {', '.join(_RESERVED)}"
    for index, stage in enumerate(config.stages):
        place = f"stages[{index}]"
        yield from _expect(names.count(stage.name) == 1, f"{place}.name", "a name that no other stage has", stage.name)
        fits = re.fullmatch(r"[\w-]+", stage.name) is not None and stage.name not in _RESERVED
        yield from _expect(fits, f"{place}.name", allowed, stage.name)
        yield from _expect(stage.epochs >= 1, f"{place}.epochs", "1 or more", stage.epochs)
        try:
            for settings in stage_settings(config, index):
                yield from _out_of_range(settings, f"{place}.changes", stage.changes)
        except RecordError as error:
            yield from error.problems
    if config.stages:
        last = config.stages[-1].network
        yield from _expect(last == WHOLE, f"stages[{len(names) - 1}].network", repr(WHOLE), last)


def _scale_range_problems(text: str | None) -> Iterator[str]:
    """What is wrong with the values that are scaled to uint8."""
    try:
        if text is not None:
            ScaleRange.parsed(text)
    except InputError as error:
        yield error.worded({"scale_range": "data.scale_range"})


def _out_of_range(settings: Optimisation | Augmentation, place: str, names: Collection[str]) -> Iterator[str]:
    """What is out of its range among the fields of these names. place: The path of the settings in the file."""
    for name, value in encode(settings).items():
        if name in _RANGES and name in names:
            expected, holds = _RANGES[name]
            yield from _expect(abs(value) <= sys.float_info.max and holds(value), f"{place}.{name}", expected, value)
    if isinstance(settings, Optimisation) and isinstance(settings.class_weights, dict) and "class_weights" in names:
        for name, weight in settings.class_weights.items():
            yield from _expect(0 <= weight < math.inf, f"{place}.class_weights.{name}", "0 or more", weight)


def _expect(holds: bool, field: str, expected: str, found: object) -> Iterator[str]:
    """What is wrong with a field, unless a condition on it holds."""
    if not holds:
        yield f"{field}: expected {expected}, found {found!r}"
