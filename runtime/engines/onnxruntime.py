"""ONNX Runtime: on the CPU, and on a GPU through its CUDA and TensorRT providers.

On a GPU it reads and writes device memory (IOBinding). Where a provider's libraries are missing, ONNX Runtime would
silently fall back to the CPU: here that is an error.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from .. import remedies
from ..bundle.manifest import GraphSpec
from ..cuda.provider import first_line
from ..errors import DeviceMemoryError, EngineError
from .base import (
    Arrays,
    Declared,
    DeviceSession,
    GpuEngine,
    HostEngine,
    Request,
    RunPrecision,
    Session,
    lacks_memory,
    shape_of,
)
from .parts import parted
from .processor import adds_int8_exactly, cores
from .tensorrt.plans import cache_folder

_CPU = "CPUExecutionProvider"

Providers = list[tuple[str, dict[str, str]]]
"""Execution providers with their options, the preferred one first."""


class OnnxRuntime(HostEngine):
    """Runs graphs with the CPU execution provider.

    It runs fp16 graphs mostly in fp32, so that their numbers are not a GPU's. In int8 graphs it rounds at Q/DQ, but has
    few kernels for int8 whose results are floats, and uses none where the processor does not add int8 exactly.
    """

    name = "onnxruntime"

    @property
    def device(self) -> str:
        """The CPU."""
        return "CPU"

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """The precisions of graphs, on any machine."""
        return ("fp32", "fp16", "int8")

    def session(self, path: Path, graph: GraphSpec, batch: int) -> Session:
        """Load one graph."""

        def make(size: int, parts: int) -> list[Session]:
            return [_OnnxRuntimeSession(path, graph, size, parts)] * parts

        return parted(graph, batch, make, whole=self._whole)


class _OnnxRuntimeSession(Session):
    """One graph, which several threads may run at the same time."""

    def __init__(self, path: Path, graph: GraphSpec, batch: int, parts: int) -> None:
        super().__init__(graph, batch)
        self._session = _load(path, [_CPU], threads=cores() - parts + 1)  # beside those that call it
        self._check_graph(path, _declared(self._session.get_inputs()), _declared(self._session.get_outputs()))
        self._outputs = [spec.name for spec in graph.outputs]

    def _run(self, inputs: Mapping[str, NDArray[np.generic]]) -> Arrays:
        return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))


class OnnxRuntimeCuda(GpuEngine):
    """Runs graphs with the CUDA execution provider.

    Attributes:
        provider: The execution provider.
    """

    name = "onnxruntime-cuda"
    provider: ClassVar[str] = "CUDAExecutionProvider"

    @classmethod
    def precisions(cls) -> tuple[RunPrecision, ...]:
        """The precisions of graphs, on any GPU."""
        return ("fp32", "fp16", "int8")

    @classmethod
    def refusal(cls, request: Request) -> str | None:
        """Why the library cannot do what is asked here: its build for the CPU is installed, for example."""
        _find_libraries()
        if cls.provider not in ort.get_available_providers():
            return (
                f"{cls.name} needs the GPU build of ONNX Runtime, found the CPU's (pip uninstall onnxruntime, then "
                f"{remedies.install('gpu')}: they overwrite each other)"
            )
        return super().refusal(request)

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        if not self.gpu.in_primary:
            raise EngineError(
                f"{self.name} works in the GPU's primary context only, found another one in this thread: leave that "
                "first (with PyCUDA use pycuda.autoprimaryctx), or use tensorrt"
            )

    def device_session(self, path: Path, graph: GraphSpec, batch: int, stream: int) -> DeviceSession:
        """Load one graph, to run on a stream of the GPU."""
        return OnnxRuntimeDeviceSession(path, graph, batch, self._providers(stream), ("cuda", self.gpu.index))

    def _providers(self, stream: int) -> Providers:
        """The provider without TF32, which keeps 10 bits of fp32's 23; its memory grows by what is needed."""
        return [
            (
                "CUDAExecutionProvider",
                self._on(stream) | {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
            )
        ]

    def _on(self, stream: int) -> dict[str, str]:
        """The options that name the GPU and the stream."""
        return {"device_id": str(self.gpu.index), "user_compute_stream": str(stream)}


class OnnxRuntimeTensorRt(OnnxRuntimeCuda):
    """Runs graphs with the TensorRT execution provider, which builds engines when it loads them and caches them."""

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"

    def _providers(self, stream: int) -> Providers:
        """TensorRT, and CUDA for what TensorRT does not take."""
        folder = cache_folder() / "onnxruntime"
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "trt_fp16_enable": str(self.precision == "fp16"),
            "trt_int8_enable": str(self.precision == "int8"),
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(folder),
        }
        return [(self.provider, self._on(stream) | options), *super()._providers(stream)]


class OnnxRuntimeDeviceSession(DeviceSession):
    """One graph with inputs and outputs bound to device memory.

    Args:
        path: The ONNX file.
        graph: Its description.
        batch: Patches at once.
        providers: The execution providers; the first one must come up.
        device: Kind and number of the device whose memory is bound, as ONNX Runtime names it.

    Raises:
        EngineError: ONNX Runtime refuses the graph or the provider.
        DeviceMemoryError: The GPU's memory is too small.
    """

    capturable = False  # ONNX Runtime waits for the stream itself

    def __init__(
        self, path: Path, graph: GraphSpec, batch: int, providers: Providers, device: tuple[str, int] = ("cpu", 0)
    ) -> None:
        super().__init__(graph, batch)
        self._device = device
        self._session = _load(path, providers)
        wanted, found = providers[0][0], self._session.get_providers()
        if found[0] != wanted:
            raise EngineError(
                f"ONNX Runtime cannot use its {wanted} and would run on the CPU: libraries of CUDA, cuDNN or TensorRT "
                "are missing (pip install 'onnxruntime-gpu[cuda,cudnn]'), or the driver is too old for them"
            )
        self._check_graph(path, _declared(self._session.get_inputs()), _declared(self._session.get_outputs()))
        self._tensors = {spec.name: (spec.dtype, shape_of(spec, batch)) for spec in (*graph.inputs, *graph.outputs)}
        self._names = tuple(self._expected)

    def enqueue(self, pointers: Mapping[str, int]) -> None:
        """Queue one run on the stream that the session was made with."""
        binding = self._session.io_binding()
        for name, pointer in pointers.items():
            bind = binding.bind_input if name in self._names else binding.bind_output
            dtype, shape = self._tensors[name]
            bind(name, *self._device, dtype, list(shape), pointer)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # its exceptions share no base class of their own
            problem, role = f"the engine failed: {first_line(error)}", self._graph.role
            if lacks_memory(error):
                raise DeviceMemoryError(problem, subject=role, remedy="try a smaller batch") from error
            raise EngineError(problem, subject=role) from error

    def close(self) -> None:
        """Release the session and its memory."""
        del self._session


def _load(path: Path, providers: list[str] | Providers, threads: int = 0) -> ort.InferenceSession:
    """A session of ONNX Runtime on exactly these providers; a run uses so many threads, the one that calls included."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about its own optimiser
    if providers == [_CPU]:
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would take the reader's core
        if not adds_int8_exactly():
            options.add_session_config_entry("session.disable_quant_qdq", "1")  # Q/DQ as written, layers in fp32
    try:
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # its exceptions share no base class of their own
        kind = DeviceMemoryError if lacks_memory(error) else EngineError
        raise kind(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error


@cache
def _find_libraries() -> None:
    """Let ONNX Runtime find the CUDA and cuDNN that pip installed, without printing what it does not find."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _declared(nodes: Sequence[ort.NodeArg]) -> Declared:
    """What ONNX Runtime tells of tensors: sides of unknown length have names, and an unknown shape has no sides."""
    sides = {node.name: tuple(side if isinstance(side, int) else None for side in node.shape) for node in nodes}
    return {node.name: (_dtype(node.type), sides[node.name] or None) for node in nodes}


def _dtype(kind: str) -> str:
    """ "tensor(float)" as NumPy calls it."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "float16": "float16", "double": "float64"}.get(name, name)
