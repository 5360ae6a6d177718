"""Several rasters of one grid as one: the VRT that GDAL reads is made here, in memory, of rasters that were looked at.

A VRT makes GDAL open files with any of its drivers. So each member passes what it passes on its own, and beyond that
what the sources of a VRT pass (docs/rasters.md); nothing else gets into the text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from xml.etree import ElementTree as ET

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile

from ..errors import RasterError
from ..tiling.windows import Window
from .access import Access, check_limits
from .files import OpenFile, open_any, pinned, reading
from .guard import check_source
from .members import Member, check_alike, offset_of, source_name
from .places import Scene, file_of

_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
}  # fmt: skip


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
    members = list[Member]()
    for place in scene.members:
        if access.sources == "local":
            with pinned(access.sources):
                check_source(file_of(place), access)
        with open_any(place, access) as dataset:
            with reading(place, "it"):
                members.append(Member.of(str(place), source_name(place, dataset), dataset, first=not members))
            check_alike(members[0], members[-1])
    text = _virtual(members)
    with pinned(access.sources), MemoryFile(text, ext=".vrt") as memory:
        try:
            dataset = DatasetReader(memory.name, driver=["VRT"])
        except RasterioError as error:
            raise RasterError(subject=scene, expected="rasters that GDAL reads as one", found=f"{error}") from error
        with dataset:
            check_limits(dataset, scene, access)
            yield dataset


def _virtual(members: list[Member]) -> bytes:
    """The VRT of all members."""
    first, places = members[0], list[Window]()
    for member in members:
        y, x = offset_of(first, member)
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
    members: list[Member],
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


def _add_source(band: ET.Element, number: str, member: Member, place: Window, *, complex_: bool) -> ET.Element:
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
