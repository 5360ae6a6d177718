"""The images of a training: checked, and decoded into files that are mapped into memory.

Training reads patches and contexts from anywhere, again and again: pixels lie decoded on disk, and the system keeps as
much of them in memory as fits.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.evaluate.datasets import Dataset, Sample, open_dataset
from fctl.runtime.evaluate.description import Description
from fctl.runtime.evaluate.evaluation import check_masks
from fctl.runtime.evaluate.labels import MaskReader, open_mask
from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.evaluate.selection import select
from fctl.runtime.progress import StageProgress
from fctl.runtime.raster.atomic import atomic_write
from fctl.runtime.raster.source import RasterSource, open_raster
from fctl.runtime.tiling.windows import Window

from ..weights.checkpoints import ClassLabel
from .config import DataSettings, Mosaic
from .optimise import Scene

_ROWS = 1024  # to decode at a time
_UNEVEN = 8  # pixels in which the parts of a mosaic may differ

_FIELDS = {"--data": "data.root", "--form": "data.form", "--split": "{split}", "--bands": "data.bands"}


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images to train on and others to validate with, of one data set."""

    training: Dataset
    validation: Dataset

    @property
    def description(self) -> Description:
        """Classes, and which of them count."""
        return self.training.description

    @property
    def names(self) -> dict[str, list[str]]:
        """What makes this data set this one."""
        return {
            "training": [sample.name for sample in self.training.samples],
            "validation": [sample.name for sample in self.validation.samples],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One image in a scene. y, x: where it lies; height, width: how much of it is used."""

    sample: Sample
    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePlan:
    """A scene before it is decoded: its parts; the rest is black and unlabelled."""

    name: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return max(part.y + part.height for part in self.parts), max(part.x + part.width for part in self.parts)


def open_images(settings: DataSettings, folder: Path) -> Images:
    """The images of both splits. folder: where relative paths start. Raises InputError that names the field."""
    with _told_as("data"):
        description = folder / settings.description if settings.description else None
        dataset = open_dataset(folder / settings.root, form=settings.form, description=description)
    with _told_as("data.validation"):
        validation = select(dataset, _split(settings.validation, folder))
    if settings.training is None:
        taken = set(validation.samples)
        left = tuple(sample for sample in dataset.samples if sample not in taken)
        if not left:
            raise InputError("data.validation: expected a part of the images, found all; nothing is left to train on")
        with _told_as("data.training"):
            return Images(training=select(replace(dataset, samples=left), None), validation=validation)
    with _told_as("data.training"):
        training = select(dataset, _split(settings.training, folder))
    both = [sample.name for sample in training.samples if sample in set(validation.samples)]
    if both:
        raise InputError(
            f"data.training: expected images that are not in data.validation, found {len(both)} in both, as {both[0]}; "
            "null takes all that validation leaves"
        )
    return Images(training=training, validation=validation)


def check_images(
    images: Images, spec: InputSpec, bands: Sequence[int] | None, progress: StageProgress | None
) -> tuple[int, ...]:
    """Open all images and read all masks once; labelled pixels to train on by class.

    Raises RasterError or InputError for an image or mask that does not fit: better now than after hours.
    """
    for dataset in (images.training, images.validation):
        for sample in dataset.samples:
            with _told_as("data"), _opened(sample, dataset, spec, bands):
                pass
    pixels = check_masks(images.training, progress)
    check_masks(images.validation, progress)
    if not sum(pixels):
        raise InputError("data.training: expected labelled pixels, found none in all of its masks")
    return pixels


def class_labels(described: Description) -> tuple[ClassLabel, ...]:
    """Names and colours of the classes: those of the masks, or hues a golden angle from each other."""
    labels = []
    for index, info in enumerate(described.classes):
        colours = [value for value in info.values if not isinstance(value, int)]
        hue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.7, 0.9 - 0.3 * (index % 2))
        red, green, blue = colours[0] if colours else (round(255 * value) for value in hue)
        labels.append(ClassLabel(name=info.name, colour=(red, green, blue)))
    return tuple(labels)


def plan_scenes(dataset: Dataset, mosaic: Mosaic | None) -> tuple[ScenePlan, ...]:
    """What scenes there are: every image, or mosaics of images. Raises InputError where parts do not fit together."""
    sizes = {sample: _size(sample, dataset) for sample in dataset.samples}
    if mosaic is None:
        return tuple(
            ScenePlan(name=sample.name, parts=(Part(sample=sample, y=0, x=0, height=height, width=width),))
            for sample, (height, width) in sizes.items()
        )
    scenes: dict[str, dict[int, Sample]] = {}
    for sample in sizes:
        name, place = _place(sample, mosaic)
        scenes.setdefault(name, {})[place] = sample
    return tuple(_put_together(name, parts, sizes, mosaic) for name, parts in scenes.items())


def decode_scenes(
    dataset: Dataset,
    plans: Sequence[ScenePlan],
    spec: InputSpec,
    bands: Sequence[int] | None,
    folder: Path,
    progress: StageProgress | None,
) -> list[Scene]:
    """Decode scenes into files of a folder. Pixels without data are black and unlabelled.

    Raises RasterError for a damaged image, OutputError where there is no room.
    """
    scenes = []
    for index, plan in enumerate(plans):
        pixels, labels = folder / f"{index}.pixels.npy", folder / f"{index}.labels.npy"
        with atomic_write(pixels) as first, atomic_write(labels) as second:
            canvas = np.lib.format.open_memmap(first, "w+", np.uint8, (*plan.size, spec.bands))
            ids = np.lib.format.open_memmap(second, "w+", np.uint8, plan.size)
            ids[:] = IGNORE
            for part in plan.parts:
                _decode(part, dataset, spec, bands, canvas, ids)
            canvas.flush()
            ids.flush()
        scenes.append(Scene(name=plan.name, pixels=np.load(pixels, "r"), labels=np.load(labels, "r")))
        if progress:
            progress("decoding images", index + 1, len(plans))
    return scenes


def _decode(
    part: Part,
    dataset: Dataset,
    spec: InputSpec,
    bands: Sequence[int] | None,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.uint8],
) -> None:
    """Decode one image into its place of a scene."""
    with _opened(part.sample, dataset, spec, bands) as (source, mask):
        for y in range(0, part.height, _ROWS):
            rows = min(_ROWS, part.height - y)
            window = Window(y, 0, rows, part.width)
            here = slice(part.y + y, part.y + y + rows), slice(part.x, part.x + part.width)
            pixels[here] = source.read(window)
            labels[here] = mask.read(y, rows)[:, : part.width]
            valid = source.valid(window)
            if valid is not None:
                labels[here][~valid] = IGNORE


@contextmanager
def _opened(
    sample: Sample, dataset: Dataset, spec: InputSpec, bands: Sequence[int] | None
) -> Iterator[tuple[RasterSource, MaskReader]]:
    """An image and its mask, which fit each other."""
    with (
        open_raster(sample.image, spec, bands, _ROWS) as source,
        open_mask(sample.mask, dataset.description.labels) as mask,
    ):
        if (mask.height, mask.width) != (source.height, source.width):
            raise InputError(
                f"{sample.mask}: expected {source.height} x {source.width} pixels as {sample.image}, found "
                f"{mask.height} x {mask.width}; get the mask anew, or leave it out with --split"
            )
        yield source, mask


def _size(sample: Sample, dataset: Dataset) -> tuple[int, int]:
    with open_mask(sample.mask, dataset.description.labels) as mask:
        return mask.height, mask.width


def _place(sample: Sample, mosaic: Mosaic) -> tuple[str, int]:
    """The scene of a part, and its place in it from 0."""
    match = re.fullmatch(r"(.*?)(\d+)", sample.name)
    if match is None or int(match[2]) < mosaic.first:
        raise InputError(
            f"data.mosaic: expected images whose names end with a number from {mosaic.first} on, found {sample.name}; "
            "null takes every image by itself"
        )
    return match[1].rstrip("/_-") or "the scene", int(match[2]) - mosaic.first


def _put_together(name: str, parts: dict[int, Sample], sizes: dict[Sample, tuple[int, int]], mosaic: Mosaic) -> ScenePlan:
    """Parts in their grid; they may differ by some pixels, of which the smallest tells."""
    heights, widths = ([sizes[sample][axis] for sample in parts.values()] for axis in (0, 1))
    height, width = min(heights), min(widths)
    if max(heights) - height > _UNEVEN or max(widths) - width > _UNEVEN:
        raise InputError(
            f"data.mosaic: expected parts of {name} of one size, to {_UNEVEN} pixels, found {height} x {width} to "
            f"{max(heights)} x {max(widths)}; null takes every image by itself"
        )
    placed = []
    for place, sample in sorted(parts.items()):
        row, column = divmod(place, mosaic.columns)
        placed.append(Part(sample=sample, y=row * height, x=column * width, height=height, width=width))
    return ScenePlan(name=name, parts=tuple(placed))


def _split(split: str, folder: Path) -> str:
    """A split as `select` takes it: a file's path is relative to the config."""
    return str(folder / split) if (folder / split).is_file() else split


@contextmanager
def _told_as(field: str) -> Iterator[None]:
    """Errors of the data set in the words of a config: its fields, not the options of `fctl-eval`."""
    try:
        yield
    except (InputError, RasterError) as error:
        text = str(error)
        for option, ours in _FIELDS.items():
            text = text.replace(option, ours.format(split=field if "." in field else "data.training"))
        raise type(error)(text if text.startswith(field) else f"{field}: {text}") from None
