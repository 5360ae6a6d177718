"""What every bundle that is made here says of its making: tools, colours, and the images of its parity gate."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version

from fctl.runtime.bundle.manifest import Provenance

_TOOLS = ("fctl", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


def provenance(checkpoint_sha256: str, licence: str | None) -> Provenance:
    """Where a bundle that is made now comes from."""
    installed = {name: _version(name) for name in _TOOLS}
    return Provenance(
        checkpoint_sha256=checkpoint_sha256,
        licence=licence,
        created=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        tools={"python": platform.python_version()} | {name: found for name, found in installed.items() if found},
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
