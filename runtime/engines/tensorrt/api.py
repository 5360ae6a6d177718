"""What fctl calls of TensorRT and TensorRT-RTX, whose Python modules have no types of their own.

Everything here is in TensorRT 10.3 to 11 and in TensorRT-RTX, unless a comment says otherwise. Streams and tensors are
given by their addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Severity(Protocol):
    """How bad a message of the library is."""

    @property
    def name(self) -> str:
        """INTERNAL_ERROR, ERROR, WARNING, INFO or VERBOSE."""
        ...


class Profile(Protocol):
    """The shapes that a plan is tuned for."""

    def set_shape(self, name: str, smallest: Sequence[int], usual: Sequence[int], largest: Sequence[int]) -> None:
        """Set the shapes of an input."""
        ...


class TimingCache(Protocol):
    """How fast kernels ran in earlier builds."""

    def serialize(self) -> ReadableBuffer:
        """The cache as bytes."""
        ...


class Config(Protocol):
    """How to build.

    Attributes:
        profiling_verbosity: How much of its layers a plan tells.
        builder_optimization_level: From 0 to 5.
        hardware_compatibility_level: Which kinds of GPU a plan runs on.
        num_compute_capabilities: How many are set; TensorRT-RTX only.
    """

    profiling_verbosity: object
    builder_optimization_level: int
    hardware_compatibility_level: object
    num_compute_capabilities: int

    def set_flag(self, flag: object) -> None:
        """Switch something on."""
        ...

    def clear_flag(self, flag: object) -> None:
        """Switch something off."""
        ...

    def set_memory_pool_limit(self, pool: object, nbytes: int) -> None:
        """Limit a kind of memory, in bytes."""
        ...

    def set_compute_capability(self, capability: object, index: int) -> None:
        """Build for GPUs of a compute capability; TensorRT-RTX only."""
        ...

    def add_optimization_profile(self, profile: Profile) -> int:
        """Add the shapes that a plan is to run; returns the number of the profile."""
        ...

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        """A timing cache from its bytes; None where they are damaged."""
        ...

    def set_timing_cache(self, cache: TimingCache | None, *, ignore_mismatch: bool) -> bool:
        """Use a timing cache; False where it is of another GPU or version."""
        ...

    def get_timing_cache(self) -> TimingCache | None:
        """The timing cache that is in use."""
        ...


class PlanBuilder(Protocol):
    """Makes plans of networks."""

    def create_network(self, flags: int) -> object:
        """An empty network."""
        ...

    def create_builder_config(self) -> Config:
        """A configuration with the library's own values."""
        ...

    def create_optimization_profile(self) -> Profile:
        """A profile without shapes."""
        ...

    def build_serialized_network(self, network: object, config: Config) -> ReadableBuffer | None:
        """The plan; None where the build failed."""
        ...


class ParserError(Protocol):
    """What a parser did not like."""

    def desc(self) -> str:
        """The complaint in words."""
        ...


class Parser(Protocol):
    """Reads ONNX graphs into networks.

    Attributes:
        num_errors: How many complaints there are.
    """

    num_errors: int

    def parse_from_file(self, path: str) -> bool:
        """Read a graph and the files that it refers to; False where it cannot be read."""
        ...

    def get_error(self, index: int) -> ParserError:
        """One of the complaints."""
        ...


class ExecutionContext(Protocol):
    """Scratch memory and state of one run at a time."""

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        """Choose a profile; False where its scratch memory cannot be had, for example."""
        ...

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """Set the shape of an input; False where the profile does not cover it."""
        ...

    def infer_shapes(self) -> Sequence[str]:
        """Names of the inputs that are still to be set."""
        ...

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        """Set where a tensor lies."""
        ...

    def execute_async_v3(self, stream: int) -> bool:
        """Enqueue a run; False where that failed."""
        ...


class Inspector(Protocol):
    """Tells what an engine is made of."""

    def get_engine_information(self, form: object) -> str:
        """All layers, as JSON for example."""
        ...


class CudaEngine(Protocol):
    """A plan that was loaded.

    Attributes:
        num_io_tensors: How many inputs and outputs there are.
    """

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """Name of an input or output."""
        ...

    def create_execution_context(self, strategy: object) -> ExecutionContext | None:
        """A context; None where its memory cannot be had, for example."""
        ...

    def create_engine_inspector(self) -> Inspector:
        """An inspector of the engine."""
        ...


class PlanRuntime(Protocol):
    """Loads plans.

    Attributes:
        engine_host_code_allowed: Whether plans may bring code of their own, as version-compatible ones do.
    """

    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, plan: ReadableBuffer) -> CudaEngine | None:
        """Load a plan; None where it does not fit."""
        ...


class _BuilderFlag(Protocol):
    TF32: object
    VERSION_COMPATIBLE: object


class _ProfilingVerbosity(Protocol):
    DETAILED: object


class _MemoryPoolType(Protocol):
    WORKSPACE: object


class _HardwareCompatibilityLevel(Protocol):
    AMPERE_PLUS: object


class _LayerInformationFormat(Protocol):
    JSON: object


class _AllocationStrategy(Protocol):
    ON_PROFILE_CHANGE: object


class _ComputeCapability(Protocol):
    __members__: Mapping[str, object]  # SM86, for example


class Module(Protocol):
    """The module ``tensorrt`` or ``tensorrt_rtx``, with its own names.

    Loggers are instances of subclasses of ILogger (`flavours.recorder`). fctl uses ComputeCapability with TensorRT-RTX
    only, and HardwareCompatibilityLevel with TensorRT only.
    """

    __version__: str
    ILogger: type
    Builder: Callable[[object], PlanBuilder]
    OnnxParser: Callable[[object, object], Parser]
    Runtime: Callable[[object], PlanRuntime]
    NetworkDefinitionCreationFlag: object
    BuilderFlag: _BuilderFlag
    ProfilingVerbosity: _ProfilingVerbosity
    MemoryPoolType: _MemoryPoolType
    HardwareCompatibilityLevel: _HardwareCompatibilityLevel
    LayerInformationFormat: _LayerInformationFormat
    ExecutionContextAllocationStrategy: _AllocationStrategy
    ComputeCapability: _ComputeCapability
