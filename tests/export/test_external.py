"""The runtime's look for external data, against the library that writes ONNX files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnx")

import onnx
import onnx.helper
from google.protobuf.message import DecodeError, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from fctl.runtime.bundle.external import NoGraphError, external_tensor
from fctl.runtime.bundle.store import read_bundle, sha256
from fctl.runtime.errors import BundleError
from tests.runtime import tiny

MEMORY = "*/_ORT_MEM_ADDR_/*"
INSIDE = onnx.helper.make_tensor("inside", onnx.TensorProto.FLOAT, [3], [1, 2, 3])

Place = Callable[[onnx.ModelProto, onnx.TensorProto], object]


def elsewhere(name: str = "outside", location: str = "weights.bin") -> onnx.TensorProto:
    """A tensor whose values are in another file."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[3])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "4096", "length": "12"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def attribute(model: onnx.ModelProto) -> onnx.AttributeProto:
    return model.graph.node.add(op_type="Constant", output=["c"]).attribute.add(name="value")


def subgraph(model: onnx.ModelProto) -> onnx.GraphProto:
    """A graph in a graph in a graph."""
    inner = attribute(model).g.node.add(op_type="If").attribute.add(name="then_branch").g
    return inner


PLACES: dict[str, Place] = {
    "initialiser": lambda model, tensor: model.graph.initializer.append(tensor),
    "sparse values": lambda model, tensor: model.graph.sparse_initializer.add().values.CopyFrom(tensor),
    "sparse indices": lambda model, tensor: model.graph.sparse_initializer.add().indices.CopyFrom(tensor),
    "attribute": lambda model, tensor: attribute(model).t.CopyFrom(tensor),
    "attribute of many": lambda model, tensor: attribute(model).tensors.append(tensor),
    "sparse attribute": lambda model, tensor: attribute(model).sparse_tensor.values.CopyFrom(tensor),
    "sparse attribute of many": lambda model, tensor: attribute(model).sparse_tensors.add().indices.CopyFrom(tensor),
    "subgraph": lambda model, tensor: subgraph(model).initializer.append(tensor),
    "one of many subgraphs": lambda model, tensor: attribute(model).graphs.add().initializer.append(tensor),
    "function": lambda model, tensor: model.functions.add().node.add().attribute.add().t.CopyFrom(tensor),
    "function's default": lambda model, tensor: model.functions.add().attribute_proto.add().t.CopyFrom(tensor),
    "graph for training": lambda model, tensor: model.training_info.add().algorithm.initializer.append(tensor),
    "start of training": lambda model, tensor: model.training_info.add().initialization.initializer.append(tensor),
}


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_tensor_elsewhere_is_found_wherever_it_hides(tmp_path: Path, place: Place) -> None:
    model = onnx.load(tiny.TINY / "segmenter.onnx")
    place(model, INSIDE)
    assert external_tensor(written(tmp_path / "inside.onnx", model)) is None
    place(model, elsewhere())
    assert external_tensor(written(tmp_path / "outside.onnx", model)) == "outside"


@pytest.mark.parametrize("field", ["data_location", "external_data"])
def test_half_of_the_marks_will_do(tmp_path: Path, field: str) -> None:
    model, tensor = onnx.load(tiny.TINY / "segmenter.onnx"), elsewhere()
    tensor.ClearField(field)
    model.graph.initializer.append(tensor)
    assert external_tensor(written(tmp_path / "outside.onnx", model)) == "outside"


def test_onnx_itself_writes_what_is_found(tmp_path: Path) -> None:
    model = onnx.load(tiny.TINY / "segmenter.onnx")
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    assert external_tensor(tmp_path / "a.onnx") in {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd", MEMORY])
def test_a_bundle_with_weights_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    """An address in memory made OpenVINO crash, and any file of the machine could be named."""
    folder = tiny.variant(tiny.TINY, tmp_path, lambda document: None)
    model = onnx.load(folder / "segmenter.onnx")
    name = model.graph.initializer[0].name
    model.graph.initializer[0].CopyFrom(elsewhere(name, location))
    written(folder / "segmenter.onnx", model)
    document = json.loads((folder / "manifest.json").read_text("utf-8"))
    document["graphs"][2]["sha256"] = sha256(folder / "segmenter.onnx")
    (folder / "manifest.json").write_text(json.dumps(document), "utf-8")
    told = f"graphs[2].file: expected a graph that holds all of its weights, found tensor {name!r} with external data"
    with pytest.raises(BundleError, match=re.escape(told)):
        read_bundle(folder)


def tensors_of(message: Message) -> Iterator[onnx.TensorProto]:
    """All tensors of a message, as the library sees them."""
    if isinstance(message, onnx.TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type:
            repeated = [value] if isinstance(value, Message) else value
            for one in repeated:
                yield from tensors_of(one)


def mixed(places: list[tuple[str, bool]]) -> onnx.ModelProto:
    """A model with tensors in many places, some of which lie elsewhere."""
    model = onnx.ModelProto()
    for index, (name, outside) in enumerate(places):
        PLACES[name](model, elsewhere(f"outside{index}") if outside else INSIDE)
    return model


@settings(deadline=None, max_examples=200)
@given(places=st.lists(st.tuples(st.sampled_from(list(PLACES)), st.booleans()), max_size=8))
def test_the_library_agrees(tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, bool]]) -> None:
    model = mixed(places)
    outside = {tensor.name for tensor in tensors_of(model) if tensor.data_location == onnx.TensorProto.EXTERNAL}
    assert len(outside) == sum(elsewhere for _, elsewhere in places)
    content = model.SerializeToString()
    if content:
        path = tmp_path_factory.getbasetemp() / "mixed.onnx"
        path.write_bytes(content)
        found = external_tensor(path)
        assert found in outside if outside else found is None


@settings(deadline=None, max_examples=1000)
@given(
    places=st.lists(st.tuples(st.sampled_from(list(PLACES)), st.booleans()), min_size=1, max_size=3),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6),
    end=st.integers(1, 1 << 16),
)
def test_no_damage_hides_a_tensor_that_the_library_would_follow(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, bool]], changes: list[tuple[int, int]], end: int
) -> None:
    content = bytearray(mixed(places).SerializeToString())
    for place, byte in changes:
        content[place % len(content)] = byte
    content = content[: 1 + end % len(content)] if end % 3 == 0 else content
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        model = onnx.ModelProto.FromString(bytes(content))
    except DecodeError:
        model = onnx.ModelProto()
    followed = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_of(model))
    try:
        found = external_tensor(path)
    except NoGraphError:
        return
    assert found is not None or not followed
