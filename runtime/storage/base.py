"""What every storage can do. A file in it is there whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The state of a file on a server.

    Attributes:
        size: Its bytes; None where the server does not say.
        etag: What the server calls this state; empty where it does not.
        changed: When it was last changed, in seconds since 1970; None where the server does not say.
    """

    size: int | None
    etag: str
    changed: float | None


class Storage(Protocol):
    """A place for finished files: one folder, without the folders in it.

    A file appears whole or not at all, also where the process is killed or the network fails meanwhile. Any number of
    processes and machines may use a storage at once: where two put the same name, one of the two files is there. Names
    that begin with a dot are not listed.

    Every method raises OutputError, one line, for what goes wrong beyond what it says: no permission, no such bucket,
    no answer. How often a server is asked again is the business of the library that speaks to it.
    """

    @property
    def name(self) -> str:
        """What messages call it: a path or a URL, without passwords."""
        ...

    def check(self) -> None:
        """See that files could be put there, as far as that can be told without writing.

        Raises:
            OutputError: They could not.
        """
        ...

    def names(self, prefix: str = "") -> list[str]:
        """Names of the files that are there.

        Args:
            prefix: What the names begin with.

        Returns:
            The names, sorted; none where the place does not exist.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none of that name."""
        ...

    def changed(self, name: str) -> float | None:
        """When a file was written, in seconds since 1970; None where there is none, 0 where that is not known."""
        ...

    def put(self, file: Path, name: str) -> None:
        """Put a file there; one of that name is replaced.

        Args:
            file: The file, on this machine.
            name: What it is called there.
        """
        ...

    def write(self, name: str, data: bytes) -> None:
        """Put a file there whose content is in memory; one of that name is replaced."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: There is none of that name.
        """
        ...

    def get(self, name: str, file: Path) -> None:
        """Copy a file from there.

        Args:
            name: What it is called there.
            file: The file to write on this machine, which appears whole or not at all.

        Raises:
            FileNotFoundError: There is none of that name.
        """
        ...

    def local(self, name: str) -> Path | None:
        """Where a file lies on this machine, so that nothing needs to be copied; None where it does not."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def clear(self) -> None:
        """Remove all that is there, what lies in folders and hidden files included, and the folder itself."""
        ...


def checked(name: str) -> str:
    """A name of a file, which must lie in the storage itself.

    Raises:
        InputError: It could lie elsewhere.
    """
    if name in ("", ".", "..") or any(letter in name for letter in "/\\\0"):
        raise InputError(subject="a storage", expected="the name of a file in it", found=repr(name))
    return name
