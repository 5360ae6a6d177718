"""Cases are opened, warmed up, and measured in rounds in which they take turns, because a machine's speed drifts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import EngineError, FctlError
from ..progress import StageProgress
from .cases import Case, Opened
from .pixels import write_mosaic
from .process import CaseProcess
from .results import CaseResult, Comparison, Skipped
from .work import FileRun, Frames, Image, Measured, WarmUp

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured of each case.

    Attributes:
        image: The image; None for a mosaic of the pixels that come with fctl.
        side: Height and width of the mosaic in pixels.
        rounds: How often each case is measured.
        frames: How many small images each case segments in a round.
        frame: Their height and width in pixels.
    """

    image: str | None = None
    side: int = 2000
    rounds: int = 3
    frames: int = 0
    frame: int = 512


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """A case that runs, and what was measured of it so far."""

    case: Case
    process: CaseProcess
    image: Image
    engine_threads: frozenset[int]
    rounds: list[Measured] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)

    def result(self) -> CaseResult:
        """What was measured."""
        return CaseResult(
            case=self.case, opened=self.process.opened, rounds=tuple(self.rounds), frames=tuple(self.frames)
        )


class _Cases:
    """The cases that run, and those that could not."""

    def __init__(self) -> None:
        self.running: list[_Runner] = []
        self.skipped: list[Skipped] = []

    def tried(self, case: Case, work: Callable[[], None]) -> None:
        """Do some work for a case; where it cannot be done, the case is skipped with a warning."""
        try:
            work()
        except FctlError as error:
            self.skipped.append(Skipped(case=case, error=error))
            self.running = [runner for runner in self.running if runner.case is not case]
            log.warning("skipped %s: %s", case.label, error)


def compare(cases: Sequence[Case], plan: Plan, progress: StageProgress | None = None) -> Comparison:
    """Measure cases side by side, each in a process of its own.

    Args:
        cases: The cases. Those that cannot run here are skipped, with a warning.
        plan: What is measured of each.
        progress: Called with what is being done, the runs that are done and the runs in all.

    Returns:
        What was found; at least one case ran.

    Raises:
        EngineError: No case can run here.
        FctlError: The only case cannot run here; this is its own error.
    """
    found = _Cases()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="fctl-bench-")))
        for case in cases:
            found.tried(case, partial(_open, case, plan, folder, found, stack))
        for number in range(plan.rounds):
            _round(found, plan, folder, number, progress)
        if not found.running:
            raise _none(found.skipped)
        return Comparison(
            image=plan.image or f"a mosaic of {plan.side} x {plan.side} pixels",
            frame=plan.frame if plan.frames else None,
            results=tuple(runner.result() for runner in found.running), skipped=tuple(found.skipped),
        )  # fmt: skip


def _open(case: Case, plan: Plan, folder: Path, found: _Cases, stack: ExitStack) -> None:
    """Open a case in a process, warm it up, and add it to those that run."""
    process = stack.enter_context(CaseProcess(case))
    opened = process.opened
    same = next((runner for runner in found.running if runner.process.opened == opened), None)
    if same and Path(same.case.bundle).resolve() == Path(case.bundle).resolve():
        process.close()
        raise EngineError(f"it comes to the same as {same.case.label}")
    image = Image(place=plan.image) if plan.image else _mosaic(opened, plan.side, folder)
    threads = process.ask(WarmUp(image=image, folder=folder))
    found.running.append(_Runner(case=case, process=process, image=image, engine_threads=threads))


def _mosaic(opened: Opened, side: int, folder: Path) -> Image:
    """The mosaic for a case's bundle, which is written once."""
    path = folder / f"mosaic_{opened.bands}_{opened.dtype}.tif"
    if not path.exists():
        write_mosaic(path, side, opened.bands, opened.dtype)
    return Image(place=str(path), bands=tuple(range(1, opened.bands + 1)))  # also a fourth one, taken for opacity


def _round(found: _Cases, plan: Plan, folder: Path, number: int, progress: StageProgress | None) -> None:
    """Measure all cases once. Each round begins with another case, for the one before may matter."""
    order = list(found.running)
    first = number % len(order) if order else 0
    for index, runner in enumerate((*order[first:], *order[:first])):
        found.tried(runner.case, partial(_measure, runner, plan, folder))
        if progress:
            progress("rounds", number * len(order) + index + 1, plan.rounds * len(order))


def _measure(runner: _Runner, plan: Plan, folder: Path) -> None:
    """Measure a case once."""
    run = FileRun(image=runner.image, folder=folder, engine_threads=runner.engine_threads)
    runner.rounds.append(runner.process.ask(run))
    if plan.frames:
        frames = Frames(image=runner.image, side=plan.frame, count=plan.frames)
        runner.frames.extend(runner.process.ask(frames))


def _none(skipped: Sequence[Skipped]) -> Exception:
    """Why nothing was measured."""
    if len(skipped) == 1:
        return skipped[0].error
    return EngineError(
        f"none of the {len(skipped)} combinations can run here", remedy="see above why, and ask for others"
    )
