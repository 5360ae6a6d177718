"""Inference engines by name: the one place to add another. Each library is imported only when it is chosen."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from .. import remedies
from ..bundle.store import Bundle
from ..bundle.verdicts import EngineVerdict
from ..choices import Backend
from ..cuda import driver
from ..errors import EngineError, InputError
from .base import Engine, HostEngine, Request, RunPrecision

BACKENDS: tuple[Backend, ...] = get_args(Backend)


@dataclass(frozen=True)
class _Entry:
    """Where an engine lives: the package it needs, the extra that installs it, its module and its class."""

    package: str
    extra: str
    module: str
    kind: str
    gpu: bool = False


# In the order in which "auto" tries them, the faster first (docs/engines.md has the figures).
_ENGINES: dict[str, _Entry] = {
    "tensorrt": _Entry("tensorrt", "trt", ".tensorrt.engine", "TensorRt", gpu=True),
    "tensorrt-rtx": _Entry("tensorrt_rtx", "rtx", ".tensorrt.engine", "TensorRtRtx", gpu=True),
    "onnxruntime-cuda": _Entry("onnxruntime", "gpu", ".onnxruntime", "OnnxRuntimeCuda", gpu=True),
    "openvino": _Entry("openvino", "openvino", ".openvino", "OpenVino"),
    "onnxruntime": _Entry("onnxruntime", "cpu", ".onnxruntime", "OnnxRuntime"),
    "onnxruntime-tensorrt": _Entry("onnxruntime", "gpu", ".onnxruntime", "OnnxRuntimeTensorRt", gpu=True),
}
_NEVER_AUTO = ("onnxruntime-tensorrt",)  # it builds engines whenever it loads a graph, which takes minutes


def choose_engine(
    backend: str,
    precision: RunPrecision,
    bundle: Bundle | None = None,
    *,
    batch: int = 1,
    build: bool = False,
    isolate: bool = False,
    whole: bool = False,
) -> Engine:
    """The engine asked for, or for "auto" the first installed one that runs the precision on this machine.

    Args:
        backend: One of `BACKENDS`.
        precision: In what precision to run.
        bundle: What is to be run, for engines that are built ahead; None where only the library matters.
        batch: Patches at once, likewise.
        build: Whether engines that are missing may be built; "auto" never waits for that.
        isolate: Whether graphs are loaded and run in a child process, which engines of the CPU can; "auto" takes one.
        whole: Whether the library sees batches whole (`Request.whole`).

    Returns:
        The engine: never another one, and in no other precision, than asked for.

    Raises:
        InputError: There is no engine of that name, or it cannot be isolated.
        EngineError: No engine here can do it; the message has the reason of each.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}", remedy=f"known: {', '.join(BACKENDS)}")
    names = [name for name in _ENGINES if name not in _NEVER_AUTO] if backend == "auto" else [backend]
    if isolate and backend != "auto" and _ENGINES[backend].gpu:
        raise InputError(
            f"{backend} runs on a GPU, which cannot be isolated",
            subject="`isolate`",
            remedy=f"choose `backend` {' or '.join(name for name, entry in _ENGINES.items() if not entry.gpu)}",
        )
    names = [name for name in names if not (isolate and _ENGINES[name].gpu)]
    request = Request(precision=precision, bundle=bundle, batch=batch, build=build and backend != "auto", whole=whole)
    refusals = ["`isolate` is for engines of the CPU"] if isolate and driver.missing() is None else list[str]()
    skipped = list[str]()
    for name in names:
        verdict = _failed(name, bundle)
        if verdict and backend != "auto" and verdict.version == engine_version(name):
            raise EngineError(f"{name}: {verdict.reason}", remedy=f"choose `backend` {_passed(bundle)}")
        try:
            found = _try(name, request)
        except EngineError as error:  # it seemed to fit, and cannot be started
            if backend != "auto":
                raise
            found = f"{name}: {error}"
        if isinstance(found, Engine) and verdict and backend == "auto":
            found.close()
            found = f"{name} is not taken: {verdict.reason}"
            skipped.append(found)
        if isinstance(found, Engine):
            if backend == "auto" and not _ENGINES[name].gpu and driver.missing() is None:
                found.notes.append(f"the GPU is not used: {'; '.join(refusals)}")
            found.notes += skipped
            return _isolated(found) if isolate else found
        refusals.append(found)
    raise EngineError(f"no engine for {precision}: {'; '.join(refusals)}")


def installed_engines(precision: RunPrecision, bundle: Bundle, batch: int) -> Iterator[Engine]:
    """The engines of this machine that "auto" could take for a bundle.

    Args:
        precision: In what precision they run.
        bundle: What is to be run.
        batch: Patches at once.

    Yields:
        Each engine, which the caller closes.
    """
    request = Request(precision=precision, bundle=bundle, batch=batch)
    for name in _ENGINES:
        with contextlib.suppress(EngineError):
            if name not in _NEVER_AUTO and isinstance(found := _try(name, request), Engine):
                yield found


def engine_version(name: str) -> str:
    """The version of an engine's library, or "" where that is not installed or does not tell."""
    try:
        library = importlib.import_module(_ENGINES[name].package)
    except ImportError:
        return ""
    return str(getattr(library, "__version__", "")).partition("-")[0]


def _isolated(engine: Engine) -> Engine:
    """The same engine, whose graphs are loaded and run in a child process."""
    from .isolated import Isolated

    assert isinstance(engine, HostEngine)
    try:
        return Isolated(engine)
    finally:
        engine.close()


def _failed(name: str, bundle: Bundle | None) -> EngineVerdict | None:
    """The verdict of the parity gate of a bundle that an engine did not pass."""
    verdicts = bundle.manifest.engines if bundle else ()
    return next((verdict for verdict in verdicts if verdict.engine == name and not verdict.passed), None)


def _passed(bundle: Bundle | None) -> str:
    """An engine that passed the parity gate of a bundle."""
    verdicts = bundle.manifest.engines if bundle else ()
    return next((verdict.engine for verdict in verdicts if verdict.passed), "auto")


def _try(name: str, request: Request) -> Engine | str:
    """An engine, or why it cannot be had."""
    entry = _ENGINES[name]
    if importlib.util.find_spec(entry.package) is None:
        return _missing(name, entry)
    if entry.gpu and request.bundle and (only := request.bundle.manifest.host_only):
        return f"{name} keeps everything on the GPU: {only}"
    if entry.gpu and (reason := driver.missing()):  # before the library is touched: some crash without a driver
        return f"{name}: {reason}"
    try:
        kind: type[Engine] = getattr(importlib.import_module(entry.module, __package__), entry.kind)
    except ImportError as error:
        return f"{name} is installed but cannot be imported ({error})"
    return _refusal(kind, request) or kind(request)


def _missing(name: str, entry: _Entry) -> str:
    if name in ("tensorrt", "tensorrt-rtx"):
        from .tensorrt.flavours import missing_flavour

        return missing_flavour(name) or name  # type: ignore[arg-type]
    return f"{name} is not installed ({remedies.install(entry.extra)})"


def _refusal(kind: type[Engine], request: Request) -> str | None:
    try:
        return kind.refusal(request)
    except EngineError as error:  # a library that is installed and broken, for example
        return str(error)
