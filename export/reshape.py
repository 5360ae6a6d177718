"""Graphs for images of another size: a graph whose weights do not depend on the size is one for any."""

from __future__ import annotations

from pathlib import Path

import onnx

from fctl.runtime.bundle.manifest import GraphSpec, TensorSpec
from fctl.runtime.bundle.store import sha256
from fctl.runtime.errors import BundleError


def reshaped(path: Path, graph: GraphSpec, side: int, cells: int, out: Path) -> GraphSpec:
    """Write an encoder's graph for windows of another side.

    Args:
        path: The graph, which takes ``window`` (N, bands, S, S) and gives ``features`` (N, C, h, w).
        graph: What the manifest says of it.
        side: The side of the windows that are wanted, in pixels.
        cells: How many cells the features must have along either axis.
        out: The file to write; its stem becomes the graph's role.

    Returns:
        What a manifest says of the new graph.

    Raises:
        BundleError: Something in the graph depends on the size.
    """
    model = onnx.load(path)
    (window,), (features,) = model.graph.input, model.graph.output
    _set_sides(window, side)
    _set_sides(features, cells)
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise BundleError(
            "something in this graph depends on the size of its window", subject=path.name,
            remedy="export the checkpoint again: this version writes graphs of both sizes",
        ) from error  # fmt: skip
    onnx.save(model, out)
    inputs, outputs = (tuple(map(_spec, values)) for values in (model.graph.input, model.graph.output))
    return GraphSpec(
        role=out.stem, precision=graph.precision, file=out.name, sha256=sha256(out), bytes=out.stat().st_size,
        inputs=inputs, outputs=outputs,
    )  # fmt: skip


def _set_sides(value: onnx.ValueInfoProto, side: int) -> None:
    for axis in value.type.tensor_type.shape.dim[2:]:
        axis.dim_value = side


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    shape = tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return TensorSpec(name=value.name, dtype=str(dtype), shape=shape)
