"""What processes that are started here inherit: the leader alone hears of Ctrl-C, and nobody speaks but the leader."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

_FILTER, _SILENCE = "PYTHONWARNINGS", "ignore:resource_tracker"


@contextmanager
def starting_children() -> Iterator[None]:
    """Start processes, or threads that start some.

    A terminal sends Ctrl-C to all processes of a command. Whoever is started in the block never hears of it, from the
    first moment on, also where it is started by a thread that was started in the block.
    """
    if os.name != "posix":
        yield
        return
    _silence_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _silence_tracker() -> None:
    """Start the process that removes what others of `multiprocessing` leave behind when they are killed.

    It says so in a warning, unless the environment in which it starts has a filter.
    """
    before = os.environ.get(_FILTER)
    os.environ[_FILTER] = _SILENCE
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[_FILTER]
        else:
            os.environ[_FILTER] = before
