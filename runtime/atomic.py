"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import FctlError, OutputError


@contextlib.contextmanager
def atomic_write(path: Path, argument: str = "out") -> Iterator[Path]:
    """Make a file or a folder under a temporary name, which becomes its own when the block ends well.

    The temporary name lies beside the other one and keeps its suffix, by which formats are told. It is removed when
    the block does not end well, as are folders that were made for it.

    Args:
        path: The file or folder to make.
        argument: What names it, for the error.

    Yields:
        The temporary name.

    Raises:
        OutputError: It cannot be written; at once, if the folder does not allow it.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    with (
        empty_folders_removed(path.parents),
        as_output_error(f"cannot write {path}", lambda _: f"choose another `{argument}`"),
    ):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(path.parent, os.W_OK | os.X_OK):
                raise PermissionError(13, "no permission to write there")
            yield temporary
            temporary.replace(path)
        finally:
            _remove(temporary)


@contextlib.contextmanager
def empty_folders_removed(folders: Iterable[Path]) -> Iterator[None]:
    """Remove folders that the block makes and leaves empty.

    Args:
        folders: The folders, each before those that it lies in.
    """
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):  # not empty: something was written
                folder.rmdir()


@contextlib.contextmanager
def as_output_error(problem: str, remedy: Callable[[OSError], str]) -> Iterator[None]:
    """Turn errors of the file system into ours.

    Args:
        problem: What could not be done, in words.
        remedy: What to do about an error.

    Raises:
        OutputError: An error of the file system, or of GDAL, came up in the block.
    """
    try:
        yield
    except FctlError:
        raise
    except OSError as error:
        reason = error.strerror or error.__cause__ or error  # GDAL's own words are in the cause
        raise OutputError(f"{problem}: {reason}", remedy=remedy(error)) from error


def refuse_existing(path: Path, *, remedy: str) -> None:
    """Raise OutputError with a remedy where a file or folder exists."""
    if path.exists():
        raise OutputError(f"{path} exists already", remedy=remedy)


def sync(path: Path) -> None:
    """See that a file, or the names in a folder, reach the disk; a system that cannot do that for folders need not."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # a name that could not be made cannot be removed either
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
