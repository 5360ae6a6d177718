"""How places for files are written: paths, URLs, and GDAL's names of the same stores."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..errors import InputError
from .base import Storage
from .local import LocalStorage

_URL = re.compile(r"([A-Za-z][\w+.-]+):(?://|/)(.*)", re.DOTALL)  # pathlib eats a slash; C:/ is a drive
_VSI = {"/vsis3/": "s3", "/vsigs/": "gs", "/vsiaz/": "az"}
_FILE = re.compile(r"file:/+", re.IGNORECASE)


def is_remote_place(place: str | Path) -> bool:
    """Whether files would be put into a store that is reached by a library, rather than into a folder.

    Args:
        place: A path, a URL, or one of GDAL's /vsi paths.

    Returns:
        Whether it is a URL other than file:// or a /vsi path.
    """
    name = str(place)
    return not _FILE.match(name) and (name.startswith("/vsi") or "://" in name or _URL.match(name) is not None)


def url_of(place: str | Path) -> str:
    """The URL of a place that `is_remote_place`.

    Args:
        place: A URL, or a path of GDAL that begins with /vsis3/, /vsigs/ or /vsiaz/.

    Returns:
        The URL, without slashes at its end.

    Raises:
        InputError: Nothing can be put there.
    """
    name = str(place)
    for prefix, scheme in _VSI.items():
        if name.startswith(prefix):
            name = f"{scheme}://{name[len(prefix) :]}"
    found = _URL.fullmatch(name)
    if name.startswith("/vsi") or found is None:
        raise InputError(
            subject=name, expected=f"a folder, a URL such as s3://bucket/folder, or a path under {', '.join(_VSI)}",
            found="another one",
        )  # fmt: skip
    scheme = found[1].lower()
    if scheme in ("http", "https"):
        raise InputError(
            "files cannot be put behind an address of the web", subject=name,
            remedy="name a folder, or the store behind it, such as s3://bucket/folder",
        )  # fmt: skip
    return f"{scheme}://{found[2].rstrip('/')}"


def address_of(place: str | Path) -> str | None:
    """The URL of a file in a store, by whichever name it is called; None for what is no such file."""
    try:
        return url_of(place) if is_remote_place(place) else None
    except InputError:
        return None


def local_path(place: str | Path) -> Path:
    """The folder that a place means which is no `is_remote_place`: a path, or a file:// URL."""
    name = str(place)
    return Path(url2pathname(urlsplit(name).path)) if _FILE.match(name) else Path(place)


def storage_of(place: str | Path) -> Storage:
    """The storage of a place. Nothing is written, and no server is asked.

    Args:
        place: A folder, or ``file://`` and its path; a URL that fsspec knows, such as ``s3://bucket/folder``,
            ``gs://``, ``az://`` or ``memory://``; ``/vsis3/``, ``/vsigs/`` or ``/vsiaz/``, GDAL's names of the first
            three.

    Returns:
        The storage.

    Raises:
        InputError: Nothing can be put there, or a package is missing.
    """
    if is_remote_place(place):
        from .remote import RemoteStorage  # fsspec takes a while to load

        return RemoteStorage(url_of(place))
    return LocalStorage(local_path(place))
