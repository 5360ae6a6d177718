"""Images to time with where none is given: the pixels that come with fctl, mirrored and repeated."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..raster.georeference import NOWHERE
from ..raster.source import open_raster
from ..raster.writer import BLOCK, RasterSpec, create_raster
from ..tiling.windows import Window


class _Rgb(NamedTuple):
    """The pixels of the images that come with fctl."""

    bands: int = 3
    dtype: str = "uint8"


def write_mosaic(path: Path, side: int, bands: int, dtype: str) -> None:
    """Write a GeoTIFF of real pixels.

    Args:
        path: The file.
        side: Its height and width in pixels.
        bands: How many bands it has; red, green and blue come again where it has more than three.
        dtype: The dtype of its samples: integers span the dtype's range, floats 0 to 1.

    Raises:
        InputError: The pixels that come with fctl are missing.
        OSError: The file cannot be written.
    """
    pixels = _converted(_shipped(), dtype)[:, :, np.arange(bands) % 3].transpose(2, 0, 1)
    names = tuple(f"band {number}" for number in range(1, bands + 1))
    spec = RasterSpec(height=side, width=side, dtype=dtype, descriptions=names, nodata=None, colours=None, tags={})
    columns = _mirrored(0, side, pixels.shape[2])
    with create_raster(path, spec, NOWHERE) as writer:
        for y in range(0, side, BLOCK):
            rows = _mirrored(y, min(BLOCK, side - y), pixels.shape[1])
            writer.write(pixels[:, rows][:, :, columns], y)


def _shipped() -> NDArray[np.uint8]:
    """The pixels (height, width, 3) of all images that come with fctl, side by side."""
    parts = list[NDArray[np.uint8]]()
    for path in _images():
        with open_raster(path, _Rgb(), None) as source:
            parts.append(source.read(Window(0, 0, source.height, source.width)).astype(np.uint8))
    height = min(part.shape[0] for part in parts)
    return np.concatenate([part[:height] for part in parts], axis=1)


def _images() -> list[Path]:
    """The images that come with fctl: they lie beside the code of calibration, which is not loaded."""
    spec = importlib.util.find_spec("fctl.calib")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in (Path(folder) / "images").glob("*.jpg"))
    if not found:
        raise InputError("the images that come with fctl are missing", remedy="name an image")
    return found


def _converted(pixels: NDArray[np.uint8], dtype: str) -> NDArray[np.generic]:
    """Pixels of another dtype, from its darkest to its brightest."""
    wanted = np.dtype(dtype)
    if wanted.kind == "f":
        return (pixels / np.float32(255)).astype(wanted)
    return (pixels.astype(np.int64) * int(np.iinfo(wanted).max) // 255).astype(wanted)


def _mirrored(first: int, count: int, length: int) -> NDArray[np.intp]:
    """Indices of `count` entries from `first` on of a line of `length` entries, to and fro without end."""
    place = np.arange(first, first + count) % (2 * length)
    return np.minimum(place, 2 * length - 1 - place)
