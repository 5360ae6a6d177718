"""What this machine keeps between runs: compiled graphs, and which settings were the fastest. All of it can be lost.

An entry belongs to a key, which names everything that it depends on, versions and processor included: an entry of
another version is never found. It holds a digest of its key and content, so that one which was cut short or damaged is
as if it were not there, and is replaced. Entries are read only from a folder into which nobody else may write.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from ..atomic import atomic_write
from ..bundle.files import WrongFileError, regular_size
from ..errors import EngineError, OutputError

log = logging.getLogger(__name__)

LARGEST = 256 << 20
"""Bytes of the largest entry: what takes more is loaded in a small part of the time that it runs."""

_MOST = 1 << 30  # bytes of all entries of a kind
_DIGEST = hashlib.sha256().digest_size
_FORMAT = 1

Key = Mapping[str, object]
"""What an entry belongs to: values that JSON can hold, by name."""


def cache_root() -> Path:
    """The folder in which this machine keeps things: FCTL_CACHE, or else one in the user's cache folder.

    Raises:
        EngineError: The user has no home folder.
    """
    named, base = os.environ.get("FCTL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if named or base:
        return Path(named) if named else Path(str(base)) / "fctl"
    try:
        return Path.home() / ".cache" / "fctl"
    except RuntimeError:
        raise EngineError(
            "there is no home folder to keep engines in", remedy="name a folder in the environment variable FCTL_CACHE"
        ) from None


def kept(kind: str, key: Key) -> bytes | None:
    """Read an entry.

    Args:
        kind: What sort of thing it is; each kind has a folder of its own.
        key: What it belongs to.

    Returns:
        Its content; None where there is none that is whole.
    """
    with contextlib.suppress(OSError, WrongFileError, EngineError):
        folder = cache_root() / kind
        path = folder / _name(key)
        if not _is_ours(folder) or regular_size(path) > LARGEST + _DIGEST:
            return None
        found = path.read_bytes()
        digest, content = found[:_DIGEST], found[_DIGEST:]
        if digest == _digest(key, content):
            with contextlib.suppress(OSError):  # a folder that may be read alone
                os.utime(path)  # those that were used last are kept longest
            return content
        log.debug("%s is damaged, and made anew", path)
    return None


def keep(kind: str, key: Key, content: bytes) -> None:
    """Write an entry, where that is possible; the oldest ones of its kind make room for it.

    Args:
        kind: What sort of thing it is.
        key: What it belongs to.
        content: What to keep; more than `LARGEST` bytes are not kept.
    """
    if len(content) > LARGEST:
        return
    try:
        folder = cache_root() / kind
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):
            log.debug("nothing is kept in %s, into which others may write", folder)
            return
        with atomic_write(folder / _name(key)) as temporary:
            temporary.write_bytes(_digest(key, content) + content)
        _make_room(folder)
    except (OSError, OutputError, EngineError) as error:
        log.debug("nothing is kept: %s", error)


def _name(key: Key) -> str:
    return f"{hashlib.sha256(_text(key)).hexdigest()[:32]}.kept"


def _digest(key: Key, content: bytes) -> bytes:
    """What an entry begins with."""
    return hashlib.sha256(_text(key) + content).digest()


def _text(key: Key) -> bytes:
    return json.dumps([_FORMAT, dict(key)], sort_keys=True).encode() + b"\n"


def _is_ours(folder: Path) -> bool:
    """Whether nobody but this user, and the administrator, may write into a folder; Windows keeps homes apart."""
    if not hasattr(os, "geteuid"):
        return folder.is_dir()
    found = folder.stat()
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022


def _make_room(folder: Path) -> None:
    """Remove the entries that were not used for the longest time, until the rest is no larger than it may be."""
    files = [(found.st_mtime_ns, found.st_size, path) for path in folder.iterdir() if (found := path.stat())]
    excess = sum(size for _, size, _ in files) - _MOST
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= size
