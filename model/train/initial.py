"""A configuration to start from: a preset's, for the labelled images of a folder (`fctl-train --init`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.bundle.records import RecordError
from fctl.runtime.choices import Form
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.evaluate.datasets import Dataset, Sample, open_dataset
from fctl.runtime.raster.ground import ground_distance
from fctl.runtime.raster.source import open_any, open_raster

from ..config import ConfigError, NetworkConfig
from ..presets import Preset, preset
from ..serving.manifest import input_spec
from .checks import check_trainable
from .coarse import find_coarse
from .config import checked, with_changes
from .explained import explained
from .images import Images, open_images
from .networks import network_of, side_of
from .recipe import recipe_of
from .settings import PATCH, Augmentation, DataSettings, NetworkSettings, Optimisation, Stage, TrainingConfig
from .start import IMAGENET

log = logging.getLogger(__name__)

_EPOCHS = 50  # of each stage, as in the paper
_FIFTH = "every=5:0"
_CITIES = "*[a-z][1-5]"  # images 1 to 5 of each city of Inria Aerial
_LISTS = ("train.txt", "val.txt")
_SPREAD = "percentile:1,99"
_LOOKED_AT = 100  # images whose values are measured
_ALIKE = 0.01  # by which distances between pixels may differ and count as one
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What the images of a data set show.

    Attributes:
        bands: How many bands the network gets.
        scale_range: Values that become the lowest and the highest of uint8; None where images are uint8.
        distance: Metres from pixel to pixel; None where it is not known, or differs.
        side: The longest side of all images, in pixels.
    """

    bands: int
    scale_range: str | None
    distance: float | None
    side: int


def initial_config(name: str, root: Path, description: Path | None = None, changes: Sequence[str] = ()) -> object:
    """Propose a configuration that trains a preset on the labelled images of a folder as it is.

    Args:
        name: The preset.
        root: The folder of the data set.
        description: The data set's description, where it is not ``dataset.json`` in its folder.
        changes: Fields that differ from what would be proposed (`config.with_changes`).

    Returns:
        The configuration as plain values, with comments that say what its fields mean (`explained`).

    Raises:
        InputError: There is no such preset or data set, or a change does not fit.
        RasterError: An image cannot be read.
        BundleError: The bundle whose masks are refined is damaged.
    """
    try:
        dataset = open_dataset(root, description=description)
    except InputError as error:  # which speaks of an option that there is not here
        raise InputError(error.worded({"form": "folder of a known form"})) from None
    try:
        model = preset(name, classes=len(dataset.description.classes))
    except ConfigError as error:
        raise InputError(str(error), subject="`init`") from None
    network, (training, validation) = model.network, _splits(dataset)
    seen = _look_at(dataset, network)
    pretrained = network.backbone == "efficientnet_lite0" and seen.bands == network.bands
    config = TrainingConfig(
        out=f"runs/{name}",
        network=NetworkSettings(
            preset=name,
            overrides=_overrides(network, seen),
            serving=_serving(model, seen),
            weights=IMAGENET if pretrained else None,
        ),
        data=DataSettings(
            root=str(root.resolve()),
            form=cast("Form", dataset.form),
            description=str(description.resolve()) if description else None,
            training=training,
            validation=validation,
            scale_range=seen.scale_range,
        ),
        optimisation=_optimisation(pretrained),
        augmentation=Augmentation(colour=0.2, scale=1.5, balance=0.5) if pretrained else Augmentation(),
        stages=_stages(network, "s4" if pretrained else None),
        ground_sample_distance=seen.distance,
    )
    document = _with_place(with_changes(explained(config), changes))
    try:
        config = checked(document)
    except RecordError as error:
        raise InputError(str(error), subject="`changes`") from None
    images, names = open_images(config.data, Path()), dataset.description.class_names
    _check(config, images)
    log.info(
        "%d images to train on, %d to validate with; classes: %s",
        len(images.training.samples), len(images.validation.samples), ", ".join(names),
    )  # fmt: skip
    if config.network.weights is None:
        log.warning(
            "weights start at random: where you have published ones, name them in network.weights, and set "
            "optimisation.statistics to false and both rates to 5e-5"
        )
    return document


def _check(config: TrainingConfig, images: Images) -> None:
    """Check what a training checks before it opens images, on a network without memory for its weights."""
    names = images.description.class_names
    model, pixels = network_of(config, len(names)), (1,) * len(names)
    stages = enumerate(config.stages)
    recipes = [recipe_of(config, index, side_of(model, stage.network), names, pixels) for index, stage in stages]
    with torch.device("meta"):
        check_trainable(config, model, recipes)
    if model.network.refines:
        find_coarse(config.data.coarse, Path(), (images.training, images.validation))


def _with_place(document: object) -> object:
    """A config whose coarse masks are where the caller says: a config may lie elsewhere, and means its own folder."""
    data = document.get("data") if isinstance(document, dict) else None
    if isinstance(data, dict) and isinstance(data.get("coarse"), str):
        data["coarse"] = str(Path(data["coarse"]).resolve())
    return document


def _look_at(dataset: Dataset, network: NetworkConfig) -> _Seen:
    """Open images of a data set; all of them, unless there are very many."""
    step = math.ceil(len(dataset.samples) / _LOOKED_AT)
    samples = dataset.samples[::step]
    spec = input_spec(network, None)
    spec = replace(spec, bands=_bands(samples[0], spec))
    lows, highs, distances, side = list[float](), list[float](), set[float | None](), 0
    for sample in samples:
        with open_any(sample.image) as file:
            deep = any(dtype != spec.dtype for dtype in file.dtypes)
        with open_raster(sample.image, spec, None, scale_range=_SPREAD if deep else None) as source:
            if source.scaling:
                lows += source.scaling.low
                highs += source.scaling.high
            distances.add(ground_distance(source.georeference, source.height, source.width))
            side = max(side, source.height, source.width)
    return _Seen(
        bands=spec.bands,
        scale_range=f"{min(lows):.6g},{max(highs):.6g}" if lows else None,
        distance=_one_distance(distances),
        side=side,
    )


def _bands(sample: Sample, spec: InputSpec) -> int:
    """How many bands the network gets: its own number where the image has it, else all that are data."""
    with open_any(sample.image) as file:
        count: int = file.count
    refused = list[RasterError]()
    for bands in (spec.bands, count, count - 1):  # the last where one is alpha
        try:
            with open_raster(sample.image, replace(spec, bands=bands), None, scale_range=_SPREAD):
                return bands
        except RasterError as error:
            refused.append(error)
    raise refused[0]


def _one_distance(distances: set[float | None]) -> float | None:
    """The distance from pixel to pixel that all images have."""
    known = sorted(distance for distance in distances if distance is not None)
    alike = len(known) == len(distances) and known and known[-1] <= known[0] * (1 + _ALIKE)
    return float(f"{known[0]:.4g}") if alike else None


def _overrides(network: NetworkConfig, seen: _Seen) -> dict[str, object]:
    """Where the network must differ from its preset."""
    overrides: dict[str, Any] = {}
    mean, std = network.mean, network.std
    if network.backbone == "vgg16":  # its published scaling is not centred, and does not learn from random weights
        mean, std = _IMAGENET_MEAN, _IMAGENET_STD
    if seen.bands != network.bands:
        overrides["bands"] = seen.bands
        mean, std = ((sum(values) / len(values),) * seen.bands for values in (mean, std))
    if (mean, std) != (network.mean, network.std):
        overrides |= {"mean": list(mean), "std": list(std)}
    return overrides


def _serving(model: Preset, seen: _Seen) -> dict[str, object]:
    """How large the images are, where they differ from those of the preset's data set.

    A global context shows them whole, and those of the preset may be larger.
    """
    found: dict[str, object] = {}
    scene, raster = model.serving.scene, model.serving.raster
    if scene is not None and model.network.patch < seen.side < scene:
        found["scene"] = seen.side
    if raster is not None and seen.side != raster:
        found["raster"] = seen.side if model.network.patch <= seen.side else None
    return found


def _splits(dataset: Dataset) -> tuple[str | None, str]:
    """Which images to train on, None for all that validation leaves, and which to validate with."""
    lists = [dataset.root.resolve() / name for name in _LISTS]
    if all(path.is_file() for path in lists):
        return str(lists[0]), str(lists[1])
    return None, _CITIES if dataset.description.name == "Inria Aerial" else _FIFTH


def _optimisation(pretrained: bool) -> Optimisation:
    """That of the default bundle for pretrained weights; the paper's, with a higher rate, for random ones."""
    if pretrained:
        return Optimisation(
            optimiser="adamw", rate=1e-3, encoder_rate=5e-4, weight_decay=1e-4, batch=8, average=0.998, gamma=2.0,
            statistics=False,
        )  # fmt: skip
    return Optimisation(
        optimiser="adam", rate=1e-4, encoder_rate=1e-4, weight_decay=5e-4, batch=2, accumulate=3, gamma=3.0,
        statistics=True,
    )  # fmt: skip


def _stages(network: NetworkConfig, stem: str | None) -> tuple[Stage, ...]:
    """The paper's order (§4.2) where contexts have encoders of their own: these first, then all but these.

    GLNet's branches are trained in turn; each stage leaves the other branches as they are by itself.
    """
    names = [one.name for one in network.contexts if network.encoders == "separate" and not one.gathers]
    if network.kind == "glnet":
        names.append(PATCH)
    frozen = ("context_encoders",) if names and network.kind == "fctl" else ()
    return (
        *(Stage(name=name, network=name, epochs=_EPOCHS, stem=stem) for name in names),
        Stage(name="all", epochs=_EPOCHS, stem=stem, frozen=frozen),
    )
