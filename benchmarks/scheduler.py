"""A scheduler's memory and speed with many shards: python -m benchmarks.scheduler [--tasks 100000] [--workers 2].

A scheduler of Dask and workers are started as processes of their own. Tasks that do nothing, but carry the orders of a
real run and bring back what a real shard does, go through the loop that `fctl-run --dask` uses, which lets the
scheduler know of two tasks for each worker at a time; then, in a new cluster, all of them are submitted at once. The
resident memory of the scheduler and of this process are noted meanwhile.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from distributed import Client, as_completed

from fctl.runtime.bench.machine import cores, load
from fctl.runtime.engines.processor import name as processor
from fctl.runtime.spread.dask import Dask, in_worker
from fctl.runtime.spread.orders import Orders

from .parts.figures import Figures
from .parts.nothing import program
from .parts.orders import nothing, real_orders

_ROOT = Path(__file__).parents[1]
_MB = 1e6


def main() -> None:
    """Measure both ways, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--at-once", type=int, help="how many tasks are submitted at once; default: as many, 0: none")
    parser.add_argument("--json", type=Path, help="keeps the figures for benchmarks.cost")
    arguments = parser.parse_args()
    at_once = arguments.tasks if arguments.at_once is None else arguments.at_once
    ways: dict[str, tuple[Callable[[str, Orders, int], Iterator[object]], int]] = {
        "two tasks for each worker at a time": (_windowed, arguments.tasks), "all at once": (_at_once, at_once),
    }  # fmt: skip
    figures = Figures.read(arguments.json)
    with tempfile.TemporaryDirectory(prefix="fctl-scheduler-") as name:
        orders = real_orders(Path(name))
    size = len(pickle.dumps(orders))
    print(f"{processor()}, {cores()} cores, load {load()}; {arguments.workers} workers, orders of {size} bytes\n")
    shares = _told(_Memory.shares)
    print(f"| | tasks | tasks/s | scheduler at first, MB | at {shares} of the tasks | peak | leader's peak |")
    print("|---|---|---|---|---|---|---|")
    for name, (way, count) in ways.items():
        if not count:
            continue
        with _cluster(arguments.workers) as (address, scheduler), _Memory(scheduler, count) as memory:
            started = time.monotonic()
            for number, _ in enumerate(way(address, orders, count), 1):
                memory.at(number)
            seconds = time.monotonic() - started
        found, mine = memory.of[scheduler], memory.of[os.getpid()]
        by_then = [round(one) for one in memory.by_then]
        print(
            f"| {name} | {count} | {count / seconds:.0f} | {found[0]:.0f} | {_told(by_then)} | {max(found):.0f} "
            f"| {max(mine):.0f} |", flush=True,
        )  # fmt: skip
        figures.scheduler[name] = {
            "tasks": count, "seconds": seconds, "workers": arguments.workers, "orders": size, "first": found[0],
            "peak": max(found), "leader": max(mine),
        }  # fmt: skip
        figures.write(arguments.json)


def _windowed(address: str, orders: Orders, count: int) -> Iterator[object]:
    """Do all tasks as `fctl-run --dask` does."""
    crew = Dask(address)
    try:
        yield from crew.each(nothing, ((orders, number) for number in range(count)))
    finally:
        crew.close()


def _at_once(address: str, orders: Orders, count: int) -> Iterator[object]:
    """Submit all tasks, then wait for them."""
    crew = Dask(address)  # gives workers the resource that tasks take
    with Client(address, set_as_default=False) as client:
        futures = [
            client.submit(in_worker, nothing, orders, number, pure=False, resources={"FCTL": 1.0})
            for number in range(count)
        ]
        for future in as_completed(futures, loop=client.loop):
            yield future.result()
    crew.close()


@contextmanager
def _cluster(workers: int) -> Iterator[tuple[str, int]]:
    """A scheduler and workers; gives the scheduler's address and process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory(prefix="fctl-scheduler-") as name:
        file = Path(name) / "scheduler.json"

        def started(*command: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [str(program("dask")), *command, "--no-dashboard", "--scheduler-file", str(file)], cwd=name,
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

        scheduler = started("scheduler", "--port", "0")
        hands = [started("worker", "--nthreads", "1", "--no-nanny") for _ in range(workers)]
        try:
            with Client(scheduler_file=str(file), set_as_default=False, timeout=60) as client:
                client.wait_for_workers(workers, timeout=60)
                address = client.scheduler.address
            yield address, scheduler.pid
        finally:
            for process in [*hands, scheduler]:
                process.kill()
                process.wait()


@dataclass
class _Memory:
    """Notes the resident memory of the scheduler and of this process, in MB, four times a second.

    Attributes:
        scheduler: The scheduler's process.
        tasks: How many tasks there are.
        of: By process, all that was noted.
        by_then: What the scheduler had when a share of the tasks was done, see `shares`.
    """

    shares = (0.25, 0.5, 0.75, 1.0)

    scheduler: int
    tasks: int
    of: dict[int, list[float]] = field(default_factory=dict)
    by_then: list[float] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> _Memory:
        self.of = {pid: [_resident(pid)] for pid in (self.scheduler, os.getpid())}
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def at(self, done: int) -> None:
        """Heed that so many tasks are done."""
        if done in {round(share * self.tasks) for share in self.shares}:
            self.by_then.append(_resident(self.scheduler))

    def _watch(self) -> None:
        while not self._ended.wait(0.25):
            for pid, found in self.of.items():
                found.append(_resident(pid))


def _resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024 / _MB


def _told(values: Iterable[float]) -> str:
    return " / ".join(map(str, values))


if __name__ == "__main__":
    main()
