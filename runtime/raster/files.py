"""Opening files with GDAL: the same pixels and masks whatever the user's environment says, and errors of ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import rasterio
from rasterio.env import hasenv
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.session import DummySession

from ..errors import RasterError
from ..storage.amazon import for_gdal
from ..tiling.windows import Window
from .access import TRUST, Access, Sources, check_limits
from .guard import allowed_drivers, check_opened, forbidden, opened_name
from .places import Place, check_place, container, is_remote
from .silence import ignored

OpenFile: TypeAlias = DatasetReader
"""An open raster as rasterio has it, for rooms that do not import rasterio themselves."""

_PINNED: dict[str, object] = {
    "GDAL_FORCE_CACHING": False,  # else masks of blocks that reach beyond the raster are wrong
    "GDAL_DISABLE_READDIR_ON_OPEN": False,  # else masks in files beside the raster are not found
    "GDAL_READDIR_LIMIT_ON_OPEN": 1000,  # else names in mixed case would be found in folders larger than those we list
    "GDAL_PAM_ENABLED": True,  # else nodata values and colours in .aux.xml files are not read
    "GDAL_TIFF_INTERNAL_MASK_TO_8BIT": True,
    "JPEG_READ_MASK": True,
    "JPEG_MASK_BIT_ORDER": "AUTO",
    "GDAL_JPEG_TO_RGB": True,
    "CONVERT_YCBCR_TO_RGB": True,
    "GTIFF_IGNORE_READ_ERRORS": False,  # else what is missing of a damaged file is black
    "GTIFF_DIRECT_IO": False,
    "GTIFF_VIRTUAL_MEM_IO": False,
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": False,  # read at once, a PNG that ends early would be no error
}
"""Options of GDAL that change pixels or masks, at their defaults but for the last of them."""
_PATIENT = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",  # seconds, doubled at each retry
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",  # bytes in a second; a server that says nothing for so long is given up
}
"""How long GDAL tries to read from a server, unless the environment says otherwise."""
_ALONE = {"GDAL_NUM_THREADS": "1", "VRT_NUM_THREADS": "1"}
"""Where images may lie on a server: GDAL's threads do not retry, and take what a server fails to send for zeros."""


_DEFAULT = Access()


def pinned(sources: Sources) -> rasterio.Env:
    """GDAL with the options that all images are read with, as a context manager."""
    return rasterio.Env(DummySession(), **_PINNED, **_options(sources))  # GDAL reads credentials itself, without boto3


@contextlib.contextmanager
def open_any(path: str | Path, access: Access = _DEFAULT) -> Iterator[OpenFile]:
    """Open any raster that may be opened.

    Args:
        path: The file, or the name of a part of a container.
        access: Which files may be opened, and how large they may be.

    Yields:
        The open raster.

    Raises:
        RasterError: The file is missing, may not be read, is no image, a container of several, or not allowed.
    """
    check_place(path, remote=access.sources == "any")
    with pinned(access.sources):
        try:
            drivers = allowed_drivers(path, access)
            dataset = _opened(path, drivers)
        except PermissionError:
            raise forbidden(path) from None
        except (RasterioError, UnicodeError) as error:
            remedy = None if access.sources == "any" else f"convert it to GeoTIFF, or, {TRUST}"
            if is_remote(path):
                remedy = "look whether the address opens in a browser, and try again later"
            raise RasterError(
                subject=path, expected="an image that GDAL reads", found=f"none ({error})", remedy=remedy
            ) from error
        with dataset:
            if drivers is not None:
                check_opened(dataset, path)
            if dataset.count == 0:
                raise container(path, dataset.subdatasets)
            check_limits(dataset, path, access)
            yield dataset


def _options(sources: Sources) -> dict[str, str]:
    """Options of GDAL for images that may lie on a server."""
    if sources == "local":
        return {}
    return _ALONE | for_gdal() | {name: value for name, value in _PATIENT.items() if name not in os.environ}


def _opened(path: str | Path, drivers: list[str] | None) -> OpenFile:
    """Open a file with GDAL; `rasterio.open` takes no list of drivers."""
    with ignored(NotGeoreferencedWarning):  # PNG and JPEG have no place
        return DatasetReader(opened_name(path), driver=drivers)


@contextlib.contextmanager
def reading(path: Place, what: str) -> Iterator[None]:
    """Turn rasterio's errors into ours while something is read, in any thread.

    Args:
        path: The raster, for messages.
        what: What is read, in words.

    Raises:
        RasterError: It cannot be read.
    """
    options = contextlib.nullcontext() if hasenv() else pinned("any")
    try:
        with options:
            yield
    except RasterioError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        cause, remedy = "the file is damaged or cut short", "get it anew"
        if is_remote(path):
            cause, remedy = f"the server does not send all of it, or {cause}", "try again later, or download it"
        raise RasterError(f"cannot read {what}: {cause} ({reason})", subject=path, remedy=remedy) from error


def place_in(window: Window) -> str:
    """Where a window lies, in words."""
    return f"rows {window.y} to {window.bottom}, columns {window.x} to {window.right}"
