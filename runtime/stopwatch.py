"""How long each stage of a run takes: a stopwatch that whoever wants to know passes in.

Stages nest, and an outer one stands still while an inner one runs. So the stages of a thread add up to the time for
which its outermost stage ran, and nothing is counted twice. Each thread has its own stages.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar

Stage = Literal["read", "shrink", "encode", "gather", "segment", "merge", "write", "wait", "other"]
"""What a run spends its time on.

- read: windows of the image are read and decoded, and it is seen where they have data.
- shrink: patches and contexts are cut from what was read; contexts and the preview are shrunk.
- encode: the engine encodes contexts.
- gather: the features that each patch needs are put together from encoded contexts.
- segment: the engine segments patches.
- merge: scores are averaged where tiles overlap, and classes are chosen.
- write: finished pixels are kept, and outputs are made of them.
- wait: the foreground waits for another thread: the one that reads, that runs the engine, or that writes shards.
- other: all else, such as opening the image.
"""

_Self = TypeVar("_Self", bound="Timed")
_Item = TypeVar("_Item")
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a stage took.

    Attributes:
        clock: Seconds on the clock.
        processor: Seconds of processor time of the thread itself, without threads that libraries start.
    """

    clock: float = 0.0
    processor: float = 0.0

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.clock + other.clock, self.processor + other.processor)

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.clock - other.clock, self.processor - other.processor)

    @classmethod
    def now(cls) -> Taken:
        """Both times of this thread, from some start."""
        return cls(time.perf_counter(), time.thread_time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What all stages took.

    Attributes:
        foreground: By stage, what the thread took that made the stopwatch.
        background: By stage, what other threads took, which run at the same time.
    """

    foreground: Mapping[Stage, Taken]
    background: Mapping[Stage, Taken]

    def of(self, *stages: Stage) -> Taken:
        """What some stages took in all threads."""
        found = [times.get(stage, Taken()) for times in (self.foreground, self.background) for stage in stages]
        return sum(found, Taken())


class Stopwatch:
    """Takes the time of stages, in as many threads as there are. The thread that makes it is the foreground.

    Args:
        now: Tells both times of the thread that asks.
    """

    def __init__(self, now: Callable[[], Taken] = Taken.now) -> None:
        self._now, self._own, self._foreground = now, threading.local(), _Laps(now)
        self._own.laps, self._all = self._foreground, [self._foreground]

    def stage(self, name: Stage) -> AbstractContextManager[None]:
        """Count the time in which a block runs for a stage, and not for the one around it.

        Args:
            name: The stage.

        Returns:
            What the block is run in.
        """
        return self._laps().stage(name)

    def each(self, name: Stage, items: Iterator[_Item]) -> Iterator[_Item]:
        """Count the time in which an iterator makes its items for a stage, and not what is done with them.

        Args:
            name: The stage.
            items: The items.

        Yields:
            The items.
        """
        while True:
            with self.stage(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def times(self) -> Times:
        """What all stages took so far that have ended; asked in the foreground when other threads are done."""
        return Times(foreground=dict(self._foreground.taken), background=_summed(laps.taken for laps in self._all[1:]))

    def _laps(self) -> _Laps:
        """The laps of this thread."""
        if not hasattr(self._own, "laps"):
            self._own.laps = _Laps(self._now)
            self._all.append(self._own.laps)
        laps: _Laps = self._own.laps
        return laps


class _Stopped(Stopwatch):
    """Takes no time, where nobody asks."""

    _NOTHING = nullcontext()

    def __init__(self) -> None:
        pass

    def stage(self, name: Stage) -> AbstractContextManager[None]:
        return self._NOTHING

    def each(self, name: Stage, items: Iterator[_Item]) -> Iterator[_Item]:
        return items

    def times(self) -> Times:
        return Times(foreground={}, background={})


STOPPED: Stopwatch = _Stopped()
"""A stopwatch that takes no time and holds nothing, so that all runs may share it."""


class Timed(Protocol):
    """Whoever was given a stopwatch."""

    @property
    def stopwatch(self) -> Stopwatch:
        """The stopwatch."""
        ...


def timed(
    name: Stage,
) -> Callable[[Callable[Concatenate[_Self, _Arguments], _Result]], Callable[Concatenate[_Self, _Arguments], _Result]]:
    """Count the time of a method for a stage, on the stopwatch of its object.

    Args:
        name: The stage.

    Returns:
        A decorator of the method, which must return when it is done: a generator does not.
    """

    def decorate(
        method: Callable[Concatenate[_Self, _Arguments], _Result],
    ) -> Callable[Concatenate[_Self, _Arguments], _Result]:
        @wraps(method)
        def run(self: _Self, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            with self.stopwatch.stage(name):
                return method(self, *args, **kwargs)

        return run

    return decorate


class _Laps:
    """The stages of one thread, which alone changes them: those that run, and what was taken."""

    def __init__(self, now: Callable[[], Taken]) -> None:
        self.taken: dict[Stage, Taken] = defaultdict(Taken)
        self._running: list[Stage] = []
        self._now, self._since = now, Taken()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Let a stage run, while the one around it stands still."""
        self._lap()
        self._running.append(name)
        try:
            yield
        finally:
            self._lap()
            self._running.pop()

    def _lap(self) -> None:
        """Count what passed since the last time for the innermost stage."""
        now = self._now()
        if self._running:
            self.taken[self._running[-1]] += now - self._since
        self._since = now


def _summed(parts: Iterator[dict[Stage, Taken]]) -> dict[Stage, Taken]:
    found: dict[Stage, Taken] = defaultdict(Taken)
    for part in parts:
        for stage, taken in part.items():
            found[stage] += taken
    return dict(found)
