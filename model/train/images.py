"""The labelled images of a training: those to train on and those to validate with, opened and checked."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.evaluate.checks import check_masks
from fctl.runtime.evaluate.datasets import Dataset, open_dataset
from fctl.runtime.evaluate.description import Description
from fctl.runtime.evaluate.pairs import note_shifts
from fctl.runtime.evaluate.selection import select
from fctl.runtime.progress import StageProgress

from ..weights.checkpoints import ClassLabel
from .scenes import open_pair
from .settings import DataSettings


@dataclass(frozen=True, kw_only=True)
class Images:
    """Labelled images of one data set.

    Attributes:
        training: Images to train on.
        validation: Images to validate with; none of them is in `training`.
    """

    training: Dataset
    validation: Dataset

    @property
    def description(self) -> Description:
        """Classes, and which of them count."""
        return self.training.description

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of the images by split, by which a resumed training recognises its data."""
        return {
            "training": [sample.name for sample in self.training.samples],
            "validation": [sample.name for sample in self.validation.samples],
        }


def open_images(settings: DataSettings, folder: Path) -> Images:
    """Find the images of both splits.

    Args:
        settings: Which images.
        folder: Where relative paths start.

    Returns:
        The images. None of them is open yet.

    Raises:
        InputError: There is no such data set, or a split does not fit; the error names the field.
    """
    with _naming("data"):
        description = folder / settings.description if settings.description else None
        dataset = open_dataset(folder / settings.root, form=settings.form, description=description)
    with _naming("data.validation"):
        validation = select(dataset, _split(settings.validation, folder))
    held_out = set(validation.samples)
    if settings.training is None:
        rest = tuple(sample for sample in dataset.samples if sample not in held_out)
        if not rest:
            raise InputError(
                subject="data.validation",
                expected="a part of the images",
                found="all; nothing is left to train on",
            )
        with _naming("data.training"):
            return Images(training=select(replace(dataset, samples=rest), None), validation=validation)
    with _naming("data.training"):
        training = select(dataset, _split(settings.training, folder))
    if both := [sample.name for sample in training.samples if sample in held_out]:
        raise InputError(
            subject="data.training",
            expected="images that are not in data.validation",
            found=f"{len(both)} in both, as {both[0]}",
            remedy="null takes all that validation leaves",
        )
    return Images(training=training, validation=validation)


def check_images(
    images: Images,
    spec: InputSpec,
    bands: Sequence[int] | None,
    progress: StageProgress | None,
    scale_range: str | None = None,
) -> tuple[int, ...]:
    """Open all images and read all masks once, so that errors come before training rather than after hours.

    Which masks are shifted against their images is logged.

    Args:
        images: The images.
        spec: What the network takes.
        bands: Bands of the images, from 1, or None for all but alpha.
        progress: Called after every mask.
        scale_range: Which values become the lowest and the highest of the network's, or None.

    Returns:
        Labelled pixels to train on, by class.

    Raises:
        RasterError: An image cannot be read, or does not fit the network.
        InputError: A mask does not fit its image or the classes, or nothing is labelled.
    """
    for dataset in (images.training, images.validation):
        for sample in dataset.samples:
            with _naming("data"), open_pair(sample, dataset, spec, bands, scale_range):
                pass
        note_shifts(dataset)
    pixels = check_masks(images.training, progress)
    check_masks(images.validation, progress)
    if not sum(pixels):
        raise InputError(subject="data.training", expected="labelled pixels", found="none in all of its masks")
    return pixels


def class_labels(description: Description) -> tuple[ClassLabel, ...]:
    """Names and colours of the classes of a data set.

    Args:
        description: The classes and their values in masks.

    Returns:
        The classes in order, in their masks' first colour, or in hues a golden angle apart where masks hold ids.
    """
    labels = []
    for index, info in enumerate(description.classes):
        colours = [value for value in info.values if not isinstance(value, int)]
        hue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.7, 0.9 - 0.3 * (index % 2))
        red, green, blue = colours[0] if colours else (round(255 * value) for value in hue)
        labels.append(ClassLabel(name=info.name, colour=(red, green, blue)))
    return tuple(labels)


def _split(split: str, folder: Path) -> str:
    """A split as `select` takes it, in which a file's path is relative to a folder."""
    return str(folder / split) if (folder / split).is_file() else split


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Let errors of the data set name fields of the configuration instead of arguments."""
    try:
        yield
    except (InputError, RasterError) as error:
        split = field if "." in field else "data.training"
        fields = {"data": "data.root", "form": "data.form", "bands": "data.bands", "scale_range": "data.scale_range"}
        fields |= {"description": "data.description"}
        text = error.worded(fields | {"split": split})
        raise type(error)(text, subject=None if text.startswith(field) else field) from None
