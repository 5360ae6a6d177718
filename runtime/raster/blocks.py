"""Reading an open raster block by block where a window fails, so that one damaged block costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NodataShadowWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from .. import choices
from ..tiling.windows import Window
from .access import block_shape
from .silence import ignored

OnBadBlock = choices.OnBadBlock
"""What to do about a block that cannot be read: raise, or take all of it as missing."""

_SEQUENTIAL = ("PNG", "JPEG", "WEBP")  # drivers that decode from the top: nothing below a damage can be read
_Read = Callable[[RasterioWindow], NDArray[np.generic]]


class Blocks:
    """Reads the samples of an open raster.

    Args:
        dataset: The open raster.
        on_bad_block: What to do about a block that cannot be read.

    Attributes:
        dataset: The open raster.
        tolerant: Whether a block that cannot be read is taken as missing.
    """

    def __init__(self, dataset: DatasetReader, on_bad_block: OnBadBlock) -> None:
        self.dataset, self.tolerant = dataset, on_bad_block == "nodata"
        self._bad: set[tuple[int, int]] = set()

    @property
    def bad(self) -> tuple[Window, ...]:
        """The blocks that could not be read so far, from the top and then from the left."""
        return tuple(self._window(*block) for block in sorted(self._bad))

    def read(self, bands: Sequence[int], window: RasterioWindow) -> NDArray[np.generic]:
        """Samples (bands, height, width) of a window inside the raster; 0 in blocks that cannot be read.

        Raises:
            RasterioError: A block cannot be read, and is not to be taken as missing.
        """
        like = np.zeros((len(bands), 0, 0), self.dataset.dtypes[bands[0] - 1])
        return self._tolerantly(window, like, lambda part: self.dataset.read(list(bands), window=part))

    def read_masks(self, bands: Sequence[int], window: RasterioWindow) -> NDArray[np.generic]:
        """Masks (bands, height, width) of a window, 0 where nothing is valid or a block cannot be read; as `read`."""

        def read(part: RasterioWindow) -> NDArray[np.generic]:
            with ignored(NodataShadowWarning):  # it warns that alpha is not heeded, which `Missing` heeds
                masks: NDArray[np.generic] = self.dataset.read_masks(list(bands), window=part)
            return masks

        return self._tolerantly(window, np.zeros((len(bands), 0, 0), np.uint8), read)

    def readable(self, window: RasterioWindow) -> NDArray[np.bool_] | None:
        """Where no block of a window was found to be bad, (height, width); None where none was."""
        parts = [part for block, part in self._parts(window) if block in self._bad] if self._bad else []
        if not parts:
            return None
        found = np.ones((window.height, window.width), np.bool_)
        for part in parts:
            found[_inside(part, window)] = False
        return found

    def _tolerantly(self, window: RasterioWindow, like: NDArray[np.generic], read: _Read) -> NDArray[np.generic]:
        """Read a window, and once that fails, block by block; the array has the bands and the dtype of another."""
        if not self.tolerant:
            return read(window)
        if not any(block in self._bad for block, _ in self._parts(window)):
            try:
                return read(window)
            except RasterioError:
                pass
        found = np.zeros((like.shape[0], int(window.height), int(window.width)), like.dtype)
        for block, part in self._parts(window):
            if block in self._bad:
                continue
            try:
                found[(slice(None), *_inside(part, window))] = read(part)
            except RasterioError:
                self._remember(block)
        return found

    def _remember(self, block: tuple[int, int]) -> None:
        self._bad.add(block)
        if self.dataset.driver in _SEQUENTIAL:
            height, width = block_shape(self.dataset)
            rows, columns = -(-self.dataset.height // height), -(-self.dataset.width // width)
            self._bad.update((row, column) for row in range(block[0] + 1, rows) for column in range(columns))

    def _parts(self, window: RasterioWindow) -> Iterator[tuple[tuple[int, int], RasterioWindow]]:
        """The blocks that a window touches, by row and column, and the part of the window that lies in each."""
        height, width = block_shape(self.dataset)
        top, left = int(window.row_off), int(window.col_off)
        bottom, right = top + int(window.height), left + int(window.width)
        for row in range(top // height, -(-bottom // height)):
            for column in range(left // width, -(-right // width)):
                y, x = max(top, row * height), max(left, column * width)
                stop = min(bottom, (row + 1) * height), min(right, (column + 1) * width)
                yield (row, column), RasterioWindow(x, y, stop[1] - x, stop[0] - y)

    def _window(self, row: int, column: int) -> Window:
        height, width = block_shape(self.dataset)
        y, x = row * height, column * width
        return Window(y, x, min(height, self.dataset.height - y), min(width, self.dataset.width - x))


def _inside(part: RasterioWindow, window: RasterioWindow) -> tuple[slice, slice]:
    """Where a part of a window lies in an array of the window."""
    y, x = int(part.row_off - window.row_off), int(part.col_off - window.col_off)
    return slice(y, y + int(part.height)), slice(x, x + int(part.width))


def rasterio_window(window: Window) -> RasterioWindow:
    """A window in rasterio's terms."""
    return RasterioWindow(window.x, window.y, window.width, window.height)
