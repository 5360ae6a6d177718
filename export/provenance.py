"""The provenance of a bundle: the versions of the tools that made it, and its checkpoint."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import PackageNotFoundError, version

from fctl.runtime.bundle.manifest import Provenance

_TOOLS = ("fctl", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


def provenance(checkpoint_sha256: str, licence: str | None) -> Provenance:
    """Describe where a bundle that is made now comes from.

    Args:
        checkpoint_sha256: The SHA-256 of the checkpoint or of the foreign network.
        licence: The licence of the weights, if it is known.

    Returns:
        The record, with today's date (UTC) and the versions of all tools that are installed.
    """
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
