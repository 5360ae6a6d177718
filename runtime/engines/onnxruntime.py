"""ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from ..bundle import Graph
from ..errors import EngineError
from .base import Arrays, Engine, RunPrecision, Session

_PROVIDER = "CPUExecutionProvider"


class OnnxRuntime(Engine):
    """Runs fp32 graphs with the CPU execution provider."""

    name = "onnxruntime"

    @property
    def device(self) -> str:
        """The device that runs."""
        return "CPU"

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """What this machine can run."""
        return ("fp32",)

    def session(self, path: Path, graph: Graph, batch: int) -> Session:
        """Load one graph."""
        return _OnnxRuntimeSession(path, graph, batch)


class _OnnxRuntimeSession(Session):
    def __init__(self, path: Path, graph: Graph, batch: int) -> None:
        super().__init__(graph, batch)
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about its own optimiser
        try:
            self._session = ort.InferenceSession(str(path), options, providers=[_PROVIDER])
        except Exception as error:  # its exceptions share no base class of their own
            raise EngineError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
        self._check_graph(path, {node.name: _dtype(node.type) for node in self._session.get_inputs()})
        self._outputs = [spec.name for spec in graph.outputs]

    def _run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


def _dtype(kind: str) -> str:
    """ "tensor(float)" as NumPy calls it."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "float16": "float16", "double": "float64"}.get(name, name)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
