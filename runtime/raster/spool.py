"""A copy of an awkwardly blocked raster, decoded once into a temporary file of small tiles."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetWriter

from ..errors import OutputError, RasterError
from ..stopwatch import timed
from ..tiling.resampling import Pixels
from ..tiling.sources import HostSource
from ..tiling.windows import Window
from .access import Access
from .blocks import rasterio_window
from .cache import decoded_cache
from .files import OpenFile, open_any, place_in, reading
from .georeference import Georeference
from .silence import ignored
from .source import RasterSource

_SIDE = 256  # of a tile of the copy, in pixels
_WORKING = 64 << 20  # bytes of pixels that are in work while the copy is made
_UNLIMITED = Access(max_pixels=sys.maxsize, max_bands=sys.maxsize, max_block=sys.maxsize)  # the copy is ours


class Blocked(Protocol):
    """A raster that is decoded in blocks."""

    @property
    def height(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Number of columns."""
        ...

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of a block."""
        ...

    @property
    def block_bytes(self) -> int:
        """Decoded bytes of one block of every band."""
        ...


class SpooledSource(HostSource):
    """A raster that reads from its copy and gives the same bytes; `spooled` makes it. One thread at a time may use it.

    Args:
        source: The raster itself, whose part was read.
        pixels: The open copy of the pixels.
        missing: The open copy of where pixels have no data (1); None where all have.
        part: What was copied. All else is read from the raster.

    Attributes:
        name: The name of the raster, for messages.
        implausible: Pixels that were taken as missing for a value that nobody declared; each is counted once.
        stopwatch: What takes the time of reading, the raster's own.
    """

    def __init__(self, source: RasterSource, pixels: OpenFile, missing: OpenFile | None, part: Window) -> None:
        self._source, self._pixels, self._missing, self._part = source, pixels, missing, part
        self.name, self.implausible, self.stopwatch = source.name, source.implausible, source.stopwatch

    @property
    def height(self) -> int:
        """Number of rows."""
        return self._source.height

    @property
    def width(self) -> int:
        """Number of columns."""
        return self._source.width

    @property
    def bands(self) -> int:
        """Number of bands in use."""
        return self._source.bands

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of the bands in use."""
        return self._source.dtype

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of a tile of the copy."""
        return _SIDE, _SIDE

    @property
    def block_bytes(self) -> int:
        """Bytes of one tile of the copy, all bands."""
        return _SIDE * _SIDE * _pixel_bytes(self._source)

    @property
    def bad_blocks(self) -> tuple[Window, ...]:
        """The blocks of the raster that could not be read, from the top."""
        return self._source.bad_blocks

    @property
    def georeference(self) -> Georeference:
        """Where the raster lies."""
        return self._source.georeference

    def check_unchanged(self) -> None:
        """See that the image's files are those that were opened, see `RasterSource.check_unchanged`."""
        self._source.check_unchanged()

    @timed("read")
    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands) of a window inside the raster, see `RasterSource.read`."""
        if window.shared(self._part) != window:
            return self._source.read(window)
        with reading(self._pixels.name, place_in(window)):
            pixels: Pixels = self._pixels.read(window=rasterio_window(self._there(window)))
        return pixels.transpose(1, 2, 0)

    @timed("read")
    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where a window has data, (height, width); None where the whole raster has, see `RasterSource.valid`."""
        if window.shared(self._part) != window:
            return self._source.valid(window)
        if self._missing is None:
            return None
        with reading(self._missing.name, place_in(window)):
            found: NDArray[np.bool_] = self._missing.read(1, window=rasterio_window(self._there(window))) == 0
        return found

    def _there(self, window: Window) -> Window:
        """Where a window of the raster lies in the copy."""
        return window.moved(-self._part.y, -self._part.x)

    def thumbnail(self, height: int, width: int) -> Pixels:
        """The whole raster at another size, see `RasterSource.thumbnail`; the raster itself is decoded again for it."""
        return self._source.thumbnail(height, width)


def needs_spooling(
    source: Blocked, panel_width: int, rows_in_work: int, budget: int, part: Window | None = None
) -> bool:
    """Whether a raster that is read panel by panel, each from top to bottom, should be copied first.

    It should where a block would be decoded more than twice: it reaches into more than two panels, or the blocks that
    a panel's rows in work touch do not fit the cache, so that they are decoded again for the next rows.

    Args:
        source: The raster.
        panel_width: Columns of a panel in pixels, margins included.
        rows_in_work: Rows of a panel that are read between the first and the last time that one of them is.
        budget: Bytes of decoded blocks that GDAL may hold.
        part: What is read of the raster; None for all of it.

    Returns:
        Whether `spooled` is worth its disk space.
    """
    rows, columns = source.block_shape
    panels = -(-(part.width if part else source.width) // panel_width)
    decoded = min(panels, -(-columns // panel_width) + 1) if columns > panel_width else min(panels, 2)
    down = min((-(-rows_in_work // rows) + 1) * rows, -(-source.height // rows) * rows)
    across = min((-(-panel_width // columns) + 1) * columns, -(-source.width // columns) * columns)
    return decoded > 2 or down * across // (rows * columns) * source.block_bytes > budget


def spooled_bytes(source: RasterSource, part: Window | None = None) -> int:
    """Bytes of disk space that the copy of a raster, or of a part of it, takes at most."""
    return _copied_pixels(part or _whole(source)) * (_pixel_bytes(source) + 1)


def spool_memory(source: RasterSource, working: int = _WORKING) -> int:
    """Bytes of memory that a raster's copy takes at most while it is made: blocks, the copy's tiles and arrays."""
    return int(1.1 * source.block_memory) + _tile_rows(source) + 4 * working


@contextlib.contextmanager
def spooled(
    source: RasterSource, folder: Path, working: int = _WORKING, part: Window | None = None
) -> Iterator[SpooledSource]:
    """Decode a raster once, from top to bottom, into uncompressed GeoTIFFs of small tiles, and read from these.

    Args:
        source: The raster.
        folder: Where the copy is made. The caller removes the folder once the copy is closed.
        working: Bytes of pixels that are in work at a time; masks come on top.
        part: What is copied; None for all of the raster.

    Yields:
        The raster, read from its copy.

    Raises:
        RasterError: The raster cannot be read.
        OutputError: The copy cannot be written.
    """
    paths, part = (folder / "pixels.tif", folder / "missing.tif"), part or _whole(source)
    try:
        with contextlib.ExitStack() as stack:
            if source.block_bytes > working:  # it is read in parts, between which GDAL must not drop it
                stack.enter_context(decoded_cache(int(1.1 * source.block_cache) + _tile_rows(source)))
            pixels = stack.enter_context(_created(paths[0], part, source.bands, source.dtype))
            missing: DatasetWriter | None = None
            for window in spool_windows(source, working, part):
                samples, valid = source.read(window), source.valid(window)
                there = rasterio_window(window.moved(-part.y, -part.x))
                pixels.write(samples.transpose(2, 0, 1), window=there)
                if valid is not None:
                    if missing is None:  # what was not written is 0, not missing
                        missing = stack.enter_context(_created(paths[1], part, 1, np.dtype(np.uint8)))
                    missing.write((~valid).astype(np.uint8)[None], window=there)
        count = _copied_pixels(part)
        sizes = (count * _pixel_bytes(source), count)[: 1 if missing is None else 2]
        if any(path.stat().st_size < size for path, size in zip(paths, sizes, strict=False)):
            raise OSError("it is incomplete")  # closing a file does not tell that the disk was full
    except RasterError:  # of the raster, not of the copy
        raise
    except (RasterioError, OSError) as error:
        raise OutputError(
            f"the temporary copy of {source.name} cannot be written ({error})", subject=folder,
            remedy=f"make room for {spooled_bytes(source, part)} bytes, or choose another folder",
        ) from error  # fmt: skip
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_any(path, _UNLIMITED)) for path in paths[: len(sizes)]]
        yield SpooledSource(source, opened[0], opened[1] if len(opened) > 1 else None, part)


def spool_windows(source: RasterSource, working: int, part: Window | None = None) -> Iterator[Window]:
    """Windows that cover a raster, or a part of it, and touch each of its blocks in one go.

    Args:
        source: The raster.
        working: Most bytes of pixels in a window, unless one row of a block has more.
        part: What is covered; None for all of the raster.

    Yields:
        Windows from top to bottom: some rows of blocks, or some blocks of a row, or parts of one large block.
    """
    rows, columns = source.block_shape
    part, size = part or _whole(source), _pixel_bytes(source)
    down = max(1, working // (size * source.width * rows)) * rows
    down = down // _SIDE * _SIDE if down > _SIDE and _SIDE % rows == 0 else down  # whole tiles of the copy
    across = max(1, working // (size * rows * columns)) * columns
    if size * source.width * rows <= working:
        across = source.width
    inner = max(1, working // (size * min(across, source.width)))  # rows that fit
    for y in range(part.y // down * down, part.bottom, down):
        bottom = min(y + down, part.bottom)
        for x in range(part.x // across * across, part.right, across):
            width = min(across, part.right - x)
            for top in range(y, bottom, inner):
                wanted = Window(top, x, min(inner, bottom - top), width).shared(part)
                if wanted:
                    yield wanted


def _whole(source: RasterSource) -> Window:
    return Window(0, 0, source.height, source.width)


def _copied_pixels(part: Window) -> int:
    """Pixels of the tiles of a copy."""
    return -(-part.height // _SIDE) * -(-part.width // _SIDE) * _SIDE * _SIDE


@contextlib.contextmanager
def _created(path: Path, part: Window, bands: int, dtype: np.dtype[np.generic]) -> Iterator[DatasetWriter]:
    """A new GeoTIFF of the size of a window, tiled and not compressed."""
    with ignored(NotGeoreferencedWarning):
        dataset = rasterio.open(
            path, "w", driver="GTiff", height=part.height, width=part.width, count=bands, dtype=dtype.name,
            tiled=True, blockxsize=_SIDE, blockysize=_SIDE, interleave="pixel", bigtiff="yes", photometric="minisblack",
        )  # fmt: skip
    with dataset:
        yield dataset


def _tile_rows(source: RasterSource) -> int:
    """Bytes of two rows of the copy's tiles below a block."""
    return 2 * _SIDE * min(source.block_shape[1], source.width) * _pixel_bytes(source)


def _pixel_bytes(source: RasterSource) -> int:
    return source.bands * source.dtype.itemsize
