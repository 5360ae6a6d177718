"""Which processors sum int8 exactly."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from fctl.runtime.engines import processor


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    processor.adds_int8_exactly.cache_clear()
    yield
    processor.adds_int8_exactly.cache_clear()


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fpu sse4_2 avx avx2 fma", False),
        ("x86_64", "avx2 avx512f avx512bw avx512_bf16", False),
        ("x86_64", "avx2 avx512f avx512_vnni", True),
        ("AMD64", "avx2 avx_vnni", True),
        ("x86_64", None, False),
        ("aarch64", "fp asimd", True),
        ("arm64", None, True),
    ],
)
def test_vnni_tells(
    machine: str, flags: str | None, exact: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    described = tmp_path / "cpuinfo"
    if flags is not None:
        described.write_text(f"processor\t: 0\nflags\t\t: {flags}\n", encoding="utf-8")
    monkeypatch.setattr(processor, "_FLAGS", described)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert processor.adds_int8_exactly() is exact
