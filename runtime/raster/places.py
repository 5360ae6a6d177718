"""How rasters are named: files, parts of containers such as ``HDF5:"scene.h5"://red``, and what GDAL alone can open."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from ..errors import InputError, RasterError


@dataclass(frozen=True, slots=True)
class Scene:
    """Several rasters of one grid that are segmented as one, so that contexts see across their borders.

    Attributes:
        members: The rasters; where they overlap, the later one is seen. Equal names are refused.
        name: What the names of outputs begin with; that of the first member with "_mosaic" unless it is given.

    Raises:
        InputError: There is no member, or one is named twice.
    """

    members: tuple[str | Path, ...]
    name: str = ""

    def __post_init__(self) -> None:
        members = tuple(place_of(member) for member in self.members)
        twice = next((member for member in members if members.count(member) > 1), None)
        if twice is not None or not members:
            found = "none" if twice is None else f"{twice} twice"
            raise InputError(subject="a mosaic", expected="rasters, each named once", found=found)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "name", self.name or f"{stem_of(members[0])}_mosaic")

    def __str__(self) -> str:
        return f"{self.name} ({len(self.members)} image{'s' * (len(self.members) != 1)})"


Place: TypeAlias = "str | Path | Scene"
"""A file, or a name that is no path as it may hold "//": a part of a file (GDAL's subdatasets), a URL, a /vsi path; or
several of these as one."""

_PART = re.compile(r"([A-Za-z]\w+):(.+)")  # a driver; C: is none
_REMOTE = re.compile(r"[A-Za-z][\w+.-]+://|(https?|ftp|s3|gs|az|file|zip|tar):/|/vsi\w+/")  # pathlib eats a slash
_ARCHIVES = ("zip", "tar", "gzip", "gz", "7z", "rar", "/vsizip/", "/vsitar/", "/vsigzip/", "/vsi7z/", "/vsirar/")
_ARCHIVED = re.compile(r"/vsi(?:zip|tar|gzip|7z|rar)/(?!vsi|/vsi)\{?(.+)|(?:zip|tar|gzip|gz)://?(.+)")
_MANGLED = re.compile(r"(https?|ftp|s3|gs|az|zip|tar):/(?!/)|(/vsi\w+/(?:https?|ftp)):/(?!/)")
_LISTED = 5  # parts of a container


def members_of(image: Place) -> tuple[str | Path, ...]:
    """The rasters that an image consists of: itself, or the members of a scene."""
    return image.members if isinstance(image, Scene) else (image,)


def placed(image: Place) -> Place:
    """What `place_of` gives; a scene as it is."""
    return image if isinstance(image, Scene) else place_of(image)


def place_of(image: str | Path) -> str | Path:
    """A path where an image is a file, and the name as it is for anything else.

    Args:
        image: A path, or a name that GDAL understands. A URL that was made a path has lost a slash, which is put back.

    Returns:
        What `open_any` takes.
    """
    name = str(image)
    if _exists(image):
        return Path(image)
    if is_remote(image):
        return _MANGLED.sub(lambda found: f"{found[1] or found[2]}://", name, count=1)
    return name if isinstance(image, str) and _parts(name) else Path(image)


def file_of(image: Place) -> Path:
    """The file that holds an image: the image itself, or the container or archive that it is a part of.

    Args:
        image: A path, or the name of a part of a container.

    Returns:
        The file; the name as a path where no such file exists. Of a scene, the file of its first member.
    """
    if isinstance(image, Scene):
        return file_of(image.members[0])
    if _exists(image):
        return Path(image)
    parts = _parts(str(image))
    return Path(parts[0]) if parts else _archive(str(image)) or Path(image)


def stem_of(image: Place) -> str:
    """What the names of an image's outputs begin with.

    Args:
        image: A path, or the name of a part of a container.

    Returns:
        The name of the file without its ending; for a part of a container with the name of the part; for an address the
        last part of its path.
    """
    if isinstance(image, Scene):
        return image.name
    parts = _parts(str(image))
    if is_remote(image):
        name = str(place_of(image))
        name = urlsplit(name[name.find("http") :]).path if "http" in name else name
        return Path(unquote(name.rstrip("/")).replace("!", "/")).stem or "image"
    if not parts or _exists(image):
        return Path(image).stem
    return "_".join([Path(parts[0]).stem, *re.findall(r"[\w.-]+", parts[1])])


def is_remote(image: Place) -> bool:
    """Whether a name is a URL or one of GDAL's /vsi paths, and no file of this machine.

    Args:
        image: A path, or any name.

    Returns:
        Whether GDAL alone can open it.
    """
    return any(_REMOTE.match(str(member)) is not None and not _exists(member) for member in members_of(image))


def check_place(image: Place, remote: bool = False) -> None:
    """See that an image lies on this machine.

    Args:
        image: A path, or a name that GDAL understands.
        remote: Whether it may lie elsewhere, or in an archive.

    Raises:
        RasterError: It is remote or packed and may not be, or there is no such file.
    """
    if isinstance(image, Scene):
        for member in image.members:
            check_place(member, remote)
        return
    if _exists(image) or _parts(str(image)):
        return
    if is_remote(image):
        if remote:
            return
        if str(image).startswith(_ARCHIVES):
            raise RasterError(
                "images inside archives are not read by default", subject=image,
                remedy="unpack it and name the file, or, if you trust the image, lift this check with `sources`",
            )  # fmt: skip
        if str(image).startswith("file:"):
            raise RasterError("an image is named by its path, not by a URL", subject=image, remedy="leave file:// out")
        raise RasterError(
            "remote images are not read by default", subject=image,
            remedy="download it, or, if you trust the image, lift this check with `sources`",
        )  # fmt: skip
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


def _exists(name: str | Path) -> bool:
    """Whether a file has that name; what cannot be a name, as a very long URL, is none."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _absence(name: str | Path) -> str:
    """Why there is no file of a name: a folder that may not be entered hides it."""
    try:
        Path(name).stat()
    except PermissionError:
        return "a folder that may not be entered (permission denied)"
    except (OSError, ValueError):
        pass
    return "no such file"


def _archive(name: str) -> Path | None:
    """The archive on this machine that an image lies in; None where there is none."""
    match = _ARCHIVED.match(name)
    if match is None:
        return None
    inner = (match[1] or match[2]).partition("!")[0].replace("}", "")
    for path in (Path(inner), *Path(inner).parents):
        if _exists(path):
            return path if path.is_file() else None
    return None


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
