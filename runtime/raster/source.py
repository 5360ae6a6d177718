"""Rasters on disk: the one home of rasterio."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.enums
import rasterio.errors
import rasterio.windows
from numpy.typing import NDArray

from ..bundle.manifest import InputSpec
from ..errors import RasterError
from ..tiling.resampling import Pixels
from ..tiling.sources import HostSource
from ..tiling.windows import Window

logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors come as exceptions too
warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)  # PNG and JPEG have no place
warnings.filterwarnings("ignore", category=rasterio.errors.NodataShadowWarning)  # the alpha band is heeded here


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """Where a raster lies: coordinate reference system and affine transform, or ground control points."""

    crs: Any
    transform: Any
    gcps: tuple[Any, Any]


class RasterSource(HostSource):
    """An open raster as a source of windows. Use `open_raster`; not for several threads at once."""

    def __init__(self, dataset: Any, path: Path, bands: tuple[int, ...]) -> None:
        self._dataset, self._path, self._bands = dataset, path, bands
        self._alpha = _alpha_band(dataset)
        all_valid = rasterio.enums.MaskFlags.all_valid
        self._masked = any(all_valid not in dataset.mask_flag_enums[band - 1] for band in bands)
        self._floating = np.dtype(dataset.dtypes[bands[0] - 1]).kind == "f"

    @property
    def height(self) -> int:
        """Rows."""
        return int(self._dataset.height)

    @property
    def width(self) -> int:
        """Columns."""
        return int(self._dataset.width)

    @property
    def georeference(self) -> Georeference:
        """Where the raster lies."""
        return Georeference(crs=self._dataset.crs, transform=self._dataset.transform, gcps=self._dataset.gcps)

    def read(self, window: Window) -> Pixels:
        """Pixels (height, width, bands), black where the raster has no data. Raises RasterError where damaged."""
        with self._reading(window):
            pixels = self._dataset.read(self._bands, window=_window(window)).transpose(1, 2, 0)
        valid = self.valid(window)  # NaN must not reach the network either
        if valid is not None:
            pixels[~valid] = 0
        return pixels  # type: ignore[no-any-return]

    def valid(self, window: Window) -> NDArray[np.bool_] | None:
        """Where the raster has data (height, width); None: everywhere.

        A pixel has data if any of the bands in use has, by nodata value or mask; if it is not transparent; and, in a
        raster of floats, if all bands in use are finite.
        """
        if not (self._masked or self._alpha or self._floating):
            return None
        valid = np.ones((window.height, window.width), np.bool_)
        with self._reading(window):
            if self._masked:
                valid &= self._dataset.read_masks(self._bands, window=_window(window)).any(axis=0)
            if self._alpha:
                valid &= self._dataset.read(self._alpha, window=_window(window)) > 0
            if self._floating:
                valid &= np.isfinite(self._dataset.read(self._bands, window=_window(window))).all(axis=0)
        return valid

    def thumbnail(self, height: int, width: int) -> Pixels:
        """The whole raster at (height, width, bands), averaged."""
        with self._reading(Window(0, 0, self.height, self.width)):
            shape = (len(self._bands), height, width)
            resampling = rasterio.enums.Resampling.average
            pixels = self._dataset.read(self._bands, out_shape=shape, resampling=resampling)
        return pixels.transpose(1, 2, 0)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _reading(self, window: Window) -> Iterator[None]:
        try:
            yield
        except rasterio.errors.RasterioError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise RasterError(
                f"{self._path}: cannot read rows {window.y} to {window.bottom}: "
                f"the file is damaged or cut short ({reason}); get it anew"
            ) from error


@contextlib.contextmanager
def open_raster(path: Path, spec: InputSpec, bands: Sequence[int] | None, cached_rows: int) -> Iterator[RasterSource]:
    """Open a raster that fits a bundle's input.

    bands: 1-based numbers of the bands to use, in the bundle's order; None takes all but alpha, of which there must be
    as many as the bundle wants. cached_rows: rows that the caller goes back to, held decoded.
    Raises RasterError for a file that is missing, no image, or does not fit.
    """
    with contextlib.ExitStack() as stack:
        dataset = stack.enter_context(open_any(path))
        chosen = _choose_bands(dataset, path, spec, bands)
        dtypes = {dataset.dtypes[band - 1] for band in chosen}
        if dtypes != {spec.dtype}:
            raise RasterError(
                f"{path}: expected {spec.dtype} pixels, found {' and '.join(sorted(dtypes))}; "
                "rescale them as the bundle's training images were, for example with gdal_translate -ot -scale"
            )
        cache = 1.5 * cached_rows * dataset.width * dataset.count * np.dtype(spec.dtype).itemsize
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=max(64 << 20, int(cache))))
        yield RasterSource(dataset, path, chosen)


@contextlib.contextmanager
def open_any(path: Path) -> Iterator[Any]:
    """Any raster that GDAL reads, as rasterio has it. Raises RasterError for a file that is missing, or no image."""
    if not path.exists():
        raise RasterError(f"{path}: expected an image, found no such file")
    with rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM=False):  # read at once, a PNG that ends early would be no error
        try:
            dataset = rasterio.open(path)
        except (rasterio.errors.RasterioError, UnicodeError) as error:
            raise RasterError(f"{path}: expected an image that GDAL reads, found none ({error})") from error
        with dataset:
            yield dataset


def _choose_bands(dataset: Any, path: Path, spec: InputSpec, bands: Sequence[int] | None) -> tuple[int, ...]:
    chosen = tuple(bands or (index for index in dataset.indexes if index != _alpha_band(dataset)))
    if len(chosen) != spec.bands:
        remedy = f"name {spec.bands} with --bands" if bands or dataset.count > spec.bands else "use another image"
        if dataset.colorinterp[0] == rasterio.enums.ColorInterp.palette:
            remedy = "expand its palette with gdal_translate -expand rgb"
        raise RasterError(f"{path}: expected {spec.bands} bands, found {len(chosen)}; {remedy}")
    missing = [band for band in chosen if band not in dataset.indexes]
    if missing:
        raise RasterError(f"{path}: --bands names {missing[0]}, the image has bands 1 to {dataset.count}")
    return chosen


def _alpha_band(dataset: Any) -> int | None:
    interpretations = list(dataset.colorinterp)
    alpha = rasterio.enums.ColorInterp.alpha
    return interpretations.index(alpha) + 1 if alpha in interpretations else None


def read_thumbnail(path: Path, height: int, width: int) -> Pixels:
    """Band 1 of a raster at (height, width), nearest: for class ids."""
    with open_any(path) as dataset:
        return dataset.read(1, out_shape=(height, width), resampling=rasterio.enums.Resampling.nearest)  # type: ignore[no-any-return]


def _window(window: Window) -> Any:
    return rasterio.windows.Window(window.x, window.y, window.width, window.height)
