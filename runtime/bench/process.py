"""A process for each case: its peak of memory is its own, and an engine that crashes ends no other case."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TypeVar

from ..engines.choose import engine_version
from ..errors import EngineError, FctlError, InputError
from ..segment.segmenter import Segmenter
from .cases import Case, Opened

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_PATIENCE = 5  # seconds for a process to end


class CaseProcess:
    """A case that is open in a process of its own. A context manager.

    Args:
        case: The case.

    Raises:
        FctlError: What `Segmenter` raises: the case cannot run here.

    What it warns of is logged here, once.

    Attributes:
        opened: The case, with all that was left to be chosen.
    """

    def __init__(self, case: Case) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would share the threads' locks, but not the threads
        self._pipe, there = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(there, case), daemon=True)
        self._process.start()
        there.close()
        self._case, self._told = case, set[str]()
        try:
            opened = self._answer()
        except BaseException:
            self.close()
            raise
        assert isinstance(opened, Opened)
        self.opened = opened

    def ask(self, work: Callable[[Segmenter], _Result]) -> _Result:
        """Have some work done.

        Args:
            work: What is done; it is sent to the process, as its result is sent back.

        Returns:
            Its result.

        Raises:
            FctlError: The work failed, or the process ended.
        """
        try:
            self._pipe.send(work)
        except OSError:
            raise self._ended() from None
        result: _Result = self._answer()  # type: ignore[assignment]
        return result

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.terminate()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> CaseProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> object:
        try:
            answer, warnings = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        for warning in warnings:
            if warning not in self._told:
                self._told.add(warning)
                log.warning("%s: %s", self._case.label, warning)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ended(self) -> EngineError:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        return EngineError(
            f"the process that ran it ended {how}", remedy="the engine may have crashed or run out of memory"
        )


def _serve(pipe: Connection, case: Case) -> None:
    """Open a case and do the work that comes, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends the others
    heard = _Heard()
    logging.getLogger("fctl").addHandler(heard)
    try:
        with Segmenter(
            case.bundle, backend=case.backend, precision=case.precision, batch=case.batch, contexts=case.contexts,
            build_engines=case.build_engines,
        ) as segmenter:  # fmt: skip
            if segmenter.manifest.refines:
                raise InputError(
                    f"bundle {segmenter.manifest.name} refines masks, and segments no image alone",
                    remedy="time fctl-run with `coarse` (docs/refining.md)",
                )
            pipe.send((_opened(segmenter), heard.taken()))
            while True:
                answer = _done(pipe.recv(), segmenter)
                pipe.send((answer, heard.taken()))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        pipe.send((_sendable(error), heard.taken()))


class _Heard(logging.Handler):
    """Takes warnings, for the process that shows them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one warning."""
        self._warnings.append(record.getMessage())

    def taken(self) -> list[str]:
        """The warnings since the last time."""
        found, self._warnings = self._warnings, []
        return found


def _done(work: Callable[[Segmenter], object], segmenter: Segmenter) -> object:
    try:
        return work(segmenter)
    except Exception as error:
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """An error that the other process can read: of those of libraries, their words alone."""
    return error if isinstance(error, FctlError) else RuntimeError(f"{type(error).__name__}: {error}")


def _opened(segmenter: Segmenter) -> Opened:
    manifest, engine = segmenter.manifest, segmenter.engine
    encoded = any(context.encoder for context in manifest.contexts)
    return Opened(
        name=manifest.name, engine=engine.name, version=engine_version(engine.name), device=engine.device,
        precision=engine.precision, contexts="shared" if segmenter.once else "exact" if encoded else "none",
        batch=segmenter.batch, tile=manifest.tile, bands=manifest.input.bands,
        dtype=manifest.input.dtype,
    )  # fmt: skip
