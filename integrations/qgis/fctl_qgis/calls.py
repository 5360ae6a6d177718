"""Calls a program of fctl: finds it, follows what it prints, ends it where that is asked. Nothing here knows QGIS."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

FOLDER_VARIABLE = "FCTL_BIN"
"""The environment variable that names the folder of the programs, where there are no settings to ask."""

WHERE = f"Settings > Options > Processing > Providers > fctl, or in the environment variable {FOLDER_VARIABLE}"

_DONE = (0, 4)  # 4: all outputs were there (--skip-existing)
_EVERY = 0.2  # seconds between two looks at whether the call was cancelled
_PATIENCE = (5, 5)  # seconds that a program may take to end: after Ctrl-C, and after SIGTERM
_PROGRESS = re.compile(r"(?P<name>.*): (?P<done>\d+) of (?P<total>\d+)(,.*)?")
_FAULT = re.compile(r"[Ee]rror: (.*)")
_OF_QGIS = ("PYTHONHOME", "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_DATA", "PROJ_LIB", "QT_PLUGIN_PATH")


class CallError(Exception):
    """A program could not be called, or failed; the message is one line."""


class CancelledError(Exception):
    """The call was cancelled, and the program has ended."""


@dataclass(frozen=True)
class Progress:
    """How far a program is.

    Attributes:
        name: What it works on.
        done: How much of that is done.
        total: How much there is.
        line: The same in words, with speed and time left where they are known.
    """

    name: str
    done: int
    total: int
    line: str

    @property
    def percent(self) -> float:
        """The share, from 0 to 100."""
        return 100 * self.done / self.total if self.total else 0.0


def folder_of(setting: object) -> str:
    """The folder of the programs: what the environment says, else the setting; empty for PATH."""
    return os.environ.get(FOLDER_VARIABLE) or str(setting or "")


def program_in(folder: str, name: str) -> str:
    """The path of a program.

    Args:
        folder: The folder of the programs; empty for those on PATH. A tilde stands for the home folder.
        name: The program, as "fctl-run".

    Raises:
        CallError: It is not there.
    """
    place = str(Path(folder).expanduser()) if folder else None
    found = shutil.which(name, path=place)
    if found is None:
        raise CallError(f"{place or 'PATH'} has no {name}: name the folder of fctl's programs in {WHERE}")
    return found


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program: that of QGIS without what QGIS sets for its own Python, GDAL and PROJ.

    Args:
        given: The environment of QGIS.

    Returns:
        The environment for the program, whose text is UTF-8.
    """
    left = {name: value for name, value in given.items() if name not in _OF_QGIS}
    if "PYTHONHOME" in given:  # this QGIS has brought its Python along, whose modules PYTHONPATH names
        left.pop("PYTHONPATH", None)
    return left | {"PYTHONUTF8": "1"}


def progress_in(line: str) -> Progress | None:
    """What a line of standard error tells of progress; None for other lines."""
    found = _PROGRESS.fullmatch(line)
    return Progress(found["name"], int(found["done"]), int(found["total"]), line) if found else None


def fault_in(program: str, code: int, lines: list[str]) -> str:
    """Why a program failed, in its own words.

    Args:
        program: Its name.
        code: Its exit code.
        lines: What it printed on standard error.
    """
    faults = [found[1] for found in map(_FAULT.fullmatch, lines) if found]
    said = faults[-1] if faults else next((line for line in reversed(lines) if line.strip()), "nothing was printed")
    return said if faults else f"{program} ended with exit code {code}: {said}"


def answer_in(lines: list[str]) -> dict[str, object]:
    """What `--json` printed of the last image; empty where it printed nothing."""
    for line in reversed(lines):
        if line.startswith("{"):
            found = json.loads(line)
            assert isinstance(found, dict)
            return found
    return {}


def call(
    command: list[str],
    *,
    on_progress: Callable[[Progress], None],
    on_message: Callable[[str], None],
    on_line: Callable[[str], None],
    is_cancelled: Callable[[], bool],
) -> list[str]:
    """Run a program to its end.

    Args:
        command: The program's path and its arguments.
        on_progress: Told of progress.
        on_message: Told of the other lines on standard error, without the error that ends the program.
        on_line: Told of lines on standard output.
        is_cancelled: Asked again and again whether to end the program.

    Returns:
        The lines on standard output.

    Raises:
        CallError: The program failed.
        CancelledError: It was ended.
    """
    lines, messages = list[str](), list[str]()
    with _started(command) as process:
        try:
            for is_error, line in _printed(process, is_cancelled):
                progress = progress_in(line) if is_error else None
                if progress:
                    on_progress(progress)
                elif is_error:
                    messages.append(line)
                    if not _FAULT.fullmatch(line):
                        on_message(line)
                else:
                    lines.append(line)
                    on_line(line)
        except BaseException:
            _end(process)
            raise
    if process.returncode not in _DONE:
        raise CallError(fault_in(Path(command[0]).stem, process.returncode, messages))
    return lines


def _started(command: list[str]) -> subprocess.Popen[str]:
    """The program, which runs."""
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace", env=environment(os.environ),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # on Windows, else a console appears
        )  # fmt: skip
    except OSError as error:
        raise CallError(f"cannot run {command[0]}: {error.strerror}") from None


def _printed(process: subprocess.Popen[str], is_cancelled: Callable[[], bool]) -> Iterator[tuple[bool, str]]:
    """Lines as they come, each with whether it is on standard error, until the program has closed both.

    Raises:
        CancelledError: The call was cancelled.
    """
    found: queue.Queue[tuple[bool, str | None]] = queue.Queue()
    for is_error, pipe in ((False, process.stdout), (True, process.stderr)):
        threading.Thread(target=_read, args=(pipe, is_error, found), daemon=True).start()
    still_open = 2
    while still_open:
        if is_cancelled():
            raise CancelledError
        with suppress(queue.Empty):
            is_error, line = found.get(timeout=_EVERY)
            if line is None:
                still_open -= 1
            else:
                yield is_error, line


def _read(pipe: IO[str], is_error: bool, found: queue.Queue[tuple[bool, str | None]]) -> None:
    """Hand over the lines of a pipe, and None after the last."""
    for line in pipe:
        found.put((is_error, line.rstrip("\r\n")))
    found.put((is_error, None))


def _end(process: subprocess.Popen[str]) -> None:
    """End a program: as Ctrl-C does, so that it tidies up, and by force where that takes too long."""
    interrupt = process.terminate if os.name == "nt" else partial(process.send_signal, signal.SIGINT)
    for ask, patience in zip((interrupt, process.terminate), _PATIENCE):  # noqa: B905 (strict is of Python 3.10)
        ask()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return
    process.kill()
    process.wait()
