"""What every inference engine offers: sessions on host arrays, or on memory of a GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from ..bundle.manifest import GraphSpec, Precision, TensorSpec
from ..bundle.store import Bundle
from ..cuda import driver
from ..errors import EngineError

Arrays = dict[str, NDArray[Any]]
RunPrecision = Literal["fp32", "bf16", "fp16", "int8"]
RUN_PRECISIONS: tuple[RunPrecision, ...] = ("fp32", "bf16", "fp16", "int8")


def graphs_for(precision: RunPrecision) -> Precision:
    """The graphs that a run takes: bf16 is how an engine computes fp32 graphs."""
    return "fp32" if precision == "bf16" else precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an engine is asked to run. bundle: None where only the library matters; build: engines that are missing."""

    precision: RunPrecision
    bundle: Bundle | None = None
    batch: int = 1
    build: bool = False


class GraphSession:
    """One graph at a fixed batch size: what its tensors must be."""

    def __init__(self, graph: GraphSpec, batch: int) -> None:
        self._graph = graph
        self._expected = {spec.name: (spec.dtype, shape_of(spec, batch)) for spec in graph.inputs}

    def _check_graph(self, path: Path, found: dict[str, str]) -> None:
        """Raise EngineError unless the file's inputs are those of the manifest. found: dtypes by name."""
        expected = {name: dtype for name, (dtype, _) in self._expected.items()}
        if found != expected:
            raise EngineError(
                f"{path}: expected inputs {_listed(expected)}, found {_listed(found)}; export the bundle again"
            )


class Session(GraphSession, ABC):
    """One graph on host arrays."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Inputs by name -> outputs by name. Raises EngineError for a name, dtype or shape the graph does not have."""
        for name, (dtype, shape) in self._expected.items():
            array = inputs.get(name)
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            if array is None or (str(array.dtype), array.shape) != (dtype, shape):
                raise EngineError(f"{self._graph.role}: input {name!r}: expected {dtype} {shape}, found {found}")
        for name in inputs.keys() - self._expected.keys():
            raise EngineError(f"{self._graph.role}: unknown input {name!r}; expected {', '.join(self._expected)}")
        try:
            return self._run(inputs)
        except Exception as error:  # the libraries' exceptions share no base class
            raise EngineError(
                f"{self._graph.role}: the engine failed: {first_line(error)}; try a smaller batch"
            ) from error

    @abstractmethod
    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays: ...


class DeviceSession(GraphSession, ABC):
    """One graph on memory of a GPU.

    capturable: whether what `enqueue` does may become part of a CUDA graph.
    """

    capturable: bool

    @abstractmethod
    def enqueue(self, pointers: Mapping[str, int]) -> None:
        """Queue one run on the session's stream: addresses of contiguous tensors by name, inputs and outputs."""

    def close(self) -> None:
        """Let go of what the library holds on the GPU."""


class Engine(ABC):
    """A library that runs graphs, on one device and in one precision.

    name: as in ``--backend``. device, precision: what really runs.
    """

    name: ClassVar[str]

    def __init__(self, request: Request) -> None:
        self.precision = request.precision

    @property
    @abstractmethod
    def device(self) -> str:
        """The device that runs, as the library names it."""

    @classmethod
    @abstractmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """What this machine can run with it."""

    @classmethod
    def refusal(cls, request: Request) -> str | None:
        """Why it cannot do what is asked, on this machine; None where it can."""
        if request.precision in cls.precisions():
            return None
        return f"{cls.name} runs {' and '.join(cls.precisions())} on this machine"

    def close(self) -> None:  # noqa: B027 - on the CPU there is nothing to let go of
        """Let go of the device."""


class HostEngine(Engine):
    """An engine whose inputs and outputs are host arrays."""

    @abstractmethod
    def session(self, path: Path, graph: GraphSpec, batch: int) -> Session:
        """Load one graph. Raises EngineError where the library refuses it."""


class GpuEngine(Engine):
    """An engine whose inputs and outputs lie in memory of a GPU, which is open while the engine is."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.gpu = driver.open_device()

    @property
    def device(self) -> str:
        """The GPU."""
        return self.gpu.name

    @abstractmethod
    def device_session(self, path: Path, graph: GraphSpec, batch: int, stream: int) -> DeviceSession:
        """Load one graph, to run on a stream of the GPU. Raises EngineError, DeviceMemoryError."""

    def close(self) -> None:
        """Let go of the GPU."""
        self.gpu.close()


def shape_of(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """The shape of a tensor at a batch size."""
    return tuple(batch if isinstance(side, str) else side for side in spec.shape)


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _listed(inputs: dict[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(inputs.items()))
