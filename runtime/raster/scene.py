"""Several rasters of one grid as one: the VRT that GDAL reads is made here, in memory, of rasters that were looked at.

A VRT makes GDAL open files with any of its drivers. So each member passes what it passes on its own, and beyond that
what the sources of a VRT pass (docs/rasters.md); nothing else gets into the text.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.transform import Affine

from ..errors import RasterError
from ..tiling.windows import Window
from .access import Access, block_shape, check_limits
from .bands import has_opacity
from .files import OpenFile, open_any, pinned, reading
from .guard import check_source
from .places import Scene, file_of, is_remote

_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
}  # fmt: skip
_OFF = 0.05  # pixels by which a member's grid may differ from the first one's; georeferences are rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
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
    def of(cls, name: str, source: str, dataset: OpenFile, *, first: bool) -> _Member:
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


@contextlib.contextmanager
def open_scene(scene: Scene, access: Access) -> Iterator[OpenFile]:
    """Open several rasters as one.

    Args:
        scene: The rasters.
        access: Which may be opened, and how large they may be, together too.

    Yields:
        The open raster: it covers all members, and has no data in the gaps between them.

    Raises:
        RasterError: A member is missing, may not be opened, or differs from the first one.
    """
    members = list[_Member]()
    for place in scene.members:
        if access.sources == "local":
            with pinned(access.sources):
                check_source(file_of(place), access)
        with open_any(place, access) as dataset:
            with reading(place, "it"):
                members.append(_Member.of(str(place), _source(place, dataset), dataset, first=not members))
            _check_alike(members[0], members[-1])
    text = _virtual(members)
    with pinned(access.sources), MemoryFile(text, ext=".vrt") as memory:
        try:
            dataset = DatasetReader(memory.name, driver=["VRT"])
        except RasterioError as error:
            raise RasterError(subject=scene, expected="rasters that GDAL reads as one", found=f"{error}") from error
        with dataset:
            check_limits(dataset, scene, access)
            yield dataset


def _source(place: str | Path, dataset: OpenFile) -> str:
    """The name by which a VRT names a member."""
    if is_remote(place):
        return str(dataset.files[0])  # as GDAL names it
    return str(place.absolute()) if isinstance(place, Path) else place


def _check_alike(first: _Member, other: _Member) -> None:
    """Refuse a member that does not go together with the first one."""
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
    _offset(first, other)


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


def _offset(first: _Member, other: _Member) -> tuple[int, int]:
    """Row and column of the first member's grid at which another member begins."""
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


def _virtual(members: list[_Member]) -> bytes:
    """The VRT of all members."""
    first, places = members[0], list[Window]()
    for member in members:
        y, x = _offset(first, member)
        places.append(Window(y, x, member.height, member.width))
    top, left = min(place.y for place in places), min(place.x for place in places)
    height, width = max(place.bottom for place in places) - top, max(place.right for place in places) - left
    places = [place.moved(-top, -left) for place in places]
    overlapping = _overlap(places)
    gaps = overlapping or sum(place.height * place.width for place in places) < height * width
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    if first.crs:
        ET.SubElement(root, "SRS").text = first.crs.to_wkt()
    t = first.transform
    numbers = (t.a * left + t.b * top + t.c, t.a, t.b, t.d * left + t.e * top + t.f, t.d, t.e)
    ET.SubElement(root, "GeoTransform").text = ", ".join(map(repr, numbers))
    metadata = ET.SubElement(root, "Metadata")
    for key, value in first.tags:
        ET.SubElement(metadata, "MDI", key=key).text = value
    masked, declared = any(member.masked for member in members), any(value is not None for value in first.nodata)
    marked, hidden = ColorInterp.alpha in first.colours, masked or first.opacity
    for band in range(1, len(first.dtypes) + 1):
        _add_band(root, band, members, places, (height, width), heeding=overlapping and hidden, over=overlapping)
    if masked or (gaps and not declared):
        mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
        alpha = first.colours.index(ColorInterp.alpha) + 1 if marked and not masked else None
        for member, place in zip(members, places, strict=True):
            source = _add_source(mask, str(alpha or "mask,1"), member, place, complex_=overlapping or alpha is not None)
            if alpha:  # all of a member is seen here, for a band marked alpha may be data
                ET.SubElement(source, "ScaleOffset").text, ET.SubElement(source, "ScaleRatio").text = "255", "0"
            elif overlapping:  # where a member has no data, another may have some
                ET.SubElement(source, "NODATA").text = "0"
    text: bytes = ET.tostring(root, encoding="utf-8")
    return text


def _add_band(
    root: ET.Element,
    number: int,
    members: list[_Member],
    places: list[Window],
    size: tuple[int, int],
    *,
    heeding: bool,
    over: bool,
) -> None:
    """Add a band. heeding: Whether masks and alpha say what of a member is seen; over: whether members overlap."""
    first, index = members[0], number - 1
    rows, columns = (min(side, most) for side, most in zip(first.block, size, strict=True))
    kind = _TYPES.get(first.dtypes[index])
    if kind is None:
        raise RasterError(subject=first.name, expected=" or ".join(_TYPES), found=first.dtypes[index])
    band = ET.SubElement(
        root, "VRTRasterBand", dataType=kind, band=str(number), blockXSize=str(columns), blockYSize=str(rows)
    )
    nodata = first.nodata[index]
    if nodata is not None:
        ET.SubElement(band, "NoDataValue").text = repr(nodata)
    ET.SubElement(band, "ColorInterp").text = first.colours[index].name.capitalize()
    if first.tables[index]:
        table = ET.SubElement(band, "ColorTable")
        for _, colour in first.tables[index]:
            ET.SubElement(table, "Entry", {f"c{n}": str(part) for n, part in enumerate(colour, 1)})
    scale, offset = first.scales[index]
    if (scale, offset) != (1, 0):
        ET.SubElement(band, "Offset").text = repr(offset)
        ET.SubElement(band, "Scale").text = repr(scale)
    for member, place in zip(members, places, strict=True):
        without = over and nodata is not None and not heeding
        source = _add_source(band, str(number), member, place, complex_=heeding or without)
        if heeding:
            ET.SubElement(source, "UseMaskBand").text = "true"
        elif without:  # where a member has no data, another may have some
            ET.SubElement(source, "NODATA").text = repr(nodata)


def _add_source(band: ET.Element, number: str, member: _Member, place: Window, *, complex_: bool) -> ET.Element:
    """Add a member to a band."""
    source = ET.SubElement(band, "ComplexSource" if complex_ else "SimpleSource")
    ET.SubElement(source, "SourceFilename", relativeToVRT="0", shared="0").text = member.source
    ET.SubElement(source, "SourceBand").text = number
    rows, columns = member.block
    ET.SubElement(
        source, "SourceProperties", RasterXSize=str(member.width), RasterYSize=str(member.height),
        DataType=_TYPES[member.dtypes[0]], BlockXSize=str(columns), BlockYSize=str(rows),
    )  # fmt: skip
    for name, y, x in (("SrcRect", 0, 0), ("DstRect", place.y, place.x)):
        ET.SubElement(source, name, xOff=str(x), yOff=str(y), xSize=str(member.width), ySize=str(member.height))
    return source


def _overlap(places: list[Window]) -> bool:
    """Whether any two of some windows share a pixel."""
    sides = np.array([(place.y, place.x, place.bottom, place.right) for place in places], np.int64)
    return any(
        bool(((sides[:index, :2] < side[2:]) & (sides[:index, 2:] > side[:2])).all(axis=1).any())
        for index, side in enumerate(sides)
    )
