"""Workers of a Dask cluster, or of one that is started on this machine: the one home of `distributed`."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import signal
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import TypeVar, cast

from distributed import Client, Future, LocalCluster, Worker, WorkerPlugin, get_worker
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker
from distributed.utils import silence_logging_cmgr

from ..engines.processor import cores
from ..errors import EngineError, FctlError, InputError
from .bundles import keep_bundle
from .children import starting_children
from .crew import Outcomes
from .orders import Outcome
from .tasks import forget_soon, guarded

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_Item = tuple[object, ...]

_GPU = "GPU"  # the resource that workers with a GPU usually state
_AHEAD = 2  # tasks for each worker that the scheduler knows of at a time: its memory does not grow with the raster
_PATIENCE = 60.0  # seconds without any worker after which a run ends
_CONNECTING = 20.0  # seconds in which a scheduler must answer
_TRIES = 5  # to tell all workers something, while some of them end
_LOOK = 1.0  # seconds between two looks at the scheduler
_ANSWERING = 30.0  # seconds after an answer in which other workers must answer too
_LEAVING = 2.0  # seconds in which workers may be told that they are not needed any more
_LOST = "go on with `resume` once it is back"


class Dask:
    """Workers of a Dask cluster.

    A worker does one task at a time, with as many cores as it has threads. Where workers state that they have a GPU,
    those alone are used.

    Args:
        address: Of the scheduler, as "tcp://host:8786"; or "local:4" for four workers on this machine.

    Raises:
        InputError: The address means nothing.
        EngineError: No scheduler answers there.
    """

    elsewhere = True

    def __init__(self, address: str) -> None:
        here = re.fullmatch(r"local:(\d{1,4})", address)
        if not here and not re.match(r"\w+://", address):
            raise InputError(
                subject="`dask`", expected="tcp://HOST:PORT of a scheduler, or local:N for N workers here",
                found=repr(address),
            )  # fmt: skip
        self._address = address
        self._silence = contextlib.ExitStack()
        self._silence.enter_context(silence_logging_cmgr(logging.CRITICAL))  # what matters is told in one line
        self._cluster: LocalCluster | None = _local(int(here[1])) if here else None
        try:
            self._client = _connected(self._cluster or address)
            self._register(_HasFctl(), "fctl")
        except BaseException:
            if self._cluster:
                self._cluster.close()
            self._silence.close()
            raise
        gpus = any(_GPU in state["resources"] for state in self._workers().values())
        self._needs = {_GPU: 1.0} if gpus else None
        self._outcomes = Outcomes()

    @property
    def size(self) -> int:
        """How many workers there are now."""
        return len(self._workers())

    def any(self, task: Callable[..., _Result], *arguments: object) -> _Result:
        """Let one worker do a task."""
        return next(self.each(task, [arguments]))

    def all(self, task: Callable[..., _Result], *arguments: object) -> dict[str, _Result]:
        """Let every worker that is there do a task; those that are long busy with something else are left out."""
        futures = {address: self._submit(task, arguments, [address]) for address in self._workers()}
        found, answered, failed = dict[str, _Result](), time.monotonic(), list[FctlError]()
        while futures:
            finished = [address for address, future in futures.items() if future.done()]
            for address in finished:
                answered = time.monotonic()
                try:
                    found[address] = cast(_Result, self._result(futures.pop(address)))
                except FctlError as error:  # others are awaited: they may be writing what is to be removed
                    failed.append(error)
            for address in futures.keys() - self._workers().keys():
                log.warning("worker %s is gone", address)
                futures.pop(address).cancel()
            if (found or failed) and time.monotonic() - answered > _ANSWERING:
                for address, future in futures.items():
                    log.warning("worker %s is busy: what it has and sees is not known before it works", address)
                    future.cancel()
                break
            if not finished:
                time.sleep(_LOOK / 20)
        if failed:
            raise failed[0]
        return found

    def each(self, task: Callable[..., _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """Do a task with each item's arguments. Near the end, workers without any do what others have not done yet."""
        waiting, numbers, finished = iter(items), count(), queue.SimpleQueue["Future[Outcome[object]]"]()
        left, running = dict[int, _Item](), dict["Future[Outcome[object]]", int]()
        seen = counted = time.monotonic()
        most = self._most()

        def begin(number: int, workers: list[str] | None = None) -> None:
            future = self._submit(task, left[number], workers)
            running[future] = number
            future.add_done_callback(finished.put)

        try:
            while True:
                if time.monotonic() > counted + _LOOK:  # to ask for each task costs more than a task with many workers
                    most, counted = self._most(), time.monotonic()
                while len(left) < most and (item := next(waiting, None)) is not None:
                    number = next(numbers)
                    left[number] = item
                    begin(number)
                if not left:
                    return
                try:
                    future = finished.get(timeout=_LOOK)
                except queue.Empty:
                    seen, begun = self._look(seen), list(running.values())
                    once = [number for number in reversed(left) if begun.count(number) == 1]
                    for number, worker in zip(once, self._idle(), strict=False):
                        begin(number, [worker])  # the first to end counts: the other may be slow, or stopped
                    continue
                seen, number = time.monotonic(), running.pop(future)
                if number in left:
                    result = cast(_Result, self._result(future))
                    del left[number]
                    yield result
        finally:
            with contextlib.suppress(Exception):  # a scheduler that is gone needs no word
                self._client.cancel(list(running), force=True)

    def send(self, digest: str, data: bytes) -> None:
        """Send a bundle to all workers, those that come later too."""
        self._register(_BundleKeeper(digest, data), f"fctl-{digest[:16]}")

    def close(self) -> None:
        """Leave the workers; a cluster that was started here ends."""
        self._wake()
        leaving = threading.Thread(target=self._let_forget, daemon=True)
        leaving.start()
        leaving.join(_LEAVING)  # a worker that was stopped does not answer
        with contextlib.suppress(Exception):
            self._client.close(timeout=_LEAVING)
        if self._cluster:
            with contextlib.suppress(Exception):
                self._cluster.close(timeout=10)
        self._outcomes.close()
        self._silence.close()

    def _wake(self) -> None:
        """Let workers of this machine that were stopped go on, so that they can end."""
        if self._cluster and hasattr(signal, "SIGCONT"):
            for nanny in self._cluster.workers.values():
                with contextlib.suppress(OSError, TypeError):  # it has ended, or not begun
                    os.kill(nanny.pid, signal.SIGCONT)

    def _most(self) -> int:
        """How many tasks the scheduler may know of."""
        return _AHEAD * max(self.size, 1)

    def _let_forget(self) -> None:
        with contextlib.suppress(Exception, CancelledError):
            self._client.run(forget_soon, on_error="ignore")

    def _workers(self) -> dict[str, dict[str, dict[str, float]]]:
        """What the scheduler knows of those workers that are used, by address."""
        known: dict[str, dict[str, dict[str, float]]] = self._client.scheduler_info(n_workers=-1)["workers"]
        if any(_GPU in state["resources"] for state in known.values()):
            return {address: state for address, state in known.items() if _GPU in state["resources"]}
        return known

    def _idle(self) -> list[str]:
        """Workers that have nothing to do."""
        busy = {address for address, keys in self._client.processing().items() if keys}
        return [address for address in self._workers() if address not in busy]

    def _submit(
        self, task: Callable[..., _Result], item: _Item, workers: list[str] | None = None
    ) -> Future[Outcome[object]]:
        return self._client.submit(
            in_worker, task, *item, pure=False, workers=workers, resources=self._needs, retries=0
        )

    def _result(self, future: Future[Outcome[object]]) -> object:
        """What came of a task that has ended."""
        if future.status == "finished":
            return self._outcomes.result(future.result())
        if future.status == "error":
            raise _told(future.exception())
        self._check_scheduler()
        raise EngineError(f"the scheduler {self._address} has lost the work", remedy=_LOST)

    def _look(self, seen: float) -> float:
        """See that somebody works; returns when that was so last."""
        self._check_scheduler()
        now = time.monotonic()
        if self.size:
            return now
        if now - seen > _PATIENCE:
            raise EngineError(
                f"the scheduler {self._address} had no worker for {_PATIENCE:.0f} seconds",
                remedy="start workers, and go on with `resume`",
            )
        return seen

    def _register(self, plugin: WorkerPlugin, name: str) -> None:
        for left in reversed(range(_TRIES)):
            try:
                self._client.register_plugin(plugin, name=name)
                return
            except Exception as error:
                if not left or not isinstance(error, CommClosedError):
                    raise _told(error) from error
                time.sleep(_LOOK)  # a worker ended at that moment; soon the scheduler knows it

    def _check_scheduler(self) -> None:
        if self._client.status != "running":
            raise EngineError(f"the scheduler {self._address} is gone", remedy=_LOST)


class _HasFctl(WorkerPlugin):
    """Nothing: a worker that cannot load even this has no fctl, which is told before anything runs."""


class _BundleKeeper(WorkerPlugin):
    """Brings a bundle to a worker, whenever it comes."""

    def __init__(self, digest: str, data: bytes) -> None:
        self._digest, self._data = digest, data

    def setup(self, worker: Worker) -> None:
        """Keep the bundle."""
        keep_bundle(self._digest, self._data)


def in_worker(task: Callable[..., _Result], *arguments: object) -> Outcome[_Result]:
    """Do a task in a worker of Dask, with as many cores as the worker has threads."""
    worker = get_worker()
    return guarded(
        str(worker.name if isinstance(worker.name, str) else worker.address), worker.state.nthreads, task, *arguments
    )


def _local(number: int) -> LocalCluster:
    """A cluster on this machine, whose workers share its cores."""
    if number < 1:
        raise InputError(subject="`dask`", expected="at least one worker", found=f"local:{number}")
    try:
        with starting_children():
            return LocalCluster(
                n_workers=number, threads_per_worker=max(1, cores() // number), processes=True,
                silence_logs=logging.CRITICAL, dashboard_address="127.0.0.1:0",  # any port
                scheduler_kwargs={"dashboard": False},
            )  # fmt: skip
    except RuntimeError as error:  # a worker ended before it was ready
        raise _told(error) from error


def _connected(address: LocalCluster | str) -> Client:
    """A client of a scheduler."""
    try:
        return Client(address, timeout=_CONNECTING, set_as_default=False)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"no scheduler answers at {address}", remedy="start one with `dask scheduler`, or name another address"
        ) from error


def _told(error: BaseException | None) -> FctlError:
    """An error of the cluster, in one line."""
    if isinstance(error, KilledWorker):
        return EngineError(
            f"{error.allowed_failures + 1} workers ended in the middle of the same work: killed, or out of memory",
            remedy="see their logs, and go on with `resume`",
        )
    if isinstance(error, ImportError) or "ModuleNotFoundError" in str(error):  # plugins that fail give its text alone
        return EngineError(
            f"a worker cannot do the work: {error}", remedy="install the same version of fctl for scheduler and workers"
        )
    return EngineError(f"the cluster failed: {type(error).__name__}: {error}", remedy="go on with `resume`")
