"""What ``fctl-train`` is told: a JSON file, read strictly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from fctl.runtime.bundle.records import RecordError, decode, encode
from fctl.runtime.errors import InputError

from ..config import GLOBAL, ConfigError, NetworkConfig, ServingConfig
from ..presets import Preset, preset

WHOLE, PATCH = "whole", "patch"
FINISH = "finish"  # in the logs, what follows the last stage
_TAKEN = ("best", "last", "state", FINISH)  # files of their own, and rows of the logs


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network. overrides, serving: fields of `NetworkConfig` and `ServingConfig` that differ from the preset's.

    weights: what training starts from: "imagenet" (EfficientNet-Lite0), a checkpoint of fctl or published weights of
    the backbone, or None for random ones.
    """

    preset: str
    overrides: dict[str, Any]
    serving: dict[str, Any]
    weights: str | None


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Images that are parts of scenes: the number at the end of an image's name is its place in a grid of `columns`,
    row by row, counted from `first`; what stands before it names the scene."""

    columns: int
    first: int


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, as `fctl-eval` takes them. training: a split, or None for all that validation leaves. bands: None
    for all but alpha. mosaic: None where every image stands alone."""

    root: str
    form: Literal["auto", "deepglobe", "inria", "release", "folder"]
    description: str | None
    training: str | None
    validation: str
    bands: tuple[int, ...] | None
    mosaic: Mosaic | None


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How weights are fitted (§4.2), see `train.Recipe`.

    batch: patches at once; accumulate: batches in each step. average: decay of the running average of the weights,
    which is what is validated and kept; 0 for none. class_weights: by name, others weigh 1; "balanced": by the inverse
    root of the class's share of pixels. statistics: whether batch statistics of backbones are trained.
    """

    optimiser: Literal["adam", "adamw"]
    rate: float
    encoder_rate: float
    position_rate: float
    weight_decay: float
    power: float
    batch: int
    accumulate: int
    average: float
    gamma: float
    class_weights: dict[str, float] | Literal["balanced"] | None
    statistics: bool


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How patches are drawn and changed, see `train.Recipe`."""

    turns: bool
    colour: float
    scale: float
    balance: float
    context_dropout: float


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage. network: "whole"; a context's name, for the patch with that context, whose encoder both share and the
    context keeps; or "patch", for the patch alone, which keeps encoder and decoder.

    stem: stage of the backbone up to which weights are kept. frozen: parts that are not trained. changes: fields of
    `Optimisation` and `Augmentation` that differ here.
    """

    name: str
    network: str
    epochs: int
    stem: str | None
    frozen: tuple[str, ...]
    changes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is set after the last stage, on training patches as serving sees them: no jitter, no balance.

    recalibrate: the decoder's batch statistics. class_offsets: the score of each class, for the highest mIoU.
    """

    recalibrate: bool
    class_offsets: bool


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """A whole training. Paths are relative to the file's folder.

    epoch: steps of an epoch, None for as many as show every labelled pixel once. workers: threads that cut patches.
    """

    out: str
    seed: int
    device: str
    precision: Literal["fp32", "bf16", "fp16"]
    workers: int
    epoch: int | None
    network: NetworkSettings
    data: DataSettings
    optimisation: Optimisation
    augmentation: Augmentation
    stages: tuple[Stage, ...]
    finish: Finish
    licence: str | None
    ground_sample_distance: float | None


def read_config(path: Path) -> TrainingConfig:
    """Read a training's config. Raises InputError with the field, what was expected and what was found."""
    try:
        config = decode(TrainingConfig, json.loads(path.read_text(encoding="utf-8")))
        _check(config)
        _check_settings(config.optimisation, config.augmentation, ("optimisation", "augmentation"))
        for index in range(len(config.stages)):
            stage_settings(config, index)
    except FileNotFoundError:
        raise InputError(f"{path}: expected a training's config, found no such file; see docs/training.md") from None
    except (OSError, RecordError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}") from None
    return config


def network_of(config: TrainingConfig, classes: int) -> Preset:
    """The network for a data set of `classes` classes, and how it is run. Raises InputError that names the field."""
    settings = config.network
    if "classes" in settings.overrides:
        raise InputError("network.overrides.classes: the data set tells the classes; leave it out")
    try:
        found = preset(settings.preset, classes=classes)
        network = _changed(NetworkConfig, found.network, settings.overrides, "network.overrides")
        serving = _changed(ServingConfig, found.serving, settings.serving, "network.serving")
    except RecordError as error:
        raise InputError(str(error)) from None
    except ConfigError as error:
        raise InputError(f"network: {error}") from None
    _check_scene(config, network, serving)
    if not 0 <= serving.overlap < network.patch:
        raise InputError(f"network.serving.overlap: expected 0 to {network.patch - 1}, found {serving.overlap}")
    _check_stages(config, network)
    return Preset(network=network, serving=serving)


def part_of(network: NetworkConfig, part: str) -> NetworkConfig:
    """The network that a stage trains: the whole, the patch with one context (release), or the patch alone."""
    if part == WHOLE:
        return network
    if part == PATCH:
        return replace(network, contexts=(), encoders="shared", lcf=None, ale=None)
    contexts = tuple(context for context in network.contexts if context.name == part)
    return replace(network, contexts=contexts, encoders="shared", ale=None if network.lcf else network.ale)


def stage_settings(config: TrainingConfig, index: int) -> tuple[Optimisation, Augmentation]:
    """The settings of one stage. Raises RecordError."""
    changes, place = config.stages[index].changes, f"stages[{index}].changes"
    settings = (config.optimisation, config.augmentation)
    known = [field.name for record in settings for field in fields(record)]
    if strange := [name for name in changes if name not in known]:
        raise RecordError(f"{place}.{strange[0]}: unknown key; expected only {', '.join(known)}")
    values = [
        encode(record) | {name: value for name, value in changes.items() if hasattr(record, name)}
        for record in settings
    ]
    optimisation, augmentation = decode(Optimisation, values[0], place), decode(Augmentation, values[1], place)
    _check_settings(optimisation, augmentation, (place, place))
    return optimisation, augmentation


def _changed(kind: Any, record: Any, changes: dict[str, Any], path: str) -> Any:
    """A record with some fields, nested at will, that differ."""
    return decode(kind, _merged(encode(record), changes), path)


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def _expect(holds: bool, field: str, expected: str, found: object) -> None:
    if not holds:
        raise RecordError(f"{field}: expected {expected}, found {found!r}")


def _check(config: TrainingConfig) -> None:
    """What the types cannot say."""
    _expect(bool(config.out), "out", "a folder", config.out)
    _expect(config.seed >= 0, "seed", "0 or more", config.seed)
    _expect(config.workers >= 1, "workers", "1 or more", config.workers)
    _expect(config.epoch is None or config.epoch >= 1, "epoch", "1 or more steps, or null", config.epoch)
    mosaic, distance = config.data.mosaic, config.ground_sample_distance
    _expect(mosaic is None or mosaic.columns >= 1, "data.mosaic.columns", "1 or more", mosaic and mosaic.columns)
    _expect(distance is None or distance > 0, "ground_sample_distance", "metres above 0, or null", distance)
    _expect(bool(config.stages), "stages", "at least one stage", [])
    names = [stage.name for stage in config.stages]
    for index, stage in enumerate(config.stages):
        _expect(names.count(stage.name) == 1, f"stages[{index}].name", "a name that no other stage has", stage.name)
        fits = re.fullmatch(r"[\w-]+", stage.name) and stage.name not in _TAKEN
        _expect(
            bool(fits), f"stages[{index}].name", f"letters, digits, - and _, but not {', '.join(_TAKEN)}", stage.name
        )
        _expect(stage.epochs >= 1, f"stages[{index}].epochs", "1 or more", stage.epochs)
    last = len(names) - 1
    _expect(config.stages[-1].network == WHOLE, f"stages[{last}].network", repr(WHOLE), config.stages[-1].network)


def _check_settings(optimisation: Optimisation, augmentation: Augmentation, places: tuple[str, str]) -> None:
    """places: what both are called in the file."""
    least: dict[str, tuple[str, Callable[[Any], bool]]] = {
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
    for record, place in zip((optimisation, augmentation), places, strict=True):
        for name, value in encode(record).items():
            expected, holds = least.get(name, ("", lambda _: True))
            _expect(holds(value), f"{place}.{name}", expected, value)
    if isinstance(optimisation.class_weights, dict):
        for name, weight in optimisation.class_weights.items():
            _expect(weight >= 0, f"{places[0]}.class_weights.{name}", "0 or more", weight)


def _check_scene(config: TrainingConfig, network: NetworkConfig, serving: ServingConfig) -> None:
    """Whether the blocks that a global context shows of large images hold the largest patches."""
    moving = any(context.factor == GLOBAL for context in network.contexts)
    if serving.scene is None or not moving:
        return
    scale = max(stage_settings(config, index)[1].scale for index in range(len(config.stages)))
    largest = 2 * math.ceil(scale * network.patch / 2)
    if serving.scene <= largest:
        raise InputError(
            f"network.serving.scene: expected the side of the images that the global context shows, more than scale x "
            f"patch = {largest} pixels, found {serving.scene}"
        )


def _check_stages(config: TrainingConfig, network: NetworkConfig) -> None:
    """Whether the network has the parts that stages train."""
    from ..backbones import stage_of

    known = (WHOLE, PATCH, *(network.context_names if network.encoders == "separate" else ()))
    for index, stage in enumerate(config.stages):
        if stage.network not in known:
            raise InputError(
                f"stages[{index}].network: expected {', '.join(known)} (a context needs an encoder of its own), "
                f"found {stage.network!r}"
            )
        try:
            part_of(network, stage.network)
            if stage.stem:
                stage_of(network.backbone, stage.stem)
        except ConfigError as error:
            raise InputError(f"stages[{index}]: {error}") from None
