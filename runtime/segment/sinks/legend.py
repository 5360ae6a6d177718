"""Names and colours of classes for programs that show a mask: QGIS's style, and what GDAL keeps beside a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from ...bundle.manifest import ClassInfo

_COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
"""Columns of the raster attribute table: name, GDAL's number of the type (integer or text), and of the usage."""
_TYPES = {0: "Integer", 2: "String"}
_USAGES = {2: "Name", 5: "MinMax", 6: "Red", 7: "Green", 8: "Blue"}


def style_of(mask: Path) -> Path:
    """The file in which QGIS looks for the style of a mask: ``mask.qml`` for ``mask.tif``."""
    return mask.with_suffix(".qml")


def metadata_of(mask: Path) -> Path:
    """The file in which GDAL looks for what a format cannot hold: ``mask.tif.aux.xml`` for ``mask.tif``."""
    return mask.with_name(f"{mask.name}.aux.xml")


def write_style(path: Path, classes: Sequence[ClassInfo]) -> None:
    """Write a style for QGIS with an entry for each class, and none for pixels without data.

    Args:
        path: The file.
        classes: The classes, by id.

    Raises:
        OSError: It cannot be written.
    """
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ET.SubElement(root, "pipe")
    ids = {"type": "paletted", "band": "1", "opacity": "1", "alphaBand": "-1", "nodataColor": ""}
    palette = ET.SubElement(ET.SubElement(pipe, "rasterrenderer", ids), "colorPalette")
    for index, info in enumerate(classes):
        colour = "#{:02x}{:02x}{:02x}".format(*info.colour)
        ET.SubElement(palette, "paletteEntry", value=str(index), color=colour, label=_text(info.name), alpha="255")
    _write(path, root, b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n")


def write_metadata(path: Path, classes: Sequence[ClassInfo]) -> None:
    """Write category names and a raster attribute table, as GDAL reads them from beside a file.

    Args:
        path: The file.
        classes: The classes, by id.

    Raises:
        OSError: It cannot be written.
    """
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = ET.SubElement(band, "CategoryNames")
    for info in classes:
        ET.SubElement(names, "Category").text = _text(info.name)
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        ET.SubElement(column, "Name").text = name
        ET.SubElement(column, "Type", typeAsString=_TYPES[kind]).text = str(kind)
        ET.SubElement(column, "Usage", usageAsString=_USAGES[usage]).text = str(usage)
    for index, info in enumerate(classes):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in (str(index), _text(info.name), *map(str, info.colour)):
            ET.SubElement(row, "F").text = value
    _write(path, root, b"")


def _text(name: str) -> str:
    """A name without characters that XML forbids."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def _write(path: Path, root: ET.Element, doctype: bytes) -> None:
    ET.indent(root)
    path.write_bytes(doctype + ET.tostring(root, encoding="utf-8", xml_declaration=False) + b"\n")
