"""The collector of what a check found, which keeps a run going whatever an engine raises."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from fctl.runtime.errors import DeviceMemoryError, FctlError

from .machine import Machine
from .records import Agreement, Built, ImageSpeed, Skipped, Soak, Speed

T = TypeVar("T")

_PREFIX = re.compile(r"no engine for \w+: ")  # of `choose_engine`, which was asked for one engine


@dataclass(kw_only=True)
class Findings:
    """Everything that was found so far.

    Attributes:
        date: When the check began, in UTC.
        command: The command line.
        commit: The commit of the checkout; None where that is not known.
        machine: The machine.
        versions: Versions of libraries, and settings that change numbers or speed, by name.
        settings: The command line's arguments, by name.
        headline: One line on what the report is about.
        problems: What makes the check fail.
        skipped: What did not run.
        built: Engines that were built.
        agreement: Engines against the reference.
        speed: Speed of patches.
        images: Speed of whole images.
        soak: Soaks.
        peak_host_memory: The most bytes that this process ever had; None until the end.
    """

    date: str
    command: str
    commit: str | None
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, object]
    headline: str = ""
    problems: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    built: list[Built] = field(default_factory=list)
    agreement: list[Agreement] = field(default_factory=list)
    speed: list[Speed] = field(default_factory=list)
    images: list[ImageSpeed] = field(default_factory=list)
    soak: list[Soak] = field(default_factory=list)
    peak_host_memory: int | None = None

    def skip(self, bundle: str, what: str, reason: str, part: str = "") -> None:
        """Note what did not run; the arguments are those of `Skipped`. The same reason is noted once."""
        reason = _PREFIX.sub("", " ".join(reason.split()))
        if not any((bundle, what, reason) == (known.bundle, known.what, known.reason) for known in self.skipped):
            self.skipped.append(Skipped(bundle=bundle, what=what, part=part, reason=reason))
            announce(f"skipped {bundle}, {what}{part and ', '}{part}: {reason}")

    def problem(self, text: str) -> None:
        """Note what makes the check fail."""
        self.problems.append(" ".join(text.split()))
        announce(f"problem: {self.problems[-1]}")

    def loading(
        self, bundle: str, what: str, action: Callable[[], T], *, part: str = "", foreign: bool = False
    ) -> T | None:
        """Load or make something that may well be refused on this machine.

        Args:
            bundle: The bundle's name.
            what: What is loaded.
            action: Loads it.
            part: The part of the check.
            foreign: Whether it is not fctl's: then no failure is a problem.

        Returns:
            What the action returns; None where it was refused, which is noted as skipped, or where it failed in an
            unexpected way, which is noted as a problem.
        """
        try:
            return action()
        except FctlError as error:
            self.skip(bundle, what, str(error), part)
        except Exception as error:  # whatever a library raises: the run goes on
            self._failed(bundle, what, error, part, foreign)
        return None

    def running(
        self, bundle: str, what: str, action: Callable[[], T], *, part: str = "", foreign: bool = False
    ) -> T | None:
        """Run something that was loaded: every failure is a problem, except that memory is short.

        Arguments and result are those of `loading`.
        """
        try:
            return action()
        except DeviceMemoryError as error:
            self.skip(bundle, what, str(error), part)
        except Exception as error:  # likewise
            self._failed(bundle, what, error, part, foreign)
        return None

    def _failed(self, bundle: str, what: str, error: Exception, part: str, foreign: bool) -> None:
        lines = str(error).strip().splitlines()
        first = lines[0] if lines else "it does not say why"
        reason = first if isinstance(error, FctlError) else f"{type(error).__name__}: {first}"
        if foreign:
            self.skip(bundle, what, reason, part)
        else:
            self.problem(f"{bundle}, {what}{part and ', '}{part}: {reason}")


def announce(text: str) -> None:
    """Print a line of progress to the standard error."""
    print(text, file=sys.stderr, flush=True)
