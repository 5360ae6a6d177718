"""The process of an isolated engine: it loads and runs graphs for the process that started it, and ends with that."""

from __future__ import annotations

import io
import os
import queue
import signal
import threading
from pathlib import Path
from typing import cast

from ..bundle.manifest import GraphSpec
from ..bundle.records import decode
from .base import Arrays, HostEngine, RunPrecision, Session
from .choose import choose_engine
from .messages import receive, send

_LONGEST_LINE = 10_000  # characters of an error


def serve(name: str, precision: RunPrecision) -> None:
    """Load and run graphs for the process that started this one, until that ends.

    Args:
        name: The engine's name.
        precision: In what precision to run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what libraries print is no answer
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no file behind
    waiting: queue.Queue[tuple[dict[str, object], Arrays]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    engine = cast("HostEngine", choose_engine(name, precision))
    sessions = list[tuple[Session, GraphSpec]]()
    while True:
        header, arrays = waiting.get()
        try:
            answer, outputs = _answered(engine, sessions, header, arrays)
        except Exception as error:  # whatever a library raises
            lacks = isinstance(error, MemoryError)
            answer, outputs = {"error": str(error)[:_LONGEST_LINE] or type(error).__name__, "memory": lacks}, {}
        send(answers, answer, outputs)


def _listen(requests: io.RawIOBase, waiting: queue.Queue[tuple[dict[str, object], Arrays]]) -> None:
    """Pass requests on; when the other process ends, end this one, whatever it is doing."""
    try:
        while True:
            waiting.put(receive(requests, None))
    finally:
        os._exit(0)


def _answered(
    engine: HostEngine, sessions: list[tuple[Session, GraphSpec]], header: dict[str, object], arrays: Arrays
) -> tuple[dict[str, object], Arrays]:
    """What one request comes to."""
    if "load" in header:
        graph, batch = decode(GraphSpec, header["graph"]), cast("int", header["batch"])
        sessions.append((engine.session(Path(str(header["load"])), graph, batch), graph))
        return {"number": len(sessions) - 1}, {}
    session, _ = sessions[cast("int", header["run"])]
    return {}, session.run(arrays)
