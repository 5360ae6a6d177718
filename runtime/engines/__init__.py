"""Inference engines by name: the one place to add another. Each library is imported only when it is chosen."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from ..errors import EngineError, InputError
from .base import Arrays, Engine, RunPrecision, Session


@dataclass(frozen=True)
class _Entry:
    package: str
    extra: str
    module: str
    kind: str


# In the order in which "auto" tries them: the faster first (docs/engines.md has the figures).
_ENGINES = {
    "openvino": _Entry("openvino", "openvino", ".openvino", "OpenVino"),
    "onnxruntime": _Entry("onnxruntime", "cpu", ".onnxruntime", "OnnxRuntime"),
}
BACKENDS = ("auto", *_ENGINES)


def choose_engine(backend: str, precision: RunPrecision) -> Engine:
    """The engine asked for, or for "auto" the first installed one that runs `precision` on this machine.

    Raises EngineError where there is none: never another engine or precision than the one asked for.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    names = list(_ENGINES) if backend == "auto" else [backend]
    refusals = []
    for name in names:
        entry = _ENGINES[name]
        if importlib.util.find_spec(entry.package) is None:
            refusals.append(f"{name} is not installed (pip install 'fctl[{entry.extra}]')")
            continue
        try:
            kind: type[Engine] = getattr(importlib.import_module(entry.module, __name__), entry.kind)
        except ImportError as error:
            refusals.append(f"{name} is installed but cannot be imported ({error})")
            continue
        if precision in kind.precisions():
            return kind(precision)
        refusals.append(f"{name} runs {' and '.join(kind.precisions())} on this machine")
    raise EngineError(f"no engine for {precision}: {'; '.join(refusals)}")


__all__ = ["BACKENDS", "Arrays", "Engine", "RunPrecision", "Session", "choose_engine"]
