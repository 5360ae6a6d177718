"""What every bundle that is made here says of its making: tools, colours, and the images of its parity gate."""

from __future__ import annotations

import colorsys
import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fctl.calib.sample import find_images, shipped_images
from fctl.runtime.bundle import Provenance
from fctl.runtime.errors import InputError

PARITY_PATCHES = 8
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


def colour_of(index: int) -> tuple[int, int, int]:
    """Colours that stay apart for any number of classes: hues a golden angle from each other."""
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.7, 0.9 - 0.3 * (index % 2)))
    return red, green, blue


def parity_images(bands: int, places: Sequence[Path], dtype: str = "uint8") -> tuple[Sequence[Path], str]:
    """Images for the parity gate, and what they are called."""
    if places:
        return find_images(places), ", ".join(map(str, places))
    if bands != 3 or dtype != "uint8":
        raise InputError(
            f"the shipped images have 3 bands of uint8, this network wants {bands} of {dtype}: "
            "give images of yours with --patches"
        )
    return shipped_images(), "the images shipped with fctl"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
