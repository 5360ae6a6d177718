"""Inference engines by name: the one place to add another. Each library is imported only when it is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass

from ..bundle.store import Bundle
from ..cuda import driver
from ..errors import EngineError, InputError
from .base import (
    RUN_PRECISIONS,
    Arrays,
    DeviceSession,
    Engine,
    GpuEngine,
    HostEngine,
    Request,
    RunPrecision,
    Session,
    graphs_for,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    package: str
    extra: str
    module: str
    kind: str
    gpu: bool = False


# In the order in which "auto" tries them: the faster first (docs/engines.md has the figures). ONNX Runtime's TensorRT
# builds engines whenever it loads a graph: it is there for who asks for it.
_ENGINES = {
    "tensorrt": _Entry("tensorrt", "trt", ".tensorrt.engine", "TensorRt", gpu=True),
    "tensorrt-rtx": _Entry("tensorrt_rtx", "rtx", ".tensorrt.engine", "TensorRtRtx", gpu=True),
    "onnxruntime-cuda": _Entry("onnxruntime", "gpu", ".onnxruntime", "OnnxRuntimeCuda", gpu=True),
    "openvino": _Entry("openvino", "openvino", ".openvino", "OpenVino"),
    "onnxruntime": _Entry("onnxruntime", "cpu", ".onnxruntime", "OnnxRuntime"),
    "onnxruntime-tensorrt": _Entry("onnxruntime", "gpu", ".onnxruntime", "OnnxRuntimeTensorRt", gpu=True),
}
_NEVER_AUTO = ("onnxruntime-tensorrt",)
BACKENDS = ("auto", *_ENGINES)


def choose_engine(
    backend: str, precision: RunPrecision, bundle: Bundle | None = None, *, batch: int = 1, build: bool = False
) -> Engine:
    """The engine asked for, or for "auto" the first installed one that runs `precision` on this machine.

    bundle, batch: what it is to run, for engines that are built ahead. build: allow it to build what is missing; "auto"
    never waits for that. Raises EngineError where there is none: never another engine or precision than asked for.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    names = [name for name in _ENGINES if name not in _NEVER_AUTO] if backend == "auto" else [backend]
    request = Request(precision=precision, bundle=bundle, batch=batch, build=build and backend != "auto")
    refusals = []
    for name in names:
        entry = _ENGINES[name]
        if importlib.util.find_spec(entry.package) is None:
            refusals.append(_missing(name, entry))
            continue
        if entry.gpu and (reason := driver.missing()):  # before the library is touched: some crash without a driver
            refusals.append(f"{name}: {reason}")
            continue
        try:
            kind: type[Engine] = getattr(importlib.import_module(entry.module, __package__), entry.kind)
        except ImportError as error:
            refusals.append(f"{name} is installed but cannot be imported ({error})")
            continue
        refusal = _refusal(kind, request)
        if refusal is None:
            _tell_if_on_cpu(backend, entry, refusals)
            return kind(request)
        refusals.append(refusal)
    raise EngineError(f"no engine for {precision}: {'; '.join(refusals)}")


def _missing(name: str, entry: _Entry) -> str:
    if name in ("tensorrt", "tensorrt-rtx"):
        from .tensorrt.flavours import missing_flavour

        return missing_flavour(name) or name  # type: ignore[arg-type]
    return f"{name} is not installed (pip install 'fctl[{entry.extra}]')"


def _refusal(kind: type[Engine], request: Request) -> str | None:
    try:
        return kind.refusal(request)
    except EngineError as error:  # a library that is installed and broken, for example
        return str(error)


def _tell_if_on_cpu(backend: str, entry: _Entry, refusals: list[str]) -> None:
    """A GPU that lies idle is worth a word."""
    if backend == "auto" and not entry.gpu and driver.missing() is None:
        log.warning("warning: the GPU is not used: %s", "; ".join(refusals))


__all__ = [
    "BACKENDS",
    "RUN_PRECISIONS",
    "Arrays",
    "DeviceSession",
    "Engine",
    "GpuEngine",
    "HostEngine",
    "Request",
    "RunPrecision",
    "Session",
    "choose_engine",
    "graphs_for",
]
