"""The record of a plan: what it was built from, how, and for which machines. It tells where the plan runs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...bundle.manifest import GraphSpec
from .flavours import Flavour
from .layers import LayerReport

SCHEMA = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build.

    Attributes:
        flavour: The library.
        batches: Batch sizes that the plan will run, each tuned on its own.
        compute_capability: 86 for 8.6, to build for GPUs that are not here (TensorRT-RTX); None for this machine's
            GPU.
        workspace: MiB of scratch memory that a layer may use; None for the builder's own limit.
        optimisation: How long to search for fast kernels, from 0 to 5; None for the builder's own level.
        hardware_compatible: Whether to build for Ampere and newer instead of this kind of GPU (TensorRT).
        version_compatible: Whether the plan is to run with later minor versions too (TensorRT).
    """

    flavour: Flavour = "tensorrt"
    batches: tuple[int, ...] = (4,)
    compute_capability: int | None = None
    workspace: int | None = None
    optimisation: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a plan must fit.

    Attributes:
        version: Version of the library.
        system: System and processor, as "Linux x86_64".
        gpu: Name and size of the GPU; None where plans are built for a compute capability alone.
        compute_capability: 86 for 8.6.
        driver: The version of CUDA that the driver supports, as "13.0"; None where plans are built for GPUs elsewhere.
    """

    version: str
    system: str
    gpu: str | None
    compute_capability: int
    driver: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """What lies beside a plan, as JSON.

    Attributes:
        schema: Version of the record's format.
        role: What the graph does.
        precision: What the graph computes in.
        onnx_sha256: Hex digest of the graph.
        plan_sha256: Hex digest of the plan.
        options: How it was built.
        machine: What it was built for.
        profiles: Batch sizes, in the order of the plan's optimisation profiles.
        seconds: How long the build took.
        layers: What the builder made of the graph, if it tells.
    """

    schema: str
    role: str
    precision: str
    onnx_sha256: str
    plan_sha256: str
    options: BuildOptions
    machine: Machine
    profiles: tuple[int, ...]
    seconds: float
    layers: LayerReport | None


def misfit(record: PlanRecord, graph: GraphSpec, flavour: Flavour, batch: int, machine: Machine) -> str | None:
    """Why a plan does not run a graph on a machine.

    Args:
        record: The plan's record.
        graph: The graph.
        flavour: The library that is to run it.
        batch: The batch size.
        machine: The machine.

    Returns:
        The reason, to follow the plan's name; None where it runs.
    """
    options, built = record.options, record.machine
    if record.onnx_sha256 != graph.sha256:
        return "was built from another graph"
    if options.flavour != flavour:
        return f"is for {options.flavour}"
    if batch not in record.profiles:
        return f"runs batches of {' and '.join(map(str, record.profiles))}"
    if not _version_fits(options, built.version, machine.version):
        return f"is for version {built.version}, this machine has {machine.version}"
    if built.system != machine.system:
        return f"is for {built.system}, this machine is {machine.system}"
    if not _gpu_fits(options, built, machine):
        return f"is for {_gpu(built)}, this machine has {_gpu(machine)}"
    return None


def _version_fits(options: BuildOptions, built: str, found: str) -> bool:
    """Whether a version of the library runs plans of another."""
    if not options.version_compatible:
        return built == found
    if not all(re.match(r"\d+\.\d+(\.|$)", version) for version in (built, found)):
        return False
    older, newer = (tuple(int(part) for part in version.split(".")[:2]) for version in (built, found))
    return older[0] == newer[0] and older <= newer


def _gpu_fits(options: BuildOptions, built: Machine, found: Machine) -> bool:
    """Whether the GPU of a machine runs plans that were built for another."""
    if options.hardware_compatible:
        return found.compute_capability >= 80
    return built.compute_capability == found.compute_capability and built.gpu in (None, found.gpu)


def _gpu(machine: Machine) -> str:
    """The GPU in words."""
    name = f"{machine.gpu}, " if machine.gpu else ""
    return f"{name}compute capability {machine.compute_capability / 10:.1f}"
