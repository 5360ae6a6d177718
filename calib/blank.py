"""Which patches show something, judged by their own raster: reflectance from 0 to 1 shows as much as bytes do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.errors import InputError
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.windows import Window

Mask = NDArray[np.bool_]

_GRID = 4  # windows along each axis of the raster that are looked at
_USUAL = 75  # percentile of their variation: neither black margins nor a few undeclared -9999 decide
_FLAT = 0.02  # of the usual variation: less is a blank patch, such as the noise of JPEG beside an image
_ROUNDING = 1e-6  # of the largest value: less is no variation
_NAMED = 3  # images in an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A tile of a raster that was looked at.

    Attributes:
        tile: The tile, which may reach beyond the raster.
        data: The share of its pixels inside the raster that have data, from 0 to 1.
        shows: Whether it shows something.
    """

    tile: Window
    data: float
    shows: bool


class Sight:
    """What counts as showing something in one raster.

    A patch is blank where every band varies by less than a fiftieth of what is usual in this raster. Variation is the
    standard deviation over the pixels with data; what is usual is measured on 16 places, evenly spread.

    Args:
        source: The raster.
        tile: Side of a patch in pixels.
    """

    def __init__(self, source: Source, tile: int) -> None:
        rows, columns = (_spread(max(side - tile, 0)) for side in (source.height, source.width))
        seen = np.array([_look(source, Window(y, x, tile, tile))[1] for y in rows for x in columns])
        self._least = np.array([_FLAT * _usual(band[band > 0]) for band in seen.T])

    def look(self, source: Source, tile: Window) -> Place:
        """Look at a tile of the raster, which may reach beyond it."""
        data, variation = _look(source, tile)
        shows = bool(((variation > 0) & (variation >= self._least)).any())
        return Place(tile=tile, data=data, shows=shows)


def inside_of(source: Source, tile: Window) -> Window:
    """The part of a tile that lies inside the raster; it must touch it."""
    inside = tile.within(source.height, source.width)
    assert inside is not None
    return inside


def valid_of(source: Source, tile: Window) -> Mask:
    """Where a tile has data, (rows, columns) of the part inside the raster."""
    inside = inside_of(source, tile)
    valid = source.valid(inside)
    return np.ones((inside.height, inside.width), np.bool_) if valid is None else valid


def tiles_of(source: Source, tile: int) -> Iterator[Window]:
    """Tiles that overlap by half and cover a raster, in reading order: what has data fills one of them by half."""
    rows, columns = (
        [*range(0, max(side - tile, 0), max(1, tile // 2)), max(side - tile, 0)]
        for side in (source.height, source.width)
    )
    return (Window(y, x, tile, tile) for y in rows for x in columns)


def no_data_in(images: Sequence[Path], wanted: str = "patches with data") -> InputError:
    """The error for images of which none has anything to show. wanted: what should have been there, in words."""
    more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
    named = ", ".join(map(str, images[:_NAMED]))
    return InputError(expected=wanted, found=f"none in {named}{more}", remedy="give other images")


def _spread(last: int) -> list[int]:
    """Places from 0 to the last, evenly spaced."""
    return sorted({round(place) for place in np.linspace(0, last, _GRID)})


def _usual(variation: NDArray[np.float64]) -> float:
    """The usual variation of a band, from that of its places that are not flat; 0 where all are."""
    return float(np.percentile(variation, _USUAL)) if variation.size else 0.0


def _look(source: Source, tile: Window) -> tuple[float, NDArray[np.float64]]:
    """The share of a tile's pixels with data, and how much each band varies over these; rounding is no variation."""
    valid = valid_of(source, tile)
    pixels = source.read(inside_of(source, tile))[valid].astype(np.float64)
    if not pixels.size:
        return 0.0, np.zeros(pixels.shape[1])
    variation = pixels.std(axis=0)
    return float(valid.mean()), np.where(variation > _ROUNDING * np.abs(pixels).max(axis=0), variation, 0)
