"""What can go wrong outside of a program, in words: its files, its machine, and names that nothing can write."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import printable

_LONGEST_LINE = 2000  # characters
_REMEDIES = {
    errno.EACCES: "ask for the right to read or write it, or choose another place",
    errno.EPERM: "ask for the right to read or write it, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.EMFILE: "close other files, or raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter name",
}
"""By number of an error of the system, what to do about it."""


def ordinary(error: Exception) -> str | None:
    """What went wrong outside of the program.

    Args:
        error: An error that is none of fctl's own.

    Returns:
        What happened to which file, and what to do; None for what can only be a bug.
    """
    if isinstance(error, MemoryError):
        return "there is not enough memory; try a smaller batch"
    if isinstance(error, OSError) and error.strerror:
        remedy = _REMEDIES.get(error.errno or 0)
        place = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return f"{place}{error.strerror}" + (f"; {remedy}" if remedy else "")
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:100]}: expected text that {error.encoding} can write; rename the file"
    return None


def shortened(line: str) -> str:
    """A line without the middle of what is longer than anybody reads, such as a field of a stranger's file."""
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 4 :]}"


@contextmanager
def printable_usage() -> Iterator[None]:
    """Let errors of a wrong call say nothing to a terminal: they repeat what was given, such as names of files."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if isinstance(message, str):
            vars(error)["message"] = printable(message)
        raise
