"""Nodata values as files declare them: rasterio does not tell those that the type of the samples cannot hold."""

from __future__ import annotations

import logging
import re
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np
from rasterio.io import DatasetReader

from .bands import Bands
from .places import Place, Scene

log = logging.getLogger(__name__)

_GDAL_NODATA = 42113  # the tag of TIFF, an ASCII text
_ASCII = 2
_HEAD = 1 << 20  # bytes of a VRT that are looked at
_ENTRIES = 4096  # of a TIFF's directory


def warn_of_nodata(dataset: DatasetReader, path: Place, bands: Bands) -> None:
    """Warn once where a nodata value is declared for bands of integers that their type cannot hold: it masks nothing.

    Args:
        dataset: The open raster.
        path: Its name, for messages.
        bands: The bands in use.
    """
    dtype, nodata = dataset.dtypes[bands.used[0] - 1], dataset.nodatavals[bands.used[0] - 1]
    if np.dtype(dtype).kind not in "iu" or not (nodata is None or nodata % 1):
        return
    value = nodata if nodata is not None or isinstance(path, Scene) else _hidden(dataset.driver, Path(path))
    if value is not None:
        _tell(str(path), f"{value:g}", dtype)


@lru_cache(maxsize=1000)
def _tell(path: str, nodata: str, dtype: str) -> None:
    log.warning("%s: its nodata value %s is none that %s can hold: all pixels have data", path, nodata, dtype)


def _hidden(driver: str, path: Path) -> float | None:
    """The nodata value in the text of a GeoTIFF or VRT; None where there is none, or the file is of another kind."""
    try:
        text = _in_tiff(path) if driver == "GTiff" else _in_vrt(path) if driver == "VRT" else None
        return None if text is None else float(text.strip(b" \0"))
    except (OSError, ValueError, struct.error):  # not on this machine, or odd; GDAL has the last word on the image
        return None


def _in_vrt(path: Path) -> bytes | None:
    with path.open("rb") as file:
        match = re.search(rb"<NoDataValue>([^<]+)</NoDataValue>", file.read(_HEAD))
    return match[1] if match else None


def _in_tiff(path: Path) -> bytes | None:
    """The text of the tag in the first directory of a TIFF or BigTIFF, of either byte order."""
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack(order + "H", head[2:4])[0] == 43
        count, offset, size = ("Q", "Q", 8) if big else ("H", "I", 4)
        file.seek(struct.unpack(order + offset, head[8:16] if big else head[4:8])[0])
        entries = struct.unpack(order + count, file.read(struct.calcsize(count)))[0]
        layout = struct.Struct(f"{order}HH{offset}{size}s")
        for _ in range(min(entries, _ENTRIES)):
            tag, kind, length, value = layout.unpack(file.read(layout.size))
            if (tag, kind) == (_GDAL_NODATA, _ASCII):
                if length > size:
                    file.seek(struct.unpack(order + offset, value)[0])
                    value = file.read(min(length, 100))
                return bytes(value[:length])
    return None
