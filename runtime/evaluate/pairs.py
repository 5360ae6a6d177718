"""Labels opened on the grid of their image."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from ..raster.source import open_any
from .datasets import Dataset, Sample
from .labels import Labels, MaskReader
from .placement import Frame, frame_of, place

log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_labels(sample: Sample, labels: Labels) -> Iterator[MaskReader]:
    """Open the mask of an image, turned and shifted so that its rows and columns are the image's.

    Args:
        sample: The image and its mask.
        labels: What the mask's pixels mean.

    Yields:
        The open mask, of the image's size.

    Raises:
        RasterError: One of the files is missing, no image, or no such mask.
        InputError: The mask does not lie on the image.
    """
    image = _look_up(sample.image)
    with open_any(sample.mask) as dataset:
        yield MaskReader(dataset, sample.mask, labels, place(image, frame_of(sample.mask, dataset)))


def note_shifts(dataset: Dataset) -> None:
    """Log once which masks do not cover exactly their images: labels may be elsewhere by mistake.

    Args:
        dataset: The labelled images.

    Raises:
        RasterError: A file is missing, or no image.
        InputError: A mask does not lie on its image.
    """
    noted = []
    for sample in dataset.samples:
        image, mask = _look_up(sample.image), _look_up(sample.mask)
        shift = place(image, mask).shift
        if shift or (image.height, image.width) != (mask.height, mask.width):
            noted.append(
                f"{mask.path} ({mask.height} x {mask.width} pixels) lies {shift or 'in the first row and column'} of "
                f"{image.path} ({image.height} x {image.width})"
            )
    if noted:
        more = f", and {len(noted) - 1} more masks are shifted or of another size" if len(noted) > 1 else ""
        log.warning("by their georeferences, %s%s; pixels without labels count for nothing", noted[0], more)


def _look_up(path: Path) -> Frame:
    """The size and the georeference of a raster on disk."""
    with open_any(path) as dataset:
        return frame_of(path, dataset)
