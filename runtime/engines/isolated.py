"""An engine in a process of its own, so that a graph which ends the engine does not end the application.

The child (`child.py`) reads requests from its standard input and answers through what was its standard output. Nothing
that it sends is trusted: it is text for an error, or arrays of just the dtypes and shapes that were expected.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import GraphSpec
from ..bundle.records import encode
from ..errors import DeviceMemoryError, EngineError
from .base import Arrays, HostEngine, Request, RunPrecision, Session
from .messages import receive, send

_LONGEST_LINE = 2000  # characters of an error
_PIPE = 1 << 20  # bytes that a pipe holds, where the system lets one ask for that
_CHILD = f"{__package__}.child"  # by name: it imports whatever chooses engines
_KILL = 9
_SECONDS = 5.0  # until a child that was asked to end is ended


class Isolated(HostEngine):
    """An engine of the CPU whose graphs are loaded and run in a child process.

    The child ends with the engine, and with this process however that ends. One engine serves one thread at a time;
    others wait.

    Args:
        engine: The engine that was chosen; its name, precision, device and notes are taken over.

    Raises:
        EngineError: The child could not be started.
    """

    interruptible = True

    def __init__(self, engine: HostEngine) -> None:
        super().__init__(Request(precision=engine.precision))
        self.name, self._device = engine.name, engine.device
        self.notes = list(engine.notes)
        self._child = _Child(engine.name, engine.precision)

    @property
    def device(self) -> str:
        """The device of the engine that was chosen."""
        return self._device

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """None of its own: they are those of the engine that was chosen."""
        return ()

    def session(self, path: Path, graph: GraphSpec, batch: int) -> Session:
        """Load one graph in the child."""
        return _IsolatedSession(self._child, path, graph, batch)

    def close(self) -> None:
        """End the child."""
        self._child.close()


class _IsolatedSession(Session):
    """One graph in a child."""

    def __init__(self, child: _Child, path: Path, graph: GraphSpec, batch: int) -> None:
        super().__init__(graph, batch)
        self._child, self._path = child, path
        header = {"load": str(path.absolute()), "graph": encode(graph), "batch": batch}
        self._number = self._child.ask(f"loading {path.name}", header, {}, {})[0]

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        return self._child.ask(f"running {self._path.name}", {"run": self._number}, inputs, self._given)[1]


class _Child:
    """The process, and how it is spoken to."""

    def __init__(self, name: str, precision: RunPrecision) -> None:
        if getattr(sys, "frozen", False):  # sys.executable is the application then, which would start anew
            raise EngineError("a process of its own for the engine needs a Python interpreter, found a frozen program")
        self._name, self._lock, self._ended = name, threading.Lock(), ""
        paths = [path for path in sys.path if isinstance(path, str)]
        program = f"import sys; sys.path[:] = {paths!a}; from {_CHILD} import serve; serve({name!a}, {precision!a})"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                bufsize=0,
                start_new_session=True,
            )  # fmt: skip - a session of its own, so that Ctrl-C is this process's alone
        except OSError as error:
            self._said.close()
            raise EngineError(f"{name} cannot be started in a process of its own: {error.strerror}") from error
        _widen(self._process.stdout)
        self._end = weakref.finalize(self, _end, self._process, self._said)

    def ask(
        self,
        doing: str,
        header: Mapping[str, object],
        arrays: Mapping[str, NDArray[np.generic]],
        expected: Mapping[str, tuple[str, tuple[int, ...]]],
    ) -> tuple[int, Arrays]:
        """Send a request and wait for its answer.

        Args:
            doing: What the request does, for errors.
            header: The request.
            arrays: Arrays that belong to it.
            expected: Dtypes and shapes of the arrays that answer it, by name.

        Returns:
            The number in the answer, and its arrays.

        Raises:
            EngineError: The engine failed, or its process ended.
            DeviceMemoryError: Memory is too small.
        """
        with self._lock:
            if self._ended:
                raise EngineError(self._ended, remedy="open the bundle again")
            whole = False
            try:
                found = self._exchanged(header, arrays, expected)
                whole = True
            except (OSError, EOFError, ValueError) as error:
                raise EngineError(self._obituary(doing, error), remedy=_REMEDY) from None
            finally:
                if not whole:  # an answer may be under way that nobody will take
                    self._ended = self._ended or f"{self._name} was interrupted while {doing}"
                    self._end()
        answer, received = found
        if "error" in answer:
            kind = DeviceMemoryError if answer.get("memory") is True else EngineError
            raise kind(" ".join(str(answer["error"])[:_LONGEST_LINE].split()))
        number = answer.get("number", 0)
        return number if isinstance(number, int) else 0, received

    def close(self) -> None:
        """End the process."""
        self._ended = self._ended or f"{self._name} was closed"
        self._end()

    def _exchanged(
        self,
        header: Mapping[str, object],
        arrays: Mapping[str, NDArray[np.generic]],
        expected: Mapping[str, tuple[str, tuple[int, ...]]],
    ) -> tuple[dict[str, object], Arrays]:
        stdin, stdout = cast("io.RawIOBase", self._process.stdin), cast("io.RawIOBase", self._process.stdout)
        send(stdin, header, arrays)
        return receive(stdout, expected)

    def _obituary(self, doing: str, error: Exception) -> str:
        """How the child ended, in words; it is waited for."""
        if isinstance(error, ValueError):
            self._process.kill()
        try:
            code = self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:  # its pipe is closed, and it lives
            self._process.kill()
            code = self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            how = f"signal {signal.Signals(-code).name if -code in list(signal.Signals) else -code}"
            how += " (which is also how systems end what takes too much memory)" if -code == _KILL else ""
        if isinstance(error, ValueError):
            how = f"an answer that makes no sense ({error})"
        last = self._last_words()
        self._ended = f"{self._name} ended with {how} while {doing}" + (f" ({last})" if last else "")
        return self._ended

    def _last_words(self) -> str:
        """The last line that the child wrote to its standard error."""
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - 4096))
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:300] if lines else ""


_REMEDY = "choose another `backend`, or take the bundle from someone you trust"


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    """End a child: it ends by itself when its input ends."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    said.close()


def _widen(stream: IO[bytes] | None) -> None:
    """Let a pipe hold more at once, where the system can."""
    if stream is not None and sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(stream.fileno(), 1031, _PIPE)  # F_SETPIPE_SZ
