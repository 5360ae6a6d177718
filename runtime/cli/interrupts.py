"""Ctrl-C and SIGTERM: a run ends within a second, and what is finished stays for `--resume`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PATIENCE = 0.6  # seconds that an engine may take to come back, before the process ends without it
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FOLDERS = "fctl.runtime.segment.shards.folder"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM.

    Args:
        number: The signal's number.

    Attributes:
        exit_code: What the process ends with, as a shell has it: 130 or 143.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Raise `Interrupted` at Ctrl-C and SIGTERM, and end the process where that takes too long.

    Python runs handlers of signals between two of its instructions, but a batch in an engine, or a build of one, may
    take minutes. The system tells a second thread at once. It waits for a moment, leaves the folders of all runs as
    they must be left, and ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals: an application's threads leave that to the application
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(told, ended), name="fctl-signals", daemon=True)
    before = {number: signal.signal(number, _raise) for number in _SIGNALS}
    wakeup = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(tell)  # which ends the watcher
        watcher.join()
        os.close(told)


def _raise(number: int, frame: FrameType | None) -> None:
    """Interrupt the main thread, once."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def _watch(told: int, ended: threading.Event) -> None:
    """End the process a moment after the first of the signals, unless it ends by itself."""
    while number := os.read(told, 1):
        if number[0] in _SIGNALS and not ended.wait(_PATIENCE):
            if folders := sys.modules.get(_FOLDERS):
                folders.leave_live_folders()
            print("error: interrupted", file=sys.stderr, flush=True)
            os._exit(128 + number[0])
