"""Patches drawn from a user's images, with contexts that the runtime cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.errors import InputError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import BatchCutter, PatchBatch
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.windows import Window

_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_TRIES = 20  # places looked at for each patch


def shipped_images() -> tuple[Path, ...]:
    """The images that come with fctl, of 3 bands of uint8; images/README.md says what they are."""
    return tuple(sorted((Path(__file__).parent / "images").glob("*.jpg")))


def find_images(places: Sequence[Path]) -> tuple[Path, ...]:
    """Image files among files and folders.

    Args:
        places: Files, which are taken as they are, and folders, whose images are taken.

    Returns:
        The images, sorted within each folder.

    Raises:
        InputError: There is none.
    """
    found: list[Path] = []
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        found += [path for path in inside if path.suffix.lower() in _SUFFIXES or not place.is_dir()]
    if not found:
        raise InputError(subject=", ".join(map(str, places)), expected=f"images ({', '.join(_SUFFIXES)})", found="none")
    return tuple(found)


def sample_patches(manifest: Manifest, images: Sequence[Path], count: int, seed: int) -> list[PatchBatch]:
    """Draw patches from images, each as a batch of its own with all of its contexts.

    Places that are mostly without data, or of one flat colour, are drawn again.

    Args:
        manifest: How patches and contexts are cut.
        images: The images, which give patches in turn.
        count: How many patches are drawn.
        seed: Random seed of the places.

    Returns:
        Batches of one patch.

    Raises:
        RasterError: An image does not fit the bundle.
    """
    random = np.random.default_rng(seed)
    batches: list[PatchBatch] = []
    for index in range(count):
        path = images[index % len(images)]
        with open_raster(path, manifest.input, None, manifest.tile) as source:
            batches += cut_each(manifest, source, [_place(source, manifest.tile, random)])
    return batches


def cut_each(manifest: Manifest, source: Source, tiles: Iterable[Window]) -> Iterator[PatchBatch]:
    """Cut tiles one by one; tiles that lie in the same window of a shared context share its pixels.

    Args:
        manifest: How patches and contexts are cut.
        source: The raster.
        tiles: The tiles, in reading order.

    Yields:
        Batches of one patch with all of its contexts.

    Raises:
        RasterError: The raster cannot be read.
    """
    cutter = BatchCutter(manifest, source)
    return (cutter.cut((tile,), 1) for tile in tiles)


def _place(source: Source, tile: int, random: np.random.Generator) -> Window:
    """A tile of the source, preferably one that shows something."""
    window = Window(0, 0, tile, tile)
    for _ in range(_TRIES):
        y = int(random.integers(max(source.height - tile, 0) + 1))
        x = int(random.integers(max(source.width - tile, 0) + 1))
        window = Window(y, x, tile, tile)
        inside = window.within(source.height, source.width)
        if inside is not None and source.read(inside).std() > 1:
            valid = source.valid(inside)
            if valid is None or valid.mean() > 0.5:
                break
    return window
