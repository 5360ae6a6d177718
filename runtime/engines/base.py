"""What every inference engine offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from ..bundle import BATCH, Graph
from ..errors import EngineError

Arrays = dict[str, NDArray[Any]]
RunPrecision = Literal["fp32", "bf16"]


class Session(ABC):
    """One graph, ready to run at a fixed batch size."""

    def __init__(self, graph: Graph, batch: int) -> None:
        self._graph = graph
        self._expected = {
            spec.name: (spec.dtype, tuple(batch if side == BATCH else side for side in spec.shape))
            for spec in graph.inputs
        }

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
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EngineError(f"{self._graph.role}: the engine failed: {reason}; try a smaller batch") from error

    def _check_graph(self, path: Path, found: dict[str, str]) -> None:
        """Raise EngineError unless the file's inputs are those of the manifest. found: dtypes by name."""
        expected = {name: dtype for name, (dtype, _) in self._expected.items()}
        if found != expected:
            raise EngineError(
                f"{path}: expected inputs {_listed(expected)}, found {_listed(found)}; export the bundle again"
            )

    @abstractmethod
    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays: ...


def _listed(inputs: dict[str, str]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in sorted(inputs.items()))


class Engine(ABC):
    """A library that runs graphs, on one device and in one precision.

    name: as in ``--backend``. device, precision: what really runs.
    """

    name: ClassVar[str]

    def __init__(self, precision: RunPrecision) -> None:
        self.precision = precision

    @property
    @abstractmethod
    def device(self) -> str:
        """The device that runs, as the library names it."""

    @classmethod
    @abstractmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """What this machine can run with it."""

    @abstractmethod
    def session(self, path: Path, graph: Graph, batch: int) -> Session:
        """Load one graph. Raises EngineError where the library refuses it."""
