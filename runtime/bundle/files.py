"""Files of a bundle, which may come from anywhere: only regular files of bounded size are read.

Reading a pipe would wait for ever, and reading a device such as /dev/zero would never end. Links are followed: caches
and version control lay bundles out with them, and what they lead to must pass the same checks.
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


def regular_size(path: Path) -> int:
    """Find the size of a regular file without opening it.

    Args:
        path: The file, or a link to it.

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
    return found.st_size


def read_json(path: Path) -> object:
    """Read a JSON file in which every key of an object is there once and all text can be written again.

    Args:
        path: The file, or a link to it.

    Returns:
        The document.

    Raises:
        WrongFileError: There is no regular file, or one of more than `LARGEST_TEXT` bytes.
        OSError: It cannot be read.
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    size = regular_size(path)
    with path.open("rb") as file:  # files of /proc are larger than they say
        content = file.read(LARGEST_TEXT + 1) if size <= LARGEST_TEXT else b""
    if size > LARGEST_TEXT or len(content) > LARGEST_TEXT:
        raise WrongFileError(f"a file of more than {LARGEST_TEXT} bytes")
    document: object = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    json.dumps(document, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could never be printed
    return document


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
