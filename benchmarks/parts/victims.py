"""Processes that load and run what may end them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import json, os, resource, sys, zlib
answers = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
os.dup2(1, 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
import numpy as np
from pathlib import Path
from fctl.runtime.bundle.manifest import GraphSpec
from fctl.runtime.bundle.records import decode
from fctl.runtime.engines.base import shape_of
from fctl.runtime.engines.choose import choose_engine
engine = choose_engine(sys.argv[1], "fp32")
for line in sys.stdin:
    path, document = json.loads(line)
    try:
        graph = decode(GraphSpec, document)
        session = engine.session(Path(path), graph, 1)
        answers.write("loaded ")
        answers.flush()
        random = np.random.default_rng(0)
        session.run({one.name: (random.random(shape_of(one, 1)) * 255).astype(one.dtype) for one in graph.inputs})
        said = "ran"
    except BaseException as error:
        said = f"refused: {type(error).__name__}"
    answers.write(said + "\\n")
    answers.flush()
"""


class Victim:
    """An engine in a process of its own, which is started again whenever it ends.

    Args:
        backend: The engine's name.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self._process: subprocess.Popen[bytes] | None = None

    def fate(self, path: Path, graph: object, seconds: float) -> str:
        """Load and run a graph.

        Args:
            path: Its file.
            graph: Its description, as plain values.
            seconds: How long to wait.

        Returns:
            "ran", "refused: ...", "hung", or the signal that ended the process and whether that was at loading.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, self.backend],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps([str(path), graph]).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended after the last one; how, is found below
        said = b""
        while not said.endswith(b"\n"):
            if not select.select([process.stdout], [], [], seconds)[0]:
                self.close()
                return "hung"
            more = os.read(process.stdout.fileno(), 1 << 16)
            if not more:
                code = process.wait()
                self.close()
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"{name} {'running' if said else 'loading'}"
            said += more
        return said.decode().strip().removeprefix("loaded ")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever a library forked
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
