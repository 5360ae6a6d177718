"""fp32 graphs as fp16 graphs, except for what fp16 cannot hold. Needs no torch.

ONNX Runtime's converter does the conversion. It gets a list of the nodes that stay in fp32 (`EXCEPTIONS`), and the
superfluous casts that it inserts are removed afterwards (`half_casts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.defs
import onnx.numpy_helper
from onnxruntime.transformers.float16 import ALWAYS_FLOAT_INPUTS, convert_float_to_float16

from fctl.calib.plain import FLOAT, opset_of, plain
from fctl.calib.watch import types_of

from .half_casts import drop_superfluous_casts
from .half_exceptions import EXCEPTIONS
from .half_view import is_features, view_of


@dataclass(frozen=True, kw_only=True)
class Half:
    """An fp16 graph.

    Attributes:
        model: The graph.
        kept: The nodes that stayed in fp32, by the exception that named them.
    """

    model: onnx.ModelProto
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def to_half(
    model: onnx.ModelProto, origin: str, peaks: Mapping[str, float], exceptions: Sequence[str] | None = None
) -> Half:
    """Convert an fp32 graph to fp16.

    ``features`` become float16, as inputs and as outputs; raw pixels, positions and scores keep their types.

    Args:
        model: An fp32 graph of a bundle; it is not changed.
        origin: The name of the graph in error messages.
        peaks: max |value| of tensors on real patches.
        exceptions: Names in `EXCEPTIONS` of what stays in fp32; None for all of them.

    Returns:
        The fp16 graph, and what stayed in fp32.

    Raises:
        BundleError: The graph has control flow, or a tensor whose type cannot be inferred.
    """
    model = plain(model, origin, "fp16")
    view = view_of(model, peaks)
    chosen = EXCEPTIONS if exceptions is None else {name: EXCEPTIONS[name] for name in exceptions}
    kept = {name: tuple(dict.fromkeys(find(view))) for name, find in chosen.items()}
    blocked = {name for names in kept.values() for name in names} | set(_incapable(model))
    _round_constants(model, blocked)
    stay = [value.name for value in (*model.graph.input, *model.graph.output) if not is_features(value.name)]
    model = convert_float_to_float16(
        model, keep_io_types=stay, disable_shape_infer=True, op_block_list=["Cast"], node_block_list=sorted(blocked)
    )
    drop_superfluous_casts(model)
    return Half(model=model, kept={name: names for name, names in kept.items() if names})


def _incapable(model: onnx.ModelProto) -> Iterator[str]:
    """Nodes that read fp32 and cannot read fp16 instead, by ONNX's own schemas."""
    opset = opset_of(model)
    types = types_of(model)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield node.name
            continue
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        formal = [*schema.inputs, *[schema.inputs[-1]] * len(node.input)] if schema.inputs else []
        fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
        for index, (name, parameter) in enumerate(zip(node.input, formal, strict=False)):
            takes = allowed.get(parameter.type_str, [parameter.type_str])
            if types.get(name) == FLOAT and "tensor(float16)" not in takes and index not in fixed:
                yield node.name
                break


def _round_constants(model: onnx.ModelProto, blocked: set[str]) -> None:
    """Give fp32 nodes constants of their own, and round the other constants to values that fp16 holds.

    The converter would let both share a rounded constant, clip large values, and raise tiny ones to fp16's smallest.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
    stays: set[str] = set()
    halves: set[str] = set()
    for node in graph.node:
        fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
        for index, name in enumerate(node.input):
            if name in stored:
                (stays if node.name in blocked or index in fixed or node.op_type == "Cast" else halves).add(name)
    for name in sorted(stays & halves):
        graph.initializer.add().CopyFrom(stored[name])
        graph.initializer[-1].name = f"{name}/fp32"
        for node in graph.node:
            fixed = ALWAYS_FLOAT_INPUTS.get(node.op_type, [])
            for index, other in enumerate(node.input):
                if other == name and (node.name in blocked or index in fixed):
                    node.input[index] = f"{name}/fp32"
    for name in halves:
        with np.errstate(over="ignore"):
            rounded = onnx.numpy_helper.to_array(stored[name]).astype(np.float16).astype(np.float32)
        stored[name].CopyFrom(onnx.numpy_helper.from_array(rounded, name))
