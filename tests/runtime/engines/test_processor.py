"""Which processors sum int8 exactly."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize(
    ("siblings", "quota", "expected"),
    [
        (["0", "1", "2", "3"], None, 4),
        (["0-1", "0-1", "2-3", "2-3"], "max 100000", 2),  # two threads of a core
        ([None, None, None, None], "max 100000", 4),
        (["0", "1", "2", "3"], "150000 100000", 2),  # a container with one core and a half
        (["0", "1", "2", "3"], "10000 100000", 1),
        (["0", "1", "2", "3"], "nonsense", 4),
    ],
)
def test_cores_that_may_be_kept_busy(
    siblings: list[str | None], quota: str | None, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, text in enumerate(siblings):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        if text is not None:
            (folder / "thread_siblings_list").write_text(f"{text}\n")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(processor, "_CORES", tmp_path)
    monkeypatch.setattr(processor, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(siblings))), raising=False)
    assert processor.cores() == expected


def test_this_machine_has_cores_and_a_name() -> None:
    assert 1 <= processor.cores() <= (os.cpu_count() or 1)
    assert len(processor.identity()) == 16
