"""A network that costs next to nothing, so that all else shows: it gives its three bands back as scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
from onnx import TensorProto, helper

_TILE, _OVERLAP = 256, 25  # GeoDeep rounds 10 % of a tile down


def graph(batch: int | str) -> onnx.ModelProto:
    """A graph that gives its image back."""
    image, scores = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, _TILE, _TILE]) for name in ("image", "scores")
    )
    nodes = [helper.make_node("Identity", ["image"], ["scores"])]
    return helper.make_model(
        helper.make_graph(nodes, "nothing", [image], [scores]), opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )  # fmt: skip


def write_bundle(folder: Path) -> Path:
    """Write the graph as a bundle of three classes; returns the bundle."""
    onnx.save(graph("N"), folder / "nothing.onnx")
    bundle = folder / "nothing.fctl"
    subprocess.run(
        [
            program("fctl-export"), folder / "nothing.onnx", "--classes", "a,b,c", "--scale", "1/255",
            "--activation", "logits", "--overlap", str(_OVERLAP), "--out", bundle, "--quiet",
        ],
        check=True,
    )  # fmt: skip
    return bundle


def program(name: str) -> Path:
    """A command line of this environment."""
    return Path(sys.executable).with_name(name)
