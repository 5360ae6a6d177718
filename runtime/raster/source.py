"""Rasters on disk that are read window by window."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window as RasterioWindow

from ..errors import RasterError
from ..tiling.resampling import Pixels
from ..tiling.sources import HostSource
from ..tiling.windows import Window
from .silence import ignored

OpenFile: TypeAlias = DatasetReader
"""An open raster as rasterio has it, for rooms that do not import rasterio themselves."""

_LEAST_CACHE = 64 << 20  # bytes


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
        gcps: Ground control points and their coordinate reference system.
    """

    crs: CRS | None
    transform: Affine | None
    gcps: tuple[Sequence[GroundControlPoint], CRS | None]


class RasterSource(HostSource):
    """An open raster as a source of windows; `open_raster` makes it. Only one thread at a time may use it.

    Args:
        dataset: The open raster.
        path: Its path, for error messages.
        bands: Numbers of the bands in use, from 1.
    """

    def __init__(self, dataset: DatasetReader, path: Path, bands: tuple[int, ...]) -> None:
        self._dataset, self._path, self._bands = dataset, path, bands
        self._alpha = _alpha_band(dataset)
        self._masked = any(MaskFlags.all_valid not in dataset.mask_flag_enums[band - 1] for band in bands)
        self._floating = np.dtype(dataset.dtypes[bands[0] - 1]).kind == "f"

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
        return Georeference(crs=self._dataset.crs, transform=self._dataset.transform, gcps=self._dataset.gcps)

    def read(self, window: Window) -> Pixels:
        """Read a window.

        Args:
            window: A window that lies inside the raster.

        Returns:
            Pixels (height, width, bands) in the raster's dtype, black (0) where the raster has no data.

        Raises:
            RasterError: The file is damaged.
        """
        with self._reading(window):
            pixels: Pixels = self._dataset.read(self._bands, window=_window(window)).transpose(1, 2, 0)
        valid = self.valid(window)  # NaN must not reach the network either
        if valid is not None:
            pixels[~valid] = 0
        return pixels

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where the raster has data.

        A pixel has data if any of the bands in use has, by nodata value or mask; if it is not transparent; and, in a
        raster of floats, if all bands in use are finite.

        Args:
            window: A window that lies inside the raster.

        Returns:
            An array (height, width); None where the whole raster has data.

        Raises:
            RasterError: The file is damaged.
        """
        if not (self._masked or self._alpha or self._floating):
            return None
        valid = np.ones((window.height, window.width), np.bool_)
        with self._reading(window):
            if self._masked:
                with ignored(NodataShadowWarning):  # it warns that alpha is not heeded, which is heeded below
                    masks = self._dataset.read_masks(self._bands, window=_window(window))
                valid &= masks.any(axis=0)
            if self._alpha:
                valid &= self._dataset.read(self._alpha, window=_window(window)) > 0
            if self._floating:
                valid &= np.isfinite(self._dataset.read(self._bands, window=_window(window))).all(axis=0)
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
        with self._reading(Window(0, 0, self.height, self.width)):
            shape = (len(self._bands), height, width)
            pixels: Pixels = self._dataset.read(self._bands, out_shape=shape, resampling=Resampling.average)
        return pixels.transpose(1, 2, 0)

    @contextlib.contextmanager
    def _reading(self, window: Window) -> Iterator[None]:
        """Turn rasterio's errors into ours."""
        try:
            yield
        except RasterioError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise RasterError(
                f"cannot read rows {window.y} to {window.bottom}: the file is damaged or cut short ({reason})",
                subject=self._path,
                remedy="get it anew",
            ) from error


@contextlib.contextmanager
def open_raster(
    path: Path, pixels: PixelFormat, bands: Sequence[int] | None, cached_rows: int
) -> Iterator[RasterSource]:
    """Open a raster whose pixels fit.

    Args:
        path: The file.
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
        chosen = _choose_bands(dataset, path, pixels.bands, bands)
        dtypes = {dataset.dtypes[band - 1] for band in chosen}
        if dtypes != {pixels.dtype}:
            raise RasterError(
                subject=path,
                expected=f"{pixels.dtype} pixels",
                found=" and ".join(sorted(dtypes)),
                remedy="rescale them as the bundle's training images were, for example with gdal_translate -ot -scale",
            )
        cache = 1.5 * cached_rows * dataset.width * dataset.count * np.dtype(pixels.dtype).itemsize
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=max(_LEAST_CACHE, int(cache))))
        yield RasterSource(dataset, path, chosen)


@contextlib.contextmanager
def open_any(path: Path) -> Iterator[OpenFile]:
    """Open any raster that GDAL reads.

    Args:
        path: The file.

    Yields:
        The open raster.

    Raises:
        RasterError: The file is missing, or no image.
    """
    if not path.exists():
        raise RasterError(subject=path, expected="an image", found="no such file")
    with rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM=False):  # read at once, a PNG that ends early would be no error
        try:
            with ignored(NotGeoreferencedWarning):  # PNG and JPEG have no place
                dataset = rasterio.open(path)
        except (RasterioError, UnicodeError) as error:
            raise RasterError(subject=path, expected="an image that GDAL reads", found=f"none ({error})") from error
        with dataset:
            yield dataset


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


def _choose_bands(dataset: DatasetReader, path: Path, wanted: int, bands: Sequence[int] | None) -> tuple[int, ...]:
    """The numbers of the bands to use, as many as are wanted."""
    chosen = tuple(bands or (index for index in dataset.indexes if index != _alpha_band(dataset)))
    if len(chosen) != wanted:
        remedy = f"name {wanted} with `bands`" if bands or dataset.count > wanted else "use another image"
        if dataset.colorinterp[0] == ColorInterp.palette:
            remedy = "expand its palette with gdal_translate -expand rgb"
        raise RasterError(subject=path, expected=f"{wanted} bands", found=len(chosen), remedy=remedy)
    missing = [band for band in chosen if band not in dataset.indexes]
    if missing:
        raise RasterError(f"`bands` names {missing[0]}, the image has bands 1 to {dataset.count}", subject=path)
    return chosen


def _alpha_band(dataset: DatasetReader) -> int | None:
    """The number of the band of opacity."""
    interpretations = list(dataset.colorinterp)
    return interpretations.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in interpretations else None


def _window(window: Window) -> RasterioWindow:
    """A window in rasterio's terms."""
    return RasterioWindow(window.x, window.y, window.width, window.height)
