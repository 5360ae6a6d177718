"""What a comparison found."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from ..stopwatch import Stage, Taken
from .cases import Case, Opened
from .work import ENGINE, Measured

STAGES: tuple[Stage, ...] = get_args(Stage)
FOREGROUND: tuple[Stage, ...] = ("wait", "encode", "gather", "segment", "merge", "write", "other")
"""Stages of the foreground in the order in which they are shown; any other that a run had comes after them."""
PERCENTILES = (50, 90, 99)
_NOTHING = Taken()


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and how far they lie apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of some values, of which there is at least one."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What one case took.

    Attributes:
        case: The case as it was asked for.
        opened: The case as it ran.
        rounds: What each round took.
        frames: Seconds of each frame, of all rounds; none where no frames were asked for.
    """

    case: Case
    opened: Opened
    rounds: tuple[Measured, ...]
    frames: tuple[float, ...]

    @property
    def seconds(self) -> Spread:
        """Seconds for the image."""
        return self._spread(lambda one: one.seconds)

    @property
    def megapixels(self) -> Spread:
        """Megapixels a second."""
        return self._spread(lambda one: one.pixels / 1e6 / one.seconds)

    @property
    def patches(self) -> Spread:
        """Patches a second."""
        return self._spread(lambda one: one.patches / one.seconds)

    @property
    def engine_share(self) -> Spread:
        """The share of the time in which the engine encodes and segments."""
        return self._spread(lambda one: one.times.of(*ENGINE).clock / one.seconds)

    def taken(self, stage: Stage) -> Spread:
        """Seconds on the clock of one stage, in whatever thread."""
        return self._spread(lambda one: one.times.of(stage).clock)

    @property
    def outside(self) -> Spread | None:
        """Milliseconds of processor time for each megapixel that the engine did not take; None where nobody tells."""
        found = [1e3 * one.outside / (one.pixels / 1e6) for one in self.rounds if one.outside is not None]
        return Spread.of(found) if found else None

    @property
    def peak(self) -> int | None:
        """The most bytes of memory that the case's process took; None where nobody tells."""
        return max((one.peak for one in self.rounds if one.peak is not None), default=None)

    def stages(self, *, background: bool = False) -> dict[Stage, Spread]:
        """Seconds on the clock by stage, of the foreground or of the threads beside it."""
        times = [one.times.background if background else one.times.foreground for one in self.rounds]
        return {
            stage: Spread.of(found.get(stage, _NOTHING).clock for found in times)
            for stage in dict.fromkeys((*FOREGROUND, *STAGES))
            if any(stage in found for found in times)
        }

    def latency(self) -> dict[int, float]:
        """Seconds for a frame by percentile; empty where no frames were asked for."""
        if not self.frames:
            return {}
        found = np.percentile(self.frames, PERCENTILES)
        return {percentile: float(value) for percentile, value in zip(PERCENTILES, found, strict=True)}

    def _spread(self, of: Callable[[Measured], float]) -> Spread:
        return Spread.of(map(of, self.rounds))


def labelled(results: Sequence[CaseResult]) -> tuple[str, tuple[str, ...]]:
    """What cases are called beside each other.

    Args:
        results: The cases, of which there is at least one.

    Returns:
        What all of them have in common, and of each the rest; of a single case everything is the rest.
    """
    named = [_parts(result, results) for result in results]
    differ = [len(set(kind)) > 1 or len(results) == 1 for kind in zip(*named, strict=True)]
    common = ", ".join(part for part, differs in zip(named[0], differ, strict=True) if not differs)
    return common, tuple(
        ", ".join(part for part, differs in zip(parts, differ, strict=True) if differs) for parts in named
    )


def _parts(result: CaseResult, results: Sequence[CaseResult]) -> tuple[str, ...]:
    """The parts of a label; bundles that have the same name are called as they were on the command line."""
    alike = {other.case.bundle for other in results if other.opened.name == result.opened.name}
    name, *rest = result.opened.parts
    return (result.case.bundle if len(alike) > 1 else name, *rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A case that could not run.

    Attributes:
        case: The case.
        error: Why.
    """

    case: Case
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Several cases, measured in turn.

    Attributes:
        image: What was segmented, in words.
        frame: Height and width of frames in pixels; None where none were asked for.
        results: What each case took.
        skipped: The cases that could not run.
    """

    image: str
    frame: int | None
    results: tuple[CaseResult, ...]
    skipped: tuple[Skipped, ...]
