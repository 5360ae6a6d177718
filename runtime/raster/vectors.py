"""Files of polygons: which are opened, and what is read of them. The counterpart of `open_any` for vector data.

GDAL opens files and addresses that some vector formats name (OGR's VRT, GML with a schema, descriptions of services).
By default only formats that hold all there is of them are opened, as with rasters (docs/rasters.md).
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import isnan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import remedies
from ..errors import InputError
from .access import Sources
from .silence import ignored

log = logging.getLogger(__name__)

_HEAD = 4096  # bytes by which a format is told
_DRIVERS = ("GPKG", "GeoJSON", "GeoJSONSeq", "TopoJSON", "ESRIJSON", "JSONFG", "FlatGeobuf", "ESRI Shapefile", "KML",
            "LIBKML")  # fmt: skip
_LOCAL = "a file of GeoPackage, GeoJSON, FlatGeobuf, Shapefile or KML"
_SHAPEFILE = (".shp", ".shx", ".dbf", ".prj", ".cpg")
_NAMES = ("name", "id")  # fields that name a polygon, if nobody says which does
_AOI = "`aoi`"


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What a file holds of polygons.

    Attributes:
        outlines: The geometry of each feature as WKB, (n,) objects; None where it has none.
        names: What each is called.
        crs: Their coordinate reference system as text; None where the file names none.
    """

    outlines: NDArray[np.object_]
    names: tuple[str, ...]
    crs: str | None


def check_vector(path: Path, sources: Sources) -> None:
    """Refuse a file of polygons that may not be opened.

    Args:
        path: The file.
        sources: Which files may be opened.

    Raises:
        InputError: There is no such file, its format could make GDAL read others, or a package is missing.
    """
    for package in ("pyogrio", "shapely"):
        if find_spec(package) is None:
            raise InputError(
                f"polygons need {package}, which is not installed", subject=_AOI, remedy=remedies.install("vector")
            )
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise InputError(subject=_AOI, expected="a file with polygons", found=f"{found}: {path}")
    if sources != "any" and not _holds_all(path):
        remedy = "convert it with ogr2ogr, or, if you trust it, lift this check with `sources`"
        raise InputError(subject=_AOI, expected=_LOCAL, found=f"another format: {path}", remedy=remedy)


def _holds_all(path: Path) -> bool:
    """Whether a file is of a format that names no other file, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if b"<ogr" in head.lower():  # the descriptions that GDAL knows, wherever they begin
        return False
    if head.startswith(b"SQLite format 3\0"):
        return head[68:72] in (b"GPKG", b"GP10", b"GP11") and not os.path.lexists(f"{path}-journal")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        return b"<kml" in text
    return text.startswith((b"{", b"\x1e", b"fgb\x03", b"\0\0\x27\x0a"))


def digest_of(path: Path) -> str:
    """The digest of what a file of polygons holds, its parts in other files included.

    Args:
        path: The file.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        InputError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for file in _files_of(path):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise InputError(subject=_AOI, expected="a file with polygons", found=f"{error.strerror}: {path}") from None
    return digest.hexdigest()


def _files_of(path: Path) -> list[Path]:
    """The files that hold polygons: several of a Shapefile."""
    if path.suffix.lower() != ".shp":
        return [path]
    return sorted(
        file for file in path.parent.iterdir() if file.stem == path.stem and file.suffix.lower() in _SHAPEFILE
    )


def read_features(path: Path, name: str | None, sources: Sources) -> Features:
    """Read the features of a file.

    Args:
        path: The file.
        name: The field that names a feature. None takes "name" or "id" if there is one, else numbers from 1.
        sources: Which files may be opened.

    Returns:
        The features of the first layer that can hold polygons.

    Raises:
        InputError: The file may not be opened, cannot be read, or lacks the field.
    """
    check_vector(path, sources)
    import pyogrio

    with _reading(path):
        layers = [str(layer) for layer, kind in pyogrio.list_layers(path) if _may_hold_polygons(kind)]
        if not layers:
            raise InputError(subject=_AOI, expected="a file with polygons", found=f"none in {path}")
        if len(layers) > 1:
            log.warning("%s: of its %d layers, polygons are taken of the first: %s", path, len(layers), layers[0])
        about = pyogrio.read_info(path, layer=layers[0])
        if sources != "any" and about["driver"] not in _DRIVERS:
            raise InputError(subject=_AOI, expected=_LOCAL, found=f"{about['driver']}: {path}")
        field = _field(path, name, [str(field) for field in about["fields"]])
        meta, _, outlines, values = pyogrio.raw.read(
            path, layer=layers[0], columns=[field] if field else [], force_2d=True
        )
    count = 0 if outlines is None else len(outlines)
    named = values[0].tolist() if field and values else [None] * count
    names = tuple(_name(value, number) for number, value in enumerate(named, 1))
    found = np.zeros(0, np.object_) if outlines is None else outlines
    return Features(found, names, _system(meta))


def _may_hold_polygons(kind: object) -> bool:
    """Whether geometries of a layer can be polygons, by the name of its type; None has no geometry at all."""
    name = str(kind or "")
    return any(word in name for word in ("Polygon", "Unknown", "Collection", "Surface"))


def _field(path: Path, name: str | None, fields: list[str]) -> str | None:
    """The field that names a feature."""
    if name is None:
        known = {field.lower(): field for field in reversed(fields)}
        return next((known[wanted] for wanted in _NAMES if wanted in known), None)
    if name not in fields:
        expected = f"a field of {path}: {', '.join(fields) or 'it has none'}"
        raise InputError(subject="`aoi_name`", expected=expected, found=repr(name))
    return name


def _name(value: object, number: int) -> str:
    """A name as text; a number in place of none."""
    if isinstance(value, float):  # as pyogrio has whole numbers too, where some are missing
        value = None if isnan(value) else int(value) if value.is_integer() else value
    return str(number if value is None else value)


def _system(meta: Mapping[str, object]) -> str | None:
    return str(meta["crs"]) if meta.get("crs") else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of GDAL into ours, and leave its warnings out."""
    try:
        with ignored(UserWarning), ignored(RuntimeWarning):
            yield
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, UnicodeError) as error:
        raise InputError(
            subject=_AOI, expected="a file of polygons that GDAL reads", found=f"{path} ({error})"
        ) from error
