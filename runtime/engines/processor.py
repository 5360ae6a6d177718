"""What the processor can do exactly."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_X86 = ("x86_64", "amd64")
_EXACT = {"avx512_vnni", "avx_vnni", "amx_int8"}
_FLAGS = Path("/proc/cpuinfo")


@cache
def adds_int8_exactly() -> bool:
    """Whether products of int8 are summed in 32 bits.

    Without VNNI, an x86 processor adds them in pairs in 16 bits, which saturate. ONNX Runtime and OpenVINO do so, and
    their scores then differ from the graph's. An x86 processor of which nothing is known is taken for one without VNNI.
    """
    if platform.machine().lower() not in _X86:
        return True
    return _FLAGS.is_file() and not _EXACT.isdisjoint(_FLAGS.read_text(encoding="utf-8").split())
