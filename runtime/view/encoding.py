"""Tiles as files of pictures."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_QUALITY = 85
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as a file.

    Attributes:
        data: The bytes of the file.
        kind: Its media type.
    """

    data: bytes
    kind: str


def indexed_png(values: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Picture:
    """A PNG with a palette, in one layout, so that the page can exchange its opacities without decoding it.

    Chunks are IHDR, PLTE of 256 colours, tRNS of 256 opacities, one IDAT without filters, IEND.

    Args:
        values: Numbers of colours, (rows, columns).
        palette: Red, green, blue and opacity by number, (256, 4) uint8.

    Returns:
        The picture.
    """
    height, width = values.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each begins with the number of its filter: none
    rows[:, 1:] = values
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette[:, :3].tobytes()),
        (b"tRNS", palette[:, 3].tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 4)),
        (b"IEND", b""),
    )
    return Picture(_SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks), "image/png")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def photo(colours: NDArray[np.uint8]) -> Picture:
    """A JPEG where all is opaque, else a PNG.

    Args:
        colours: Red, green, blue and opacity, (rows, columns, 4).

    Returns:
        The picture.
    """
    from PIL import Image

    file, is_opaque = io.BytesIO(), bool((colours[:, :, 3] == 255).all())
    if is_opaque:
        Image.fromarray(np.ascontiguousarray(colours[:, :, :3])).save(file, "JPEG", quality=_QUALITY, subsampling=0)
    else:
        Image.fromarray(colours).save(file, "PNG", compress_level=1)
    return Picture(file.getvalue(), "image/jpeg" if is_opaque else "image/png")
