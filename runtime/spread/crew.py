"""Who works: processes of this machine, or of others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Protocol, TypeVar

from .. import errors
from ..errors import EngineError, FctlError
from ..warned import kept_warnings
from .orders import Failure, Outcome, relative

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Crew(Protocol):
    """Workers that do tasks (`tasks`), each of them one at a time."""

    @property
    def size(self) -> int:
        """How many workers there are now; more may come, and some may go."""
        ...

    @property
    def elsewhere(self) -> bool:
        """Whether workers may be on other machines."""
        ...

    def any(self, task: Callable[..., _Result], *arguments: object) -> _Result:
        """Let one worker do a task.

        Raises:
            FctlError: The task failed, or the worker is gone.
        """
        ...

    def all(self, task: Callable[..., _Result], *arguments: object) -> dict[str, _Result]:
        """Let every worker that is there do a task; of workers on this machine, which are all alike, one.

        Those that are long busy with something else are left out.

        Raises:
            FctlError: The task failed somewhere.
        """
        ...

    def each(self, task: Callable[..., _Result], items: Iterable[tuple[object, ...]]) -> Iterator[_Result]:
        """Do a task with each item's arguments, at any worker and in any order.

        Raises:
            FctlError: A task failed, or those who could do it are gone.
        """
        ...

    def send(self, digest: str, data: bytes) -> None:
        """Send a packed bundle to all workers on other machines, those that come later too."""
        ...

    def close(self) -> None:
        """Leave the workers; what they were doing does not matter any more."""
        ...


class Outcomes:
    """What came of the tasks of a crew. What several workers warn of, or whoever leads them did, is logged once."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._told = self._stack.enter_context(kept_warnings())

    def result(self, outcome: Outcome[_Result]) -> _Result:
        """What a task gave.

        Args:
            outcome: What came of it.

        Raises:
            FctlError: It failed.
        """
        for warning in outcome.warnings:
            as_named = relative(warning)
            if not {warning, as_named} & set(self._told):
                log.warning("%s", as_named)
        if isinstance(outcome.result, Failure):
            raise as_error(outcome.result)
        return outcome.result

    def close(self) -> None:
        """Take no more."""
        self._stack.close()


def as_error(failure: Failure) -> FctlError:
    """A failure as the error that it was."""
    kind = getattr(errors, failure.kind, EngineError)
    return kind(failure.line, subject=f"worker {failure.worker}" if failure.worker else None)
