"""The runtime's look into ONNX files, against the library that writes them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnx")

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.numpy_helper
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.parts.mutants import mutants
from fctl.runtime.bundle.arities import arity, operators
from fctl.runtime.bundle.graphs import DEEPEST, read_graph
from fctl.runtime.bundle.protobuf import NoGraphError
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


def external_of(path: Path) -> str | None:
    return read_graph(path).external


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_tensor_elsewhere_is_found_wherever_it_hides(tmp_path: Path, place: Place) -> None:
    model = onnx.load(tiny.TINY / "segmenter.onnx")
    place(model, INSIDE)
    assert external_of(written(tmp_path / "inside.onnx", model)) is None
    place(model, elsewhere())
    assert external_of(written(tmp_path / "outside.onnx", model)) == "outside"


@pytest.mark.parametrize("field", ["data_location", "external_data"])
def test_half_of_the_marks_will_do(tmp_path: Path, field: str) -> None:
    model, tensor = onnx.load(tiny.TINY / "segmenter.onnx"), elsewhere()
    tensor.ClearField(field)
    model.graph.initializer.append(tensor)
    assert external_of(written(tmp_path / "outside.onnx", model)) == "outside"


def test_onnx_itself_writes_what_is_found(tmp_path: Path) -> None:
    model = onnx.load(tiny.TINY / "segmenter.onnx")
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    assert external_of(tmp_path / "a.onnx") in {tensor.name for tensor in model.graph.initializer}


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
        found = external_of(path)
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
        found = external_of(path)
    except NoGraphError:
        return
    assert found is not None or not followed


# Graphs that hold something else than a network


def nested(model: onnx.ModelProto, depth: int) -> None:
    graph = model.graph
    for _ in range(depth):
        graph = graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        graph.name = "branch"


def first(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def with_attribute(kind: str, name: str, *numbers: int) -> Callable[[onnx.ModelProto], object]:
    def change(model: onnx.ModelProto) -> None:
        node = first(model, kind)
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, list(numbers))])

    return change


def spoilt(field: str, value: object) -> Callable[[onnx.ModelProto], object]:
    """Change the first tensor, of float32 (3, 3, 1, 1)."""

    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        if field == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)  # type: ignore[arg-type]
        elif field == "float_data":
            tensor.float_data.extend(value)  # type: ignore[arg-type]
        else:
            setattr(tensor, field, value)

    return change


def a_sparse_tensor(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(INSIDE)


def a_function_of_its_own(model: onnx.ModelProto) -> None:
    first(model, "Conv").domain = "own"
    model.opset_import.add(domain="own", version=1)
    made = onnx.helper.make_function(
        "own", "Conv", ["x", "w", "b"], ["y"], [onnx.helper.make_node("Evil", ["x"], ["y"], domain="evil")], []
    )
    model.functions.append(made)


FAULTS: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "too few bytes": (spoilt("raw_data", b"1234"), "with 4 bytes, expected 36 for float32 (3, 3, 1, 1)"),
    "too many bytes": (spoilt("raw_data", bytes(40)), "with 40 bytes, expected 36 for float32 (3, 3, 1, 1)"),
    "no bytes": (lambda model: model.graph.initializer[0].ClearField("raw_data"), "with no values for float32"),
    "values twice": (spoilt("float_data", [1.0]), "with values in another form than float32 has"),
    "a negative side": (spoilt("dims", [-3, -3, 1, 1]), "with the shape (-3, -3, 1, 1)"),
    "a shape that overflows": (spoilt("dims", [1 << 31, 1 << 31, 4, 1]), "with the shape (2147483648, 2147483648,"),
    "a shape beyond memory": (spoilt("dims", [1 << 30, 1 << 30, 1, 1]), "with the shape (1073741824, 1073741824,"),
    "an unknown type": (spoilt("data_type", 99), "with elements of the unknown type 99"),
    "a stranger's operator": (
        lambda model: setattr(first(model, "Conv"), "domain", "evil.plugins"), "the operator 'Conv' of 'evil.plugins'",
    ),
    "an operator in a function": (a_function_of_its_own, "the operator 'Evil' of 'evil'"),
    "an operator that reads files": (
        lambda model: model.graph.node.add(op_type="EPContext", domain="com.microsoft"), "no opset of com.microsoft",
    ),
    "an unknown operator": (lambda model: setattr(first(model, "Conv"), "op_type", "No"), "the operator 'No'"),
    "a convolution of nothing": (lambda model: first(model, "Conv").ClearField("input"), "'Conv' of 0 inputs"),
    "an input left out": (
        lambda model: first(model, "Conv").input.__setitem__(0, ""), "'Conv' of 3 inputs (0 there) and 1 outputs",
    ),
    "a gap in a list": (
        lambda model: first(model, "Sum").input.append(""), "an operator 'Sum' whose input 4 is left out",
    ),
    "an ancient opset": (lambda model: setattr(model.opset_import[0], "version", 1), "opset 1"),
    "no opset": (lambda model: model.ClearField("opset_import"), "and no opset of ai.onnx"),
    "two opsets": (lambda model: model.opset_import.add(domain="ai.onnx", version=9), "two opsets of"),
    "a stride of nothing": (with_attribute("Conv", "strides", 0, 0), "an attribute 'strides' of 'Conv' beyond 1 to"),
    "a kernel beyond memory": (with_attribute("Conv", "kernel_shape", 1 << 40, 1), "'kernel_shape' of 'Conv' beyond"),
    "another type": (
        lambda model: setattr(first(model, "Cast").attribute[0], "type", onnx.AttributeProto.TENSOR),
        "an attribute 'to' of 'Cast' that is not of its type",
    ),
    "a value twice": (lambda model: model.graph.node.add().CopyFrom(model.graph.node[0]), "two values"),
    "a sparse tensor": (a_sparse_tensor, "a sparse tensor"),
    "training": (lambda model: model.training_info.add().algorithm.ParseFromString(b""), "a graph for training"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "found"), FAULTS.values(), ids=FAULTS)
def test_a_graph_that_could_harm_an_engine_is_refused(
    tmp_path: Path, change: Callable[[onnx.ModelProto], object], found: str
) -> None:
    folder = tiny.variant(tiny.TINY, tmp_path, lambda document: None)
    model = onnx.load(folder / "segmenter.onnx")
    change(model)
    line = refused(folder, model)
    assert found in line and "graphs[2].file: expected a graph of operators" in line


def refused(folder: Path, model: onnx.ModelProto) -> str:
    """The error of a bundle whose segmenter is replaced, though the manifest has its hash."""
    written(folder / "segmenter.onnx", model)
    document = json.loads((folder / "manifest.json").read_text("utf-8"))
    document["graphs"][2]["sha256"] = sha256(folder / "segmenter.onnx")
    (folder / "manifest.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800
    return str(caught.value)


def test_graphs_in_graphs_have_an_end(tmp_path: Path) -> None:
    folder = tiny.variant(tiny.TINY, tmp_path, lambda document: None)
    model = onnx.load(folder / "segmenter.onnx")
    nested(model, DEEPEST)
    assert read_graph(written(tmp_path / "deep.onnx", model)).inputs.keys() == {i.name for i in model.graph.input}
    model = onnx.load(folder / "segmenter.onnx")
    nested(model, DEEPEST + 1)
    assert f"found graphs nested deeper than {DEEPEST}" in refused(folder, model)


def test_nodes_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fctl.runtime.bundle.graphs.MOST_NODES", 4)
    with pytest.raises(NoGraphError, match="more than 4 nodes"):
        read_graph(tiny.TINY / "segmenter.onnx")


def test_a_part_that_is_there_twice_is_no_graph(tmp_path: Path) -> None:
    """Libraries would join the two, and this reader would not."""
    content = (tiny.TINY / "segmenter.onnx").read_bytes()
    (tmp_path / "twice.onnx").write_bytes(content + content)
    with pytest.raises(NoGraphError):
        read_graph(tmp_path / "twice.onnx")


KINDS = [number for number in onnx.TensorProto.DataType.values() if 0 < number <= 26]  # float6 is not known to engines


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: onnx.TensorProto.DataType.Name(kind).lower())
@pytest.mark.parametrize("sides", [(), (0, 3), (5,), (2, 3)])
@pytest.mark.parametrize("raw", [False, True])
def test_every_way_to_store_a_tensor_is_known(tmp_path: Path, kind: int, sides: tuple[int, ...], raw: bool) -> None:
    """As the library stores it; one value less is a fault."""
    dtype, text = onnx.helper.tensor_dtype_to_np_dtype(kind), kind == onnx.TensorProto.STRING
    count = int(np.prod(sides))
    values = [b"x"] * count if text else np.ones(sides, dtype)
    if raw and text:
        pytest.skip("texts have no raw form")
    if raw:
        tensor = onnx.numpy_helper.from_array(np.asarray(values), "t")
    else:
        tensor = onnx.helper.make_tensor("t", kind, sides, np.asarray(values).ravel().tolist() if not text else values)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    assert read_graph(written(tmp_path / "whole.onnx", model)).fault is None
    model.graph.initializer[0].dims[:] = [100]
    assert "tensor 't' with" in str(read_graph(written(tmp_path / "less.onnx", model)).fault)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 1 << 30))
@example(839226273)  # of which the library takes nothing: it is damaged where nobody looks
def test_the_reader_reads_what_the_library_reads(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Of graphs that are damaged at random: what passes, the library reads with the same inputs, or refuses.

    The reader skips what it does not ask for, and a library that reads all refuses a file that is damaged there.
    """
    bundle = read_bundle([tiny.TINY, tiny.TINY_FUSED, tiny.TINY_FLOAT][seed % 3])
    model = onnx.load(bundle.folder / bundle.manifest.segmenter.file)
    path = tmp_path_factory.getbasetemp() / "mutant.onnx"
    for _, content in itertools.islice(mutants(model, seed), 3):
        path.write_bytes(content)
        try:
            found = read_graph(path)
        except NoGraphError:
            continue
        if found.fault is None and found.external is None:
            try:
                read = onnx.ModelProto.FromString(content)
            except DecodeError:
                continue
            constants = {tensor.name for tensor in read.graph.initializer}
            assert found.inputs.keys() == {value.name for value in read.graph.input} - constants
            assert found.outputs.keys() == {value.name for value in read.graph.output}
            for tensor in tensors_of(read):
                onnx.numpy_helper.to_array(tensor)


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_the_table_of_operators_is_that_of_the_libraries(domain: str) -> None:
    if domain:
        state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
        schemas = [one for one in state.get_all_operator_schema() if one.domain == domain]
        assert operators(domain).isdisjoint({"EPContext", "BeamSearch", "Tokenizer"})
    else:
        schemas = [one for one in onnx.defs.get_all_schemas_with_history() if not one.domain and one.since_version < 29]
        assert {one.name for one in schemas} == operators(domain)
    for schema in schemas:
        known = arity(domain, schema.name, schema.since_version)
        if known is not None:
            inputs, outputs = known
            assert (inputs.start, min(inputs.stop - 1, 9999)) == (schema.min_input, min(schema.max_input, 9999))
            assert (outputs.start, min(outputs.stop - 1, 9999)) == (schema.min_output, min(schema.max_output, 9999))
