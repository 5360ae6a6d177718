"""Stores that fsspec reaches: S3 and its like, and whatever else has a URL. This file is the home of fsspec."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol, cast

from .. import remedies
from ..atomic import atomic_write
from ..errors import FctlError, InputError, OutputError
from .amazon import for_fsspec
from .base import State, checked

_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci")
"""Schemes of stores of objects, each of which appears whole when its upload is complete."""
_ABSENT = (FileNotFoundError, NotADirectoryError)


class _Files(Protocol):
    """What is used of fsspec's file systems."""

    def invalidate_cache(self) -> None: ...
    def info(self, path: str) -> dict[str, object]: ...
    def ls(self, path: str, detail: bool) -> list[dict[str, object]]: ...
    def find(self, path: str) -> list[str]: ...
    def makedirs(self, path: str, exist_ok: bool) -> None: ...
    def put_file(self, lpath: str, rpath: str) -> None: ...
    def get_file(self, rpath: str, lpath: str) -> None: ...
    def pipe_file(self, path: str, value: bytes) -> None: ...
    def cat_file(self, path: str) -> bytes: ...
    def mv(self, path1: str, path2: str) -> None: ...
    def rm_file(self, path: str) -> None: ...
    def rm(self, path: str | list[str], recursive: bool = False) -> None: ...


class RemoteStorage:
    """A folder of a store that fsspec reaches. See `Storage` for the methods.

    Args:
        url: Its URL, without a slash at its end.

    Raises:
        InputError: The URL means nothing to fsspec, or a package is missing.
    """

    def __init__(self, url: str) -> None:
        self._url = re.sub(r"//[^/@]*@", "//", url)
        self._files, self._root = _opened(url, self._url)
        scheme = url.partition("://")[0]
        self._has_buckets = scheme in _BUCKETS
        if self._has_buckets and not self._root.strip("/"):
            raise InputError(subject=url, expected=f"{scheme}://BUCKET/FOLDER", found="no bucket")

    @property
    def name(self) -> str:
        """The URL, without a user and a password."""
        return self._url

    def check(self) -> None:
        """See that the bucket is there; the store must answer and know who asks."""
        bucket = self._root.lstrip("/").partition("/")[0]
        with self._failing("write to"):
            if self._has_buckets and bucket:
                with contextlib.suppress(PermissionError):  # who may write need not be allowed to look at the bucket
                    self._files.info(bucket)

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files that begin so, sorted."""
        with self._failing("list"):
            self._files.invalidate_cache()
            try:
                entries = self._files.ls(self._root, detail=True)
            except _ABSENT:
                return []
        folder = self._root.strip("/")
        found = [str(entry["name"]).rstrip("/").lstrip("/") for entry in entries if entry["type"] == "file"]
        names = [path[len(folder) :].lstrip("/") for path in found if path != folder]
        return sorted(name for name in names if name.startswith(prefix) and not name.startswith("."))

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None."""
        found = self.state(name)
        return None if found is None else found.size

    def changed(self, name: str) -> float | None:
        """When a file was written, or None."""
        found = self.state(name)
        return None if found is None else found.changed or 0.0

    def state(self, name: str) -> State | None:
        """What the store says of a file; None where there is none of that name."""
        with self._failing("look for", name):
            self._files.invalidate_cache()
            try:
                found = self._files.info(self._path(name))
            except _ABSENT:
                return None
        if found["type"] != "file":
            return None
        etag = found.get("ETag") or found.get("etag") or ""
        return State(size=int(str(found["size"])), etag=str(etag), changed=_time(found))

    def put(self, file: Path, name: str) -> None:
        """Upload a file."""
        self._write(name, lambda path: self._files.put_file(str(file), path))

    def write(self, name: str, data: bytes) -> None:
        """Upload what is in memory."""
        self._write(name, lambda path: self._files.pipe_file(path, data))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self._failing("read", name, absent=_ABSENT):
            return self._files.cat_file(self._path(name))

    def get(self, name: str, file: Path) -> None:
        """Download a file."""
        if self.size(name) is None:
            raise FileNotFoundError(2, "no such file", f"{self.name}/{name}")
        with atomic_write(file) as temporary, self._failing("read", name, absent=_ABSENT):
            self._files.get_file(self._path(name), str(temporary))

    def local(self, name: str) -> Path | None:
        """Nowhere on this machine."""
        checked(name)
        return None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._failing("remove", name), contextlib.suppress(*_ABSENT):
            self._files.rm_file(self._path(name))

    def clear(self) -> None:
        """Remove all that is there, but never the bucket."""
        with self._failing("remove"), contextlib.suppress(*_ABSENT):
            self._files.invalidate_cache()
            if not self._has_buckets:
                self._files.rm(self._root, recursive=True)
            elif found := self._files.find(self._root):
                self._files.rm(found)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{checked(name)}"

    def _write(self, name: str, upload: Callable[[str], None]) -> None:
        """Write a file under its name where it appears whole; else under another name, which is then changed."""
        path = self._path(name)
        with self._failing("write", name):
            if self._has_buckets:
                upload(path)
                return
            self._files.makedirs(self._root, exist_ok=True)
            temporary = self._path(f".{name}.{uuid.uuid4().hex[:8]}.part")
            try:
                upload(temporary)
                self._files.mv(temporary, path)
            except BaseException:
                with contextlib.suppress(Exception):  # what failed first is told
                    self._files.rm_file(temporary)
                raise

    @contextmanager
    def _failing(
        self, what: str, name: str | None = None, *, absent: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Turn errors of the store into one line, whatever the library behind it raises.

        Args:
            what: What is done, in words.
            name: The file that it is done with; None for all of the storage.
            absent: Errors that mean that there is no such file, which stay FileNotFoundError.
        """
        place = self.name if name is None else f"{self.name}/{name}"
        try:
            yield
        except FctlError:
            raise
        except absent as error:
            raise FileNotFoundError(2, "no such file", place) from error
        except Exception as error:
            raise OutputError(
                f"cannot {what} it: {_reason(error)}", subject=place,
                remedy="see that the place exists, that you may use it and that it answers, and try again",
            ) from error  # fmt: skip


def _time(found: Mapping[str, object]) -> float | None:
    """When a file was last changed, by whichever name its library tells that, in seconds since 1970."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "modified", "created"):
        value = found.get(name)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None


def _reason(error: BaseException) -> str:
    """What happened, in the words of the library, on one line."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or repr(error)).split())
    return text if isinstance(error, OSError) else f"{text} ({type(error).__name__})"


def _opened(url: str, shown: str) -> tuple[_Files, str]:
    """fsspec's file system of a URL, and the folder in it.

    It remembers no listings, for other machines write there too.
    """
    try:
        import fsspec
    except ImportError:
        raise InputError(
            "it needs fsspec, which is not installed", subject=shown, remedy=remedies.install("remote")
        ) from None
    amazon = url.startswith(("s3://", "s3a://"))
    try:
        files, root = fsspec.url_to_fs(url, use_listings_cache=False, **(for_fsspec() if amazon else {}))
    except ImportError as error:
        remedy = remedies.install("remote") if amazon else None
        raise InputError(f"a package is missing: {_reason(error)}", subject=shown, remedy=remedy) from error
    except Exception as error:
        raise InputError(f"it cannot be used: {_reason(error)}", subject=shown) from error
    return cast(_Files, files), str(root)
