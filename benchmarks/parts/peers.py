"""Other tools on a network that costs next to nothing: what is timed is how they read, tile, merge and write.

The network is one convolution of 1x1 over three bands, for five classes. Each tool runs as a command of its own, from
start to end, on the same image.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TILE = 256
_CLASSES = "abcde"
_OURS = "import sys\nfrom fctl.runtime.cli.umbrella import app\napp(sys.argv[1:])\n"
_MONAI = """
import sys
import numpy as np
import torch
from PIL import Image
from monai.inferers import sliding_window_inference
Image.MAX_IMAGE_PIXELS = None
image, weights, mask, tile = sys.argv[1:]
stored = np.load(weights)
network = torch.nn.Conv2d(3, 5, 1)
network.load_state_dict({"weight": torch.from_numpy(stored["weight"]), "bias": torch.from_numpy(stored["bias"])})
pixels = torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1)[None].float()
with torch.inference_mode():
    scores = sliding_window_inference(pixels, (int(tile),) * 2, 4, network, overlap=0.1, mode="gaussian")
Image.fromarray(scores[0].argmax(0).numpy().astype(np.uint8)).save(mask)
"""


def commands(folder: Path, image: Path, geodeep: Path | None, monai: Path | None) -> Mapping[str, Sequence[str]]:
    """Make the network for every tool.

    Args:
        folder: Where networks and masks go.
        image: The image, three bands of uint8.
        geodeep: GeoDeep's program; None leaves it out.
        monai: A Python in which MONAI, PyTorch and Pillow are installed; None leaves it out.

    Returns:
        A command by the name of the tool; ours comes first.

    Raises:
        subprocess.CalledProcessError: The bundle cannot be exported.
    """
    random = np.random.default_rng(0)
    weight = (random.normal(size=(5, 3, 1, 1)) / 64).astype(np.float32)
    bias = (-127 * weight.sum((1, 2, 3))).astype(np.float32)
    np.savez(folder / "weights.npz", weight=weight, bias=bias)
    onnx.save(_model(weight, bias, softmax=False), folder / "five.onnx")
    onnx.save(_model(weight, bias, softmax=True), folder / "geodeep.onnx")
    fctl = [sys.executable, "-c", _OURS]
    export = [*fctl, "export", str(folder / "five.onnx"), "--classes", ",".join(_CLASSES), "--tile", str(TILE)]
    subprocess.run([*export, "--out", str(folder / "five.fctl")], check=True, capture_output=True)
    run = [*fctl, "run", str(image), "--bundle", str(folder / "five.fctl"), "--no-preview", "--overwrite"]
    found = {"fctl": [*run, "--out", str(folder / "ours"), "--quiet"]}
    if geodeep:
        model, mask = str(folder / "geodeep.onnx"), str(folder / "geodeep.tif")
        found["GeoDeep"] = [str(geodeep), str(image), model, "-t", "mask", "-o", mask, "--max-threads", "2"]
    if monai:
        weights, mask = str(folder / "weights.npz"), str(folder / "monai.png")
        found["MONAI"] = [str(monai), "-c", _MONAI, str(image), weights, mask, str(TILE)]
    return found


def seconds_of(command: Sequence[str]) -> float:
    """Run a command, and tell how long it took.

    Raises:
        RuntimeError: It failed; the message ends with what it said last.
    """
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
    return time.perf_counter() - started


def _model(weight: np.ndarray, bias: np.ndarray, *, softmax: bool) -> onnx.ModelProto:
    """The network; for GeoDeep with probabilities, one fixed input, and what it reads of metadata."""
    batch: int | str = 1 if softmax else "N"
    nodes = [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])]
    nodes += [helper.make_node("Softmax", ["logits"], ["scores"], axis=1)] if softmax else []
    graph = helper.make_graph(
        nodes, "five",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, TILE, TILE])],
        [helper.make_tensor_value_info("scores" if softmax else "logits", TensorProto.FLOAT, [batch, 5, TILE, TILE])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if softmax:
        helper.set_model_props(model, {
            "model_type": json.dumps("Segmentor"),
            "class_names": json.dumps({str(number): name for number, name in enumerate(_CLASSES)}),
            "resolution": "50", "tiles_overlap": "10", "seg_thresh": "0.1", "seg_small_segment": "0",
        })  # fmt: skip
    return model
