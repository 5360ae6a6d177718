"""A coarse mask beside an image: what a refiner takes, and what becomes of pixels that it does not look at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .merge import NODATA
from .resampling import Pixels
from .sources import HostSource, Source
from .windows import Window

Ids = NDArray[np.uint8]
"""Class ids (height, width) uint8; 255 where there is no class."""

_HERE = 255  # of the band of a class, where the mask has it; a shrunken band holds shares of this


class Coarse(Protocol):
    """A mask that ids are read from."""

    def read(self, window: Window) -> Ids:
        """Class ids (height, width) of a window that lies inside the mask; 255 where there is no class."""
        ...


class CoarseArray:
    """A coarse mask in memory.

    Args:
        ids: Class ids (height, width) uint8; 255 where there is no class.
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def read(self, window: Window) -> Ids:
        """Class ids (height, width) of a window inside the mask: a view of the array."""
        return self._ids[window.y : window.bottom, window.x : window.right]


class CoarseSource(HostSource):
    """An image whose bands are followed by one for each class of a coarse mask.

    A pixel without a class has no data: what was unknown before it is refined is unknown afterwards.

    Args:
        image: The image, in uint8.
        coarse: Its mask, of the same size.
        classes: How many classes the mask has.
    """

    def __init__(self, image: Source, coarse: Coarse, classes: int) -> None:
        self._image, self._coarse, self._classes = image, coarse, classes
        self.height, self.width, self.name = image.height, image.width, image.name

    @property
    def implausible(self) -> int:  # type: ignore[override]
        """Pixels that were taken as missing for a value that nobody declared, so far."""
        return self._image.implausible

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands + classes) of a window inside the image; a class's band holds 255 or 0."""
        return np.concatenate([self._image.read(window), one_hot(self.ids(window), self._classes)], axis=2)

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window has data and a class, (height, width); None where all of it has."""
        valid = self._image.valid(window)
        known: NDArray[np.bool_] = self.ids(window) != NODATA
        if valid is not None:
            known &= valid
        return None if valid is None and known.all() else known

    def ids(self, window: Window) -> Ids:
        """Class ids (height, width) of a window inside the image; 255 where there is no class."""
        return self._coarse.read(window)

    def has_border(self, tile: Window) -> bool:
        """Whether two classes meet in a tile, which may reach beyond the image."""
        inside = tile.within(self.height, self.width)
        ids = self.ids(inside) if inside else np.zeros(0, np.uint8)
        known = ids[ids != NODATA]
        return bool(known.size and known.min() != known.max())


def one_hot(ids: Ids, classes: int) -> NDArray[np.uint8]:
    """Bands (height, width, classes) uint8 of ids (height, width): 255 where a pixel has the class, else 0."""
    bands: NDArray[np.uint8] = np.where(ids[:, :, None] == np.arange(classes), np.uint8(_HERE), np.uint8(0))
    return bands


def covered_by(tiles: Iterable[Window], window: Window) -> NDArray[np.bool_]:
    """Which pixels of a window some tiles cover, (height, width)."""
    found = np.zeros((window.height, window.width), np.bool_)
    for tile in tiles:
        part = tile.shared(window)
        if part:
            found[part.inside(window)] = True
    return found


def normalised(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (classes, rows, columns) whose sum over the classes is 1; NaN where it was 0.

    Tiles were weighed as if all of them were there. Where some were passed over, the sum is what the others weigh.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        shares: NDArray[np.float32] = probabilities / probabilities.sum(axis=0)
    return shares


def certain(ids: Ids, classes: int) -> NDArray[np.float32]:
    """Probabilities (classes, rows, columns) float32 of pixels that have a class for certain; NaN where they have none.

    Args:
        ids: Class ids (rows, columns); 255 where there is no class.
        classes: How many classes there are.

    Returns:
        1 for the class of a pixel and 0 for all others.
    """
    found: NDArray[np.float32] = (ids[None] == np.arange(classes)[:, None, None]).astype(np.float32)
    found[:, ids == NODATA] = np.nan
    return found
