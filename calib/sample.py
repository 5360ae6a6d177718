"""Patches drawn from a user's images, with contexts that the runtime cuts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.errors import InputError
from fctl.runtime.segment.batches import BatchCutter, PatchBatch, on_host
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.windows import Window

from .blank import Place, Sight, no_data_in, tiles_of
from .stand_in import open_image

log = logging.getLogger(__name__)

_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
_TRIES = 20  # places looked at for each patch before the whole image is searched
_ENOUGH = 100  # places of an image that a search is content with


def shipped_images() -> tuple[Path, ...]:
    """The images that come with fctl, of 3 bands of uint8; images/README.md says what they are."""
    return tuple(sorted((Path(__file__).parent / "images").glob("*.jpg")))


def find_images(places: Sequence[Path]) -> tuple[Path, ...]:
    """Image files among files and folders.

    Args:
        places: Files, which are taken as they are, and folders, whose images are taken. Hidden files in folders are
            passed over: they are other programs' notes, or images that are still being written.

    Returns:
        The images, sorted within each folder.

    Raises:
        InputError: There is none.
    """
    found: list[Path] = []
    for place in places:
        found += sorted(filter(_is_image, place.iterdir())) if place.is_dir() else [place]
    if not found:
        raise InputError(subject=", ".join(map(str, places)), expected=f"images ({', '.join(_SUFFIXES)})", found="none")
    return tuple(found)


def _is_image(path: Path) -> bool:
    """Whether something in a folder is an image, by its name."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def sample_patches(
    manifest: Manifest, images: Sequence[Path], count: int, seed: int, masks: Path | None = None
) -> list[PatchBatch]:
    """Draw patches from images, each as a batch of its own with all of its contexts.

    Patches have data on more than half of their pixels and show something, as far as the images have such places;
    what shows something is judged by the image itself (`blank.Sight`). An image that has none gives no patches, with a
    warning, unless all of them are like this.

    Args:
        manifest: How patches and contexts are cut.
        images: The images, which give patches in turn.
        count: How many patches are drawn.
        seed: Random seed of the places.
        masks: For a bundle that refines masks, the folder of those of the images; None for stand-ins.

    Returns:
        Batches of one patch.

    Raises:
        RasterError: An image does not fit the bundle.
        InputError: No image has data.
    """
    random = np.random.default_rng(seed)
    batches: list[PatchBatch] = []
    turn, places, flat = deque(images), dict[Path, _Places](), dict[Path, Window]()
    while turn and len(batches) < count:
        path = turn.popleft()
        with open_image(path, manifest, manifest.tile, masks) as source:
            if path not in places:
                places[path] = _Places(source, manifest.tile)
            place = places[path].draw(source, random)
            if place and place.shows:
                batches += cut_each(manifest, source, [place.tile])
                turn.append(path)
            elif place:
                flat[path] = place.tile
    if not batches and not flat and count:
        raise no_data_in(images)
    _warn_of_blank([path for path, found in places.items() if not found.show], bool(batches))
    for path, tile in islice(cycle(flat.items()), 0 if batches else count):
        with open_image(path, manifest, manifest.tile, masks) as source:
            batches += cut_each(manifest, source, [tile])
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


def _warn_of_blank(images: Sequence[Path], others: bool) -> None:
    """Log one line for images that show nothing. others: whether there are images that do."""
    if images:
        named = ", ".join(map(str, images))
        found = "no patches are taken there" if others else "comparing on it says little: give other images"
        log.warning("%s: nothing to see (one colour, or no data): %s", named, found)


def shown(manifest: Manifest, batch: PatchBatch) -> NDArray[np.generic]:
    """What a network sees of the first patch of a batch on the host: its pixels, or those of the shrunken image there.

    Args:
        manifest: How patches and contexts are cut.
        batch: The batch.

    Returns:
        Raw pixels (bands, P, P).
    """
    pixels: NDArray[np.generic]
    if manifest.sees_patch:
        pixels = on_host(batch.patch)[0]
        return pixels
    name, tile = manifest.contexts[0].name, batch.tiles[0]
    pixels, window = batch.pixels_of(name)[0], batch.scenes[name][0]
    place = np.arange(manifest.tile) + 0.5
    rows = ((tile.y - window.y + place) * pixels.shape[1] / window.height).astype(int).clip(0, pixels.shape[1] - 1)
    columns = ((tile.x - window.x + place) * pixels.shape[2] / window.width).astype(int).clip(0, pixels.shape[2] - 1)
    pixels = pixels[:, rows[:, None], columns]
    return pixels


class _Places:
    """Places of one raster: drawn at random, and looked for everywhere once that finds none.

    Args:
        source: The raster.
        tile: Side of a patch in pixels.

    Attributes:
        show: Whether there are places that show something, as far as is known.
    """

    def __init__(self, source: Source, tile: int) -> None:
        self._tile, self._sight = tile, Sight(source, tile)
        self._found: tuple[Place, ...] | None = None
        self.show = True

    def draw(self, source: Source, random: np.random.Generator) -> Place | None:
        """The next place: one that shows something, else the one with most data; None where none has any."""
        for _ in range(_TRIES):
            y = int(random.integers(max(source.height - self._tile, 0) + 1))
            x = int(random.integers(max(source.width - self._tile, 0) + 1))
            place = self._sight.look(source, Window(y, x, self._tile, self._tile))
            if _is_good(place):
                return place
        if self._found is None:
            self._found = self._search(source)
            self.show = any(place.shows for place in self._found)
        return self._found[int(random.integers(len(self._found)))] if self._found else None

    def _search(self, source: Source) -> tuple[Place, ...]:
        """Good places all over the raster, or else the best; none where there is no data."""
        best: Place | None = None
        good = list[Place]()
        for tile in tiles_of(source, self._tile):
            place = self._sight.look(source, tile)
            if _is_good(place):
                good.append(place)
            elif place.data and (best is None or (place.shows, place.data) > (best.shows, best.data)):
                best = place
            if len(good) == _ENOUGH:
                break
        return tuple(good) or ((best,) if best else ())


def _is_good(place: Place) -> bool:
    """Whether a place shows something, and has data on more than half of its pixels."""
    return place.shows and place.data > 0.5
