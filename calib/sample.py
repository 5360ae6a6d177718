"""Which patches stand for a user's imagery: drawn from images, contexts cut by the runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.errors import InputError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import PatchBatch, cut_batch, cut_scene
from fctl.runtime.tiling.sources import Source, Stack
from fctl.runtime.tiling.windows import Window

_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_TRIES = 20


def shipped_images() -> tuple[Path, ...]:
    """The images that come with fctl: 3 bands of uint8, see images/README.md."""
    return tuple(sorted((Path(__file__).parent / "images").glob("*.jpg")))


def find_images(places: Sequence[Path]) -> tuple[Path, ...]:
    """Image files among files and folders, sorted. Raises InputError where there is none."""
    found: list[Path] = []
    for place in places:
        inside = sorted(place.iterdir()) if place.is_dir() else [place]
        found += [path for path in inside if path.suffix.lower() in _SUFFIXES or not place.is_dir()]
    if not found:
        raise InputError(f"{', '.join(map(str, places))}: expected images ({', '.join(_SUFFIXES)}), found none")
    return tuple(found)


def sample_patches(manifest: Manifest, images: Sequence[Path], count: int, seed: int) -> list[PatchBatch]:
    """`count` batches of one patch with all of its contexts, in turn from each image, at places drawn from `seed`.

    Places that are mostly without data, or of one flat colour, are drawn again. Raises RasterError for an image that
    does not fit the bundle.
    """
    random = np.random.default_rng(seed)
    batches: list[PatchBatch] = []
    for index in range(count):
        path = images[index % len(images)]
        with open_raster(path, manifest.input, None, manifest.tile) as source:
            batches += cut_each(manifest, source, [_place(source, manifest.tile, random)])
    return batches


def cut_each(manifest: Manifest, source: Source, tiles: Iterable[Window]) -> Iterator[PatchBatch]:
    """A batch for each tile, of one patch with all of its contexts.

    Of a context that moves, tiles that follow each other in the same scene share one array.
    """
    moving = [context for context in manifest.contexts if context.window.moves]
    last: dict[str, tuple[Window, Stack]] = {}
    for tile in tiles:
        batch = cut_batch(manifest, source, (tile,), 1)
        for context in moving:
            (scene,) = batch.scenes[context.name]
            if context.name not in last or last[context.name][0] != scene:
                last[context.name] = scene, cut_scene(source, scene, context)
        yield replace(batch, contexts=batch.contexts | {name: cut for name, (_, cut) in last.items()})


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
