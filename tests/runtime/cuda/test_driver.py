from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fctl.runtime import remedies

from .simulated import SimulatedGpu

TOLD = """
from fctl.runtime.cuda import driver
from fctl.runtime.errors import EngineError
print(driver.missing())
try:
    driver.open_device()
except EngineError as error:
    print(error)
"""

NOTHING = {
    "memory": 0, "pinned": 0, "streams": 0, "events": 0, "modules": 0, "graphs": 0, "contexts": 1, "bytes": 0,
    "launches": 0,
}  # fmt: skip

BUSY = """
from fctl.runtime.cuda import driver
from fctl.runtime.cuda.kernels import PTX
device = driver.open_device()
kept = [device.allocate(100), device.pinned(100), device.stream(), device.event(), device.kernels(PTX.read_bytes())]
with device.active():
    graph = kept[2].capture(lambda: kept[2].fill(kept[0].pointer, 0, 100))
    kept[2].fill(kept[0].pointer, 0, 100)
view = kept[1].array(10, "uint8")
"""


def python(code: str, **settings: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True, check=True, timeout=60
    )
    assert not done.stderr
    return done.stdout


def without(*modules: str) -> str:
    """Code that hides modules, as if they were not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"


def test_without_a_driver_the_remedy_is_told(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings")
    told = python(TOLD, LD_LIBRARY_PATH=str(tmp_path)).splitlines()
    if told == ["None"]:
        pytest.skip("this machine has a GPU")
    assert told[0] == told[1]
    assert "driver" in told[0]


def test_without_a_provider_the_remedy_is_told() -> None:
    hidden = without("cuda", "cuda.bindings", "pycuda")
    expected = f"neither cuda-bindings nor pycuda is installed; {remedies.install('cuda')}"
    assert python(hidden + TOLD).splitlines() == [expected, expected]


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"FAKE_GPU_COUNT": "0"}, "finds no GPU"),
        ({"FAKE_GPU_BROKEN": "1"}, "does not start: CUDA_ERROR_UNKNOWN: see whether nvidia-smi works"),
        ({"FAKE_GPU_DRIVER": "11080"}, "supports CUDA 11.8, fctl needs 12.0: install a newer driver"),
        ({"FAKE_GPU_CAPABILITY": "61"}, "Simulated GPU has compute capability 6.1, fctl needs 7.5: use a newer GPU"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_told(
    simulated_gpu: SimulatedGpu, settings: dict[str, str], expected: str
) -> None:
    missing, error = simulated_gpu.run("-c", TOLD, **settings).splitlines()
    assert missing == error
    assert expected in missing


def test_looking_for_a_gpu_leaves_nothing_behind(simulated_gpu: SimulatedGpu, tmp_path: Path) -> None:
    assert simulated_gpu.left("from fctl.runtime.cuda import driver\ndriver.missing()", tmp_path / "left") == {
        **NOTHING,
        "contexts": 0,
    }


@pytest.mark.once
@pytest.mark.parametrize(
    "end", ["device.close()", "del device, kept, graph, view", "", "1 / 0", "import sys; sys.exit()"]
)
def test_nothing_is_left_at_exit(simulated_gpu: SimulatedGpu, tmp_path: Path, end: str) -> None:
    code = f"{BUSY}\ntry:\n    {end or 'pass'}\nexcept ZeroDivisionError:\n    pass"
    assert simulated_gpu.left(code, tmp_path / "left") == NOTHING


def test_importing_the_package_loads_no_cuda_library() -> None:
    code = "import sys; import fctl.runtime.cuda.kernels; print([name for name in sys.modules if 'cuda.bind' in name])"
    assert python(code).strip() == "[]"
