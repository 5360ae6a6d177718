"""Patches and their context windows, cut from a raster: the one implementation (§3.2, §4.2, Table 5).

Serving, training and the parity gate all cut here. Arrays are (height, width, bands) in the raster's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .errors import InputError
from .windows import Plan, Window

Pixels = NDArray[Any]
Stack = Any  # windows (N, bands, side, side): an array, or on a GPU `cuda.windows.DeviceStack`, cut when it is needed
Resampling = Literal["pillow-bilinear", "box"]

_FILTERS = {"pillow-bilinear": Image.Resampling.BILINEAR, "box": Image.Resampling.BOX}


class Source(Protocol):
    """Something to cut windows from."""

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Columns."""
        ...

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window that lies inside."""
        ...

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where it has data (height, width); None: everywhere."""
        ...

    def stack(self, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> Stack:
        """Windows, black beyond the raster, resampled: (count, bands, side, side), black where there are fewer."""
        ...


class HostSource:
    """What sources on the host share."""

    def stack(self: Source, windows: Sequence[Window], side: int, resampling: Resampling, count: int) -> NDArray[Any]:
        """Windows, black beyond the raster, resampled: (count, bands, side, side), black where there are fewer."""
        images = [resample(read_padded(self, window), side, resampling) for window in windows]
        stacked = np.zeros((count, images[0].shape[2], side, side), images[0].dtype)
        for index, image in enumerate(images):
            stacked[index] = image.transpose(2, 0, 1)
        return stacked


@dataclass(frozen=True)
class ArraySource(HostSource):
    """A raster in memory: (height, width, bands)."""

    pixels: Pixels

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands): a view."""
        return self.pixels[window.y : window.bottom, window.x : window.right]

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """An array has data everywhere."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWindow:
    """One context of a patch: factor = side of the window over the side of the patch, or "global" for the whole
    raster, whose aspect ratio is not kept; size = side in pixels after resampling.

    scene: side in pixels of the images whose whole the network was trained with. Along a side of the raster that is
    much longer, a global context is not the whole but the scene block around the patch.
    """

    factor: float | Literal["global"]
    size: int
    resampling: Resampling
    scene: int | None = None

    @property
    def moves(self) -> bool:
        """Whether the patch's place in the window differs from patch to patch."""
        return self.factor == "global"

    def around(self, tile: Window, source: Source) -> Window:
        """The window of this context for one patch."""
        if self.factor == "global":
            y, height = _scene_block(tile.y, tile.height, source.height, self.scene)
            x, width = _scene_block(tile.x, tile.width, source.width, self.scene)
            return Window(y, x, height, width)
        return tile.centred(_same_parity(self.factor, tile.height), _same_parity(self.factor, tile.width))


def scene_starts(tile: int, side: int, scene: int | None) -> tuple[int, ...]:
    """First pixel of every scene block along a side; one block, the whole side, unless that is much longer.

    Blocks overlap by at least a tile, so that every tile lies inside one.
    """
    if scene is None or 2 * side <= 3 * scene:
        return (0,)
    return Plan(kind="even", overlap=tile).starts(side, scene)


def _scene_block(start: int, length: int, side: int, scene: int | None) -> tuple[int, int]:
    """First pixel and length of the block that holds a tile, the most central one where several do."""
    starts = scene_starts(length, side, scene)
    if scene is None or len(starts) == 1:
        return 0, side
    holding = [first for first in starts if first <= start and start + length <= first + scene]
    return min(holding, key=lambda first: abs(2 * first + scene - 2 * start - length)), scene


def _same_parity(factor: float, side: int) -> int:
    """`factor` times `side`, to the nearest side that leaves whole pixels on either side."""
    return side + 2 * round((factor - 1) * side / 2)


def cut_context(source: Source, tile: Window, context: ContextWindow) -> Pixels:
    """The context of one patch, (size, size, bands): black beyond the raster, then resampled."""
    return resample(read_padded(source, context.around(tile, source)), context.size, context.resampling)


def read_padded(source: Source, window: Window) -> Pixels:
    """The pixels of a window, black (0) where it reaches beyond the raster: (height, width, bands)."""
    inside = window.within(source.height, source.width)
    if inside == window:
        return source.read(window)
    if inside is None:
        raise InputError(f"{window} lies outside a raster of {source.height} x {source.width} pixels")
    pixels = source.read(inside)
    canvas = np.zeros((window.height, window.width, pixels.shape[2]), pixels.dtype)
    top, left = inside.y - window.y, inside.x - window.x
    canvas[top : top + inside.height, left : left + inside.width] = pixels
    return canvas


def resample(pixels: Pixels, size: int, resampling: Resampling) -> Pixels:
    """Pixels (height, width, bands) at (size, size, bands), dtype kept; integers are rounded.

    Both filters are Pillow's and low-pass when they shrink: ``box`` takes the mean of the pixels that fall into each
    new one, ``pillow-bilinear`` weighs them by a triangle as wide as the factor, as the public release did. uint8 is
    rounded after each axis.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    shrink = _shrinker(size, resampling)
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return shrink(Image.fromarray(np.ascontiguousarray(pixels)))
    bands = [_resample_band(pixels[:, :, band], shrink) for band in range(pixels.shape[2])]
    return np.stack(bands, axis=2)


def _resample_band(band: Pixels, shrink: Callable[[Image.Image], Pixels]) -> Pixels:
    if band.dtype == np.uint8:
        return shrink(Image.fromarray(np.ascontiguousarray(band)))
    resampled = shrink(Image.fromarray(np.ascontiguousarray(band, dtype=np.float32)))
    return (resampled.round() if band.dtype.kind in "iu" else resampled).astype(band.dtype)


def _shrinker(size: int, resampling: Resampling) -> Callable[[Image.Image], Pixels]:
    def shrink(image: Image.Image) -> Pixels:
        return np.asarray(image.resize((size, size), _FILTERS[resampling]))

    return shrink


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The grid of a network's enhanced stage: cell u is centred at pixel stride * u + offset; count per side."""

    stride: int
    offset: float
    count: int


def cell_positions(
    tile: Window, window: Window, patch_cells: Cells, context_cells: Cells, size: int
) -> NDArray[np.float32]:
    """Where the cells of a patch lie in a context, in cells of the context: (2, count), rows then columns.

    The segmenter graph takes it for contexts that move (the global one), and builds crop matrices and ground
    offsets from it.
    """
    axes = ((tile.y - window.y, window.height), (tile.x - window.x, window.width))
    pixels = patch_cells.stride * np.arange(patch_cells.count) + patch_cells.offset
    positions = [
        ((start + pixels + 0.5) * size / side - 0.5 - context_cells.offset) / context_cells.stride
        for start, side in axes
    ]
    return np.asarray(positions, dtype=np.float32)
