"""Workers that are processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TypeVar

from ..engines.processor import cores
from ..errors import EngineError
from .children import starting_children
from .crew import Outcomes
from .orders import Outcome
from .tasks import guarded

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_Begun = tuple[tuple[object, ...], int]  # the arguments of a task, and how often it was begun

_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each
_TRIES = 3  # that a task has where processes end in the middle of it
_AHEAD = 2  # tasks for each worker: the next one waits while one is done


class Processes:
    """Processes of this machine, each with its share of the cores, or with a GPU of its own.

    Args:
        count: How many.
        devices: Numbers of the GPUs, as CUDA_VISIBLE_DEVICES has them; none where engines run on the CPU.
    """

    elsewhere = False

    def __init__(self, count: int, devices: tuple[str, ...] = ()) -> None:
        self.size, self._devices = count, devices
        self._cores = max(1, cores() // count)
        self._pool, self._outcomes = self._started(), Outcomes()

    def any(self, task: Callable[..., _Result], *arguments: object) -> _Result:
        """Let one worker do a task."""
        return next(self.each(task, [arguments]))

    def all(self, task: Callable[..., _Result], *arguments: object) -> dict[str, _Result]:
        """Let one worker do a task: all are alike."""
        return {"": self.any(task, *arguments)}

    def each(self, task: Callable[..., _Result], items: Iterable[tuple[object, ...]]) -> Iterator[_Result]:
        """Do a task with each item's arguments; where a process ends, what is lost begins anew in new ones."""
        waiting, running = iter(items), dict[Future[Outcome[_Result]], _Begun]()
        while True:
            while len(running) < _AHEAD * self.size and (item := next(waiting, None)) is not None:
                running[self._submit(task, item)] = (item, 1)
            if not running:
                return
            done = wait(running, return_when=FIRST_COMPLETED).done
            if any(_is_lost(future) for future in done):
                running = self._again(task, running)
                continue
            for future in done:
                del running[future]
                yield self._outcomes.result(future.result())

    def send(self, digest: str, data: bytes) -> None:
        """Nothing: the processes see the files of this machine."""

    def close(self) -> None:
        """End the processes at once."""
        self._outcomes.close()
        self._end()

    def _end(self) -> None:
        processes = list((self._pool._processes or {}).values())  # no public way to end them while they work
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()

    def _submit(self, task: Callable[..., _Result], item: tuple[object, ...]) -> Future[Outcome[_Result]]:
        try:
            with starting_children():
                return self._pool.submit(guarded, "", self._cores, task, *item)
        except BrokenProcessPool as error:  # a process ended this very moment: the item is as lost as the others
            lost = Future[Outcome[_Result]]()
            lost.set_exception(error)
            return lost

    def _again(
        self, task: Callable[..., _Result], running: dict[Future[Outcome[_Result]], _Begun]
    ) -> dict[Future[Outcome[_Result]], _Begun]:
        """Begin anew with what was lost when a process ended."""
        self._end()
        wait(running)
        tries = max(count for future, (_, count) in running.items() if _is_lost(future))
        if tries >= _TRIES:
            raise EngineError(
                f"worker processes ended {tries} times in the middle of the same work: killed, or out of memory",
                remedy="go on with `resume` and fewer `workers`",
            )
        log.warning("a worker process ended in the middle of its work: it begins anew")
        self._pool = self._started()
        return {
            self._submit(task, begun[0]) if _is_lost(future) else future: (begun[0], begun[1] + _is_lost(future))
            for future, begun in running.items()
        }

    def _started(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        with starting_children():
            devices: SimpleQueue[str] | None = context.SimpleQueue() if self._devices else None
            if devices:
                for number in range(self.size):
                    devices.put(self._devices[number % len(self._devices)])
            return ProcessPoolExecutor(self.size, context, _begin, (devices,))


def _is_lost(future: Future[Outcome[_Result]]) -> bool:
    """Whether a task that has ended was never done, since a process ended."""
    return future.cancelled() or future.exception() is not None


def gpus() -> tuple[str, ...]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, where there are several to share out; else none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    numbers = [number.strip() for number in named.split(",")] if named else []
    if named is None and _GPUS.is_dir():
        numbers = [str(number) for number, _ in enumerate(_GPUS.iterdir())]
    return tuple(numbers) if len(numbers) > 1 else ()


def _begin(devices: SimpleQueue[str] | None) -> None:
    """Prepare a worker's process: it has a GPU of its own, and ends when the one that started it ends."""
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices.get()
    threading.Thread(target=_end_with_the_leader, daemon=True).start()


def _end_with_the_leader() -> None:
    leader = multiprocessing.parent_process()
    if leader:
        leader.join()
        os._exit(1)
