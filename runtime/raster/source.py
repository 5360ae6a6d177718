"""Rasters on disk that are read window by window."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from ..errors import InputError, RasterError
from ..stopwatch import STOPPED, Stopwatch, timed
from ..tiling.plausible import Plausible
from ..tiling.resampling import Pixels
from ..tiling.sources import HostSource
from ..tiling.windows import Window
from .access import Access, block_bytes, block_shape, least_cache
from .bands import Bands, choose_bands, refuted
from .blocks import Blocks, OnBadBlock, rasterio_window
from .cache import decoded_cache
from .declared import warn_of_nodata
from .files import OpenFile, open_any, place_in, reading
from .fingerprint import Watch
from .formats import PixelFormat, check_dtype, check_real
from .georeference import Georeference, georeference_of
from .missing import Missing
from .places import Place, Scene
from .scaling import ScaleRange, Scaling, scaling_of
from .scene import open_scene
from .thumbnails import means, read_thumbnail

__all__ = [
    "Access", "Georeference", "Measured", "OnBadBlock", "OpenFile", "PixelFormat", "RasterSource", "open_any",
    "open_raster", "read_thumbnail",
]  # fmt: skip

_LEAST_CACHE = 64 << 20  # bytes
_DEFAULT = Access()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What is measured over all of a raster before anything is read of it.

    Attributes:
        scaling: What turns its samples into those that are wanted; None where they are those.
        plausible: Which floats can be measurements; None in a raster of integers.
    """

    scaling: Scaling | None
    plausible: Plausible | None


class RasterSource(HostSource):
    """An open raster as a source of windows; `open_raster` makes it. Only one thread at a time may use it.

    Args:
        blocks: The open raster.
        path: Its name, for messages.
        bands: The bands in use.
        scaling: What turns its samples into those that are wanted; None where they are those.
        stopwatch: What takes the time of reading.
        plausible: Which floats can be measurements, where that was found out before.

    Raises:
        RasterError: The file is damaged.

    Attributes:
        name: The name of the raster, for messages.
        scaling: What turns its samples into those that are wanted, or None.
        implausible: Pixels that `valid` took as missing for a value that nobody declared, so far.
        stopwatch: What takes the time of reading.
    """

    def __init__(
        self,
        blocks: Blocks,
        path: Place,
        bands: Bands,
        scaling: Scaling | None = None,
        stopwatch: Stopwatch = STOPPED,
        plausible: Plausible | None = None,
    ) -> None:
        self._blocks, self._dataset, self._path, self._bands = blocks, blocks.dataset, path, bands
        self.name, self.implausible, self.scaling, self.stopwatch = str(path), 0, scaling, stopwatch
        self._converted = scaling or bands.palette
        self._watch = Watch(path)
        with reading(path, "it"):
            self._missing = Missing(blocks, bands, plausible)

    @property
    def measured(self) -> Measured:
        """What was measured over all of the raster, for whoever opens it again."""
        return Measured(scaling=self.scaling, plausible=self._missing.range)

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self._dataset.height)

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self._dataset.width)

    @property
    def bands(self) -> int:
        """Number of bands in use."""
        return len(self._bands.used)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The dtype of what is read."""
        dtype: np.dtype[np.generic] = np.dtype(self._dataset.dtypes[self._bands.used[0] - 1])
        return self._converted.dtype if self._converted else dtype

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample in the file or as it is read, whichever are more."""
        return int(max(np.dtype(self._dataset.dtypes[self._bands.used[0] - 1]).itemsize, self.dtype.itemsize))

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of a block, the unit in which the file is decoded."""
        return block_shape(self._dataset)

    @property
    def block_bytes(self) -> int:
        """Decoded bytes of one block of every band that is decoded: all bands where they are interleaved by pixel."""
        return block_bytes(self._dataset, self._bands.distinct)

    @property
    def block_cache(self) -> int:
        """Bytes of cache without which a block is decoded again for each part of it that is read."""
        return least_cache(self._dataset, self._bands.distinct)

    @property
    def block_memory(self) -> int:
        """Bytes that GDAL holds at least while it reads from one block, its cache among them."""
        apart = self.block_cache >= self.block_bytes  # else the decoded block lies beside the cache, which holds a band
        return self.block_cache if apart else self.block_bytes + self.block_bytes // int(self._dataset.count)

    @property
    def bad_blocks(self) -> tuple[Window, ...]:
        """The blocks that could not be read so far, from the top; none unless they are taken as missing."""
        return self._blocks.bad

    def check_unchanged(self) -> None:
        """See that the image's files are those that were opened. Nothing is read, so this may be asked often.

        Raises:
            RasterError: A file was changed, removed or replaced.
        """
        self._watch.check()

    @property
    def georeference(self) -> Georeference:
        """Where the raster lies."""
        return georeference_of(self._dataset)

    @timed("read")
    def read(self, window: Window) -> Pixels:
        """Read a window.

        Args:
            window: A window that lies inside the raster.

        Returns:
            Pixels (height, width, bands). Samples without data are 0, each band by itself, also where the pixel as a
            whole has data.

        Raises:
            RasterError: The file is damaged.
        """
        pixels, declared = self._read(window), self._declared(window)
        plausible = self._missing.plausible(pixels)
        readable = self._blocks.readable(rasterio_window(window))  # a mask may have shown that a block is bad
        lacking = [~samples for samples in (declared, plausible, readable) if samples is not None]
        for samples in lacking:
            pixels[samples] = 0
        if self._converted:
            pixels = self._converted(pixels)
            for samples in lacking:
                pixels[samples] = 0
        return pixels

    @timed("read")
    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where the raster has data.

        A sample, which is one band at one pixel, has data unless it is the band's declared nodata value, a mask or a
        transparent alpha covers it, or it is not finite or implausible (floats). A pixel of a raster of integers has
        data if any band in use has, since a nodata value such as 0 or 255 is also a measurement where the other bands
        hold data. A pixel of a raster of floats has data if all bands in use have, since there is no such doubt about
        NaN or -9999. Value, mask, alpha and NaN follow the same rule.

        Args:
            window: A window that lies inside the raster.

        Returns:
            An array (height, width); None where the whole raster has data.

        Raises:
            RasterError: The file is damaged, or a band that seemed to be opacity is data.
        """
        declared = self._declared(window)
        alpha = self._bands.alpha
        if alpha and self._missing.opacity.is_refuted:
            raise refuted(self._path, alpha)
        valid: NDArray[np.bool_]
        pixels = self._read(window) if self._missing.floating or self._blocks.tolerant else None
        readable = self._blocks.readable(rasterio_window(window))
        if not self._missing.floating or pixels is None:
            if declared is None:
                return readable
            valid = np.logical_or.reduce(declared, axis=2)
            return valid if readable is None else valid & readable
        plausible = self._missing.plausible(pixels)
        assert plausible is not None
        odd = ~plausible & np.isfinite(pixels)
        if declared is not None:
            odd &= declared
            plausible &= declared
        if readable is not None:
            odd[~readable] = plausible[~readable] = False
        self.implausible += int(np.count_nonzero(odd.any(axis=2)))
        valid = np.logical_and.reduce(plausible, axis=2)
        return valid

    @timed("read")
    def thumbnail(self, height: int, width: int) -> Pixels:
        """Read the whole raster at another size.

        Args:
            height: Height in pixels.
            width: Width in pixels.

        Returns:
            Pixels (height, width, bands), averaged; those of a palette are the nearest.

        Raises:
            RasterError: The file is damaged.
        """
        try:
            if self.bad_blocks:
                return means(self.read, (self.height, self.width), height, width)
            with reading(self._path, "it"):
                shape = (len(self._bands.used), height, width)
                filtering = Resampling.nearest if self._bands.palette else Resampling.average
                pixels: Pixels = self._dataset.read(self._bands.used, out_shape=shape, resampling=filtering)
        except RasterError:
            if not self._blocks.tolerant:
                raise
            return means(self.read, (self.height, self.width), height, width)
        pixels = pixels.transpose(1, 2, 0)
        plausible = self._missing.plausible(pixels)
        if plausible is not None:
            pixels[~plausible] = 0
        return self._converted(pixels) if self._converted else pixels

    def _read(self, window: Window) -> Pixels:
        """The samples of a window (height, width, bands) as they are in the file."""
        with reading(self._path, place_in(window)):
            return self._blocks.read(self._bands.used, rasterio_window(window)).transpose(1, 2, 0)

    def _declared(self, window: Window) -> NDArray[np.bool_] | None:
        if not self._missing.declares:
            return None
        with reading(self._path, place_in(window)):
            return self._missing.declared(rasterio_window(window))


@contextlib.contextmanager
def open_raster(
    path: Place,
    pixels: PixelFormat,
    bands: Sequence[int] | None,
    cached_rows: int = 0,
    *,
    access: Access = _DEFAULT,
    cache: int | None = None,
    on_bad_block: OnBadBlock = "fail",
    scale_range: str | None = None,
    stopwatch: Stopwatch = STOPPED,
    measured: Measured | None = None,
) -> Iterator[RasterSource]:
    """Open a raster whose pixels fit.

    Args:
        path: The file, the name of a part of a container, or several of these as one.
        pixels: The pixels that are wanted, such as a bundle's input.
        bands: Numbers of the bands to use, from 1, in the order that is wanted. None chooses them by their colours, see
            docs/rasters.md.
        cached_rows: Rows that the caller goes back to, which are held decoded. Not used where `cache` is given.
        access: Which files may be opened, and how large they may be.
        cache: Bytes of decoded blocks that GDAL holds. One block of every band is held in any case, since the block
            would be decoded again and again otherwise.
        on_bad_block: "fail" raises RasterError at a block that cannot be read. "nodata" takes such a block as missing,
            in all bands and everywhere it is asked for, and lists it in `RasterSource.bad_blocks`.
        scale_range: Which values become the lowest and the highest of the pixels that are wanted: "MIN,MAX",
            "percentile:2,98" of each band, measured once over the whole raster, or "metadata" (docs/rasters.md). None
            takes samples as they are, whose dtype must fit.
        stopwatch: What takes the time of reading.
        measured: What was measured when the same raster was opened in the same way before; None measures it.

    Yields:
        The open raster.

    Raises:
        RasterError: The file is missing, no image, not allowed, or does not fit.
        InputError: `on_bad_block` is neither, or there is no such `scale_range`.
    """
    wanted_range = None if scale_range is None else ScaleRange.parsed(scale_range)
    if on_bad_block not in get_args(OnBadBlock):
        raise InputError(subject="`on_bad_block`", expected='"fail" or "nodata"', found=repr(on_bad_block))
    with contextlib.ExitStack() as stack:
        opening = open_scene(path, access) if isinstance(path, Scene) else open_any(path, access)
        dataset = stack.enter_context(opening)
        held = cached_rows * dataset.width * dataset.count * np.dtype(pixels.dtype).itemsize
        wanted = max(_LEAST_CACHE, int(1.5 * held)) if cache is None else cache
        stack.enter_context(decoded_cache(max(wanted, least_cache(dataset, len(bands or dataset.indexes)))))
        blocks = Blocks(dataset, on_bad_block)
        with reading(path, "it"):
            check_real(path, dataset.dtypes)
            chosen = choose_bands(blocks, path, pixels.bands, bands)
            warn_of_nodata(dataset, path, chosen)
            scaling = measured.scaling if measured else None
            if not measured and wanted_range and not chosen.palette:
                scaling = scaling_of(dataset, path, chosen, wanted_range, pixels.dtype)
        if not scaling:
            check_dtype(path, pixels.dtype, chosen.dtypes(dataset))
        yield RasterSource(blocks, path, chosen, scaling, stopwatch, measured.plausible if measured else None)
