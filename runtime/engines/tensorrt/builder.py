"""ONNX graph -> plan, with TensorRT or TensorRT-RTX: on the device, without torch or onnx.

Networks are strongly typed: the precision of every layer is what the graph says.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...bundle.manifest import BATCH, GraphSpec, Precision
from ...bundle.store import Bundle
from ...cuda import driver
from ...errors import DeviceMemoryError, EngineError, InputError, OutputError
from ...raster.atomic import atomic_write
from .flavours import Flavour, complaint, load_flavour, recorder
from .layers import LayerReport, read_dump, read_inspector
from .plans import (
    SCHEMA,
    BuildOptions,
    Machine,
    PlanRecord,
    StoredPlan,
    batches_of,
    cache_folder,
    plan_name,
    read_record,
    remove_plan,
    store_plan,
)

log = logging.getLogger(__name__)

_TIMING_CACHE = "timing.cache"


def build_plans(bundle: Bundle, precision: Precision, options: BuildOptions, folder: Path) -> tuple[StoredPlan, ...]:
    """Plans of all graphs of a precision, written into `folder`; those that lie there already are kept.

    A context that moves is encoded alone, so its encoder gets a batch of 1 besides. Out of memory, the largest batch is
    halved, for all graphs alike, and a warning says so. Raises BundleError or EngineError.
    """
    _check_options(options)
    machine = machine_for(options)
    graphs = [bundle.graph(graph.role, precision) for graph in bundle.manifest.graphs if graph.precision == precision]
    if not graphs:
        bundle.graph("segmenter", precision)  # says what there is
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


def machine_for(options: BuildOptions) -> Machine:
    """The machine that plans are built for: this one, or any with a GPU of the compute capability asked for.

    Raises EngineError that names what is missing. The driver is asked before TensorRT, which can crash without one.
    """
    trt = load_flavour(options.flavour)
    if options.compute_capability is not None:
        return Machine(
            version=trt.__version__, system=_system(), gpu=None, compute_capability=options.compute_capability,
            driver=None,
        )  # fmt: skip
    if reason := driver.missing():
        remedy = "; --compute-capability builds for GPUs elsewhere" if options.flavour == "tensorrt-rtx" else ""
        raise EngineError(f"{options.flavour} builds for the GPU of this machine: {reason}{remedy}")
    with contextlib.closing(driver.open_device()) as device:
        return machine_of(options.flavour, device)


def machine_of(flavour: Flavour, device: driver.Device) -> Machine:
    """What plans must fit on an open device."""
    major, minor = device.compute_capability
    version = load_flavour(flavour).__version__
    name = f"{device.name}, {device.multiprocessors} SMs"  # all Jetsons of a generation have one name
    return Machine(
        version=version, system=_system(), gpu=name, compute_capability=10 * major + minor, driver=device.driver
    )


def _system() -> str:
    return f"{platform.system()} {platform.machine()}"


def build_plan(path: Path, graph: GraphSpec, options: BuildOptions, machine: Machine) -> tuple[memoryview, PlanRecord]:
    """Parse and build one graph; its plan and record.

    Raises EngineError with the parser's or builder's first complaint.
    """
    _check_dtypes(path, graph)
    trt = load_flavour(options.flavour)
    started, logger = time.monotonic(), recorder(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        reason = parser.get_error(0).desc() if parser.num_errors else complaint(logger).reason
        raise EngineError(
            f"{path}: {options.flavour} {machine.version} cannot read this graph: {' '.join(reason.split())}"
        )
    config = _config(trt, builder, options)
    for batch in options.batches:
        config.add_optimization_profile(_profile(builder, graph, batch))
    with _timing_cache(config, options, machine):
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
    name = plan_name(graph, options, machine)
    record = (folder / name).with_suffix(".json")
    if (folder / name).is_file() and record.is_file():
        return StoredPlan(path=folder / name, record=read_record(record))
    target = machine.gpu or f"compute capability {machine.compute_capability / 10:.1f}"
    log.info("building %s, %s, with %s for %s", graph.role, graph.precision, options.flavour, target)
    return store_plan(folder, name, *build_plan(path, graph, options, machine))


def _halved(options: BuildOptions, error: DeviceMemoryError) -> BuildOptions:
    largest = max(options.batches)
    if largest == 1:
        raise error
    log.warning("warning: out of memory at batch %d: building for batch %d instead", largest, largest // 2)
    return replace(options, batches=tuple(sorted({*options.batches, largest // 2} - {largest})))


def _flags(trt: Any) -> int:
    """Strongly typed, which from TensorRT 11 on is the only kind; the flag's number differs between versions."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _config(trt: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that layers can be told afterwards
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 is fp32: TF32 keeps 10 bits of 23
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.optimisation is not None:
        config.builder_optimization_level = options.optimisation
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.compute_capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capability(trt, options), 0)
    return config


def _capability(trt: Any, options: BuildOptions) -> Any:
    known = trt.ComputeCapability.__members__
    found = known.get(f"SM{options.compute_capability}")
    if found is None:
        names = ", ".join(name.removeprefix("SM") for name in known if name.startswith("SM"))
        raise InputError(f"--compute-capability: {options.flavour} knows {names}, found {options.compute_capability}")
    return found


def _profile(builder: Any, graph: GraphSpec, batch: int) -> Any:
    """One batch size, so that kernels are chosen for just that."""
    profile = builder.create_optimization_profile()
    for spec in graph.inputs:
        shape = tuple(batch if side == BATCH else side for side in spec.shape)
        profile.set_shape(spec.name, shape, shape, shape)
    return profile


@contextlib.contextmanager
def _timing_cache(config: Any, options: BuildOptions, machine: Machine) -> Any:
    """Kernel timings of earlier builds on this GPU; TensorRT-RTX times nothing when it builds."""
    if options.flavour != "tensorrt":
        yield
        return
    device = re.sub(r"\W+", "_", machine.gpu or "")
    path = cache_folder() / f"{options.flavour}-{machine.version}-{device}-{_TIMING_CACHE}"
    kept = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if kept is None or not config.set_timing_cache(kept, ignore_mismatch=False):  # damaged, or another GPU's
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    yield
    cache = config.get_timing_cache()
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(cache.serialize() if cache else b"")
    except OutputError as error:  # a build of minutes is worth more
        log.debug("no timing cache: %s", error)


def _inspected(trt: Any, plan: Any, options: BuildOptions) -> LayerReport | None:
    """What TensorRT itself says of the engine; it needs the GPU, which is there where it was built for this machine."""
    if options.compute_capability is not None:
        return None
    runtime = trt.Runtime(recorder(trt))
    runtime.engine_host_code_allowed = options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    said = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return read_inspector(said)
    except ValueError:  # no JSON after all
        return None


def _check_dtypes(path: Path, graph: GraphSpec) -> None:
    for spec in graph.inputs:
        if spec.dtype in ("uint16", "int16"):
            raise EngineError(
                f"{path}: TensorRT has no {spec.dtype}, which {spec.name} is: run it with --backend onnxruntime-cuda"
            )


def _failure(path: Path, options: BuildOptions, logger: Any) -> EngineError:
    said = complaint(logger)
    if said.memory:
        return DeviceMemoryError(
            f"{path}: {options.flavour} ran out of memory at batch {max(options.batches)}: {said.reason}; "
            "try a smaller --batch or --workspace"
        )
    return EngineError(f"{path}: {options.flavour} cannot build this graph: {said.reason}")


def _check_options(options: BuildOptions) -> None:
    if options.flavour == "tensorrt" and options.compute_capability is not None:
        raise InputError(
            "--compute-capability: tensorrt builds for the GPU of this machine; leave it out, or use --flavour "
            "tensorrt-rtx"
        )
    if options.flavour == "tensorrt-rtx" and (options.hardware_compatible or options.version_compatible):
        raise InputError(
            "--hardware-compatible and --version-compatible are for --flavour tensorrt: plans of tensorrt-rtx run on "
            "every GPU of their compute capability; leave them out"
        )
    if not options.batches or min(options.batches) < 1:
        raise InputError(f"--batch: expected numbers from 1 as in 1,4,8, found {options.batches}")
