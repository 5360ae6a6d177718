from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fctl.runtime.cuda import driver, make_kernels
from fctl.runtime.cuda import taps as pillow
from fctl.runtime.cuda.kernels import PTX
from fctl.runtime.cuda.taps import taps
from fctl.runtime.tiling.resampling import Resampling

SOURCE = PTX.with_name("kernels.cu")


def test_the_ptx_is_of_this_source() -> None:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    assert PTX.read_text().splitlines()[0] == f"// kernels.cu, sha256 {digest}", "run runtime/cuda/make_kernels.py"


def test_the_ptx_holds_every_kernel_and_asks_for_what_the_driver_module_promises() -> None:
    source, ptx = SOURCE.read_text(), PTX.read_text()
    names = set(re.findall(r"__global__ void (\w+)\(", source))
    made = set(re.findall(r"^(?:CUT|ACROSS|DOWN|PASTE|INTERPOLATE)\((\w+),", source, re.M))
    names = names - {"name"} | made
    assert names == set(re.findall(r"\.entry (\w+)\(", ptx))
    assert ".version 8.0\n.target sm_75\n" in ptx
    assert (make_kernels.VERSION, driver.OLDEST_DRIVER, driver.OLDEST_GPU) == ("8.0", 12000, (7, 5))


def test_no_sum_of_products_is_fused() -> None:
    """But in the exponential function of the softmax, which is CUDA's."""
    entries = re.split(r"\.entry (\w+)\(", PTX.read_text())
    fused = {name for name, body in zip(entries[1::2], entries[2::2], strict=True) if "fma." in body}
    assert fused == {"finish"}


@pytest.mark.parametrize("architecture", ["sm_75", "sm_87", "sm_120"])
def test_the_ptx_assembles(architecture: str, tmp_path: Path) -> None:
    if (ptxas := shutil.which("ptxas")) is None:
        pytest.skip("needs ptxas")
    command = [ptxas, f"-arch={architecture}", str(PTX), "-o", str(tmp_path / "kernels.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_ptx_is_what_the_compiler_writes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None or "release 13.0" not in subprocess.getoutput("nvcc --version"):
        pytest.skip("needs the nvcc that wrote it")
    monkeypatch.setattr(make_kernels, "TARGET", tmp_path / "kernels.ptx")
    make_kernels.main()
    assert (tmp_path / "kernels.ptx").read_text() == PTX.read_text()


@pytest.mark.parametrize("resampling", ["box", "pillow-bilinear"])
@pytest.mark.parametrize(("side", "size"), [(1, 5), (3, 3), (10, 7), (7, 10), (1524, 508), (1270, 254), (5000, 37)])
def test_weights_are_pillows(resampling: Resampling, side: int, size: int) -> None:
    """A line that is 1 in one pixel comes out as that pixel's weights."""
    kinds = {"box": Image.Resampling.BOX, "pillow-bilinear": Image.Resampling.BILINEAR}
    table = taps(side, size, resampling, False)
    for pixel in np.linspace(0, side - 1, 20).astype(int):
        line = np.zeros((1, side), np.float32)
        line[0, pixel] = 1
        expected = np.asarray(Image.fromarray(line).resize((size, 1), kinds[resampling]))[0]
        found = np.zeros(size, np.float32)
        for index, (first, count) in enumerate(table.spans):
            if first <= pixel < first + count:
                found[index] = table.weights[index, pixel - first]
        np.testing.assert_array_equal(found, expected)


def test_newer_pillow_shrinks_tall_windows_along_columns_first(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = (121, 60), (120, 60), (60, 121), (51, 10)
    monkeypatch.setattr(pillow.PIL, "__version__", "13.0.0")
    assert [pillow.columns_first(*window, 50) for window in windows] == [True, True, False, True]
    assert not pillow.columns_first(70, 60, 50)
    monkeypatch.setattr(pillow.PIL, "__version__", "12.3.0")
    assert not any(pillow.columns_first(*window, 50) for window in windows)
