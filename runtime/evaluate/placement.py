"""Where a mask lies on its image, found by comparing their georeferences.

Labels are made with other programs than images are: rows may run from south to north, and a mask may cover another
part of the scene. Pixels that merely have the same row and column need not show the same place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import InputError
from ..raster.source import Georeference, OpenFile

TOLERANCE = 0.05
"""Pixels by which a mask's grid may differ from its image's anywhere in the image; georeferences are rounded."""

_UNTRANSFORMED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # what a raster without a transform has
_OF_HEIGHTS = ("vunits", "vto_meter", "geoidgrids", "geoid_crs")
_REMEDY = (
    "warp the labels onto the image's grid with gdalwarp -r near, or, where rows and columns are the image's, drop "
    "their georeference with gdal_edit.py -unsetgt (docs/evaluation.md)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The pixels of a raster and where they lie.

    Attributes:
        path: The raster, for error messages.
        height: Number of rows.
        width: Number of columns.
        georeference: Where it lies.
    """

    path: Path
    height: int
    width: int
    georeference: Georeference

    @property
    def transform(self) -> tuple[float, ...] | None:
        """The six numbers that turn columns and rows into coordinates; None where the raster has none."""
        if self.georeference.transform is None:
            return None
        numbers = tuple(self.georeference.transform)[:6]
        a, b, _, d, e, _ = numbers
        usable = all(map(math.isfinite, numbers)) and a * e != b * d and numbers != _UNTRANSFORMED
        return numbers if usable else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How the pixels of a mask lie on the grid of its image.

    Attributes:
        height: Rows of the image.
        width: Columns of the image.
        y: The image's row on which the first row of the mask lies, once that is turned.
        x: The image's column, likewise.
        upside_down: Whether the mask's rows run against the image's.
        mirrored: Whether its columns do.
    """

    height: int
    width: int
    y: int = 0
    x: int = 0
    upside_down: bool = False
    mirrored: bool = False

    @property
    def shift(self) -> str | None:
        """By how much the mask is shifted, in words; None where it is not."""
        parts = [
            f"{abs(pixels)} {unit}{'s' * (abs(pixels) > 1)} {after if pixels > 0 else before}"
            for pixels, unit, before, after in ((self.y, "row", "up", "down"), (self.x, "column", "left", "right"))
            if pixels
        ]
        return " and ".join(parts) or None


def frame_of(path: Path, dataset: OpenFile) -> Frame:
    """The size and the georeference of an open raster."""
    where = Georeference(crs=dataset.crs, transform=dataset.transform, gcps=((), None))
    return Frame(path=path, height=int(dataset.height), width=int(dataset.width), georeference=where)


def place(image: Frame, mask: Frame) -> Placement:
    """Find out how a mask lies on its image.

    Where both have a georeference, these decide. Where one of them names no coordinate reference system and the other
    does, the georeferences count as one if they fit. In all other cases pixels of the same row and column belong
    together.

    Args:
        image: The image.
        mask: The mask.

    Returns:
        The mask's place.

    Raises:
        InputError: The georeferences do not fit, or there are none and the sizes differ.
    """
    ours, theirs = image.georeference.crs, mask.georeference.crs
    if image.transform is not None and mask.transform is not None:
        if ours and theirs and not _same_system(image.georeference, mask.georeference):
            _refuse(image, mask, _system(image.georeference), _system(mask.georeference))
        try:
            return _placed(image, mask, _between(image.transform, mask.transform))
        except InputError:
            if bool(ours) == bool(theirs):
                raise
    if (mask.height, mask.width) != (image.height, image.width):
        raise InputError(
            subject=mask.path,
            expected=f"{image.height} x {image.width} pixels as {image.path}",
            found=f"{mask.height} x {mask.width}",
            remedy="get the mask anew, or leave it out with `split`",
        )
    return Placement(height=image.height, width=image.width)


def _placed(image: Frame, mask: Frame, between: tuple[float, ...]) -> Placement:
    """The place of a mask, if the grids agree. between: From columns and rows of the image to those of the mask."""
    a, b, x, d, e, y = between
    across, down = math.copysign(1, a), math.copysign(1, e)
    if abs(a - across) * image.width + abs(b) * image.height > TOLERANCE or (
        abs(e - down) * image.height + abs(d) * image.width > TOLERANCE
    ):
        _refuse(image, mask, *map(_pixels, (image, mask)))
    column, row = _whole(x), _whole(y)
    if column is None or row is None:
        _refuse(image, mask, "a shift by whole pixels", f"one by {abs(x):.2f} columns and {abs(y):.2f} rows")
    placement = Placement(
        height=image.height,
        width=image.width,
        y=-row if down > 0 else row - mask.height,
        x=-column if across > 0 else column - mask.width,
        upside_down=down < 0,
        mirrored=across < 0,
    )
    apart = -mask.height < placement.y < image.height and -mask.width < placement.x < image.width
    if not apart:
        _refuse(image, mask, "labels that lie on the image", f"labels {placement.shift} of it")
    return placement


def _between(image: tuple[float, ...], mask: tuple[float, ...]) -> tuple[float, ...]:
    """The transform from columns and rows of the image to those of the mask, as six numbers."""
    a, b, c, d, e, f = mask
    scale = a * e - b * d
    inverse = (e / scale, -b / scale, -d / scale, a / scale)
    g, h, i, j, k, m = image
    p, q, r, s = inverse
    return (p * g + q * j, p * h + q * k, p * (i - c) + q * (m - f),
            r * g + s * j, r * h + s * k, r * (i - c) + s * (m - f))  # fmt: skip


def _whole(pixels: float) -> int | None:
    """A number of pixels, if it is a whole one."""
    return round(pixels) if abs(pixels - round(pixels)) <= TOLERANCE else None


def _same_system(image: Georeference, mask: Georeference) -> bool:
    """Whether two coordinate reference systems are one, which may be written in several ways."""
    if image.crs == mask.crs:
        return True
    if image.crs is None or mask.crs is None:
        return False
    try:
        first, second = (
            {key: value for key, value in crs.to_dict().items() if key not in _OF_HEIGHTS}  # as PROJ writes it
            for crs in (image.crs, mask.crs)
        )
    except ValueError:
        return False
    return first == second and "datum" in first


def _system(georeference: Georeference) -> str:
    """A coordinate reference system in a few words."""
    return f"{georeference.crs.to_string():.60}" if georeference.crs else "none"


def _pixels(frame: Frame) -> str:
    """The size and direction of a raster's pixels, in units of its coordinates."""
    assert frame.transform is not None
    a, b, _, d, e, _ = frame.transform
    turned = " in turned rows" if b or d else ""
    return f"pixels of {math.hypot(a, d):.9g} x {math.hypot(b, e):.9g}{turned}"


def _refuse(image: Frame, mask: Frame, expected: str, found: str) -> NoReturn:
    """Raise the error of labels that do not lie on their image's grid."""
    raise InputError(subject=mask.path, expected=f"{expected} as {image.path}", found=found, remedy=_REMEDY)
