"""``fctl-run --live``: the page of a run, in a process of its own, which is told what goes on."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .console import echo, usage

if TYPE_CHECKING:
    from ..bundle.manifest import ClassInfo
    from ..segment.results import Paths

log = logging.getLogger(__name__)

_EVERY = 0.5  # seconds between two lines on tiles
_PATIENCE = 3  # seconds that the page may take to end


class LivePage:
    """Tells the page of a run what goes on. That the page fails is no reason for a run to fail.

    Args:
        process: The process of the page; None where there is none, and nothing is told.
    """

    def __init__(self, process: subprocess.Popen[str] | None) -> None:
        self._process, self._next = process, 0.0

    def begin(self, image: object, paths: Paths, classes: Sequence[ClassInfo], bands: Sequence[int] | None) -> None:
        """Tell of a run that begins."""
        from ..segment.shards.folder import folder_of

        self._tell(
            image=str(Path(str(image)).absolute()), folder=str(folder_of(paths.mask).absolute()),
            classes=[(info.name, info.colour) for info in classes], bands=bands and list(bands), process=os.getpid(),
        )  # fmt: skip

    def advance(self, done: int, total: int) -> None:
        """Tell of tiles, see `TileProgress`."""
        if done == total or time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            self._tell(done=done, total=total)

    def end(self, paths: Paths) -> None:
        """Tell of outputs that are in their places."""
        self._tell(mask=str(paths.mask.absolute()))

    def _tell(self, **line: object) -> None:
        if self._process and self._process.stdin:
            with suppress(OSError, ValueError):  # it ended
                self._process.stdin.write(json.dumps(line) + "\n")
                self._process.stdin.flush()


def check_live(others: Mapping[str, object]) -> None:
    """Refuse a page of what is not done in this process, image by image.

    Args:
        others: By option, whether it was given.

    Raises:
        typer.BadParameter: One of them was given.
    """
    for option, given in others.items():
        if given:
            raise usage(f"--live does not go with {option}: leave one of them out")


@contextmanager
def live_page(wanted: bool) -> Iterator[LivePage]:
    """The page of a run, which ends with the block; its address is printed when it can be opened.

    Args:
        wanted: Whether there is to be one.

    Yields:
        What tells the page what goes on; without a page it does nothing.

    Raises:
        FctlError: The extra is missing.
    """
    if not wanted:
        yield LivePage(None)
        return
    from .view import check_packages

    check_packages("--live")
    with TemporaryDirectory(prefix="fctl-live-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "fctl.runtime.view.live", folder]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )  # a session of its own: Ctrl-C is for the run
        threading.Thread(target=_say_address, args=(process,), daemon=True).start()
        try:
            yield LivePage(process)
        finally:
            with suppress(OSError):
                if process.stdin:
                    process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            process.kill()
            process.wait()


def _say_address(process: subprocess.Popen[str]) -> None:
    """Print where the page is, or log why there is none."""
    for line in process.stdout or ():
        if line.startswith("http"):
            echo(f"{line.strip()} shows the run")
        else:
            log.warning("the run is not shown: %s", line.strip())
