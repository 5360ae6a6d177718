"""Built engines on disk: a plan, and beside it a record of what it was built from and where it runs.

They lie in `engines/` of a bundle, or in a cache of this machine; `find_plan` looks in both. A plan fits one graph, one
version of TensorRT and one kind of GPU, unless it was built to be compatible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ... import remedies
from ...atomic import atomic_write
from ...bundle.files import WrongFileError, read_json, reason, regular_size
from ...bundle.manifest import GraphSpec, Manifest
from ...bundle.records import decode, encode
from ...bundle.store import bundle_argument, sha256
from ...errors import EngineError
from ..kept import cache_root
from .flavours import Flavour
from .records import SCHEMA, BuildOptions, Machine, PlanRecord, misfit

__all__ = [
    "ENGINES",
    "SCHEMA",
    "BuildOptions",
    "Machine",
    "PlanRecord",
    "StoredPlan",
    "batches_of",
    "cache_folder",
    "find_plan",
    "misfit",
    "plan_name",
    "plans_in",
    "read_plan",
    "read_record",
    "remove_plan",
    "store_plan",
]

ENGINES = "engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlan:
    """A plan on disk.

    Attributes:
        path: The plan.
        record: What lies beside it.
    """

    path: Path
    record: PlanRecord


def batches_of(manifest: Manifest, graph: GraphSpec, batches: Iterable[int]) -> tuple[int, ...]:
    """The batch sizes that one graph is run in.

    Args:
        manifest: The manifest of the bundle.
        graph: One of its graphs.
        batches: The batch sizes that patches are run in.

    Returns:
        The graph's own batch where that is fixed; 1 for a graph that encodes a shared context, or one once a raster;
        else `batches`.
    """
    fixed = graph.inputs[0].shape[0]
    if isinstance(fixed, int):
        return (fixed,)
    if graph.role in manifest.shared_roles:
        return (1,)
    served = [context for context in manifest.contexts if context.encoder == graph.role]
    once = any(context.sharing and context.sharing.encoder == graph.role for context in served)
    alone = [1] if once or any(context.window.shared for context in served) else []
    only = bool(served) and all(context.window.shared for context in served)
    return tuple(sorted({*([] if only else batches), *alone}))


def cache_folder() -> Path:
    """Where plans of this machine are kept: in FCTL_CACHE, or else in the user's cache folder."""
    return cache_root() / ENGINES


def plan_name(graph: GraphSpec, options: BuildOptions, machine: Machine) -> str:
    """A file name that tells plans apart.

    Args:
        graph: What was built.
        options: How it was built.
        machine: What it was built for.

    Returns:
        What a person looks for, then a digest of all that matters.
    """
    key = json.dumps([graph.sha256, encode(options), encode(machine)], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    batches = "-".join(map(str, options.batches))
    return f"{graph.role}-{graph.precision}-{options.flavour}-sm{machine.compute_capability}-b{batches}-{digest}.engine"


def store_plan(folder: Path, name: str, plan: memoryview | bytes, record: PlanRecord) -> StoredPlan:
    """Write a plan, then its record: a plan without a record does not count.

    Args:
        folder: Where to write.
        name: Name of the plan, from `plan_name`.
        plan: Its bytes.
        record: Its record.

    Returns:
        The plan on disk.

    Raises:
        OutputError: The folder cannot be written to.
    """
    path = folder / name
    with atomic_write(path) as temporary:
        temporary.write_bytes(plan)
    with atomic_write(_record_of(path)) as temporary:
        temporary.write_text(json.dumps(encode(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return StoredPlan(path=path, record=record)


def remove_plan(plan: StoredPlan) -> None:
    """Remove a plan and its record from the disk."""
    _record_of(plan.path).unlink(missing_ok=True)
    plan.path.unlink(missing_ok=True)


def find_plan(graph: GraphSpec, onnx: Path, flavour: Flavour, batch: int, machine: Machine) -> StoredPlan:
    """Find a plan that runs on this machine, in the bundle or in the cache.

    Args:
        graph: The graph.
        onnx: Its file, in the bundle.
        flavour: The library that is to run it.
        batch: The batch size.
        machine: This machine.

    Returns:
        The first plan that fits.

    Raises:
        EngineError: None does; the error has the reasons, and the command that builds one.
    """
    refusals = []
    for folder in (onnx.parent / ENGINES, cache_folder()):
        for plan in _plans_of(folder, graph):
            reason = misfit(plan.record, graph, flavour, batch, machine)
            if reason is None:
                return plan
            refusals.append(f"{plan.path.name} {reason}")
    command = remedies.export(
        bundle_argument(onnx.parent), fmt="trt", flavour=flavour, precision=graph.precision, batch=batch
    )
    raise EngineError(
        subject=f"{graph.role}, {graph.precision}",
        expected=f"a {flavour} engine for batch {batch} on this machine",
        found="; ".join(refusals) or "none",
        remedy=f"build it here: {command}",
    )


def plans_in(bundle: Path) -> tuple[StoredPlan, ...]:
    """All plans that lie in a bundle.

    Args:
        bundle: The bundle's folder.

    Returns:
        The plans by name.

    Raises:
        EngineError: A record is damaged.
    """
    paths = sorted(_files_in(bundle / ENGINES, "*.engine"))
    return tuple(StoredPlan(path=path, record=read_record(_record_of(path))) for path in paths)


def read_plan(plan: StoredPlan) -> bytes:
    """Read the bytes of a plan.

    Args:
        plan: The plan.

    Returns:
        Its bytes.

    Raises:
        EngineError: They are not those that were written.
    """
    try:
        regular_size(plan.path)
        found = sha256(plan.path)
    except (OSError, WrongFileError) as error:
        raise EngineError(
            subject=plan.path, expected="an engine", found=reason(error), remedy="build it again"
        ) from None
    if found != plan.record.plan_sha256:
        raise EngineError(
            subject=plan.path,
            expected=f"sha256 {plan.record.plan_sha256[:12]}...",
            found=f"{found[:12]}...",
            remedy="the file is damaged: remove it and build it again",
        )
    return plan.path.read_bytes()


def read_record(path: Path) -> PlanRecord:
    """Read the record beside a plan.

    Args:
        path: The record's file.

    Returns:
        The record.

    Raises:
        EngineError: It is missing or damaged.
    """
    try:
        return decode(PlanRecord, read_json(path))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            subject=path, expected="the record of an engine", found=reason(error), remedy="build it again"
        ) from None


def _plans_of(folder: Path, graph: GraphSpec) -> Iterator[StoredPlan]:
    """Plans of a graph's role and precision in a folder, newest first: a cache keeps those of older versions."""
    files = _files_in(folder, f"{graph.role}-{graph.precision}-*.engine")
    for path in sorted(files, key=lambda path: (-path.stat().st_mtime_ns, path.name)):
        if _record_of(path).is_file():
            yield StoredPlan(path=path, record=read_record(_record_of(path)))


def _files_in(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder whose names fit a pattern, none where there is no folder.

    Raises:
        EngineError: The folder may not be read.
    """
    try:
        return [path for path in folder.iterdir() if fnmatchcase(path.name, pattern) and path.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise EngineError(
            subject=folder, expected="a folder of engines", found=reason(error), remedy="ask for the right to read it"
        ) from None


def _record_of(path: Path) -> Path:
    """Where the record of a plan lies."""
    return path.with_suffix(".json")
