"""What the processor can do exactly, how many cores of it there are for this process, and which one it is."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path

_X86 = ("x86_64", "amd64")
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
_FLAGS = Path("/proc/cpuinfo")
_CORES = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_limits: list[int] = []  # what `limit_cores` was told last
_TELLING = ("model name", "flags", "features", "cpu implementer", "cpu part")  # lines that tell processors apart


@cache
def adds_int8_exactly() -> bool:
    """Whether products of int8 are summed in 32 bits.

    Without VNNI, an x86 processor adds them in pairs in 16 bits, which saturate. ONNX Runtime and OpenVINO do so, and
    their scores then differ from the graph's. An x86 processor of which nothing is known is taken for one without VNNI.
    """
    if platform.machine().lower() not in _X86:
        return True
    return _FLAGS.is_file() and not _EXACT.isdisjoint(_FLAGS.read_text(encoding="utf-8").split())


def cores() -> int:
    """How many cores this process may keep busy.

    Two hardware threads of one core count once, for they share its arithmetic. The cores that the process is bound to,
    the share of time that it is granted in a container, and what `limit_cores` says are heeded.
    """
    bound = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, min(len({_siblings(number) for number in bound}), _granted(), *_limits))


def limit_cores(most: int) -> None:
    """Let this process keep at most so many cores busy, since other processes of ours work beside it."""
    _limits[:] = [most]


def described() -> str:
    """The processor's name, and what tells its kind from others."""
    return f"{name()} ({identity()})"


def name() -> str:
    """The processor's name; lines of some ARM kernels have numbers in its place."""
    try:
        lines = _FLAGS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith(("model name", "model\t"))]
    named = [found for found in names if not found.isdigit()]
    return named[0] if named else platform.processor() or platform.machine()


@cache
def identity() -> str:
    """What tells this kind of processor from others: a digest of its name and of what it can do."""
    lines = {platform.machine(), platform.processor()}
    if _FLAGS.is_file():
        text = _FLAGS.read_text(encoding="utf-8", errors="replace").splitlines()
        lines.update(line for line in text if line.lower().startswith(_TELLING))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _siblings(number: int) -> str:
    """The hardware threads of the core that one of them belongs to; itself alone where the system does not tell."""
    try:
        return (_CORES / f"cpu{number}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return str(number)


def _granted() -> int:
    """Cores' worth of time that the control group of this process is granted, rounded up; no limit is a large one."""
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return 1 << 20
