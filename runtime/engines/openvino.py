"""OpenVINO, on the CPU.

Where the processor can, OpenVINO runs in bf16 by default: here the precision is always set, and read back.
Of int8 graphs, layers with Q/DQ run in int8 kernels where the processor adds int8 exactly, and the rest in fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ..bundle.manifest import BATCH, GraphSpec
from ..errors import DeviceMemoryError, EngineError
from .base import Arrays, Declared, HostEngine, Request, RunPrecision, Session, lacks_memory
from .processor import adds_int8_exactly

_DEVICE = "CPU"
_TYPES: dict[RunPrecision, ov.Type] = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16, "int8": ov.Type.f32}
_CAPABILITIES = {"bf16": "BF16", "int8": "INT8"}  # what the processor needs besides


class OpenVino(HostEngine):
    """Runs fp32 graphs in fp32, or in bf16 where the processor has instructions for it; int8 graphs too."""

    name = "openvino"

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._core = ov.Core()

    @property
    def device(self) -> str:
        """The CPU."""
        return _DEVICE

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """The precisions that this processor has instructions for."""
        capable = ov.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        return tuple(name for name in _TYPES if _CAPABILITIES.get(name, "FP32") in capable)

    def session(self, path: Path, graph: GraphSpec, batch: int) -> Session:
        """Load one graph."""
        return _OpenVinoSession(self._core, path, graph, batch, self.precision)


class _OpenVinoSession(Session):
    def __init__(self, core: ov.Core, path: Path, graph: GraphSpec, batch: int, precision: RunPrecision) -> None:
        super().__init__(graph, batch)
        try:
            model = core.read_model(path)
            inputs, outputs = _declared(model.inputs, self._expected), _declared(model.outputs, self._given)
        except Exception as error:  # of names that are no text, for example, it raises others than RuntimeError
            raise _refusal(path, error) from error
        self._check_graph(path, inputs, outputs)
        try:
            model.reshape({spec.name: [batch if n == BATCH else n for n in spec.shape] for spec in graph.inputs})
            options: dict[str, object] = {"INFERENCE_PRECISION_HINT": _TYPES[precision]}
            if not adds_int8_exactly():
                options["LP_TRANSFORMS_MODE"] = False  # Q/DQ as written, layers in fp32
            compiled = core.compile_model(model, _DEVICE, options)
            self._request = compiled.create_infer_request()
        except Exception as error:
            raise _refusal(path, error) from error
        runs = compiled.get_property("INFERENCE_PRECISION_HINT")
        if runs != _TYPES[precision]:
            raise EngineError(f"OpenVINO was asked for {precision} and would run {runs.get_type_name()}")
        self._outputs = [spec.name for spec in graph.outputs]

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        results = self._request.infer({name: np.ascontiguousarray(inputs[name]) for name in self._expected})
        return {name: results[name].copy() for name in self._outputs}  # the request reuses its output memory


def _declared(nodes: Sequence[ov.Output], expected: Collection[str]) -> Declared:
    """What OpenVINO tells of tensors, of whose several names the expected one counts."""
    found: dict[str, tuple[str, tuple[int | None, ...] | None]] = {}
    for node in nodes:
        names, shape = sorted(node.get_names()), node.partial_shape
        name = next((name for name in names if name in expected), names[0] if names else "a tensor without a name")
        sides = None if shape.rank.is_dynamic else tuple(None if n.is_dynamic else n.get_length() for n in shape)
        found[name] = (str(np.dtype(node.element_type.to_dtype())), sides)
    return found


def _refusal(path: Path, error: Exception) -> EngineError:
    """The error of a graph that OpenVINO does not load, with the last line of what it says."""
    kind = DeviceMemoryError if lacks_memory(error) else EngineError
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return kind(f"OpenVINO cannot load {path}: {lines[-1]}")
