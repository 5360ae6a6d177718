"""A folder of this machine, or one that several machines share, as a storage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import atomic_write, sync
from ..errors import OutputError
from .base import checked


class LocalStorage:
    """A folder, which is made when the first file is put there. See `Storage` for the methods.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """The path of the folder."""
        return str(self._folder)

    def check(self) -> None:
        """See that the folder is none of the files; whether it may be written to is seen when a file is put there."""
        if self._folder.exists() and not self._folder.is_dir():
            raise OutputError(subject=self._folder, expected="a folder", found="a file", remedy="choose another place")

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files that begin so, sorted."""
        with self._failing("list"):
            try:
                entries = list(self._folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []
            names = (path.name for path in entries if path.name.startswith(prefix) and path.is_file())
            return sorted(name for name in names if not name.startswith("."))

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None."""
        with self._failing("look for", name):
            try:
                return self._path(name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def changed(self, name: str) -> float | None:
        """When a file was written, or None."""
        with self._failing("look for", name):
            try:
                return self._path(name).stat().st_mtime
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put(self, file: Path, name: str) -> None:
        """Copy a file into the folder."""
        self._write(name, lambda temporary: shutil.copyfile(file, temporary))

    def write(self, name: str, data: bytes) -> None:
        """Write a file into the folder."""
        self._write(name, lambda temporary: temporary.write_bytes(data))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self._failing("read", name):
            return self._path(name).read_bytes()

    def get(self, name: str, file: Path) -> None:
        """Copy a file out of the folder."""
        with self._failing("read", name):
            source = self._path(name).open("rb")
        with source, atomic_write(file) as temporary, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)

    def local(self, name: str) -> Path | None:
        """The file itself, if it is there."""
        path = self._path(name)
        return path if path.is_file() else None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._failing("remove", name):
            self._path(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder and all in it."""
        with self._failing("remove"):
            try:
                shutil.rmtree(self._folder)
            except FileNotFoundError:
                if self._folder.exists():  # another process removed a file meanwhile
                    shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / checked(name)

    def _write(self, name: str, make: Callable[[Path], object]) -> None:
        path = self._path(name)
        with atomic_write(path) as temporary:
            make(temporary)
            sync(temporary)
        with self._failing("write", name):
            sync(path.parent)  # where the name is kept

    @contextmanager
    def _failing(self, what: str, name: str | None = None) -> Iterator[None]:
        """Turn errors of the file system into one line; a file that is not there stays FileNotFoundError."""
        place = self._folder if name is None else self._path(name)
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot {what} it: {error.strerror or error}", subject=place, remedy="mend that and try again"
            ) from error
