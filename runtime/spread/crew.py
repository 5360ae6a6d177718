"""Who works: processes of this machine, or of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from .. import errors
from ..errors import EngineError, FctlError
from .orders import Failure

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


def checked(outcome: _Result | Failure) -> _Result:
    """What a task gave.

    Args:
        outcome: What came of it.

    Raises:
        FctlError: It failed.
    """
    if isinstance(outcome, Failure):
        raise as_error(outcome)
    return outcome


def as_error(failure: Failure) -> FctlError:
    """A failure as the error that it was."""
    kind = getattr(errors, failure.kind, EngineError)
    return kind(failure.line, subject=f"worker {failure.worker}" if failure.worker else None)
