"""Built engines on disk: a plan, and beside it a record of what it was built from and where it runs.

They lie in `engines/` of a bundle, or in a cache of this machine; `find_plan` looks in both. A plan fits one graph, one
version of TensorRT and one kind of GPU, unless it was built to be compatible.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...bundle.manifest import GraphSpec, Manifest
from ...bundle.records import RecordError, decode, encode
from ...bundle.store import bundle_argument, sha256
from ...errors import EngineError
from ...raster.atomic import atomic_write
from .flavours import Flavour
from .layers import LayerReport

ENGINES = "engines"
SCHEMA = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build. batches: sizes that the plan will run, each tuned on its own.

    compute_capability: 86 for 8.6, to build for GPUs that are not here (TensorRT-RTX); None for this machine's GPU.
    workspace: MiB of scratch memory that a layer may use; optimisation: 0 to 5; None for the builder's own.
    hardware_compatible: for Ampere and newer instead of this kind of GPU; version_compatible: for later minor versions.
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
    """What a plan must fit. system: as "Linux x86_64". gpu: its name and size, None where plans are built for a compute
    capability alone. driver: the version of CUDA that it supports."""

    version: str
    system: str
    gpu: str | None
    compute_capability: int
    driver: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """What lies beside a plan, as JSON. profiles: batch sizes, in the order of the plan's optimisation profiles."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """A plan on disk."""

    path: Path
    record: PlanRecord


def batches_of(manifest: Manifest, graph: GraphSpec, batches: Iterable[int]) -> tuple[int, ...]:
    """The sizes that one graph is run in: its own where that is fixed; 1 for what encodes a context that moves."""
    fixed = graph.inputs[0].shape[0]
    if isinstance(fixed, int):
        return (fixed,)
    served = [context for context in manifest.contexts if context.encoder == graph.role]
    alone = [1] if any(context.window.moves for context in served) else []
    only = bool(served) and all(context.window.moves for context in served)
    return tuple(sorted({*([] if only else batches), *alone}))


def cache_folder() -> Path:
    """Where plans of this machine are kept: FCTL_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FCTL_CACHE") or Path(base) / "fctl") / ENGINES


def plan_name(graph: GraphSpec, options: BuildOptions, machine: Machine) -> str:
    """A file name that tells plans apart: what a person looks for, then a digest of all that matters."""
    key = json.dumps([graph.sha256, encode(options), encode(machine)], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    batches = "-".join(map(str, options.batches))
    return f"{graph.role}-{graph.precision}-{options.flavour}-sm{machine.compute_capability}-b{batches}-{digest}.engine"


def store_plan(folder: Path, name: str, plan: memoryview | bytes, record: PlanRecord) -> StoredPlan:
    """Write a plan, then its record: a plan without a record is not there."""
    path = folder / name
    with atomic_write(path) as temporary:
        temporary.write_bytes(plan)
    with atomic_write(_record_of(path)) as temporary:
        temporary.write_text(json.dumps(encode(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return StoredPlan(path=path, record=record)


def remove_plan(plan: StoredPlan) -> None:
    """Remove a plan and its record."""
    _record_of(plan.path).unlink(missing_ok=True)
    plan.path.unlink(missing_ok=True)


def find_plan(graph: GraphSpec, onnx: Path, flavour: Flavour, batch: int, machine: Machine) -> StoredPlan:
    """A plan of `graph` that runs on this machine in batches of `batch`. Raises EngineError that says why none does."""
    refusals = []
    for folder in (onnx.parent / ENGINES, cache_folder()):
        for plan in _plans_of(folder, graph):
            reason = misfit(plan.record, graph, flavour, batch, machine)
            if reason is None:
                return plan
            refusals.append(f"{plan.path.name} {reason}")
    found = f"found {'; '.join(refusals)}" if refusals else "found none"
    raise EngineError(
        f"{graph.role}, {graph.precision}: expected a {flavour} engine for batch {batch} on this machine, {found}; "
        f"build it here: fctl-export {bundle_argument(onnx.parent)} --fmt trt --flavour {flavour} --precision {graph.precision} "
        f"--batch {batch}"
    )


def misfit(record: PlanRecord, graph: GraphSpec, flavour: Flavour, batch: int, machine: Machine) -> str | None:
    """Why a plan does not run `graph` on a machine; None where it does."""
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


def plans_in(bundle: Path) -> tuple[StoredPlan, ...]:
    """All plans that lie in a bundle's folder. Raises EngineError where a record is damaged."""
    paths = sorted((bundle / ENGINES).glob("*.engine"))
    return tuple(StoredPlan(path=path, record=read_record(_record_of(path))) for path in paths)


def read_plan(plan: StoredPlan) -> bytes:
    """The bytes of a plan. Raises EngineError where they are not those that were written."""
    found = sha256(plan.path)
    if found != plan.record.plan_sha256:
        raise EngineError(f"{plan.path}: expected sha256 {plan.record.plan_sha256[:12]}..., found {found[:12]}...; the "
                          "file is damaged: remove it and build it again")  # fmt: skip
    return plan.path.read_bytes()


def read_record(path: Path) -> PlanRecord:
    """The record beside a plan. Raises EngineError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return decode(PlanRecord, document)
    except (OSError, ValueError, RecordError) as error:
        raise EngineError(f"{path}: expected the record of an engine, found {error}; build it again") from None


def _plans_of(folder: Path, graph: GraphSpec) -> Iterator[StoredPlan]:
    """Plans of a role and precision in a folder; the newest first, for a cache keeps those of older versions."""
    names = folder.glob(f"{graph.role}-{graph.precision}-*.engine") if folder.is_dir() else ()
    for path in sorted(names, key=lambda path: (-path.stat().st_mtime_ns, path.name)):
        if _record_of(path).is_file():
            yield StoredPlan(path=path, record=read_record(_record_of(path)))


def _record_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _version_fits(options: BuildOptions, built: str, found: str) -> bool:
    if not options.version_compatible:
        return built == found
    older, newer = (tuple(int(part) for part in version.split(".")[:2]) for version in (built, found))
    return older[0] == newer[0] and older <= newer


def _gpu_fits(options: BuildOptions, built: Machine, found: Machine) -> bool:
    if options.hardware_compatible:
        return found.compute_capability >= 80
    return built.compute_capability == found.compute_capability and built.gpu in (None, found.gpu)


def _gpu(machine: Machine) -> str:
    name = f"{machine.gpu}, " if machine.gpu else ""
    return f"{name}compute capability {machine.compute_capability / 10:.1f}"
