"""Which rasters may be opened, and how large they may be. docs/rasters.md states the rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from rasterio.enums import Interleaving
from rasterio.io import DatasetReader

from ..errors import InputError, RasterError
from .places import Place

Sources = Literal["local", "any"]
"""What images may be: "local" stands for formats that read one file of this machine, "any" for all that GDAL opens."""

LOCAL_DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG", "WEBP", "BMP", "ENVI", "HFA", "GPKG")
"""Drivers of GDAL that read a file and what belongs to it, and have no way to name another file.

VRT and netCDF are added for a file once its content was looked at. HDF5 and netCDF-4 are left out because a data set in
them can lie in any other file; NITF because it takes the files a.r1, a.r2, ... beside it for overviews of any format;
PCIDSK, MRF, GTI, STACTA, WMS and their like because they name files or addresses.
"""
TRUST = "if you trust the image, lift this check with `sources`"
"""What to do about a file that is refused for what it could make GDAL do."""
_WHOLE = ("WEBP",)  # drivers that decode the whole image at once, whatever blocks they tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What may be opened. The limits are held against a raster's header, before any pixel is read.

    Attributes:
        sources: "local" opens images that are files of this machine, and refuses all that can make GDAL read or write
            another file or open an address. "any" opens whatever GDAL opens; take it for images that you trust.
        max_pixels: Most pixels of a raster: rows times columns.
        max_bands: Most bands of a raster.
        max_block: Most bytes of one decoded block; the block of an image whose bands are interleaved by pixel holds all
            bands. GDAL decodes a block at a time, so that this bounds memory and the time to an answer.

    Raises:
        InputError: A limit is not at least 1, or there are no such sources.
    """

    sources: Sources = "local"
    max_pixels: int = 40_000_000_000
    max_bands: int = 1000
    max_block: int = 2 << 30

    def __post_init__(self) -> None:
        if self.sources not in get_args(Sources):
            raise InputError(subject="`sources`", expected='"local" or "any"', found=repr(self.sources))
        for name in ("max_pixels", "max_bands", "max_block"):
            if (found := getattr(self, name)) < 1:
                raise InputError(subject=f"`{name}`", expected="a whole number above 0", found=found)


def block_shape(dataset: DatasetReader) -> tuple[int, int]:
    """Rows and columns of what GDAL decodes at a time, which for some drivers is the whole image."""
    height, width = dataset.shape if dataset.driver in _WHOLE else dataset.block_shapes[0]
    return int(height), int(width)


def block_bytes(dataset: DatasetReader, bands: int) -> int:
    """Bytes that GDAL decodes for one block of some bands.

    Args:
        dataset: The open raster.
        bands: How many bands are read.

    Returns:
        The decoded bytes of one block of each band that is decoded: of all bands where they are interleaved by pixel.
    """
    height, width = block_shape(dataset)
    together = dataset.interleaving == Interleaving.pixel or dataset.driver in _WHOLE
    return int(height * width * _itemsize(dataset) * (dataset.count if together else bands))


def least_cache(dataset: DatasetReader, bands: int) -> int:
    """Bytes that hold one block of every band; less, and a block is decoded again for each part of it that is read.

    Args:
        dataset: The open raster.
        bands: How many bands are read.

    Returns:
        The bytes: 1 MiB at least. Bands that are interleaved by pixel are decoded together, outside the cache.
    """
    apart = dataset.interleaving != Interleaving.pixel and dataset.driver not in _WHOLE
    return max(1 << 20, block_bytes(dataset, bands) if apart else 0)


def check_limits(dataset: DatasetReader, place: Place, access: Access) -> None:
    """See that a raster is not larger than allowed, by its header.

    Args:
        dataset: The open raster, of at least one band.
        place: Its name, for messages.
        access: The limits.

    Raises:
        RasterError: It is larger.
    """
    check_limit(place, "max_pixels", access.max_pixels, dataset.height * dataset.width, "pixels")
    check_limit(place, "max_bands", access.max_bands, dataset.count, "bands")
    check_limit(place, "max_block", access.max_block, block_bytes(dataset, 1), "bytes in one decoded block")


def check_limit(place: Place, argument: str, most: int, found: int, what: str) -> None:
    """Raise RasterError, naming the argument that moves the limit, where more is found than allowed."""
    if found > most:
        raise RasterError(
            subject=place, expected=f"at most {most} {what}", found=found, remedy=f"allow more with `{argument}`"
        )


def _itemsize(dataset: DatasetReader) -> int:
    """Bytes of a sample; NumPy has no complex integers, which rasterio reads as complex64."""
    try:
        return int(np.dtype(dataset.dtypes[0]).itemsize)
    except TypeError:
        return 8
