"""The parts of a graph that decide what stays in fp32: nodes, constants, raw inputs, and values on real patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from fctl.calib.plain import made_by

Array = NDArray[np.generic]


@dataclass(frozen=True)
class View:
    """A graph, with what is known of its tensors.

    Attributes:
        nodes: All nodes, in order.
        made_by: The node that makes each tensor.
        constants: The initialisers, by name.
        raw: Dtypes of the inputs with raw pixels, by name.
        positions: Inputs with the positions of patches in a context.
        scores: Outputs that are no features.
        peaks: max |value| of tensors on real patches.
    """

    nodes: Sequence[onnx.NodeProto]
    made_by: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, Array]
    raw: Mapping[str, str]
    positions: frozenset[str]
    scores: frozenset[str]
    peaks: Mapping[str, float]

    def variables(self, node: onnx.NodeProto) -> list[str]:
        """Names of the inputs of a node that are no constants."""
        return [name for name in node.input if name and name not in self.constants]

    def weights(self, node: onnx.NodeProto) -> list[Array]:
        """The floating-point constants among the inputs of a node."""
        return [self.constants[n] for n in node.input if n in self.constants and self.constants[n].dtype.kind == "f"]


def view_of(model: onnx.ModelProto, peaks: Mapping[str, float]) -> View:
    """Collect what is known of a graph.

    Args:
        model: A graph made `plain`, with inputs and outputs named as docs/bundle.md says.
        peaks: max |value| of tensors on real patches.

    Returns:
        A view of the graph; its nodes are those of the model.
    """
    graph = model.graph
    types = {v.name: str(onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)) for v in graph.input}
    positions = frozenset(name for name in types if name.startswith("positions_"))
    return View(
        nodes=list(graph.node),
        made_by=made_by(graph),
        constants={tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer},
        raw={name: kind for name, kind in types.items() if name not in positions and not is_features(name)},
        positions=positions,
        scores=frozenset(value.name for value in graph.output if not is_features(value.name)),
        peaks=peaks,
    )


def is_features(name: str) -> bool:
    """Whether an input or output of a graph holds the features of a context."""
    return name == "features" or name.startswith("features_")
