"""Files of a bundle, which may come from anywhere: only regular files of bounded size are read.

Reading a pipe would wait for ever, and reading a device such as /dev/zero would never end. A link may lead to another
file of the bundle, but not out of its folder: it could name any file of the machine.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

LARGEST_TEXT = 4 << 20
"""Bytes of the largest JSON file that is read; a manifest has about 10,000."""


class WrongFileError(ValueError):
    """A path with no regular file, or with one of another size than it may have; the text says what was found."""


def regular_size(path: Path, within: Path | None = None) -> int:
    """Find the size of a regular file without opening it.

    Args:
        path: The file, or a link to it.
        within: The folder that the file must really lie in; None for any.

    Returns:
        Its size in bytes.

    Raises:
        WrongFileError: There is none, or something else is there.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise WrongFileError("no such file") from None
    except (OSError, ValueError) as error:  # a name that is too long, or with a null byte
        raise WrongFileError(getattr(error, "strerror", None) or str(error)) from None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    if not stat.S_ISREG(found.st_mode):
        raise WrongFileError(kinds.get(stat.S_IFMT(found.st_mode), "a device"))
    if within is not None and not path.resolve().is_relative_to(within.resolve()):
        raise WrongFileError(f"a link out of the folder, to {path.resolve()}")
    return found.st_size


def read_json(path: Path, within: Path | None = None) -> object:
    """Read a JSON file in which every key of an object is there once and all text can be written again.

    Args:
        path: The file, or a link to it.
        within: The folder that the file must really lie in; None for any.

    Returns:
        The document.

    Raises:
        WrongFileError: There is no regular file, or one of more than `LARGEST_TEXT` bytes.
        OSError: It cannot be read.
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    size = regular_size(path, within)
    with path.open("rb") as file:  # files of /proc are larger than they say
        content = file.read(LARGEST_TEXT + 1) if size <= LARGEST_TEXT else b""
    if size > LARGEST_TEXT or len(content) > LARGEST_TEXT:
        raise WrongFileError(f"a file of more than {LARGEST_TEXT} bytes")
    document: object = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    json.dumps(document, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could never be printed
    return document


def reason(error: Exception) -> str:
    """Why a file cannot be read, in the system's words where it has some; its name is said elsewhere."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def sha256(path: Path) -> str:
    """SHA-256 of a file, as a hex digest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these pairs, none of which may hide another."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} twice")
    return found
