"""The program of docs/cpp.md: compiled with the commands of the page, and compared with the runtime's own windows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from fctl.export.cli.command import app
from fctl.runtime import ArraySource, read_bundle
from fctl.runtime.tiling.contexts import cut_context
from fctl.runtime.tiling.sources import read_padded
from fctl.runtime.tiling.windows import Window
from tests.conftest import InProcess

ROOT = Path(__file__).parents[2]


def by_the_runtime(graph: Path, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class ids of patches side by side, from the windows that the runtime cuts."""
    manifest, source = read_bundle("default").manifest, ArraySource(pixels)
    session = onnxruntime.InferenceSession(graph)
    side, (height, width) = manifest.tile, pixels.shape[:2]
    mask = np.empty((-(-height // side) * side, -(-width // side) * side), np.uint8)
    for y in range(0, height, side):
        for x in range(0, width, side):
            tile = Window(x=x, y=y, width=side, height=side)
            windows = {
                f"window_{context.name}": cut_context(source, tile, context.window) for context in manifest.contexts
            }
            windows["patch"] = read_padded(source, tile)
            (scores,) = session.run(None, {name: cut.transpose(2, 0, 1)[None] for name, cut in windows.items()})
            mask[y : y + side, x : x + side] = scores[0].argmax(0)
    return mask[:height, :width]


def test_the_program_gives_the_classes_of_the_runtime(tmp_path: Path, in_process: InProcess) -> None:
    pytest.importorskip("openvino")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    assert in_process(app, "default", "--fmt", "triton", "--out", tmp_path / "repository").returncode == 0
    with Image.open(ROOT / "samples" / "dubai.tif") as sample:
        pixels = np.asarray(sample.crop((500, 500, 900, 800)))
    Image.fromarray(pixels).save(tmp_path / "image.ppm")
    (tmp_path / "integrations").symlink_to(ROOT / "integrations")
    (block,) = re.findall(
        r"^```sh\npip(?:.*?)\n(.*?)^```", (ROOT / "docs/cpp.md").read_text(), re.DOTALL | re.MULTILINE
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", block.replace("-O2", "-O0")],  # which compiles faster
        cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "mask.pgm") as mask:
        found = np.asarray(mask)
    assert len(np.unique(found)) > 2
    agreement = (found == by_the_runtime(tmp_path / "repository/default/1/model.onnx", pixels)).mean()
    assert agreement > 0.9999  # two engines may differ where two scores are equal but for rounding
