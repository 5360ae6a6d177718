"""How rasters are named: files, and the parts of containers such as ``HDF5:"scene.h5"://red``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ..errors import RasterError

Place: TypeAlias = "str | Path"
"""A file, or the name of a part of one (GDAL's subdatasets), which is no path: it may hold "//"."""

_PART = re.compile(r"([A-Za-z]\w+):(.+)")  # a driver; C: is none
_REMOTE = re.compile(r"[A-Za-z][\w+.-]+://|(https?|ftp|s3|gs|az|file|zip|tar):/|/vsi\w+/")  # pathlib eats a slash
_ARCHIVES = ("zip", "tar", "gzip", "gz", "7z", "rar", "/vsizip/", "/vsitar/", "/vsigzip/", "/vsi7z/", "/vsirar/")
_LISTED = 5  # parts of a container


def place_of(image: Place) -> Place:
    """A path where an image is a file, and the name as it is for anything else.

    Args:
        image: A path, or the name of a part of a container.

    Returns:
        What `open_any` takes.
    """
    if isinstance(image, str) and not _exists(image) and (_parts(image) or _is_remote(image)):
        return image
    return Path(image)


def file_of(image: Place) -> Path:
    """The file that holds an image: the image itself, or the container that it is a part of.

    Args:
        image: A path, or the name of a part of a container.

    Returns:
        The file; the name as a path where no such file exists.
    """
    parts = _parts(str(image))
    return Path(parts[0]) if parts and not _exists(image) else Path(image)


def stem_of(image: Place) -> str:
    """What the names of an image's outputs begin with.

    Args:
        image: A path, or the name of a part of a container.

    Returns:
        The name of the file without its ending; for a part of a container with the name of the part.
    """
    parts = _parts(str(image))
    if not parts or _exists(image):
        return Path(image).stem
    return "_".join([Path(parts[0]).stem, *re.findall(r"[\w.-]+", parts[1])])


def check_place(image: Place) -> None:
    """See that an image lies on this machine.

    Args:
        image: A path, or the name of a part of a container.

    Raises:
        RasterError: It is remote, packed, or there is no such file.
    """
    if _exists(image) or _parts(str(image)):
        return
    if _is_remote(str(image)):
        if str(image).startswith(_ARCHIVES):
            raise RasterError(
                "images inside archives are not read", subject=image, remedy="unpack it, and name the file"
            )
        if str(image).startswith("file:"):
            raise RasterError("an image is named by its path, not by a URL", subject=image, remedy="leave file:// out")
        raise RasterError(
            "remote images are not read yet",
            subject=image,
            remedy="download it, or name a local .vrt that points there (gdal_translate -of VRT makes one) and lift "
            "the check of images with `sources`",
        )
    raise RasterError(subject=image, expected="an image", found=_absence(image))


def container(image: Place, names: Sequence[str]) -> RasterError:
    """The error for a file without bands of its own.

    Args:
        image: The file.
        names: GDAL's names of the rasters in it.

    Returns:
        The error, which lists the first few of them, quoted for a shell.
    """
    if not names:
        return RasterError(subject=image, expected="an image", found="a file without a raster")
    listed = ", ".join(shlex.quote(name) for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return RasterError(
        subject=image, expected="an image", found=f"a container of {len(names)}", remedy=f"name one: {listed}{more}"
    )


def _exists(name: Place) -> bool:
    """Whether a file has that name; what cannot be a name, as a very long URL, is none."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _absence(name: Place) -> str:
    """Why there is no file of a name: a folder that may not be entered hides it."""
    try:
        Path(name).stat()
    except PermissionError:
        return "a folder that may not be entered (permission denied)"
    except (OSError, ValueError):
        pass
    return "no such file"


def _is_remote(name: str) -> bool:
    return _REMOTE.match(name) is not None


def _parts(name: str) -> tuple[str, str] | None:
    """The file and the rest of a name such as ``NETCDF:"a.nc":b``; None unless the file exists."""
    match = _PART.fullmatch(name)
    if match is None:
        return None
    quoted = re.search(r'"([^"]+)"', match[2])
    if quoted:
        return (quoted[1], match[2].replace(quoted[0], "")) if _exists(quoted[1]) else None
    pieces = match[2].split(":")
    for length in range(len(pieces), 0, -1):  # the longest first: paths of Windows hold a colon
        for start in range(len(pieces) - length + 1):
            found = ":".join(pieces[start : start + length])
            if _exists(found) and re.search(r"\w", found):
                return found, ":".join(pieces[:start] + pieces[start + length :])
    return None
