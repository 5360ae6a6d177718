"""ONNX graph -> plan, with TensorRT or TensorRT-RTX: on the device, without torch or onnx.

Networks are strongly typed: the precision of every layer is what the graph says.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...bundle.manifest import SEGMENTER, GraphSpec, Precision
from ...bundle.store import Bundle
from ...errors import DeviceMemoryError, EngineError
from .api import Module
from .config import check_options, configure, network_flags, profile_of, timing_cache
from .flavours import Recorder, complaint, load_flavour, recorder
from .layers import LayerReport, read_dump, read_inspector
from .machines import machine_for
from .plans import (
    SCHEMA,
    BuildOptions,
    Machine,
    PlanRecord,
    StoredPlan,
    batches_of,
    plan_name,
    read_record,
    remove_plan,
    store_plan,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["build_plan", "build_plans", "machine_for"]

log = logging.getLogger(__name__)


def build_plans(bundle: Bundle, precision: Precision, options: BuildOptions, folder: Path) -> tuple[StoredPlan, ...]:
    """Build plans of all graphs of a precision.

    Windows of a shared context are encoded one at a time, so that their encoder gets a batch of 1 besides. Where memory
    runs out, the largest batch is halved, for all graphs alike, and a warning is logged.

    Args:
        bundle: The bundle.
        precision: Which of its graphs.
        options: How to build.
        folder: Where to write the plans; those that lie there already are kept.

    Returns:
        The plans, in the order of the graphs.

    Raises:
        InputError: The options do not fit each other.
        BundleError: The bundle holds no graphs of the precision.
        EngineError: The library or the GPU is missing, or the library refuses a graph.
    """
    check_options(options)
    machine = machine_for(options)
    graphs = bundle.graphs_run_in(precision)
    if not graphs:
        bundle.graph(SEGMENTER, precision)  # raises an error that lists those there are
    while True:
        plans: list[StoredPlan] = []
        try:
            for path, graph in graphs:
                batches = batches_of(bundle.manifest, graph, options.batches)
                plans.append(_stored(path, graph, replace(options, batches=batches), machine, folder))
            return tuple(plans)
        except DeviceMemoryError as error:
            for plan in plans:  # one batch serves all graphs: nobody will use these
                remove_plan(plan)
            options = _halved(options, error)


def build_plan(path: Path, graph: GraphSpec, options: BuildOptions, machine: Machine) -> tuple[memoryview, PlanRecord]:
    """Parse and build one graph.

    Args:
        path: The ONNX file.
        graph: Its description.
        options: How to build.
        machine: What is built for, from `machine_for`.

    Returns:
        The plan's bytes and its record.

    Raises:
        EngineError: The library refuses the graph, with its first complaint.
        DeviceMemoryError: The build ran out of memory.
    """
    _check_dtypes(path, graph)
    trt = load_flavour(options.flavour)
    started, logger = time.monotonic(), recorder(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        reason = parser.get_error(0).desc() if parser.num_errors else complaint(logger).reason
        problem = f"{options.flavour} {machine.version} cannot read this graph: {' '.join(reason.split())}"
        raise EngineError(problem, subject=path)
    config = configure(trt, builder, options)
    for batch in options.batches:
        config.add_optimization_profile(profile_of(builder, graph, batch))
    with timing_cache(config, options, machine):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(path, options, logger)
    layers = read_dump(logger.dump) or _inspected(trt, plan, options)
    record = PlanRecord(
        schema=SCHEMA, role=graph.role, precision=graph.precision, onnx_sha256=graph.sha256,
        plan_sha256=hashlib.sha256(plan).hexdigest(), options=options, machine=machine, profiles=options.batches,
        seconds=round(time.monotonic() - started, 1), layers=layers,
    )  # fmt: skip
    return memoryview(plan), record


def _stored(path: Path, graph: GraphSpec, options: BuildOptions, machine: Machine, folder: Path) -> StoredPlan:
    """The plan of one graph in a folder, built unless it lies there."""
    name = plan_name(graph, options, machine)
    record = (folder / name).with_suffix(".json")
    if (folder / name).is_file() and record.is_file():
        return StoredPlan(path=folder / name, record=read_record(record))
    target = machine.gpu or f"compute capability {machine.compute_capability / 10:.1f}"
    log.info("building %s, %s, with %s for %s", graph.role, graph.precision, options.flavour, target)
    return store_plan(folder, name, *build_plan(path, graph, options, machine))


def _halved(options: BuildOptions, error: DeviceMemoryError) -> BuildOptions:
    """The options with half the largest batch; raises the error where that is 1 already."""
    largest = max(options.batches)
    if largest == 1:
        raise error
    log.warning("out of memory at batch %d: building for batch %d instead", largest, largest // 2)
    return replace(options, batches=tuple(sorted({*options.batches, largest // 2} - {largest})))


def _inspected(trt: Module, plan: ReadableBuffer, options: BuildOptions) -> LayerReport | None:
    """What TensorRT itself tells of a plan; it needs the GPU, which is there where it was built for this machine."""
    if options.compute_capability is not None:
        return None
    runtime = trt.Runtime(recorder(trt))
    runtime.engine_host_code_allowed = options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return read_inspector(text)
    except ValueError:  # no JSON after all
        return None


def _check_dtypes(path: Path, graph: GraphSpec) -> None:
    """Raise EngineError where an input has a dtype that TensorRT lacks."""
    for spec in graph.inputs:
        if spec.dtype in ("uint16", "int16"):
            problem = f"TensorRT has no {spec.dtype}, which {spec.name} is: run it with `backend` onnxruntime-cuda"
            raise EngineError(problem, subject=path)


def _failure(path: Path, options: BuildOptions, logger: Recorder) -> EngineError:
    """The error of a build that failed, with what the library said."""
    heard = complaint(logger)
    if heard.memory:
        return DeviceMemoryError(
            f"{options.flavour} ran out of memory at batch {max(options.batches)}: {heard.reason}",
            subject=path,
            remedy="try a smaller `batch` or `workspace`",
        )
    return EngineError(f"{options.flavour} cannot build this graph: {heard.reason}", subject=path)
