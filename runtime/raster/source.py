"""Rasters on disk that are read window by window."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rasterio.windows import Window as RasterioWindow

from ..errors import RasterError
from ..tiling.resampling import Pixels
from ..tiling.sources import HostSource
from ..tiling.windows import Window
from .bands import Bands, choose_bands, refuted
from .files import OpenFile, open_any, reading
from .missing import Missing
from .places import Place

__all__ = ["Georeference", "OpenFile", "PixelFormat", "RasterSource", "open_any", "open_raster", "read_thumbnail"]

_LEAST_CACHE = 64 << 20  # bytes
_RANGES = {
    "uint8": ("Byte", 0, 255),
    "uint16": ("UInt16", 0, 65535),
    "int16": ("Int16", 0, 32767),
    "float32": ("Float32", 0, 1),
}  # what GDAL calls a dtype, and what to spread values over


class PixelFormat(Protocol):
    """The pixels that an image must have."""

    @property
    def bands(self) -> int:
        """Number of bands."""
        ...

    @property
    def dtype(self) -> str:
        """NumPy's name of the dtype."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """Where a raster lies.

    Attributes:
        crs: The coordinate reference system; None where it has none.
        transform: Column and row to coordinates; None where it has none.
        gcps: Ground control points and their coordinate reference system, which may be unknown.
        rpcs: Rational polynomial coefficients, as satellite images have them before they are orthorectified; or None.
    """

    crs: CRS | None
    transform: Affine | None
    gcps: tuple[Sequence[GroundControlPoint], CRS | None]
    rpcs: RPC | None = None


class RasterSource(HostSource):
    """An open raster as a source of windows; `open_raster` makes it. Only one thread at a time may use it.

    Args:
        dataset: The open raster.
        path: Its name, for messages.
        bands: The bands in use.

    Raises:
        RasterError: The file is damaged.

    Attributes:
        name: The name of the raster, for messages.
        implausible: Pixels that `valid` took as missing for a value that nobody declared, so far.
    """

    def __init__(self, dataset: DatasetReader, path: Place, bands: Bands) -> None:
        self._dataset, self._path, self._bands = dataset, path, bands
        self.name, self.implausible = str(path), 0
        with reading(path, "it"):
            self._missing = Missing(dataset, bands)

    @property
    def height(self) -> int:
        """Number of rows."""
        return int(self._dataset.height)

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(self._dataset.width)

    @property
    def georeference(self) -> Georeference:
        """Where the raster lies."""
        dataset = self._dataset
        return Georeference(crs=dataset.crs, transform=dataset.transform, gcps=dataset.gcps, rpcs=dataset.rpcs)

    def read(self, window: Window) -> Pixels:
        """Read a window.

        Args:
            window: A window that lies inside the raster.

        Returns:
            Pixels (height, width, bands) in the raster's dtype. Samples without data are 0, each band by itself, also
            where the pixel as a whole has data.

        Raises:
            RasterError: The file is damaged.
        """
        pixels, declared = self._read(window), self._declared(window)
        plausible = self._missing.plausible(pixels)
        for samples in (declared, plausible):
            if samples is not None:
                pixels[~samples] = 0
        return pixels

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
        if not self._missing.floating:
            if declared is None:
                return None
            valid = np.logical_or.reduce(declared, axis=2)
            return valid
        pixels = self._read(window)
        plausible = self._missing.plausible(pixels)
        assert plausible is not None
        odd = ~plausible & np.isfinite(pixels)
        if declared is not None:
            odd &= declared
            plausible &= declared
        self.implausible += int(np.count_nonzero(odd.any(axis=2)))
        valid = np.logical_and.reduce(plausible, axis=2)
        return valid

    def thumbnail(self, height: int, width: int) -> Pixels:
        """Read the whole raster at another size.

        Args:
            height: Height in pixels.
            width: Width in pixels.

        Returns:
            Pixels (height, width, bands), averaged.

        Raises:
            RasterError: The file is damaged.
        """
        with reading(self._path, "it"):
            shape = (len(self._bands.used), height, width)
            pixels: Pixels = self._dataset.read(self._bands.used, out_shape=shape, resampling=Resampling.average)
        pixels = pixels.transpose(1, 2, 0)
        plausible = self._missing.plausible(pixels)
        if plausible is not None:
            pixels[~plausible] = 0
        return pixels

    def _read(self, window: Window) -> Pixels:
        """The samples of a window (height, width, bands) as they are in the file."""
        with reading(self._path, f"rows {window.y} to {window.bottom}"):
            pixels: Pixels = self._dataset.read(self._bands.used, window=_window(window)).transpose(1, 2, 0)
        return pixels

    def _declared(self, window: Window) -> NDArray[np.bool_] | None:
        with reading(self._path, f"rows {window.y} to {window.bottom}"):
            return self._missing.declared(_window(window))


@contextlib.contextmanager
def open_raster(
    path: Place, pixels: PixelFormat, bands: Sequence[int] | None, cached_rows: int
) -> Iterator[RasterSource]:
    """Open a raster whose pixels fit.

    Args:
        path: The file, or the name of a part of a container.
        pixels: The pixels that are wanted, such as a bundle's input.
        bands: Numbers of the bands to use, from 1, in the order that is wanted. None takes all but alpha, of which
            there must be as many as are wanted.
        cached_rows: Rows that the caller goes back to, which are held decoded.

    Yields:
        The open raster.

    Raises:
        RasterError: The file is missing, no image, or does not fit.
    """
    with contextlib.ExitStack() as stack:
        dataset = stack.enter_context(open_any(path))
        cache = 1.5 * cached_rows * dataset.width * dataset.count * np.dtype(pixels.dtype).itemsize
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=max(_LEAST_CACHE, int(cache))))
        with reading(path, "it"):
            chosen = choose_bands(dataset, path, pixels.bands, bands)
        dtypes = {dataset.dtypes[band - 1] for band in chosen.used}
        if dtypes != {pixels.dtype}:
            raise RasterError(
                subject=path,
                expected=f"{pixels.dtype} pixels",
                found=" and ".join(sorted(dtypes)),
                remedy=_conversion(pixels.dtype, dtypes),
            )
        yield RasterSource(dataset, path, chosen)


def read_thumbnail(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """Read band 1 of a raster of class ids (uint8) at another size.

    Args:
        path: The file.
        height: Height in pixels.
        width: Width in pixels.

    Returns:
        Class ids (height, width), each that of the nearest pixel.

    Raises:
        RasterError: The file is missing, or no image.
    """
    with open_any(path) as dataset:
        ids: NDArray[np.uint8] = dataset.read(1, out_shape=(height, width), resampling=Resampling.nearest)
    return ids


def _conversion(wanted: str, found: set[str]) -> str:
    """What to do about another dtype. Each image must be rescaled alike, so the bounds are never its own."""
    gdal, low, high = _RANGES[wanted]
    if wanted == "float32" and found == {"float64"}:
        return "convert it with gdal_translate -ot Float32"
    return (
        "rescale it with the same bounds as the training images, "
        f"for example gdal_translate -ot {gdal} -scale MIN MAX {low} {high}"
    )


def _window(window: Window) -> RasterioWindow:
    """A window in rasterio's terms."""
    return RasterioWindow(window.x, window.y, window.width, window.height)
