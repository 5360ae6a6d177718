"""Every error that fctl raises on purpose: one tree, in which each class is also the builtin exception that fits.

An error carries what it is about, what was expected, what was found and what to do, so that an application can read
the parts and a person the whole line. Remedies name arguments in backticks, as in "name three bands with `bands`": an
application passes them as they are, and a command line shows them as its own options.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

_JOINERS = "\u200c\u200d"  # which some scripts are written with
_ARGUMENT = re.compile(r"`(\w+)`")


def printable(text: str) -> str:
    """A text on one line that does nothing to a terminal, and that every encoding of Unicode can write.

    Args:
        text: Any text, such as a name from a file that a stranger wrote.

    Returns:
        The text, with control characters, changes of the direction of writing, halves of surrogate pairs and what no
        font has as escapes, such as ``\\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_shown(letter) else ascii(letter)[1:-1] for letter in text)


def _is_shown(letter: str) -> bool:
    """Whether a terminal shows a letter, or at least a space for it, and does nothing else."""
    return letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs"


def worded(text: str, names: Mapping[str, str]) -> str:
    """A text with arguments named as someone else calls them.

    Args:
        text: A message that names arguments in backticks.
        names: By argument, the text that replaces the argument and its backticks; others stay as they are.

    Returns:
        The text.
    """
    return _ARGUMENT.sub(lambda found: names.get(found[1], found[0]), text)


class FctlError(Exception):
    """Base of all errors of fctl. The command lines print it as one line and exit with 1.

    The line reads "subject: expected this, found that; remedy", or "subject: problem; remedy". Parts that are not
    given are left out.

    Args:
        problem: What is wrong, in words, where "expected this, found that" does not fit.
        subject: What the error is about: a file, a bundle, an argument or a field.
        expected: What should have been there.
        found: What was there instead.
        remedy: What to do about it, in the imperative.
    """

    def __init__(
        self,
        problem: str | None = None,
        *,
        subject: object = None,
        expected: str | None = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.expected, self.remedy = problem, expected, remedy
        self.subject = None if subject is None else str(subject)
        self.found = None if found is None else str(found)
        what = f"expected {expected}, found {self.found}" if problem is None else problem
        super().__init__((f"{self.subject}: " if self.subject else "") + what + (f"; {remedy}" if remedy else ""))

    def worded(self, names: Mapping[str, str]) -> str:
        """The line with arguments named as someone else calls them.

        Args:
            names: By argument, the text that replaces the argument and its backticks; others stay as they are.

        Returns:
            The line.
        """
        return worded(str(self), names)


class BundleError(FctlError, ValueError):
    """A bundle that is missing, damaged or not understood."""


class RasterError(FctlError, OSError):
    """A raster that cannot be read, or does not fit the bundle."""


class OutputError(FctlError, OSError):
    """An output that exists already or cannot be written."""


class EngineError(FctlError, RuntimeError):
    """An inference engine that is not installed, or cannot do what was asked."""


class DeviceMemoryError(EngineError, MemoryError):
    """The memory of the GPU, or for an engine on the CPU that of the machine, is too small for what was asked."""


class InputError(FctlError, ValueError):
    """An argument that does not fit."""


class CheckpointError(FctlError, ValueError):
    """A checkpoint that cannot be read, or belongs to another network."""


class ParityError(FctlError, ArithmeticError):
    """An export whose numbers do not agree with the network's."""
