"""The work of ONNX files."""

from __future__ import annotations

from pathlib import Path

import onnx

from fctl.calib.macs import macs
from fctl.calib.plain import plain


def giga_macs(path: Path) -> float:
    """The multiply-accumulates of one patch in an fp32 graph, in 10^9; see `fctl.calib.macs`."""
    return sum(macs(plain(onnx.load(path), path.name, "fp32")).values()) / 1e9
