"""The pixels that an image must have, and what to do about an image with others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..errors import RasterError
from .places import Place

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


def check_dtype(path: Place, wanted: str, found: Iterable[str]) -> None:
    """See that the bands in use have the dtype that is wanted.

    Args:
        path: The image, for messages.
        wanted: NumPy's name of the dtype.
        found: The dtypes of the bands.

    Raises:
        RasterError: A band has another dtype.
    """
    dtypes = set(found)
    if dtypes != {wanted}:
        raise RasterError(
            subject=path, expected=f"{wanted} pixels", found=" and ".join(sorted(dtypes)),
            remedy=_conversion(wanted, dtypes),
        )  # fmt: skip


def _conversion(wanted: str, found: set[str]) -> str:
    """What to do about another dtype. Each image must be rescaled alike, so the bounds are never its own."""
    gdal, low, high = _RANGES[wanted]
    if wanted == "float32" and found == {"float64"}:
        return "convert it with gdal_translate -ot Float32"
    return (
        "rescale it with the same bounds as the training images, "
        f"for example gdal_translate -ot {gdal} -scale MIN MAX {low} {high}"
    )
