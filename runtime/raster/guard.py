"""What is looked at before GDAL opens an image: its kind, the files beside it, and the files that a VRT names.

GDAL opens overviews and masks beside an image, those that the image's metadata names, and the sources of a VRT, with
any of its drivers, whatever drivers were allowed for the image itself. A text named ``photo.tif.ovr`` can so make it
read any file of the server. Here each of these files is seen to be a plain image that lies in the image's own folder.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from ..errors import RasterError
from .access import LOCAL_DRIVERS, TRUST, Access, check_limits
from .places import Place, file_of, is_remote, place_of
from .silence import ignored
from .virtual import is_virtual, sources_of

_MAGIC = (
    (b"II*\0", "GTiff"), (b"MM\0*", "GTiff"), (b"II+\0", "GTiff"), (b"MM\0+", "GTiff"),
    (b"EHFA_HEADER_TAG\0", "HFA"), (b"\x89PNG\r\n\x1a\n\0", "PNG"), (b"\xff\xd8\xff", "JPEG"),
    (b"\0\0\0\x0cjP  ", "JP2OpenJPEG"), (b"\xff\x4f\xff\x51\0", "JP2OpenJPEG"), (b"RIFF", "WEBP"), (b"BM", "BMP"),
)  # fmt: skip
_RASTERS = (".ovr", ".msk", ".aux")  # files that GDAL opens as rasters beside an image
_TEXTS = (
    ".aux.xml", ".hdr", ".prj", ".tab", ".wld", ".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".jpegw", ".pgw", ".pngw",
    ".j2w", ".jp2w", ".bpw", ".rpb", ".imd", ".sta", ".rrd", ".ige", "_rpc.txt",
)  # fmt: skip
_LISTED = 1100  # entries of a folder; GDAL lists 1000, and looks for exact names in larger ones
_DEEPEST = 8  # VRTs of VRTs
_PARTS = ("GTIFF_DIR", "GPKG", "NETCDF")  # containers of one file
_PATTERN = re.compile(r"/vsi\w+/|\w://", re.IGNORECASE)


def allowed_drivers(place: Place, access: Access) -> list[str] | None:
    """Look at an image, and say which of GDAL's drivers may try to open it.

    Args:
        place: The file, or the name of a part of a container. The file exists, or lies elsewhere and may.
        access: What may be opened.

    Returns:
        Names of drivers; None where all may.

    Raises:
        RasterError: The file is no regular file, may not be read, or could make GDAL read another one.
    """
    if is_remote(place) and access.sources == "any":
        return None
    path = file_of(place)
    _check_regular(path, may_be_folder=access.sources == "any")
    if access.sources == "any":
        return None
    if str(place) != str(path):
        _check_part(str(place))
    return _Guard(path, access, _folders_of(path)).drivers()


def check_source(path: Path, access: Access) -> None:
    """Refuse an image that GDAL may not open with whatever driver it likes, as it opens the sources of a VRT.

    Args:
        path: The file.
        access: What may be opened.

    Raises:
        RasterError: It is no plain image, nor a VRT of such, or could make GDAL read another file.
    """
    _check_regular(path)
    guard = _Guard(path, access, _folders_of(path))
    if is_virtual(path):
        guard.drivers()
    else:
        guard._check_raster(path)


def check_opened(dataset: DatasetReader, place: Place) -> None:
    """See that an open image names no file elsewhere; it is to be called before anything else is asked of the image.

    Args:
        dataset: The open image.
        place: Its name, for messages.

    Raises:
        RasterError: Its metadata names a file of overviews, or it reads files outside its folder.
    """
    elsewhere = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")  # asked first: `files` would open it
    if elsewhere is not None:
        raise _refused(place, f"metadata that names the overviews {elsewhere!r}")
    roots = _folders_of(file_of(place))
    for name in dataset.files:
        if not _lies_in(Path(name), roots):
            raise _refused(place, f"the file {name}")


def beside(path: Path, folders: dict[Path, frozenset[str] | None] | None = None) -> Iterator[Path]:
    """Files beside an image that GDAL reads with it, whether their names are written in capitals or not.

    Args:
        path: The image.
        folders: What was listed so far, by folder; it is added to.

    Yields:
        The files, links that point nowhere among them.
    """
    folders = {} if folders is None else folders
    if path.parent not in folders:
        folders[path.parent] = _entries(path.parent)
    names = {start + end for start in (path.name, path.stem) for end in (*_RASTERS, *_TEXTS)}
    entries = folders[path.parent]
    if entries is None:
        names.update([start + end.upper() for start in (path.name, path.stem) for end in (*_RASTERS, *_TEXTS)])
        found = {name for name in names if os.path.lexists(path.parent / name)}
    else:
        known = {name.lower() for name in names}
        found = {name for name in entries if name.lower() in known}
    yield from (path.parent / name for name in sorted(found - {path.name}))


def _entries(folder: Path) -> frozenset[str] | None:
    """The names in a folder that could belong to an image; None where it is too large, or may be entered only."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, _LISTED)]
    except OSError:
        return None
    if len(names) == _LISTED:
        return None
    return frozenset(name for name in names if name.lower().endswith((*_RASTERS, *_TEXTS)))


class _Guard:
    """Looks at one image and all that GDAL would open with it."""

    def __init__(self, image: Path, access: Access, roots: set[Path]) -> None:
        self._image, self._access, self._roots = image, access, roots
        self._seen: set[Path] = set()
        self._folders: dict[Path, frozenset[str] | None] = {}

    def drivers(self) -> list[str]:
        """The drivers that may open the image."""
        self._check_beside(self._image)
        allowed = list(LOCAL_DRIVERS)
        with self._image.open("rb") as file:
            head = file.read(16)
        if head[:4] in (b"CDF\1", b"CDF\2", b"CDF\5"):  # netCDF-4 is HDF5, which can name other files
            allowed.append("netCDF")
        if head == b"SQLite format 3\0" and os.path.lexists(f"{self._image}-journal"):
            raise _refused(self._image, "a journal of SQLite, which can name other files")
        if is_virtual(self._image):
            self._check_virtual((self._image,))
            allowed.append("VRT")
        return allowed

    def _check_virtual(self, chain: tuple[Path, ...]) -> None:
        """See that the sources of the last VRT of a chain, and the sources of these, are plain images in the folder."""
        for source in sources_of(chain[-1], self._access):
            if not _lies_in(source, self._roots):
                raise _refused(self._image, f"the file {source}")
            if source in self._seen:
                continue
            _check_regular(source)
            if not is_virtual(source):
                self._seen.add(source)
                self._check_raster(source)
            elif len(chain) == _DEEPEST or any(source.samefile(vrt) for vrt in chain):
                raise _refused(self._image, f"a VRT of itself, or of more than {_DEEPEST} VRTs")
            else:
                self._check_beside(source)
                self._check_virtual((*chain, source))
                self._seen.add(source)

    def _check_beside(self, path: Path) -> None:
        """See that the files beside an image are in the folder, and those that GDAL opens are plain images."""
        for sidecar in beside(path, self._folders):
            if not _lies_in(sidecar, self._roots):
                raise _refused(self._image, f"the file {sidecar}, a link to elsewhere")
            _check_regular(sidecar)
            if sidecar not in self._seen and _is_opened_with(sidecar, path):
                self._seen.add(sidecar)
                self._check_raster(sidecar)

    def _check_raster(self, path: Path) -> None:
        """See that a file is an image of a plain format, by its first bytes, that names no file elsewhere."""
        with path.open("rb") as file:
            head = file.read(16)
        driver = next((driver for magic, driver in _MAGIC if head.startswith(magic)), None)
        if driver is None or b"\0" not in head:  # text that drivers look for ends at a null
            raise _refused(self._image, f"{path}, which is no GeoTIFF, PNG, JPEG, JPEG2000, WebP, BMP or HFA")
        self._check_beside(path)
        try:
            with ignored(NotGeoreferencedWarning), DatasetReader(opened_name(path), driver=[driver]) as dataset:
                check_opened(dataset, path)
                check_limits(dataset, path, self._access)
        except RasterioError as error:
            raise RasterError(subject=path, expected="an image that GDAL reads", found=f"none ({error})") from error


def _is_opened_with(sidecar: Path, image: Path) -> bool:
    """Whether GDAL opens a file beside an image as a raster: a.tif.ovr, a.tif.msk, and a.aux where it is one of HFA."""
    if sidecar.suffix.lower() == ".aux":
        with sidecar.open("rb") as file:
            return file.read(15) == b"EHFA_HEADER_TAG"
    return sidecar.stem.lower() == image.name.lower() and sidecar.suffix.lower() in _RASTERS


def opened_name(place: Place) -> str:
    """The name to give GDAL: no file's name can pass for the name of anything else, as "WMTS:..." would."""
    name = str(place)
    if is_remote(place):
        return str(place_of(name))
    is_odd = ":" in name and not Path(name).is_absolute() and name == str(file_of(place))
    return f"{os.curdir}{os.sep}{name}" if is_odd else name


def _check_regular(path: Path, may_be_folder: bool = False) -> None:
    """Raise RasterError unless a path is a file that may be read; a pipe would never end."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise forbidden(path) from None
    except (OSError, ValueError) as error:
        raise RasterError(subject=path, expected="a file", found=f"none ({error})") from None
    if not stat.S_ISREG(mode) and not (may_be_folder and stat.S_ISDIR(mode)):
        found = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise RasterError(subject=path, expected="an image", found=found, remedy="name a file")
    if stat.S_ISREG(mode):
        try:
            path.open("rb").close()
        except PermissionError:
            raise forbidden(path) from None


def forbidden(path: Place) -> RasterError:
    """The error for a file that may not be read, or lies in a folder that may not be entered."""
    return RasterError(
        "it may not be read (permission denied)",
        subject=path,
        remedy="change the permissions of the file and its folder",
    )


def _check_part(name: str) -> None:
    """Raise RasterError unless a part of a container is named by one file."""
    kind = name.partition(":")[0]
    if kind.upper() not in _PARTS or _PATTERN.search(name):
        raise _refused(name, f"a part of {kind}, which can name other files")


def _folders_of(image: Path) -> set[Path]:
    """The folder of an image, and where the image is a link, that of what it points to."""
    return {image.parent.resolve(), image.resolve().parent}


def _lies_in(path: Path, folders: set[Path]) -> bool:
    """Whether a file lies in one of some folders, or below, once links are followed."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    return any(real.is_relative_to(folder) for folder in folders)


def _refused(place: Place, found: str) -> RasterError:
    return RasterError(subject=place, expected="an image of files in its own folder", found=found, remedy=TRUST)
