"""Cloud-optimised GeoTIFFs of class ids, made by GDAL's own driver."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from ..errors import InputError
from .cache import decoded_cache
from .files import open_any
from .georeference import NOWHERE, Georeference
from .silence import ignored
from .writer import CACHE, RasterSpec, RasterWriter, check_complete, create_raster

THREADS = min(4, os.cpu_count() or 1)
"""Threads with which GDAL compresses a finished mask and shrinks it; the bytes do not depend on them."""

MEMORY = CACHE + THREADS * (10 << 20)
"""Bytes that GDAL takes while it makes a mask, about."""

_COPYING = {"GDAL_NUM_THREADS": THREADS, "GDAL_OVR_CHUNK_MAX_SIZE": 1 << 20}  # bytes that each thread shrinks at once
_OPTIONS = {"COMPRESS": "DEFLATE", "BIGTIFF": "IF_SAFER", "OVERVIEW_RESAMPLING": "MODE"}
_KEPT = ("RESAMPLING", "OVERVIEW_RESAMPLING", "WARP_RESAMPLING")  # whatever else would mix ids
_REFUSED = ("TILING_SCHEME", "TARGET_SRS", "EXTENT", "RES", "ALIGNED_LEVELS", "ADD_ALPHA")  # another grid, other bands
_PROBE = 64  # side of the mask with which options are tried


@contextlib.contextmanager
def create_cog(
    path: Path, spec: RasterSpec, georeference: Georeference, creation: Mapping[str, str]
) -> Iterator[RasterWriter]:
    """Create a cloud-optimised GeoTIFF of class ids, whose overviews show the most frequent id.

    Its pixels are collected in a plain GeoTIFF beside it, which is removed.

    Args:
        path: The file, in a folder that nobody else writes to.
        spec: What it holds.
        georeference: Where it lies.
        creation: Options of GDAL's COG driver that differ from ours, by name.

    Yields:
        What takes the pixels.

    Raises:
        OSError: The file cannot be written, or the disk is full.
    """
    plain = path.with_name(f"{path.stem}.plain.tif")
    try:
        with create_raster(plain, spec, georeference, passing=True) as writer:
            yield writer
        _copy(plain, path, creation)
        check_complete(path)
    finally:
        plain.unlink(missing_ok=True)


def _copy(plain: Path, path: Path, creation: Mapping[str, str]) -> None:
    """Copy a GeoTIFF with GDAL's COG driver.

    Raises:
        OSError: GDAL cannot.
    """
    options = _OPTIONS | {name.upper(): value for name, value in creation.items()}
    try:
        with decoded_cache(CACHE), rasterio.Env(**_COPYING), ignored(NotGeoreferencedWarning):
            rasterio.shutil.copy(str(plain), str(path), driver="COG", **options)
    except CPLE_BaseError as error:
        raise OSError(str(error)) from error
    except RasterioError as error:
        raise OSError(str(error.__cause__ or error)) from error


def check_creation(creation: Mapping[str, str]) -> None:
    """Refuse options with which GDAL would not write the same class ids on the same grid: a small mask is tried.

    Args:
        creation: Options of GDAL's COG driver, by name.

    Raises:
        InputError: GDAL does not know an option or a value, or other ids come back.
    """
    for name, value in creation.items():
        if name.upper() in _REFUSED:
            raise _refused(f"{name} gives the mask another grid or other bands than the image")
        if name.upper() in _KEPT and value.upper() not in ("MODE", "NEAREST"):
            raise _refused(f"{name}={value} mixes class ids, which only MODE and NEAREST keep")
    ids = np.random.default_rng(0).integers(0, 256, (1, _PROBE, _PROBE), np.uint8)
    spec = RasterSpec(
        height=_PROBE, width=_PROBE, dtype="uint8", descriptions=("class",), nodata=255, tags={},
        colours=tuple((index, index, index) for index in range(255)),
    )  # fmt: skip
    with TemporaryDirectory(prefix="fctl-") as folder, _warnings() as told:
        path = Path(folder) / "mask.tif"
        try:
            with create_cog(path, spec, NOWHERE, creation) as writer:
                writer.write(ids, 0)
        except OSError as error:
            raise _refused(told[0] if told else str(error)) from error
        if told:
            raise _refused(told[0])
        with open_any(path) as dataset:
            if not np.array_equal(dataset.read(), ids):
                raise _refused("other class ids come back")


def _refused(reason: str) -> InputError:
    return InputError(f"creation options of the mask: {reason}", remedy="see gdal.org/drivers/raster/cog.html")


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what GDAL logs, instead of showing it."""
    found: list[str] = []

    class Collector(logging.Handler):
        """Keeps messages."""

        def emit(self, record: logging.LogRecord) -> None:
            """Keep one without the name of its kind."""
            found.append(record.getMessage().partition(" in ")[2] or record.getMessage())

    logger, handler = logging.getLogger("rasterio._env"), Collector(logging.WARNING)
    propagate, level = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
