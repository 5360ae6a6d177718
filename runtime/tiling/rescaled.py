"""A source in which a network works at another size than its raster has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .resampling import Pixels
from .rescale import HANDED_OUT, Axis, Rescale, resampled
from .sources import HostSource, Source
from .windows import Window

SIDE = 256
"""Side of a tile that is resampled at once, in working pixels."""

_PIXELS = 1 << 19  # of the raster that are in work at a time


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """Working pixels (height, width, bands), and where they have data; None for everywhere."""

    window: Window
    pixels: Pixels
    valid: NDArray[np.bool_] | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.pixels.nbytes + (0 if self.valid is None else self.valid.nbytes)


def resampling_memory(rescale: Rescale, bands: int, classes: int) -> int:
    """Bytes of memory that a rescaled source takes beside the working pixels that it holds.

    Args:
        rescale: The grid of the raster, and the working grid.
        bands: How many bands are read.
        classes: How many probabilities a pixel of the outputs has; 0 where none are wanted.

    Returns:
        Bytes, of what is resampled at once and of the finished pixels that are made of working ones.
    """
    pixels = max(_PIXELS, rescale.down(1) * rescale.across(min(SIDE, rescale.columns)))  # a row of a tile at least
    return pixels * (24 * bands + 8) + HANDED_OUT * (4 + 8 * classes)


class RescaledSource(HostSource):
    """A raster in the pixels of a working grid, made of the raster's own as windows are asked for.

    Tiles of a fixed grid are resampled one by one and held for a while, so that the bytes do not depend on the windows.

    Args:
        raster: The raster.
        rescale: Its grid, and the working grid.
        held: Bytes of working pixels to hold.
        wanted: The raster without data where nothing is wanted; working pixels are made of all of it. None for the
            raster itself.

    Attributes:
        raster: The raster, without data where nothing is wanted.
        rescale: Its grid, and the working grid.
        name: What messages call the raster.
        implausible: None are counted; the raster counts its own pixels.
    """

    def __init__(self, raster: Source, rescale: Rescale, held: int, *, wanted: Source | None = None) -> None:
        self.raster, self.rescale, self.name = wanted or raster, rescale, raster.name
        self._whole = raster
        self._tiles, self._held, self._size = dict[tuple[int, int], _Tile](), held, 0

    @property
    def height(self) -> int:
        """Number of rows of the working grid."""
        return self.rescale.rows

    @property
    def width(self) -> int:
        """Number of columns of the working grid."""
        return self.rescale.columns

    def read(self, window: Window) -> Pixels:
        """Working pixels (height, width, bands) of a window inside the working grid; 0 where there is no data."""
        return self._joined(window, lambda tile: tile.pixels)

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window of the working grid has data, (height, width); None where all of it has.

        Nothing has where no pixel of the raster is wanted.
        """
        if not self._is_wanted(window):
            return np.zeros((window.height, window.width), np.bool_)
        if all(tile.valid is None for tile in self._touched(window)):
            return None
        valid: NDArray[np.bool_] = self._joined(window, lambda tile: _everywhere(tile.pixels, tile.valid)) != 0
        return valid

    def _is_wanted(self, window: Window) -> bool:
        """Whether any pixel of the raster is wanted, where only a part of it may be."""
        if self.raster is self._whole:
            return True
        part = self.rescale.raster_window(window)
        valid = self.raster.valid(part) if part else None
        return part is not None and (valid is None or bool(valid.any()))

    def _joined(self, window: Window, layer: Callable[[_Tile], Pixels]) -> NDArray[np.generic]:
        """A layer of all tiles that a window touches, cut to the window."""
        found: NDArray[np.generic] | None = None
        for tile in self._touched(window):
            part = layer(tile)
            if found is None:
                found = np.zeros((window.height, window.width, *part.shape[2:]), part.dtype)
            common = tile.window.shared(window)
            assert common is not None, "these tiles touch the window"
            found[common.inside(window)] = part[common.inside(tile.window)]
        assert found is not None, "a window has pixels"
        return found

    def _touched(self, window: Window) -> Iterator[_Tile]:
        for row in range(window.y // SIDE, -(-window.bottom // SIDE)):
            for column in range(window.x // SIDE, -(-window.right // SIDE)):
                yield self._tile(row, column)

    def _tile(self, row: int, column: int) -> _Tile:
        """A tile by its row and column; what was not asked for longest makes room for it."""
        tile = self._tiles.pop((row, column), None)
        if tile is None:
            y, x = row * SIDE, column * SIDE
            tile = self._resampled(Window(y, x, min(SIDE, self.height - y), min(SIDE, self.width - x)))
            self._size += tile.size
            while self._tiles and self._size > self._held:
                self._size -= self._tiles.pop(next(iter(self._tiles))).size
        self._tiles[row, column] = tile
        return tile

    def _resampled(self, window: Window) -> _Tile:
        """Resample a tile, some rows at a time for the sake of memory."""
        columns = Axis(window.x, window.width, self.rescale.width, self.rescale.columns)
        step = max(1, _PIXELS // (columns.needed * self.rescale.down(1)))
        parts = []
        for y in range(window.y, window.bottom, step):
            rows = Axis(y, min(step, window.bottom - y), self.rescale.height, self.rescale.rows)
            needed = Window(rows.first, columns.first, rows.needed, columns.needed)
            pixels = self._whole.read(needed)  # before `valid`, which tells of blocks that could not be read
            parts.append(resampled(pixels, self._whole.valid(needed), rows, columns))
        all_valid = all(valid is None for _, valid in parts)
        return _Tile(
            window=window,
            pixels=np.concatenate([pixels for pixels, _ in parts]),
            valid=None if all_valid else np.concatenate([_everywhere(*part) for part in parts]),
        )


def _everywhere(pixels: Pixels, valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Where pixels have data, as an array in any case."""
    return np.ones(pixels.shape[:2], np.bool_) if valid is None else valid
