"""Labelled images looked through before hours are spent on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..progress import StageProgress
from ..raster.source import open_raster
from .datasets import Dataset
from .labels import listed
from .pairs import note_shifts, open_labels
from .runs import Run


def check_masks(dataset: Dataset, progress: StageProgress | None = None) -> tuple[int, ...]:
    """Read all masks once.

    Args:
        dataset: The labelled images.
        progress: Called with "reading masks", masks that are done and masks in all.

    Returns:
        Labelled pixels of each class.

    Raises:
        InputError: A mask holds ids or colours that the description does not know.
        RasterError: A mask cannot be read.
    """
    classes = len(dataset.description.classes)
    total = np.zeros(classes, np.int64)
    for index, sample in enumerate(dataset.samples):
        with open_labels(sample, dataset.description.labels) as mask:
            census = mask.census(classes)
        if census.unknown:
            pixels = sum(count for _, count in census.unknown)
            raise InputError(
                subject=sample.mask,
                expected=f"the ids or colours of {dataset.description.name}",
                found=f"{pixels} pixels of others: {listed(census.unknown)}",
                remedy="add them to a class or to ignore in a description (docs/evaluation.md)",
            )
        total += census.pixels
        if progress:
            progress("reading masks", index + 1, len(dataset.samples))
    return tuple(map(int, total))


def check_images(
    dataset: Dataset, runs: Sequence[Run], bands: Sequence[int] | None, scale_range: str | None = None
) -> tuple[tuple[int, int], ...]:
    """Open all images once with the bundles of some runs, and log which masks are shifted against them.

    Args:
        dataset: The labelled images.
        runs: The runs.
        bands: Numbers of the bands to use, from 1; None for all but alpha.
        scale_range: Which values become the lowest and the highest of the bundles', or None.

    Returns:
        The size (height, width) of each image, in pixels.

    Raises:
        RasterError: An image does not fit a bundle.
        InputError: A mask does not lie on its image, or a bundle refines masks.
    """
    bundles = {run.bundle.folder: run.bundle for run in runs}
    for bundle in bundles.values():
        if bundle.manifest.refines:
            raise InputError(
                f"bundle {bundle.manifest.name} refines masks, and makes none of an image alone",
                remedy="see the validation of fctl-train, which compares refined and coarse masks (docs/refining.md)",
            )
    sizes = []
    for sample in dataset.samples:
        with open_labels(sample, dataset.description.labels) as mask:
            sizes.append((mask.height, mask.width))
        for bundle in bundles.values():
            with open_raster(sample.image, bundle.manifest.input, bands, 0, scale_range=scale_range):
                pass
    note_shifts(dataset)
    return tuple(sizes)
