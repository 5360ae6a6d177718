"""A simulated GPU to run scripts and tests on: fake_driver.cpp as the libcuda.so.1 of a process of its own.

Streams are lazy there: a missing wait gives wrong numbers. The kernels are those of kernels.cu, compiled for the host.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fctl.runtime import cuda

SOURCE = Path(__file__).with_name("fake_driver.cpp")
KERNELS = Path(cuda.__file__).with_name("kernels.cu")
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fvisibility=hidden", "-shared", "-fPIC")

_Callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_kept: list[Any] = []


@dataclass(frozen=True)
class SimulatedGpu:
    """folder: where the driver lies."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it, its own variables included."""
        before = os.environ.get("LD_LIBRARY_PATH")
        return {**os.environ, "LD_LIBRARY_PATH": f"{self.folder}:{before}" if before else str(self.folder)}

    def run(self, *arguments: str | Path, **settings: str) -> str:
        """Run Python with these arguments and return what it prints; settings: see fake_driver.cpp."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=self.environment | settings, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"status {done.returncode}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    def left(self, code: str, report: Path, **settings: str) -> dict[str, int]:
        """Run code, and count what is left on the GPU when it has ended."""
        self.run("-c", code, FAKE_GPU_REPORT=str(report), **settings)
        counted: dict[str, int] = json.loads(report.read_text())
        return counted


def build(folder: Path) -> SimulatedGpu | None:
    """Compile it once for all processes that share a folder; None without a compiler."""
    compiler = shutil.which("g++")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    digest = hashlib.sha256(SOURCE.read_bytes() + KERNELS.read_bytes()).hexdigest()[:16]
    home = folder / f"simulated-gpu-{digest}"
    if not home.is_dir():
        fresh = folder / f"{home.name}-{os.getpid()}"
        fresh.mkdir()
        output = fresh / "libcuda.so.1"
        kernels = f'-DKERNELS="{KERNELS}"'
        subprocess.run([compiler, *FLAGS, kernels, str(SOURCE), "-o", str(output), "-ldl"], check=True)
        try:
            fresh.rename(home)
        except OSError:  # another process was faster
            shutil.rmtree(fresh)
    return SimulatedGpu(home)


# --- inside such a process --------------------------------------------------------------------------------------------


def driver() -> ctypes.CDLL:
    """The simulated driver itself."""
    return ctypes.CDLL("libcuda.so.1")


def report() -> dict[str, int]:
    """What is alive: memory, pinned, streams, events, modules, graphs, contexts; bytes of memory; launches so far."""
    text = ctypes.create_string_buffer(400)
    driver().fake_report(text, len(text))
    counted: dict[str, int] = json.loads(text.value)
    return counted


def enqueue(stream: int, work: Callable[[], object]) -> None:
    """Let a stream call something when its turn comes, as it would run another library's kernels."""
    callback = _Callback(lambda _: work() and None)
    _kept.append(callback)
    library = driver()
    library.fake_enqueue.argtypes = (ctypes.c_void_p, _Callback, ctypes.c_void_p)
    status = library.fake_enqueue(stream, callback, None)
    assert status == 0, f"fake_enqueue: {status}"
