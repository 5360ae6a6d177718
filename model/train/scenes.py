"""Scenes: images, or mosaics of images, decoded into files that are mapped into memory.

Training reads patches and contexts from anywhere, again and again. So pixels are decoded once, onto the disk, and the
operating system keeps as much of them in memory as fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.atomic import atomic_write
from fctl.runtime.bundle.manifest import InputSpec
from fctl.runtime.errors import InputError
from fctl.runtime.evaluate.datasets import Dataset, Sample
from fctl.runtime.evaluate.labels import MaskReader
from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.evaluate.pairs import open_labels
from fctl.runtime.progress import StageProgress
from fctl.runtime.raster.source import RasterSource, open_raster
from fctl.runtime.tiling.windows import Window

from .coarse import CoarseMasks
from .settings import Mosaic

_ROWS = 1024  # rows that are decoded at a time
_UNEVEN = 8  # pixels in which the sizes of a mosaic's images may differ


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A labelled scene.

    Attributes:
        name: Its name.
        pixels: Pixels (H, W, bands) uint8.
        labels: Class ids (H, W) uint8, 255 where unlabelled.
        coarse: Class ids (H, W) uint8 of the mask that is refined; None where there is none but perturbed labels.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    coarse: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One image in a scene.

    Attributes:
        sample: The image and its mask.
        y: Row of the scene in which the image begins.
        x: Column of the scene in which the image begins.
        height: Rows of the image that are used.
        width: Columns of the image that are used.
    """

    sample: Sample
    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePlan:
    """A scene before it is decoded.

    Attributes:
        name: Its name.
        parts: Its images; where there are none, the scene is black and unlabelled.
    """

    name: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return max(part.y + part.height for part in self.parts), max(part.x + part.width for part in self.parts)


def plan_scenes(dataset: Dataset, mosaic: Mosaic | None) -> tuple[ScenePlan, ...]:
    """Find out which scenes a data set holds.

    Args:
        dataset: The images and masks.
        mosaic: How images form scenes, or None where every image is a scene.

    Returns:
        The scenes.

    Raises:
        InputError: The images of a scene do not fit together.
    """
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
    return tuple(_assembled(name, parts, sizes, mosaic) for name, parts in scenes.items())


def decode_scenes(
    dataset: Dataset,
    plans: Sequence[ScenePlan],
    spec: InputSpec,
    bands: Sequence[int] | None,
    folder: Path,
    progress: StageProgress | None,
    scale_range: str | None = None,
    coarse: CoarseMasks | None = None,
) -> list[Scene]:
    """Decode scenes into files. Pixels without data become black and unlabelled.

    Args:
        dataset: The images and masks.
        plans: The scenes (`plan_scenes`).
        spec: What the network takes.
        bands: Bands of the images, from 1, or None for all but alpha.
        folder: Where the files go: two a scene, 4 bytes a pixel of three bands.
        progress: Called after every scene.
        scale_range: Which values become the lowest and the highest of the network's, or None.
        coarse: The masks that a refiner is trained from; None for another network.

    Returns:
        The scenes, mapped into memory.

    Raises:
        RasterError: An image is damaged.
        OutputError: The folder cannot be written.
    """
    scenes = []
    for index, plan in enumerate(plans):
        pixels, labels = folder / f"{index}.pixels.npy", folder / f"{index}.labels.npy"
        with atomic_write(pixels) as first, atomic_write(labels) as second:
            canvas = np.lib.format.open_memmap(first, "w+", np.uint8, (*plan.size, spec.bands))
            ids = np.lib.format.open_memmap(second, "w+", np.uint8, plan.size)
            ids[:] = IGNORE
            for part in plan.parts:
                with open_pair(part.sample, dataset, spec, bands, scale_range) as pair:
                    _decode(part, pair, canvas, ids)
            canvas.flush()
            ids.flush()
        masks = _decode_coarse(plan, dataset, spec, bands, folder / f"{index}.coarse.npy", coarse, scale_range)
        scenes.append(Scene(name=plan.name, pixels=np.load(pixels, "r"), labels=np.load(labels, "r"), coarse=masks))
        if progress:
            progress("decoding images", index + 1, len(plans))
    return scenes


def _decode_coarse(
    plan: ScenePlan,
    dataset: Dataset,
    spec: InputSpec,
    bands: Sequence[int] | None,
    path: Path,
    coarse: CoarseMasks | None,
    scale_range: str | None,
) -> NDArray[np.uint8] | None:
    """Decode the coarse masks of a scene into a file, where there are any."""
    if coarse is None or not coarse.files:
        return None
    with atomic_write(path) as temporary:
        ids = np.lib.format.open_memmap(temporary, "w+", np.uint8, plan.size)
        ids[:] = IGNORE
        for part in plan.parts:
            with open_pair(part.sample, dataset, spec, bands, scale_range) as (image, labels):
                found = coarse.ids(part.sample, image, labels)
            ids[part.y : part.y + part.height, part.x : part.x + part.width] = found[: part.height, : part.width]
        ids.flush()
    mapped: NDArray[np.uint8] = np.load(path, "r")
    return mapped


@contextmanager
def open_pair(
    sample: Sample,
    dataset: Dataset,
    spec: InputSpec,
    bands: Sequence[int] | None,
    scale_range: str | None = None,
) -> Iterator[tuple[RasterSource, MaskReader]]:
    """Open an image and its mask.

    Args:
        sample: The image and the mask.
        dataset: The data set that they belong to.
        spec: What the network takes.
        bands: Bands of the image, from 1, or None for all but alpha.
        scale_range: Which values become the lowest and the highest of the network's, or None.

    Yields:
        Both, open, and on one grid of pixels.

    Raises:
        RasterError: The image cannot be read, or does not fit the network.
        InputError: The mask does not lie on the image.
    """
    with (
        open_raster(sample.image, spec, bands, _ROWS, scale_range=scale_range) as source,
        open_labels(sample, dataset.description.labels) as mask,
    ):
        yield source, mask


def _decode(
    part: Part, pair: tuple[RasterSource, MaskReader], pixels: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> None:
    """Decode one image and its mask into their place in a scene."""
    source, mask = pair
    for y in range(0, part.height, _ROWS):
        rows = min(_ROWS, part.height - y)
        window = Window(y, 0, rows, part.width)
        here = slice(part.y + y, part.y + y + rows), slice(part.x, part.x + part.width)
        pixels[here] = source.read(window)
        labels[here] = mask.read(y, rows)[:, : part.width]
        valid = source.valid(window)
        if valid is not None:
            labels[here][~valid] = IGNORE


def _size(sample: Sample, dataset: Dataset) -> tuple[int, int]:
    """Height and width of an image, in pixels."""
    with open_labels(sample, dataset.description.labels) as mask:
        return mask.height, mask.width


def _place(sample: Sample, mosaic: Mosaic) -> tuple[str, int]:
    """The scene of an image, and its place in it, counted from 0."""
    match = re.fullmatch(r"(.*?)(\d+)", sample.name)
    if match is None or int(match[2]) < mosaic.first:
        raise InputError(
            subject="data.mosaic",
            expected=f"images whose names end with a number from {mosaic.first} on",
            found=sample.name,
            remedy="null takes every image by itself",
        )
    return match[1].rstrip("/_-") or "the scene", int(match[2]) - mosaic.first


def _assembled(name: str, parts: dict[int, Sample], sizes: dict[Sample, tuple[int, int]], mosaic: Mosaic) -> ScenePlan:
    """Images in the grid of their scene, each cut to the size of the smallest, from which they may differ slightly."""
    heights, widths = ([sizes[sample][axis] for sample in parts.values()] for axis in (0, 1))
    height, width = min(heights), min(widths)
    if max(heights) - height > _UNEVEN or max(widths) - width > _UNEVEN:
        raise InputError(
            subject="data.mosaic",
            expected=f"parts of {name} of one size, to {_UNEVEN} pixels",
            found=f"{height} x {width} to {max(heights)} x {max(widths)}",
            remedy="null takes every image by itself",
        )
    placed = []
    for place, sample in sorted(parts.items()):
        row, column = divmod(place, mosaic.columns)
        placed.append(Part(sample=sample, y=row * height, x=column * width, height=height, width=width))
    return ScenePlan(name=name, parts=tuple(placed))
