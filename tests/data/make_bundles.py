"""Writes the hand-made bundles beside this file; they are committed. Needs onnx.

python -m tests.data.make_bundles
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from fctl.runtime.bundle import (
    BATCH,
    SCHEMA,
    SEGMENTER,
    ClassInfo,
    Context,
    Graph,
    InputSpec,
    Manifest,
    MovingCells,
    Provenance,
    TensorSpec,
    sha256,
    write_manifest,
)
from fctl.runtime.contexts import Cells
from fctl.runtime.windows import Plan
from tests.runtime import tiny

_OPSET, _IR = 17, 8
_NAMES = ("medium", "large")
_TYPES = {"uint8": onnx.TensorProto.UINT8, "uint16": onnx.TensorProto.UINT16, "float32": onnx.TensorProto.FLOAT}
_COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))

Constants = Mapping[str, NDArray[np.generic]]


def main() -> None:
    _make_tiny(tiny.TINY, 16)
    _make_tiny(tiny.TINY_WIDE, 128)
    _make_tiny_global(tiny.TINY_GLOBAL)
    _make_tiny_plain(tiny.TINY_PLAIN)


def _make_tiny(folder: Path, tile: int) -> None:
    _fresh(folder)
    cell = tile // 4
    encoders = [
        _encoder(folder, "encoder_medium", tile, cell, tiny.ENCODE_MEDIUM),
        _encoder(folder, "encoder_large", tile // 2, cell // 2, tiny.ENCODE_LARGE),
    ]
    nodes = [
        *_patch_term(),
        onnx.helper.make_node("Conv", ["features_medium", "medium"], ["near"]),
        onnx.helper.make_node(
            "Resize", ["near", "", "scales"], ["wide"], mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        ),
        onnx.helper.make_node("GlobalAveragePool", ["features_large"], ["far_mean"]),
        onnx.helper.make_node("Conv", ["far_mean", "large"], ["far"]),
        onnx.helper.make_node("Sum", ["near_patch", "wide", "far"], ["logits"]),
    ]  # fmt: skip
    constants = {
        **_patch_constants(),
        "medium": _kernel(tiny.MEDIUM),
        "large": _kernel(tiny.LARGE),
        "scales": np.array([1, 1, cell, cell], np.float32),
    }
    inputs = (_spec("patch", "uint8", 3, tile, tile), *(_spec(f"features_{n}", "float32", 2, 4, 4) for n in _NAMES))
    segmenter = _graph(folder, SEGMENTER, nodes, constants, inputs, _spec("logits", "float32", 3, tile, tile))
    contexts = (
        Context(name="medium", factor=2.0, size=tile, resampling="box", encoder="encoder_medium", cells=None),
        Context(
            name="large", factor=4.0, size=tile // 2, resampling="pillow-bilinear", encoder="encoder_large", cells=None
        ),
    )
    spec = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
    plan = Plan(kind="stride", overlap=tile // 4)
    _write(folder, spec, plan, "cosine", contexts, (*encoders, segmenter))


def _make_tiny_global(folder: Path) -> None:
    _fresh(folder)
    encoder = _encoder(folder, "encoder_global", 8, 2, np.eye(3))
    nodes = [
        *_patch_term(),
        onnx.helper.make_node("GlobalAveragePool", ["features_global"], ["whole_mean"]),
        onnx.helper.make_node("Conv", ["whole_mean", "global"], ["whole"]),
        onnx.helper.make_node("Unsqueeze", ["positions_global", "last"], ["places"]),
        onnx.helper.make_node("GlobalAveragePool", ["places"], ["place_mean"]),
        onnx.helper.make_node("Conv", ["place_mean", "positions"], ["place"]),
        onnx.helper.make_node("Sum", ["near_patch", "whole", "place"], ["logits"]),
    ]
    constants = {
        **_patch_constants(),
        "global": _kernel(tiny.GLOBAL),
        "positions": _kernel(tiny.POSITIONS),
        "last": np.array([3], np.int64),
    }
    inputs = (
        _spec("patch", "uint8", 3, 16, 16),
        _spec("features_global", "float32", 3, 4, 4),
        _spec("positions_global", "float32", 2, 4),
    )
    segmenter = _graph(folder, SEGMENTER, nodes, constants, inputs, _spec("logits", "float32", 3, 16, 16))
    cells = MovingCells(patch=Cells(stride=4, offset=1.5, count=4), context=Cells(stride=2, offset=0.5, count=4))
    context = Context(name="global", factor="global", size=8, resampling="box", encoder="encoder_global", cells=cells)
    spec = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
    _write(folder, spec, Plan(kind="stride", overlap=4), "uniform", (context,), (encoder, segmenter))


def _make_tiny_plain(folder: Path) -> None:
    _fresh(folder)
    nodes = [
        onnx.helper.make_node("Cast", ["patch"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["pixels", "weight", "bias"], ["near_patch"]),
        onnx.helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        onnx.helper.make_node("Conv", ["mean", "mean_weight"], ["tile"]),
        onnx.helper.make_node("Add", ["near_patch", "tile"], ["logits"]),
    ]
    constants = {
        "weight": _kernel(tiny.PLAIN_PATCH),
        "bias": tiny.PLAIN_BIAS.astype(np.float32),
        "mean_weight": _kernel(tiny.PLAIN_MEAN),
    }
    inputs = (_spec("patch", "uint16", 4, 16, 16),)
    segmenter = _graph(folder, SEGMENTER, nodes, constants, inputs, _spec("logits", "float32", 2, 16, 16))
    spec = InputSpec(bands=4, dtype="uint16", scaling=None, ground_sample_distance=None)
    _write(folder, spec, Plan(kind="even", overlap=4), "uniform", (), (segmenter,))


def _encoder(folder: Path, role: str, size: int, factor: int, weight: NDArray[np.generic]) -> Graph:
    """Cast, block means, and a 1x1 convolution."""
    nodes = [
        onnx.helper.make_node("Cast", ["window"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("AveragePool", ["pixels"], ["means"], kernel_shape=[factor] * 2, strides=[factor] * 2),
        onnx.helper.make_node("Conv", ["means", "weight"], ["features"]),
    ]
    features = _spec("features", "float32", len(weight), size // factor, size // factor)
    inputs = (_spec("window", "uint8", 3, size, size),)
    return _graph(folder, role, nodes, {"weight": _kernel(weight)}, inputs, features)


def _patch_term() -> list[onnx.NodeProto]:
    return [
        onnx.helper.make_node("Cast", ["patch"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["pixels", "weight", "bias"], ["near_patch"]),
    ]


def _patch_constants() -> dict[str, NDArray[np.generic]]:
    return {"weight": _kernel(tiny.PATCH), "bias": tiny.BIAS.astype(np.float32)}


def _kernel(weight: NDArray[np.generic]) -> NDArray[np.float32]:
    return weight.astype(np.float32)[:, :, None, None]


def _spec(name: str, dtype: str, *sides: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(BATCH, *sides))


def _graph(
    folder: Path,
    role: str,
    nodes: list[onnx.NodeProto],
    constants: Constants,
    inputs: tuple[TensorSpec, ...],
    output: TensorSpec,
) -> Graph:
    graph = onnx.helper.make_graph(
        nodes,
        role,
        [_value(spec) for spec in inputs],
        [_value(output)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR)
    onnx.checker.check_model(model, full_check=True)
    path = folder / f"{role}.onnx"
    onnx.save(model, path)
    return Graph(role=role, precision="fp32", file=path.name, sha256=sha256(path), inputs=inputs, outputs=(output,))


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], spec.shape)


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _write(
    folder: Path,
    spec: InputSpec,
    plan: Plan,
    merge: str,
    contexts: tuple[Context, ...],
    graphs: tuple[Graph, ...],
) -> None:
    _, outputs, tile, _ = graphs[-1].outputs[0].shape
    names = ("red", "green", "blue")
    manifest = Manifest(
        schema=SCHEMA,
        name=folder.stem,
        network=None,
        classes=tuple(ClassInfo(name=n, colour=c) for n, c in zip(names, _COLOURS, strict=True))[: int(outputs)],
        input=spec,
        tile=int(tile),
        plan=plan,
        contexts=contexts,
        merge="cosine" if merge == "cosine" else "uniform",
        graphs=graphs,
        parity=(),
        provenance=Provenance(checkpoint_sha256="0" * 64, licence="CC0-1.0", created="2026-01-01", tools={}),
        extensions={},
    )
    write_manifest(folder, manifest)


if __name__ == "__main__":
    main()
