"""The passes over a traced graph change how it is written, not what it computes."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
import onnx.helper
import onnxruntime as ort

from fctl.export.onnx_graph import spell_out_softmax

SHAPE = (2, 3, 8, 5, 5)


def softmax(axis: int) -> onnx.ModelProto:
    """A softmax amid other nodes."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Neg", ["x"], ["logits"], name="before"),
            onnx.helper.make_node("Softmax", ["logits"], ["weights"], name="node_softmax", axis=axis),
            onnx.helper.make_node("Neg", ["weights"], ["y"], name="after"),
        ],
        "softmax",
        [value("x", onnx.TensorProto.FLOAT, SHAPE)],
        [value("y", onnx.TensorProto.FLOAT, SHAPE)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto, x: object) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


@pytest.mark.parametrize("axis", [0, 1, 3, -2])
def test_a_softmax_over_another_axis_is_five_steps(axis: int) -> None:
    model = softmax(axis)
    spelled = copy.deepcopy(model)
    spell_out_softmax(spelled)
    onnx.checker.check_model(spelled, full_check=True)
    steps = ["Neg", "ReduceMax", "Sub", "Exp", "ReduceSum", "Div", "Neg"]
    assert [node.op_type for node in spelled.graph.node] == steps
    x = np.random.default_rng(0).normal(0, 30, SHAPE).astype(np.float32)  # whose exponentials would overflow
    np.testing.assert_allclose(run(spelled, x), run(model, x), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("axis", [-1, 4])
def test_a_softmax_over_the_last_axis_stays(axis: int) -> None:
    """Engines fuse it into attention."""
    model = softmax(axis)
    spelled = copy.deepcopy(model)
    spell_out_softmax(spelled)
    assert spelled == model
