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
from typing import Literal, cast

from ... import remedies
from ...errors import EngineError
from .api import Module, Severity

log = logging.getLogger(__name__)

Flavour = Literal["tensorrt", "tensorrt-rtx"]
"""Which of the two libraries."""

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_EXTRAS = {"tensorrt": "trt", "tensorrt-rtx": "rtx"}
_JETPACK = Path("/etc/nv_tegra_release")


def missing_flavour(flavour: Flavour) -> str | None:
    """Tell whether a library is missing.

    Args:
        flavour: The library.

    Returns:
        What is missing and the remedy, or None where the library is installed.
    """
    if importlib.util.find_spec(_MODULES[flavour]) is not None:
        return None
    if flavour == "tensorrt" and _JETPACK.exists():
        return f"tensorrt cannot be imported: {remedies.ON_JETSON}"
    return f"{flavour} is not installed ({remedies.install(_EXTRAS[flavour])})"


def load_flavour(flavour: Flavour) -> Module:
    """Import a library.

    Args:
        flavour: The library.

    Returns:
        Its module.

    Raises:
        EngineError: The library is missing, with the remedy, or is broken.
    """
    if missing := missing_flavour(flavour):
        raise EngineError(missing)
    try:
        return cast("Module", importlib.import_module(_MODULES[flavour]))
    except ImportError as error:
        raise EngineError(f"{flavour} is installed but cannot be imported ({error})") from error


class Recorder:
    """A logger for a builder, a parser or a runtime, which keeps what we ask for later; see `recorder`.

    Attributes:
        errors: The errors since `complaint` last asked, each in one line.
        dump: The builder's list of layers, which it logs when it is done.
    """

    def __init__(self) -> None:
        super().__init__()  # the library's own class, which comes next
        self.errors: list[str] = []
        self.dump = ""

    def log(self, severity: Severity, message: str) -> None:
        """Take a message; the library calls this."""
        if severity.name in ("INTERNAL_ERROR", "ERROR"):
            self.errors.append(" ".join(message.split()))
        elif severity.name == "WARNING":
            log.debug("%s", message)
        elif message.startswith("Layers:"):
            self.dump = message


def recorder(trt: Module) -> Recorder:
    """Make a logger that a library accepts, which is a subclass of its own class of loggers."""
    kind: type[Recorder] = type("LibraryRecorder", (Recorder, trt.ILogger), {})
    return kind()


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a library said when it failed.

    Attributes:
        reason: Its first words.
        memory: Whether it was memory that it lacked.
    """

    reason: str
    memory: bool


def complaint(logger: Recorder) -> Complaint:
    """What a library has said since it was last asked; the logger forgets it."""
    errors, logger.errors = logger.errors, []
    memory = any("outofmemory" in error.lower().replace(" ", "") for error in errors)
    return Complaint(errors[0] if errors else "it does not say why", memory)
