"""TensorRT and TensorRT-RTX, which share one Python interface: the only home of their imports.

Everything here works with 10.3 to 11: networks are strongly typed, so that precision lives in the ONNX file, and
nothing is called that 11 removed.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import EngineError

log = logging.getLogger(__name__)

Flavour = Literal["tensorrt", "tensorrt-rtx"]
_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_EXTRAS = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_JETPACK = Path("/etc/nv_tegra_release")


def missing_flavour(flavour: Flavour) -> str | None:
    """None where the package is installed; else what is missing, and the remedy."""
    if importlib.util.find_spec(_MODULES[flavour]) is not None:
        return None
    if flavour == "tensorrt" and _JETPACK.exists():
        return (
            "tensorrt cannot be imported: on a Jetson it comes with JetPack (apt install python3-libnvinfer) and is "
            "seen by virtual environments made with --system-site-packages"
        )
    return f"{flavour} is not installed (pip install 'fctl[{_EXTRAS[flavour]}]')"


def load_flavour(flavour: Flavour) -> Any:
    """The module. Raises EngineError with the remedy where it is missing."""
    if missing := missing_flavour(flavour):
        raise EngineError(missing)
    try:
        return importlib.import_module(_MODULES[flavour])
    except ImportError as error:
        raise EngineError(f"{flavour} is installed but cannot be imported ({error})") from error


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a library said when it failed: its first words, and whether it was memory that it lacked."""

    reason: str
    memory: bool


def complaint(logger: Any) -> Complaint:
    """What a `recorder` has heard since it was last asked."""
    errors, logger.errors = logger.errors, []
    memory = any("outofmemory" in error.lower().replace(" ", "") for error in errors)
    return Complaint(errors[0] if errors else "it does not say why", memory)


def recorder(trt: Any) -> Any:
    """A logger for a builder or a runtime: errors go to its `errors`, the builder's dump of layers to `dump`."""

    class Recorder(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.dump = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.WARNING:
                log.debug("%s", message)
            elif message.startswith("Layers:"):
                self.dump = message

    return Recorder()
