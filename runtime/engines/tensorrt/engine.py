"""TensorRT and TensorRT-RTX: engines that were built ahead, run on memory of the GPU.

Plans are looked up in the bundle and in the cache, see `plans`; building them is `builder`'s work.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar

from ...bundle.manifest import GraphSpec
from ...cuda import driver
from ...errors import DeviceMemoryError, EngineError
from ..base import DeviceSession, GpuEngine, Request, RunPrecision, graphs_for, shape_of
from .api import CudaEngine, ExecutionContext, PlanRuntime
from .builder import build_plans
from .flavours import Flavour, Recorder, complaint, load_flavour, missing_flavour, recorder
from .machines import machine_of
from .plans import BuildOptions, Machine, StoredPlan, batches_of, cache_folder, find_plan, read_plan


class TensorRt(GpuEngine):
    """Runs plans of TensorRT 10.3 to 11.

    Attributes:
        flavour: The library that runs them.
        capturable: Whether a run may become part of a CUDA graph.
    """

    name = "tensorrt"
    flavour: ClassVar[Flavour] = "tensorrt"
    capturable: ClassVar[bool] = True

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        trt = load_flavour(self.flavour)
        self._logger = recorder(trt)
        with self.gpu.active():
            self._runtime: PlanRuntime | None = trt.Runtime(
                self._logger
            )  # can crash without a driver: `refusal` asked for it
        self._machine = machine_of(self.flavour, self.gpu)
        self._plans: dict[Path, CudaEngine] = {}

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """All precisions of graphs: plans compute in what the graphs say."""
        return ("fp32", "fp16", "int8")

    @classmethod
    def refusal(cls, request: Request) -> str | None:
        """Why the library cannot do what is asked here: plans are missing and may not be built, for example."""
        reason = missing_flavour(cls.flavour) or super().refusal(request)
        if reason or request.bundle is None:
            return reason
        with closing(driver.open_device()) as device:
            machine = machine_of(cls.flavour, device)
        return cls._missing_plans(request, machine)

    @classmethod
    def _missing_plans(cls, request: Request, machine: Machine) -> str | None:
        """Why there are no plans for a bundle; None where there are, or where they may be built into the cache."""
        assert request.bundle is not None
        precision = graphs_for(request.precision)
        try:
            for path, graph in request.bundle.graphs_run_in(precision):
                for batch in batches_of(request.bundle.manifest, graph, (request.batch,)):
                    find_plan(graph, path, cls.flavour, batch, machine)
        except EngineError as error:
            if not request.build:
                return str(error)
            options = BuildOptions(flavour=cls.flavour, batches=(request.batch,))
            build_plans(request.bundle, precision, options, cache_folder())
        return None

    def device_session(self, path: Path, graph: GraphSpec, batch: int, stream: int) -> DeviceSession:
        """Load one graph's plan, to run on a stream of the GPU."""
        plan = find_plan(graph, path, self.flavour, batch, self._machine)
        if plan.path not in self._plans:
            self._plans[plan.path] = self._load(plan)
        trt = load_flavour(self.flavour)
        # Scratch memory of the profile in use, not of the largest that the plan has.
        strategy = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        session = _TensorRtSession(self._plans[plan.path], plan, graph, batch, stream, strategy, self._logger)
        session.capturable = self.capturable
        return session

    def close(self) -> None:
        """Release the plans, then the GPU."""
        with suppress(EngineError), self.gpu.active():
            self._plans.clear()
            self._runtime = None
        super().close()

    def _load(self, plan: StoredPlan) -> CudaEngine:
        """The library's engine of a plan; raises EngineError where it does not fit after all."""
        assert self._runtime is not None
        # A plan for other versions brings code of its own, and TensorRT asks whether it may run.
        self._runtime.engine_host_code_allowed = plan.record.options.version_compatible
        complaint(self._logger)
        engine = self._runtime.deserialize_cuda_engine(read_plan(plan))
        if engine is None:
            raise _failure(plan.path, f"{self.name} cannot load this engine", self._logger, "build it again")
        return engine


class TensorRtRtx(TensorRt):
    """Runs plans of TensorRT-RTX, which finishes their kernels for the GPU when it loads them."""

    name = "tensorrt-rtx"
    flavour = "tensorrt-rtx"
    capturable = False  # it swaps better kernels in while it runs; a CUDA graph would keep the first ones


class _TensorRtSession(DeviceSession):
    """One execution context at one of its plan's profiles. The context allocates its scratch memory once."""

    def __init__(
        self,
        engine: CudaEngine,
        plan: StoredPlan,
        graph: GraphSpec,
        batch: int,
        stream: int,
        strategy: object,
        logger: Recorder,
    ) -> None:
        super().__init__(graph, batch)
        self._stream, self._logger, self._addresses = stream, logger, dict[str, int]()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        expected = [spec.name for spec in (*graph.inputs, *graph.outputs)]
        if sorted(names) != sorted(expected):
            raise EngineError(
                subject=plan.path,
                expected=f"tensors {', '.join(sorted(expected))}",
                found=", ".join(sorted(names)),
                remedy="build it again",
            )
        complaint(logger)
        context = engine.create_execution_context(strategy)
        profile = plan.record.profiles.index(batch)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            del context  # its memory is for a smaller batch
            raise _failure(plan.path, f"no context for batch {batch}", logger, "try a smaller batch")
        shaped = all(context.set_input_shape(spec.name, shape_of(spec, batch)) for spec in graph.inputs)
        if not shaped or context.infer_shapes():
            del context
            raise _failure(plan.path, f"batch {batch} does not fit its profile {profile}", logger, "build it again")
        self._context: ExecutionContext | None = context

    def enqueue(self, pointers: Mapping[str, int]) -> None:
        """Queue one run."""
        assert self._context is not None
        for name, pointer in pointers.items():
            if self._addresses.get(name) != pointer:
                self._context.set_tensor_address(name, pointer)
                self._addresses[name] = pointer
        if not self._context.execute_async_v3(self._stream):
            raise _failure(self._graph.role, "the engine failed", self._logger, "try a smaller batch")

    def close(self) -> None:
        """Release the context and its scratch memory."""
        self._context = None


def _failure(subject: Path | str, problem: str, logger: Recorder, remedy: str) -> EngineError:
    """The error of a failed call, with what the library said."""
    heard = complaint(logger)
    kind = DeviceMemoryError if heard.memory else EngineError
    return kind(f"{problem}: {heard.reason}", subject=subject, remedy=remedy)
