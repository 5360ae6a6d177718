"""The members of a scene: what is known of each from its header, and whether they go together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.transform import Affine

from ..errors import RasterError
from .access import block_shape
from .bands import has_opacity
from .files import OpenFile
from .places import is_remote

_OFF = 0.05  # pixels by which a member's grid may differ from the first one's; georeferences are rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What is known of a member from its header.

    Attributes:
        name: What messages call it.
        source: The name by which a VRT names it.
        height: Rows.
        width: Columns.
        dtypes: NumPy's name of the dtype of each band.
        crs: Its coordinate reference system, or None.
        transform: Column and row to coordinates.
        nodata: The nodata value of each band.
        colours: The colour interpretation of each band.
        tables: The palette of each band, as sorted entries; empty where it has none.
        scales: Scale and offset of each band.
        masked: Whether it has a mask of its own.
        opacity: Whether a band marked alpha is opacity; looked at in the first member alone.
        block: Rows and columns of its blocks.
        tags: Texts by name.
    """

    name: str
    source: str
    height: int
    width: int
    dtypes: tuple[str, ...]
    crs: CRS | None
    transform: Affine
    nodata: tuple[float | None, ...]
    colours: tuple[ColorInterp, ...]
    tables: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]
    scales: tuple[tuple[float, float], ...]
    masked: bool
    opacity: bool
    block: tuple[int, int]
    tags: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, name: str, source: str, dataset: OpenFile, *, first: bool) -> Member:
        """The member that is open."""
        return cls(
            name=name, source=source, height=int(dataset.height), width=int(dataset.width),
            dtypes=tuple(dataset.dtypes), crs=dataset.crs, transform=dataset.transform,
            nodata=tuple(dataset.nodatavals), colours=tuple(dataset.colorinterp),
            tables=tuple(_table(dataset, band) for band in dataset.indexes),
            scales=tuple(zip(dataset.scales, dataset.offsets, strict=True)),
            masked=any(_is_mask(flags) for flags in dataset.mask_flag_enums),
            opacity=first and has_opacity(dataset), block=block_shape(dataset),
            tags=tuple(sorted(dataset.tags().items())),
        )  # fmt: skip


def _is_mask(flags: list[MaskFlags]) -> bool:
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags and MaskFlags.nodata not in flags


def _table(dataset: OpenFile, band: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    if dataset.colorinterp[band - 1] != ColorInterp.palette:
        return ()
    try:
        return tuple(sorted((int(value), tuple(colour)) for value, colour in dataset.colormap(band).items()))
    except ValueError:  # marked so, but without a table
        return ()


def source_name(place: str | Path, dataset: OpenFile) -> str:
    """The name by which a VRT names a member.

    Args:
        place: The member.
        dataset: The open member.

    Returns:
        A path that does not depend on the current folder, or GDAL's name of what is no file.
    """
    if is_remote(place):
        return str(dataset.files[0])  # as GDAL names it
    return str(place.absolute()) if isinstance(place, Path) else place


def check_alike(first: Member, other: Member) -> None:
    """Refuse a member that does not go together with the first one.

    Args:
        first: The first member.
        other: Another one, or the first one itself.

    Raises:
        RasterError: It differs in what it is, or lies on another grid; the error names it.
    """
    pairs: list[tuple[str, object, object]] = [
        ("bands", len(first.dtypes), len(other.dtypes)),
        ("dtype", first.dtypes, other.dtypes),
        ("coordinate reference system", first.crs, other.crs),
        ("nodata value", first.nodata, other.nodata),
        ("order of colours", first.colours, other.colours),
        ("palette", first.tables, other.tables),
        ("scale and offset", first.scales, other.scales),
    ]
    if other.transform.is_identity or not other.transform.determinant:
        raise RasterError(subject=other.name, expected="a place on the ground, for a mosaic", found="none")
    for what, ours, theirs in pairs:
        if not _equal(ours, theirs):
            raise RasterError(
                subject=other.name, expected=f"the {what} of {first.name}, {_word(ours)}", found=_word(theirs),
                remedy="make the members alike with gdalwarp or gdal_translate, or leave it out",
            )  # fmt: skip
    offset_of(first, other)


def _equal(ours: object, theirs: object) -> bool:
    """Whether two values are the same; NaN is itself."""
    return repr(ours) == repr(theirs) if isinstance(ours, tuple) else ours == theirs


def _word(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, CRS):
        return f"{value.to_string():.60}"
    if isinstance(value, tuple):
        words = list(dict.fromkeys(getattr(item, "name", str(item)) for item in value))
        return f"{', '.join(words):.60}" or "none"
    return "none" if value is None else str(value)


def offset_of(first: Member, other: Member) -> tuple[int, int]:
    """Row and column of the first member's grid at which another member begins.

    Args:
        first: The first member.
        other: Another one, or the first one itself.

    Returns:
        Row and column in pixels, which may be negative.

    Raises:
        RasterError: It lies on another grid.
    """
    ours, theirs = first.transform, other.transform
    inverse = ~ours
    turn = [
        inverse.a * theirs.a + inverse.b * theirs.d - 1, inverse.a * theirs.b + inverse.b * theirs.e,
        inverse.d * theirs.a + inverse.e * theirs.d, inverse.d * theirs.b + inverse.e * theirs.e - 1,
    ]  # fmt: skip
    if max(map(abs, turn)) * max(other.height, other.width) > _OFF:
        sides = [f"{math.hypot(t.a, t.d):.9g} x {math.hypot(t.b, t.e):.9g}" for t in (ours, theirs)]
        found = f"pixels of {sides[1]}" if sides[0] != sides[1] else "turned ones"
        raise RasterError(
            subject=other.name, expected=f"the pixels of {first.name}, {sides[0]}", found=found,
            remedy="bring it to the same grid with gdalwarp -tr -tap",
        )  # fmt: skip
    column = inverse.a * theirs.c + inverse.b * theirs.f + inverse.c
    row = inverse.d * theirs.c + inverse.e * theirs.f + inverse.f
    if abs(column - round(column)) > _OFF or abs(row - round(row)) > _OFF:
        raise RasterError(
            subject=other.name, expected=f"the grid of {first.name}",
            found=f"one that lies {row - math.floor(row):.2f} rows and {column - math.floor(column):.2f} columns off",
            remedy="bring it to the same grid with gdalwarp -tr -tap",
        )  # fmt: skip
    return round(row), round(column)
