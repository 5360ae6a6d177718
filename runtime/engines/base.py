"""What every inference engine offers: sessions on host arrays, or on memory of a GPU."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from .. import choices
from ..bundle.manifest import GraphSpec, Precision, TensorSpec
from ..bundle.store import Bundle
from ..cuda import driver
from ..cuda.provider import first_line
from ..errors import DeviceMemoryError, EngineError
from .processor import adds_int8_exactly

Arrays = dict[str, NDArray[np.generic]]
"""Host arrays by the names of a graph's tensors."""

Declared = Mapping[str, tuple[str, tuple[int | None, ...] | None]]
"""What a library tells of a graph's tensors: dtypes and shapes by name; None for what it does not tell."""

RunPrecision = choices.RunPrecision
"""In what precision an engine runs; bf16 is a way to compute fp32 graphs."""

RUN_PRECISIONS: tuple[RunPrecision, ...] = get_args(RunPrecision)

_NO_MEMORY = ("failed to allocate memory", "out of memory", "alloc_failed", "bad_alloc", "bad allocation")
_SLOW_INT8 = (
    "without VNNI this processor would overflow in int8: values are rounded as in int8 and computed in fp32, no faster "
    "than precision fp32"
)


def graphs_for(precision: RunPrecision) -> Precision:
    """The precision of the graphs that a run takes: a run in bf16 takes the fp32 graphs."""
    return "fp32" if precision == "bf16" else precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an engine is asked to run.

    Attributes:
        precision: In what precision to run.
        bundle: The bundle; None where only the library matters.
        batch: Patches at once.
        build: Whether engines that are missing may be built.
        whole: Whether the library sees batches whole, where it would compute parts of them at the same time on a CPU.
    """

    precision: RunPrecision
    bundle: Bundle | None = None
    batch: int = 1
    build: bool = False
    whole: bool = False


class GraphSession:
    """One graph at a fixed batch size, and what its tensors must be."""

    def __init__(self, graph: GraphSpec, batch: int) -> None:
        self._graph = graph
        self._expected = {spec.name: (spec.dtype, shape_of(spec, batch)) for spec in graph.inputs}
        self._given = {spec.name: (spec.dtype, shape_of(spec, batch)) for spec in graph.outputs}

    def _check_graph(self, path: Path, inputs: Declared, outputs: Declared) -> None:
        """Raise EngineError unless a file has the inputs and outputs of the manifest; it may have other outputs too."""
        given = {name: declared for name, declared in outputs.items() if name in self._given} or outputs
        for kind, specs, expected, found in (
            ("inputs", self._graph.inputs, self._expected, inputs),
            ("outputs", self._graph.outputs, self._given, given),
        ):
            same = expected.keys() == found.keys()
            if not same or not all(_fits(declared, *expected[name]) for name, declared in found.items()):
                raise EngineError(
                    subject=path,
                    expected=f"{kind} {_listed(_stated(specs))}",
                    found=_listed(found) or "none",
                    remedy="export the bundle again",
                )


class Session(GraphSession, ABC):
    """One graph on host arrays."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run the graph once.

        Args:
            inputs: By name, arrays of exactly the dtypes and shapes of the manifest, N being the session's batch.

        Returns:
            The outputs, by name.

        Raises:
            EngineError: The graph has no such input, dtype or shape, or the library failed.
            DeviceMemoryError: Memory is too small.
        """
        role = self._graph.role
        for name, (dtype, shape) in self._expected.items():
            array = inputs.get(name)
            found = "nothing" if array is None else f"{array.dtype} {array.shape}"
            if array is None or (str(array.dtype), array.shape) != (dtype, shape):
                raise EngineError(subject=f"{role}: input {name!r}", expected=f"{dtype} {shape}", found=found)
        for name in inputs.keys() - self._expected.keys():
            raise EngineError(f"unknown input {name!r}", subject=role, remedy=f"expected {', '.join(self._expected)}")
        try:
            outputs = self._run(inputs)
        except EngineError:
            raise
        except Exception as error:  # the libraries' exceptions share no base class
            kind = DeviceMemoryError if lacks_memory(error) else EngineError
            problem = f"the engine failed: {first_line(error)}"
            raise kind(problem, subject=role, remedy="try a smaller batch") from error
        for name, (dtype, shape) in self._given.items():
            array = outputs[name]
            if (str(array.dtype), array.shape) != (dtype, shape):
                found = f"{array.dtype} {array.shape}"
                remedy = "export the bundle again"
                raise EngineError(
                    subject=f"{role}: output {name!r}", expected=f"{dtype} {shape}", found=found, remedy=remedy
                )
        return outputs

    @abstractmethod
    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        """Run the graph on inputs that fit; the library's exceptions may pass."""


class DeviceSession(GraphSession, ABC):
    """One graph on memory of a GPU.

    Attributes:
        capturable: Whether what `enqueue` does may become part of a CUDA graph.
    """

    capturable: bool

    @abstractmethod
    def enqueue(self, pointers: Mapping[str, int]) -> None:
        """Queue one run on the session's stream.

        Args:
            pointers: Addresses of contiguous tensors by name, inputs and outputs.

        Raises:
            EngineError: The library refuses to run.
        """

    def close(self) -> None:
        """Release what the library holds on the GPU."""


class Engine(ABC):
    """A library that runs graphs, on one device and in one precision.

    Attributes:
        name: The name by which a backend is chosen.
        precision: The precision that really runs.
        notes: What differs from what was asked for, or could be better: a sentence each, for log and reports.
    """

    name: str

    def __init__(self, request: Request) -> None:
        self.precision = request.precision
        self.notes: list[str] = []

    @property
    @abstractmethod
    def device(self) -> str:
        """The device that runs, as the library names it."""

    @classmethod
    @abstractmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """The precisions in which the library runs on this machine."""

    @classmethod
    def refusal(cls, request: Request) -> str | None:
        """Why the library cannot do what is asked on this machine; None where it can."""
        if request.precision in cls.precisions():
            return None
        return f"{cls.name} runs {' and '.join(cls.precisions())} on this machine"

    def close(self) -> None:  # noqa: B027 - on the CPU there is nothing to release
        """Release the device."""


class HostEngine(Engine):
    """An engine whose inputs and outputs are host arrays.

    Attributes:
        interruptible: Whether an interrupt may end a run; it must run in the thread that is interrupted then.
    """

    interruptible = False

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._whole = request.whole
        if request.precision == "int8" and not adds_int8_exactly():
            self.notes.append(_SLOW_INT8)

    @abstractmethod
    def session(self, path: Path, graph: GraphSpec, batch: int) -> Session:
        """Load one graph.

        Args:
            path: The ONNX file.
            graph: Its description.
            batch: Patches at once.

        Returns:
            The session.

        Raises:
            EngineError: The library refuses the graph.
        """


class GpuEngine(Engine):
    """An engine whose inputs and outputs lie in the memory of a GPU, which is open while the engine is.

    Attributes:
        gpu: The GPU.
    """

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.gpu = driver.open_device()

    @property
    def device(self) -> str:
        """The name of the GPU."""
        return self.gpu.name

    @abstractmethod
    def device_session(self, path: Path, graph: GraphSpec, batch: int, stream: int) -> DeviceSession:
        """Load one graph, to run on a stream of the GPU.

        Args:
            path: The ONNX file.
            graph: Its description.
            batch: Patches at once.
            stream: Address of the stream.

        Returns:
            The session.

        Raises:
            EngineError: The library refuses the graph.
            DeviceMemoryError: The GPU's memory is too small.
        """

    def close(self) -> None:
        """Release the GPU."""
        self.gpu.close()


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception of a library is about memory, which often only its words tell."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def shape_of(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """The shape of a tensor at a batch size."""
    return tuple(batch if isinstance(side, str) else side for side in spec.shape)


def _fits(declared: tuple[str, tuple[int | None, ...] | None], dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor may have a dtype and a shape, for all that its library tells."""
    found, sides = declared
    if found != dtype or sides is None:
        return found == dtype
    return len(sides) == len(shape) and all(side in (None, one) for side, one in zip(sides, shape, strict=True))


def _stated(specs: Iterable[TensorSpec]) -> Declared:
    """What a manifest tells of tensors; a side may be any batch."""
    return {spec.name: (spec.dtype, tuple(n if isinstance(n, int) else None for n in spec.shape)) for spec in specs}


def _listed(tensors: Declared) -> str:
    """Names, dtypes and shapes in words; "?" stands for a side that is not told."""
    words = []
    for name, (dtype, shape) in sorted(tensors.items()):
        sides = "" if shape is None else f" ({', '.join('?' if side is None else str(side) for side in shape)})"
        words.append(f"{name} {dtype}{sides}")
    return ", ".join(words)
