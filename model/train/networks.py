"""The network that a configuration names, and the part of it that each stage trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from fctl.runtime.bundle.records import RecordError, decode, encode
from fctl.runtime.errors import InputError

from ..backbones import backbone_class, stage_of
from ..config import ConfigError, NetworkConfig, ServingConfig
from ..glnet import branch_of
from ..presets import Preset, preset
from .config import stage_settings
from .lattices import LatticeWindows, context_windows
from .settings import PATCH, WHOLE, TrainingConfig

T = TypeVar("T", NetworkConfig, ServingConfig)


def network_of(config: TrainingConfig, classes: int) -> Preset:
    """The network of a training, and how it is run.

    Args:
        config: The training.
        classes: How many classes the data set has.

    Returns:
        The preset with the training's overrides.

    Raises:
        InputError: An override does not fit, or the network lacks what a stage trains; the error names the field.
    """
    settings = config.network
    if "classes" in settings.overrides:
        raise InputError("the data set tells the classes", subject="network.overrides.classes", remedy="leave it out")
    try:
        base = preset(settings.preset, classes=classes)
        network = _changed(base.network, settings.overrides, "network.overrides")
        serving = _changed(base.serving, settings.serving, "network.serving")
    except RecordError as error:
        raise InputError(str(error)) from None
    except ConfigError as error:
        raise InputError(str(error), subject="network") from None
    _check_scene(config, network, serving)
    if serving.raster is not None and serving.raster < network.patch:
        expected = f"null, or a side of rasters, at least the {network.patch} pixels of a patch"
        raise InputError(subject="network.serving.raster", expected=expected, found=serving.raster)
    if not 0 <= serving.overlap < network.patch:
        raise InputError(subject="network.serving.overlap", expected=f"0 to {network.patch - 1}", found=serving.overlap)
    if serving.overlap and not network.sees_patch:
        expected = "0: a network that is shown the whole image has the same scores in every patch"
        raise InputError(subject="network.serving.overlap", expected=expected, found=serving.overlap)
    _check_stages(config, network)
    _check_refining(config, network)
    _check_contexts(config, network, serving)
    return Preset(network=network, serving=serving)


def part_of(network: NetworkConfig, part: str) -> NetworkConfig:
    """The part of a network that a stage trains (`Stage.network`).

    Args:
        network: The network.
        part: "whole", "patch" or the name of a context.

    Returns:
        The network itself, the patch alone without contexts, or the patch with one context and a shared encoder, as
        the public release trains encoders of contexts. Of GLNet, the global branch and the aggregation, the local
        branch with maps of the global one, or the global branch alone.
    """
    if part == WHOLE:
        return network
    if network.kind == "glnet":
        return branch_of(network, "local" if part == PATCH else "global")
    if part == PATCH:
        return replace(network, kind="fctl", contexts=(), encoders="shared", lcf=None, ale=None)  # all at once
    contexts = tuple(context for context in network.contexts if context.name == part)
    return replace(network, contexts=contexts, encoders="shared", ale=None if network.lcf else network.ale)


def side_of(model: Preset, part: str) -> int:
    """How much of an image is labelled in one patch, or in one image that is shown whole.

    Args:
        model: The network, and how it is run.
        part: What a stage trains of it (`part_of`).

    Returns:
        A side in pixels.
    """
    network = part_of(model.network, part)
    return network.patch if network.sees_patch else model.serving.scene or network.patch


def _changed(record: T, changes: Mapping[str, object], path: str) -> T:
    """A record with some fields, nested at will, that differ. path: The changes' place in the file, for errors."""
    return decode(type(record), _merged(encode(record), changes), path)


def _merged(old: object, new: object) -> object:
    """Plain values with changes; objects are merged key by key, all else is replaced."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def _check_scene(config: TrainingConfig, network: NetworkConfig, serving: ServingConfig) -> None:
    """Check that the blocks that a global context shows of large images hold the largest patches."""
    if serving.scene is None and any(context.gathers for context in network.contexts):
        raise InputError(
            subject="network.serving.scene", expected="the side of the training images, for a network of two passes",
            found="null",
        )  # fmt: skip
    if serving.scene is None or all(context.centred for context in network.contexts):
        return
    scale = max(stage_settings(config, index)[1].scale for index in range(len(config.stages)))
    largest = 2 * math.ceil(scale * network.patch / 2)
    if serving.scene <= largest:
        raise InputError(
            subject="network.serving.scene",
            expected="the side of the images that the global context shows, more than scale x patch = "
            f"{largest} pixels",
            found=serving.scene,
        )


def _check_contexts(config: TrainingConfig, network: NetworkConfig, serving: ServingConfig) -> None:
    """Check that some context can be encoded once a raster, where that is asked for."""
    cut = context_windows(network, serving, once=True).values()
    if config.contexts == "shared" and not any(isinstance(window, LatticeWindows) for window in cut):
        raise InputError(
            subject="contexts", expected="'exact': no context of this network can be encoded once a raster",
            found="'shared'",
        )  # fmt: skip


def _check_refining(config: TrainingConfig, network: NetworkConfig) -> None:
    """Check that what concerns coarse masks is asked of a network that refines them, and nothing that it cannot do."""
    if not network.refines and config.data.coarse is not None:
        raise InputError(subject="data.coarse", expected="null: this network makes masks", found=config.data.coarse)
    if network.refines and config.finish.class_offsets:
        raise InputError(subject="finish.class_offsets", expected="false: a refiner knows no classes", found="true")
    if network.refines and any(stage.network != WHOLE for stage in config.stages):
        raise InputError(subject="stages", expected=f"stages of {WHOLE!r}: a refiner has no parts", found="others")


def _check_stages(config: TrainingConfig, network: NetworkConfig) -> None:
    """Check that the network has the parts that stages train."""
    own = [context.name for context in network.contexts if network.encoders == "separate" and not context.gathers]
    known = (WHOLE, PATCH, *own)
    for index, stage in enumerate(config.stages):
        if stage.network not in known:
            raise InputError(
                subject=f"stages[{index}].network",
                expected=f"{', '.join(known)} (a context needs an encoder of its own)",
                found=repr(stage.network),
            )
        try:
            part = part_of(network, stage.network)
            if part.sees_patch and not network.sees_patch:
                backbone_class(network.backbone).check_size(network.patch)
            if stage.stem:
                stage_of(network.backbone, stage.stem)
        except ConfigError as error:
            raise InputError(str(error), subject=f"stages[{index}]") from None
