"""The pixels that an image must have, and what to do about an image with others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..errors import RasterError
from .places import Place

VALUES = {"uint8": ("Byte", 255), "uint16": ("UInt16", 65535), "int16": ("Int16", 32767), "float32": ("Float32", 1)}
"""By dtype of a network, what GDAL calls it, and the highest of the values from 0 that others are spread over."""


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
    check_real(path, dtypes)
    if dtypes != {wanted}:
        raise RasterError(
            subject=path, expected=f"{wanted} pixels", found=" and ".join(sorted(dtypes)),
            remedy=_conversion(wanted, dtypes),
        )  # fmt: skip


def check_real(path: Place, found: Iterable[str]) -> None:
    """See that no band is complex.

    Args:
        path: The image, for messages.
        found: The dtypes of its bands.

    Raises:
        RasterError: One is.
    """
    for dtype in sorted(set(found)):
        if "complex" in dtype:
            raise RasterError(
                subject=path, expected="pixels of real numbers", found=dtype,
                remedy="make amplitudes of them with gdal_translate DERIVED_SUBDATASET:AMPLITUDE:IMAGE",
            )  # fmt: skip


def _conversion(wanted: str, found: set[str]) -> str:
    """What to do about another dtype. Each image must be rescaled alike, so the bounds are never its own."""
    gdal, high = VALUES[wanted]
    if wanted == "float32" and found == {"float64"}:
        return "convert it with gdal_translate -ot Float32"
    return (
        "rescale it with the same bounds as the training images: name them with `scale_range`, "
        f"or use gdal_translate -ot {gdal} -scale MIN MAX 0 {high}"
    )
