"""Tiles of rasters in the squares of web maps, by rio-tiler; and what they look like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rio_tiler.errors import NoOverviewWarning, TileOutsideBounds
from rio_tiler.io import Reader

from ..errors import InputError
from ..raster.files import reading
from ..raster.frames import TILE, shown
from ..raster.silence import ignored
from ..raster.source import open_any
from ..tiling.merge import NODATA
from .encoding import Picture, indexed_png, photo
from .layers import Layer, View

TOP = 254
"""What a probability of 1 is in a tile."""
SAME, DIFFERENT = 0, 1
"""Values of tiles that compare two masks."""

_DEEPEST = 26  # zoom
_FLAG = (230, 30, 140)
"""The colour of what differs: none of nature's."""
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colours of probabilities from 0 to 1: viridis, which printers and all eyes keep in order."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A square of a web map.

    Attributes:
        zoom: The zoom; the world has two to the power of it tiles a side.
        x: Tiles from the west.
        y: Tiles from the north.

    Raises:
        InputError: There is no such tile.
    """

    zoom: int
    x: int
    y: int

    def __post_init__(self) -> None:
        if not (0 <= self.zoom <= _DEEPEST and 0 <= self.x < 1 << self.zoom and 0 <= self.y < 1 << self.zoom):
            raise InputError(subject="a tile", expected="a square of the world", found=f"{self.zoom}/{self.x}/{self.y}")


def names_of(view: View) -> dict[str, str]:
    """What tiles can be asked for: the name of each layer of the page, and what people call it."""
    titles = {
        "image": "Image", "mask": "Mask", "other": "Other mask", "labels": "Labels", "confidence": "Confidence",
    }  # fmt: skip
    found = {role: title for role, title in titles.items() if role in view.layers}
    if "other" in found:
        found["differences"] = "Differences"
    if "labels" in found:
        found["errors"] = "Errors"
    if "probabilities" in view.layers:
        count = view.layers["probabilities"].bands
        found |= {f"probability-{index}": f"Probability of {view.names[index]}" for index in range(count)}
    return found


def picture_of(view: View, name: str, tile: Tile) -> Picture:
    """What one tile of a layer looks like.

    Args:
        view: What is shown.
        name: One of `names_of`.
        tile: The tile.

    Returns:
        A picture of 256 x 256 pixels; transparent where there is no data.

    Raises:
        RasterError: The raster cannot be read.
    """
    layer = view.layers.get(name)
    if layer is not None and layer.display is not None:
        samples, valid = _read(layer, tile, layer.display.numbers)
        return photo(layer.display(samples, valid))
    if layer is not None and layer.kind == "ids":
        return indexed_png(read_ids(layer, tile), class_palette(view))
    if name in ("differences", "errors"):
        second = view.layers["other" if name == "differences" else "labels"]
        return indexed_png(compared(read_ids(view.mask, tile), read_ids(second, tile)), _FLAGS)
    if layer is not None:
        return indexed_png(_read_shares(layer, tile, 1), _SHARES)
    return indexed_png(_read_shares(view.layers["probabilities"], tile, int(name.split("-")[1]) + 1), _SHARES)


def read_ids(layer: Layer, tile: Tile) -> NDArray[np.uint8]:
    """Class ids (256, 256) of a tile; 255 where there is no data."""
    samples, valid = _read(layer, tile, (1,))
    found: NDArray[np.uint8] = np.where(valid, samples[0], NODATA).astype(np.uint8)
    return found


def compared(ids: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where two masks differ: 1, 0 where they agree, 255 where one of them has no data."""
    found = np.where(ids == others, SAME, DIFFERENT).astype(np.uint8)
    found[(ids == NODATA) | (others == NODATA)] = NODATA
    return found


def _read_shares(layer: Layer, tile: Tile, band: int) -> NDArray[np.uint8]:
    """Probabilities (256, 256) in 254ths; 255 where there is no data."""
    samples, valid = _read(layer, tile, (band,))
    if samples.dtype == np.uint8:
        values = samples[0]
    else:
        valid = valid & np.isfinite(samples[0])
        values = np.rint(np.clip(np.where(valid, samples[0], 0), 0, 1) * TOP).astype(np.uint8)
    found: NDArray[np.uint8] = np.where(valid, values, NODATA).astype(np.uint8)
    return found


def _read(layer: Layer, tile: Tile, bands: tuple[int, ...]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Samples (bands, 256, 256) of a tile, each that of the nearest pixel or overview; and where all have data."""
    with ignored(NoOverviewWarning), open_any(layer.path) as dataset, shown(dataset, layer.frame) as placed:
        smooth = layer.display is not None and layer.display.bands.palette is None
        method = "bilinear" if smooth else "nearest"
        numbers = tuple(dict.fromkeys(bands))  # one band may be shown as three
        try:
            with reading(layer.path, "a tile"), Reader(None, dataset=placed) as reader:
                image = reader.tile(
                    tile.x, tile.y, tile.zoom, tilesize=TILE, indexes=numbers, resampling_method=method,
                    reproject_method=method,
                )  # fmt: skip
        except TileOutsideBounds:
            dtype = dataset.dtypes[0]
            return np.zeros((len(bands), TILE, TILE), dtype), np.zeros((TILE, TILE), np.bool_)
    where = [numbers.index(band) for band in bands]
    missing: NDArray[np.bool_] = np.logical_or.reduce(np.ma.getmaskarray(image.array), axis=0)
    return np.ma.getdata(image.array)[where], ~missing


def class_palette(view: View) -> NDArray[np.uint8]:
    """Colours of class ids, (256, 4); what is no class is transparent."""
    palette = np.zeros((256, 4), np.uint8)
    for index, info in enumerate(view.classes):
        palette[index] = (*info.colour, 255)
    return palette


def _flags() -> NDArray[np.uint8]:
    palette = np.zeros((256, 4), np.uint8)
    palette[DIFFERENT] = (*_FLAG, 255)
    return palette


def _shares() -> NDArray[np.uint8]:
    palette = np.zeros((256, 4), np.uint8)
    stops = np.linspace(0, TOP, len(_RAMP))
    for channel, values in enumerate(zip(*_RAMP, strict=True)):
        palette[: TOP + 1, channel] = np.interp(np.arange(TOP + 1), stops, values).round()
    palette[: TOP + 1, 3] = 255
    return palette


_FLAGS, _SHARES = _flags(), _shares()
