"""OpenVINO, on the CPU.

Where the processor can, OpenVINO runs in bf16 by default: here the precision is always set, and read back.
Of int8 graphs, layers with Q/DQ run in int8 kernels where the processor adds int8 exactly, and the rest in fp32.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ..bundle.files import WrongFileError, regular_size, sha256
from ..bundle.manifest import BATCH, GraphSpec
from ..errors import DeviceMemoryError, EngineError
from .base import Arrays, Declared, GraphSession, HostEngine, Request, RunPrecision, Session, lacks_memory
from .kept import LARGEST, Key, keep, kept
from .parts import parted
from .processor import adds_int8_exactly, cores, identity

log = logging.getLogger(__name__)

Options = dict[str, object]
"""Properties of OpenVINO by name."""

_DEVICE = "CPU"
_KIND = "openvino"  # of what is kept
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
        """Load one graph; a stream of OpenVINO for each part of a batch."""

        def make(size: int, parts: int) -> list[Session]:
            compiled = _Compiled(self._core, path, graph, size, self._options(parts))
            return [_OpenVinoSession(compiled.model, graph, size) for _ in range(parts)]

        return parted(graph, batch, make, whole=self._whole)

    def _options(self, parts: int) -> Options:
        """How graphs are compiled that run in so many parts at the same time."""
        options: Options = {
            "INFERENCE_PRECISION_HINT": _TYPES[self.precision],
            "NUM_STREAMS": parts,
            "INFERENCE_NUM_THREADS": cores(),
        }
        return options if adds_int8_exactly() else options | {"LP_TRANSFORMS_MODE": False}  # Q/DQ as written, in fp32


class _Compiled(GraphSession):
    """One graph as OpenVINO runs it, out of this machine's cache where it is there.

    Attributes:
        model: The compiled model.
    """

    def __init__(self, core: ov.Core, path: Path, graph: GraphSpec, batch: int, options: Options) -> None:
        super().__init__(graph, batch)
        self._core, self._path, self._options = core, path, options
        key = self._key(batch)
        imported = self._imported(kept(_KIND, key)) if key else None
        self.model = imported or self._compiled(batch)
        runs, asked = self.model.get_property("INFERENCE_PRECISION_HINT"), options["INFERENCE_PRECISION_HINT"]
        if runs != asked:
            raise EngineError(f"OpenVINO was asked for {_named(asked)} and would run {_named(runs)}")
        if key and imported is None:
            keep(_KIND, key, self.model.export_model().getvalue())

    def _key(self, batch: int) -> Key | None:
        """What a compiled graph depends on; None for one that is too large to be kept."""
        try:
            if regular_size(self._path) > LARGEST:
                return None
            digest = sha256(self._path)
        except (OSError, WrongFileError):
            return None  # OpenVINO says what is wrong
        return {
            "graph": digest, "batch": batch, "options": {name: str(value) for name, value in self._options.items()},
            "version": ov.__version__, "processor": identity(),
        }  # fmt: skip

    def _imported(self, blob: bytes | None) -> ov.CompiledModel | None:
        """The graph as it was compiled before; None where OpenVINO does not take it back."""
        if blob is None:
            return None
        try:
            model = self._core.import_model(blob, _DEVICE, self._options)
            self._check(model)
        except Exception as error:  # it tells of what it dislikes in many ways
            log.debug("%s is compiled anew: %s", self._path, error)
            return None
        return model

    def _compiled(self, batch: int) -> ov.CompiledModel:
        try:
            model = self._core.read_model(self._path)
        except Exception as error:  # of names that are no text, for example, it raises others than RuntimeError
            raise _refusal(self._path, error) from error
        self._check(model)
        try:
            model.reshape({spec.name: [batch if n == BATCH else n for n in spec.shape] for spec in self._graph.inputs})
            return self._core.compile_model(model, _DEVICE, self._options)
        except Exception as error:
            raise _refusal(self._path, error) from error

    def _check(self, model: ov.Model | ov.CompiledModel) -> None:
        """Raise EngineError unless a graph has the inputs and outputs of the manifest."""
        try:
            inputs, outputs = _declared(model.inputs, self._expected), _declared(model.outputs, self._given)
        except Exception as error:
            raise _refusal(self._path, error) from error
        self._check_graph(self._path, inputs, outputs)


class _OpenVinoSession(Session):
    """One request of a compiled graph; several of them run at the same time."""

    def __init__(self, model: ov.CompiledModel, graph: GraphSpec, batch: int) -> None:
        super().__init__(graph, batch)
        self._request = model.create_infer_request()

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        results = self._request.infer({name: np.ascontiguousarray(inputs[name]) for name in self._expected})
        return {name: results[name].copy() for name in self._given}  # the request reuses its output memory


def _declared(nodes: Sequence[ov.Output], expected: Collection[str]) -> Declared:
    """What OpenVINO tells of tensors, of whose several names the expected one counts."""
    found: dict[str, tuple[str, tuple[int | None, ...] | None]] = {}
    for node in nodes:
        names, shape = sorted(node.get_names()), node.partial_shape
        name = next((name for name in names if name in expected), names[0] if names else "a tensor without a name")
        sides = None if shape.rank.is_dynamic else tuple(None if n.is_dynamic else n.get_length() for n in shape)
        found[name] = (str(np.dtype(node.element_type.to_dtype())), sides)
    return found


def _named(precision: object) -> str:
    """A precision as its users call it."""
    return next((name for name, kind in _TYPES.items() if kind == precision), str(precision))


def _refusal(path: Path, error: Exception) -> EngineError:
    """The error of a graph that OpenVINO does not load, with the last line of what it says."""
    kind = DeviceMemoryError if lacks_memory(error) else EngineError
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return kind(f"OpenVINO cannot load {path}: {lines[-1]}")
