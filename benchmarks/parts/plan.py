"""How the engines are timed, and steps that may fail while others are timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .candidates import Candidate, Subject
from .findings import Findings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to time.

    Attributes:
        images: The images from which patches and larger images are made.
        rounds: How many rounds are timed.
        burst: How many seconds one engine runs at a time.
        patience: How many seconds one engine may take for one row.
        baseline: The label of the engine that ratios are to; None for the first of the usual ones.
    """

    images: Sequence[Path]
    rounds: int
    burst: float
    patience: float
    baseline: str | None

    def baseline_of(self, labels: Sequence[str]) -> str:
        """The one of some labels that ratios are to; "" of none."""
        usual = (self.baseline, "pytorch fp32", "onnxruntime fp32")
        return next((label for label in usual if label and label in labels), next(iter(labels), ""))

    def refusal(self, seconds: float) -> str | None:
        """The reason to skip what takes so many seconds; None where that is short enough."""
        if seconds <= self.patience:
            return None
        return f"would take about {seconds:.0f} s (--patience {self.patience:.0f})"


class Guarded:
    """A step that is left out once it has failed, so that the other engines' rounds go on.

    Args:
        findings: Where the failure is noted.
        subject: The bundle.
        candidate: The engine.
        part: The part of the check.
        step: The step.

    Attributes:
        works: Whether it has not failed.
    """

    def __init__(
        self, findings: Findings, subject: Subject, candidate: Candidate, part: str, step: Callable[[], object]
    ) -> None:
        self._guard = partial(findings.running, subject.name, candidate.label, part=part, foreign=candidate.foreign)
        self._step, self.works = step, True

    def __call__(self) -> None:
        """Run the step unless it has failed."""
        if self.works:
            self.works = self._guard(lambda: (self._step(), True)[1]) is not None
