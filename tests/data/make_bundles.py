"""Writes the hand-made bundles beside this file; they are committed. Needs onnx.

python -m tests.data.make_bundles
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import (
    BATCH,
    SCHEMA,
    SEGMENTER,
    ClassInfo,
    Context,
    GraphSpec,
    InputSpec,
    Manifest,
    MovingCells,
    Provenance,
    Scores,
    SharedEncoder,
    TensorSpec,
)
from fctl.runtime.bundle.store import sha256, write_manifest
from fctl.runtime.bundle.verdicts import SharedVerdict
from fctl.runtime.tiling.contexts import Cells
from fctl.runtime.tiling.windows import TilePlan
from tests.runtime import tiny

_OPSET, _IR = 17, 8
_TYPES = {"uint8": onnx.TensorProto.UINT8, "uint16": onnx.TensorProto.UINT16, "float32": onnx.TensorProto.FLOAT}
_COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))

Constants = Mapping[str, NDArray[np.generic]]


def main() -> None:
    for fused in (False, True):
        _make_tiny(tiny.TINY_FUSED if fused else tiny.TINY, 16, fused)
        _make_tiny_global(tiny.TINY_GLOBAL_FUSED if fused else tiny.TINY_GLOBAL, fused)
    _make_tiny(tiny.TINY_WIDE, 128, fused=False)
    _make_tiny(tiny.TINY_ONCE, 16, fused=False, once=True)
    _make_tiny_plain(tiny.TINY_PLAIN, BATCH, "logits")
    _make_tiny_plain(tiny.TINY_FIXED, 3, "logits")
    _make_tiny_plain(tiny.TINY_SHARES, BATCH, "probabilities")
    _make_tiny_float(tiny.TINY_FLOAT)
    _make_tiny_whole(tiny.TINY_WHOLE)


def _make_tiny(folder: Path, tile: int, fused: bool, once: bool = False) -> None:
    _fresh(folder)
    cell = tile // 4
    encoders = [
        _Encoder("medium", tile, cell, tiny.ENCODE_MEDIUM),
        _Encoder("large", tile // 2, cell // 2, tiny.ENCODE_LARGE),
    ]
    nodes = [
        *_patch_term(),
        onnx.helper.make_node("Conv", ["features_medium", "medium"], ["near"]),
        onnx.helper.make_node(
            "Resize", ["near", "", "scales"], ["wide"], mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        ),
        onnx.helper.make_node("Conv", ["features_large", "large"], ["far"]),
        onnx.helper.make_node("Sum", ["near_patch", "wide", "far"], ["logits"]),
    ]  # fmt: skip
    constants = {
        **_patch_constants(),
        "medium": _kernel(tiny.MEDIUM),
        "large": _kernel(tiny.LARGE) * tiny.CELLS.astype(np.float32),
        "scales": np.array([1, 1, cell, cell], np.float32),
    }
    output = _spec("logits", "float32", 3, tile, tile)
    graphs = _graphs(folder, encoders, fused, nodes, constants, (_spec("patch", "uint8", 3, tile, tile),), output)
    medium, large = (None if fused else encoder.role for encoder in encoders)
    larger = [_Encoder(f"{one.name}_once", 2 * one.size, one.factor, one.weight) for one in encoders] if once else []
    graphs = (*(encoder.graph(folder) for encoder in larger), *graphs)
    sharing = [_sharing(one, more) for one, more in zip(encoders, larger, strict=True)] if once else [None, None]
    contexts = (
        Context(
            name="medium", factor=2.0, size=tile, resampling="box", scene=None, encoder=medium, cells=None,
            sharing=sharing[0],
        ),
        Context(
            name="large", factor=4.0, size=tile // 2, resampling="box" if once else "pillow-bilinear", scene=None,
            encoder=large, cells=None, sharing=sharing[1],  # the triangle of "pillow-bilinear" sees a window's border
        ),
    )  # fmt: skip
    spec = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
    plan = TilePlan(kind="stride", overlap=0 if once else tile // 4)
    verdict = SharedVerdict(agreement=1.0, lost=None, pixels=1, source="whole cells", engine="onnxruntime")
    _write(folder, spec, plan, "cosine", contexts, graphs, verdict if once else None)


def _sharing(encoder: _Encoder, larger: _Encoder) -> SharedEncoder:
    """Cells are block means, which see no border; those next to one are dropped all the same."""
    cells, own = (
        Cells(stride=one.factor, offset=(one.factor - 1) / 2, count=one.size // one.factor) for one in (encoder, larger)
    )
    return SharedEncoder(
        encoder=larger.role, size=larger.size, cells=cells, own=own, first=1, kept=own.count - 2
    )  # fmt: skip


def _make_tiny_global(folder: Path, fused: bool) -> None:
    _fresh(folder)
    encoder = _Encoder("global", 8, 2, np.eye(3))
    nodes = [
        *_patch_term(),
        onnx.helper.make_node("Conv", ["features_global", "global"], ["whole"]),
        onnx.helper.make_node("Unsqueeze", ["positions_global", "last"], ["places"]),
        onnx.helper.make_node("Conv", ["places", "positions"], ["place"]),
        onnx.helper.make_node("Sum", ["near_patch", "whole", "place"], ["logits"]),
    ]
    constants = {
        **_patch_constants(),
        "global": _kernel(tiny.GLOBAL) * tiny.CELLS.astype(np.float32),
        "positions": _kernel(tiny.POSITIONS) * tiny.LINE.astype(np.float32)[:, None],
        "last": np.array([3], np.int64),
    }
    inputs = (_spec("patch", "uint8", 3, 16, 16), _spec("positions_global", "float32", 2, 4))
    graphs = _graphs(folder, [encoder], fused, nodes, constants, inputs, _spec("logits", "float32", 3, 16, 16))
    cells = MovingCells(patch=Cells(stride=4, offset=1.5, count=4), context=Cells(stride=2, offset=0.5, count=4))
    role = None if fused else encoder.role
    context = Context(name="global", factor="global", size=8, resampling="box", scene=None, encoder=role, cells=cells)
    spec = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
    _write(folder, spec, TilePlan(kind="stride", overlap=4), "uniform", (context,), graphs)


def _make_tiny_plain(folder: Path, batch: int | str, scores: Scores) -> None:
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
    if scores == "probabilities":
        nodes.append(onnx.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    inputs = (_spec("patch", "uint16", 4, 16, 16, batch=batch),)
    output = _spec(scores, "float32", 2, 16, 16, batch=batch)
    segmenter = _graph(folder, SEGMENTER, nodes, constants, inputs, output)
    spec = InputSpec(bands=4, dtype="uint16", scaling=None, ground_sample_distance=None)
    _write(folder, spec, TilePlan(kind="even", overlap=4), "uniform", (), (segmenter,))


def _make_tiny_float(folder: Path) -> None:
    """The patch beside its mean, as networks with pooled branches see it: one huge value spoils a whole tile."""
    _fresh(folder)
    nodes = [
        onnx.helper.make_node("Conv", ["patch", "weight", "bias"], ["near"]),
        onnx.helper.make_node("GlobalAveragePool", ["patch"], ["mean"]),
        onnx.helper.make_node("Conv", ["mean", "weight_mean"], ["far"]),
        onnx.helper.make_node("Add", ["patch", "one"], ["raised"]),
        onnx.helper.make_node("Sqrt", ["raised"], ["root"]),  # NaN below -1
        onnx.helper.make_node("Sum", ["near", "far", "root"], ["logits"]),
    ]
    constants = {
        **_patch_constants(),
        "weight_mean": _kernel(-tiny.PATCH),
        "one": np.ones((1, 1, 1, 1), np.float32),
    }
    specs = _spec("patch", "float32", 3, 16, 16), _spec("logits", "float32", 3, 16, 16)
    graph = _graph(folder, SEGMENTER, nodes, constants, specs[:1], specs[1])
    spec = InputSpec(bands=3, dtype="float32", scaling=None, ground_sample_distance=None)
    _write(folder, spec, TilePlan(kind="stride", overlap=4), "uniform", (), (graph,))


def _make_tiny_whole(folder: Path) -> None:
    """Scores of the whole image, shrunk, which the segmenter enlarges where patches lie: a hat around each position."""
    _fresh(folder)
    side, tile = 24, 16
    encoder = _Encoder("whole", side, 1, tiny.WHOLE)
    nodes = [
        onnx.helper.make_node("Clip", ["positions_whole", "first", "last"], ["inside"]),
        onnx.helper.make_node("Unsqueeze", ["inside", "axis"], ["places"]),
        onnx.helper.make_node("Sub", ["places", "cells"], ["offsets"]),
        onnx.helper.make_node("Abs", ["offsets"], ["distances"]),
        onnx.helper.make_node("Sub", ["one", "distances"], ["hats"]),
        onnx.helper.make_node("Relu", ["hats"], ["weights"]),
        onnx.helper.make_node("Split", ["weights"], ["rows", "columns"], axis=1),
        onnx.helper.make_node("Transpose", ["columns"], ["across"], perm=[0, 1, 3, 2]),
        onnx.helper.make_node("MatMul", ["features_whole", "across"], ["wide"]),
        onnx.helper.make_node("MatMul", ["rows", "wide"], ["logits"]),
    ]
    constants: Constants = {
        "first": np.float32(0), "last": np.float32(side - 1), "axis": np.array([3], np.int64),
        "cells": np.arange(side, dtype=np.float32), "one": np.float32(1),
    }  # fmt: skip
    inputs = (encoder.features("features_whole"), _spec("positions_whole", "float32", 2, tile))
    segmenter = _graph(folder, SEGMENTER, nodes, constants, inputs, _spec("logits", "float32", 3, tile, tile))
    cells = MovingCells(
        patch=Cells(stride=1, offset=0.0, count=tile), context=Cells(stride=1, offset=0.0, count=side)
    )  # fmt: skip
    context = Context(
        name="whole", factor="global", size=side, resampling="box", scene=None, encoder=encoder.role, cells=cells
    )
    spec = InputSpec(bands=3, dtype="uint8", scaling=None, ground_sample_distance=None)
    graphs = (encoder.graph(folder), segmenter)
    _write(folder, spec, TilePlan(kind="whole", overlap=0), "uniform", (context,), graphs)


@dataclass(frozen=True)
class _Encoder:
    """Cast, block means, and a 1x1 convolution: a graph of its own, or a part of the segmenter."""

    name: str
    size: int
    factor: int
    weight: NDArray[np.generic]

    @property
    def role(self) -> str:
        return f"encoder_{self.name}"

    def graph(self, folder: Path) -> GraphSpec:
        nodes = self.nodes("window", "pixels", "means", "weight", "features")
        return _graph(folder, self.role, nodes, self.constants("weight"), (self.window("window"),), self.features())

    def part(self) -> tuple[list[onnx.NodeProto], Constants, TensorSpec]:
        """What the segmenter needs to take the raw window."""
        names = [f"{part}_{self.name}" for part in ("window", "pixels", "means", "weight", "features")]
        return self.nodes(*names), self.constants(names[3]), self.window(names[0])

    def nodes(self, window: str, pixels: str, means: str, weight: str, features: str) -> list[onnx.NodeProto]:
        sides = [self.factor] * 2
        return [
            onnx.helper.make_node("Cast", [window], [pixels], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("AveragePool", [pixels], [means], kernel_shape=sides, strides=sides),
            onnx.helper.make_node("Conv", [means, weight], [features]),
        ]

    def constants(self, weight: str) -> Constants:
        return {weight: _kernel(self.weight)}

    def window(self, name: str) -> TensorSpec:
        return _spec(name, "uint8", 3, self.size, self.size)

    def features(self, name: str = "features") -> TensorSpec:
        return _spec(name, "float32", len(self.weight), self.size // self.factor, self.size // self.factor)


def _graphs(
    folder: Path,
    encoders: list[_Encoder],
    fused: bool,
    nodes: list[onnx.NodeProto],
    constants: Constants,
    inputs: tuple[TensorSpec, ...],
    output: TensorSpec,
) -> tuple[GraphSpec, ...]:
    """Encoders and segmenter, or all in the segmenter. inputs: the segmenter's, features or windows come second."""
    patch, *positions = inputs
    if not fused:
        features = [encoder.features(f"features_{encoder.name}") for encoder in encoders]
        segmenter = _graph(folder, SEGMENTER, nodes, constants, (patch, *features, *positions), output)
        return (*(encoder.graph(folder) for encoder in encoders), segmenter)
    windows = []
    for encoder in encoders:
        more_nodes, more_constants, window = encoder.part()
        nodes, constants = [*more_nodes, *nodes], {**constants, **more_constants}
        windows.append(window)
    return (_graph(folder, SEGMENTER, nodes, constants, (patch, *windows, *positions), output),)


def _patch_term() -> list[onnx.NodeProto]:
    return [
        onnx.helper.make_node("Cast", ["patch"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["pixels", "weight", "bias"], ["near_patch"]),
    ]


def _patch_constants() -> dict[str, NDArray[np.generic]]:
    return {"weight": _kernel(tiny.PATCH), "bias": tiny.BIAS.astype(np.float32)}


def _kernel(weight: NDArray[np.generic]) -> NDArray[np.float32]:
    return weight.astype(np.float32)[:, :, None, None]


def _spec(name: str, dtype: str, *sides: int, batch: int | str = BATCH) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=(batch, *sides))


def _graph(
    folder: Path,
    role: str,
    nodes: list[onnx.NodeProto],
    constants: Constants,
    inputs: tuple[TensorSpec, ...],
    output: TensorSpec,
) -> GraphSpec:
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
    return GraphSpec(
        role=role, precision="fp32", file=path.name, sha256=sha256(path), bytes=path.stat().st_size,
        inputs=inputs, outputs=(output,),
    )  # fmt: skip


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], spec.shape)


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _write(
    folder: Path,
    spec: InputSpec,
    plan: TilePlan,
    merge: str,
    contexts: tuple[Context, ...],
    graphs: tuple[GraphSpec, ...],
    sharing: SharedVerdict | None = None,
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
        sharing=sharing,
    )
    write_manifest(folder, manifest)


if __name__ == "__main__":
    main()
