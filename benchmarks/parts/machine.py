"""The machine as a report describes it, and how much memory is in use."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fctl.runtime.bench.machine import cores, load, size_in
from fctl.runtime.cuda import driver
from fctl.runtime.engines.processor import name as processor
from fctl.runtime.errors import EngineError

MB = 1e6
_PACKAGES = (
    "fctl", "numpy", "rasterio", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "torch",
    "triton", "onnx", "onnxscript", "cuda-bindings", "pycuda", "cupy-cuda12x", "cupy-cuda13x", "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
)  # fmt: skip
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING", "OMP_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Its name, as the driver has it.
        compute_capability: What it can do, as "8.6".
        driver: The CUDA version that the driver supports, and the driver's own where the system tells.
        provider: The package through which the driver is used.
        memory: The GPU's memory in bytes.
    """

    name: str
    compute_capability: str
    driver: str
    provider: str
    memory: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine.

    Attributes:
        gpu: The GPU; None where none can be used.
        no_gpu: Why none can be used; None where one can.
        cpu: The processor's name.
        cores: How many cores this process may use.
        memory: The host's memory in bytes; None where the system does not tell.
        load: How many processes wanted a core in the minute before; None likewise.
        system: The operating system.
    """

    gpu: Gpu | None
    no_gpu: str | None
    cpu: str
    cores: int
    memory: int | None
    load: float | None
    system: str

    @property
    def busy(self) -> bool:
        """Whether others used it too. CPU figures mean little then: threads that wait for each other wait long."""
        return self.load is not None and self.load > self.cores / 2


class Memory:
    """Measures the memory in use: by this process on the host, by everybody on the GPU.

    Attributes:
        reason: Why no GPU can be used; None where one can.
        device: The GPU, open until `close`; None without one.
    """

    def __init__(self) -> None:
        self.reason = driver.missing()
        self.device: driver.Device | None = None
        if self.reason is None:
            try:
                self.device = driver.open_device()
            except EngineError as error:
                self.reason = str(error)

    def host(self) -> int | None:
        """Resident bytes of this process; None where the system does not tell."""
        return size_in("VmRSS")

    def peak(self) -> int | None:
        """The most bytes that were ever resident; None likewise."""
        return size_in("VmHWM")

    def gpu(self) -> int | None:
        """Bytes of the GPU's memory that are in use; None without one, or where an engine has made it unusable."""
        if self.device is None:
            return None
        try:
            free, total = self.device.free_memory()
        except EngineError:  # after a failed kernel every call fails, which its engine has reported
            return None
        return total - free

    def close(self) -> None:
        """Release the GPU."""
        if self.device:
            self.device.close()


def describe(memory: Memory) -> Machine:
    """Describe this machine; `memory` knows its GPU."""
    gpu, device = None, memory.device
    if device:
        released = _line(Path("/proc/driver/nvidia/version"))
        gpu = Gpu(
            name=device.name,
            compute_capability="{}.{}".format(*device.compute_capability),
            driver=f"CUDA {device.driver}" + (f"; {released}" if released else ""),
            provider=device.provider,
            memory=device.free_memory()[1],
        )
    jetson = _line(Path("/etc/nv_tegra_release"))
    total = size_in("MemTotal", "/proc/meminfo")
    return Machine(
        gpu=gpu, no_gpu=memory.reason, cpu=processor(), cores=cores(), memory=total, load=load(),
        system=platform.platform() + (f"; {jetson}" if jetson else ""),
    )  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of everything installed that takes part, and environment variables that change numbers or speed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def commit(folder: Path) -> str | None:
    """Find the commit that is checked out.

    Args:
        folder: The root of a checkout.

    Returns:
        The commit's hash, followed by "+" where files differ from it; None where the folder is no checkout.
    """
    if not (folder / ".git").exists():
        return None
    try:
        head, changes = (
            subprocess.run(
                ["git", "--no-optional-locks", "-C", str(folder), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changes else "")


def _line(path: Path) -> str | None:
    """The first line of a file; None where there is none."""
    try:
        return path.read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        return None
