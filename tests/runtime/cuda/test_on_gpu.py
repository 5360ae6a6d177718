"""The tests of on_gpu/, each file in a process that has a simulated GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from .simulated import SimulatedGpu

FILES = sorted(path for path in Path(__file__).with_name("on_gpu").glob("*.py") if "def test_" in path.read_text())
LONG = ("kernels", "network")  # `make test` alone runs them; the others show that the wheel holds what they need


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.once] * (path.stem in LONG)) for path in FILES],
    ids=[path.stem for path in FILES],
)
def test_on_a_simulated_gpu(simulated_gpu: SimulatedGpu, path: Path, tmp_path: Path) -> None:
    if path.stem == "plans":
        pytest.importorskip("tensorrt_rtx")  # all of that file needs it
    root = Path(__file__).parents[3]
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", root, "--basetemp", tmp_path / "inner")
    simulated_gpu.run("-m", "pytest", *options, path)  # where it neither closes nor clears what is this pytest's
