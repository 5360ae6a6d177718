"""Where the outputs of a run go: their own places on this disk, or a store to which they are uploaded when complete."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from ..atomic import atomic_write
from ..errors import OutputError
from .places import storage_of, url_of

_BEGUN, _LOCK = ".fctl-upload", ".fctl-upload-lock"


class Destination(Protocol):
    """Where outputs go. Each has a path on this machine, where it is made, and by which it is named here."""

    @property
    def staged(self) -> bool:
        """Whether outputs are made elsewhere than where they go."""
        ...

    def named(self, path: Path) -> str:
        """Where an output goes, for messages."""
        ...

    def changed(self, path: Path) -> float | None:
        """When the output was written that is there, in seconds since 1970; None where there is none."""
        ...

    def fetched(self, path: Path) -> AbstractContextManager[Path]:
        """The output that is there as a file of this machine.

        Raises:
            FileNotFoundError: There is none.
        """
        ...

    def is_begun(self, path: Path) -> bool:
        """Whether an earlier run began to take the outputs there of which this one is the last."""
        ...

    def take(self, files: Sequence[Path]) -> None:
        """Take complete outputs there, once all of them are made.

        Args:
            files: All files of one image. One that was not made is removed where it goes. The last one shows that all
                others are there.

        Raises:
            OutputError: One of them cannot be written.
        """
        ...


class Disk:
    """Outputs that are made where they go. See `Destination` for the methods."""

    staged = False

    def named(self, path: Path) -> str:
        """The path."""
        return str(path)

    def changed(self, path: Path) -> float | None:
        """When the file was written, or None."""
        try:
            return path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError, ValueError):  # what cannot be a name is none
            return None

    def fetched(self, path: Path) -> AbstractContextManager[Path]:
        """The file itself."""
        return contextlib.nullcontext(path)

    def is_begun(self, path: Path) -> bool:
        """Never."""
        return False

    def take(self, files: Sequence[Path]) -> None:
        """Do nothing: they are there."""


DISK = Disk()
"""The destination of all that is not uploaded."""


class Upload:
    """Outputs that are made in a folder of this machine, and uploaded when all those of an image are complete.

    The folder depends on the place alone, so that a later run finds what an earlier one left in it. Outputs whose paths
    lie elsewhere stay where they are. See `Destination` for the methods.

    Args:
        place: A URL or one of GDAL's /vsi paths, which `storage_of` takes.
        staging: The folder of this machine in which outputs wait; each place has a folder in it.

    Raises:
        InputError: Nothing can be put there, or a package is missing.

    Attributes:
        folder: Where the outputs are to be made.
        storage: Where they go.
    """

    staged = True

    def __init__(self, place: str, staging: str | Path) -> None:
        self.storage = storage_of(place)
        self.folder = Path(staging).absolute() / hashlib.sha256(url_of(place).encode()).hexdigest()[:16]

    def named(self, path: Path) -> str:
        """The URL of the output."""
        return f"{self.storage.name}/{path.name}" if self._is_ours(path) else str(path)

    def changed(self, path: Path) -> float | None:
        """When the output was uploaded, or None."""
        return self.storage.changed(path.name) if self._is_ours(path) else DISK.changed(path)

    @contextmanager
    def fetched(self, path: Path) -> Iterator[Path]:
        """A copy of the output, which is removed when the block ends."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetched-", dir=self.folder) as folder:
                copy = Path(folder) / path.name
                self.storage.get(path.name, copy)
                yield copy
        finally:
            self._remove_empty()

    def is_begun(self, path: Path) -> bool:
        """Whether an upload of the outputs that lie here began and did not end."""
        return self._mark(path, _BEGUN).exists()

    def take(self, files: Sequence[Path]) -> None:
        """Upload all, the last one last, and remove them here; those of a failed upload are kept."""
        files = [file for file in files if self._is_ours(file)]
        last = files[-1]
        with self._locked(last):
            if not last.exists():
                if self.storage.size(last.name) is None:
                    raise OutputError("it is gone, though nobody uploaded it", subject=last, remedy="run again")
                return  # another run of the same outputs uploaded them meanwhile
            with atomic_write(self._mark(last, _BEGUN)) as begun:
                begun.touch()
            with self._kept():
                for file in files:
                    if file.exists():
                        self.storage.put(file, file.name)
                    else:
                        self.storage.remove(file.name)
            self._mark(last, _BEGUN).unlink(missing_ok=True)
            for file in reversed(files):
                file.unlink(missing_ok=True)

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):  # not empty: other outputs wait in it
            self.folder.rmdir()

    def _is_ours(self, path: Path) -> bool:
        return path.parent == self.folder

    def _mark(self, path: Path, ending: str) -> Path:
        return self.folder / f".{path.name}{ending}"

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Say of an upload that fails where the outputs are."""
        try:
            yield
        except OutputError as error:
            raise OutputError(
                error.problem, subject=error.subject,
                remedy=f"mend that and run again, which uploads the finished outputs that are kept in {self.folder}",
            ) from error  # fmt: skip

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Let one run alone upload the outputs that lie here; the folder goes when it is empty."""
        mark = self._mark(path, _LOCK)
        if not self.folder.is_dir():
            yield
            return
        lock = FileLock(mark)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError("another run uploads it", subject=self.named(path), remedy="wait for its end") from None
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)
            lock.release()
            self._remove_empty()
