"""The machine and this process, as far as the system tells."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """How many processes wanted a core in the minute before; None where the system does not tell."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def size_in(name: str, path: str = "/proc/self/status") -> int | None:
    """A size in kB of a file of the proc file system, in bytes; None where it is not there."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith(f"{name}:")]
    return int(found[0].split()[1]) * 1024 if found else None


def peak_memory() -> int | None:
    """The most bytes of memory that this process ever took; None where the system does not tell."""
    return size_in("VmHWM")


def other_threads() -> frozenset[int]:
    """The numbers of all threads of this process but the one that asks; none where the system does not tell."""
    try:
        return frozenset(int(task.name) for task in Path("/proc/self/task").iterdir()) - {threading.get_native_id()}
    except OSError:
        return frozenset()


def thread_seconds(threads: frozenset[int]) -> float | None:
    """Seconds of processor time that some threads of this process took; None where the system does not tell.

    Args:
        threads: Their numbers. Those that have ended count for nothing.

    Returns:
        Seconds.
    """
    found = 0
    if not Path("/proc/self/schedstat").is_file():
        return None
    for thread in threads:
        try:
            found += int(Path(f"/proc/self/task/{thread}/schedstat").read_text(encoding="ascii").split()[0])
        except OSError:  # it has ended
            continue
    return found / 1e9
