"""Triton repositories: the fused graph against the staged ones, and the configuration against Triton's own schema."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
from numpy.typing import NDArray

from fctl.calib.sample import sample_patches, shipped_images
from fctl.export import fuse
from fctl.export.fuse import fused_interface, fused_model, write_fused
from fctl.export.triton import model_name, triton_config, write_repository
from fctl.runtime.bundle.manifest import SEGMENTER, ClassInfo, GraphSpec, TensorSpec
from fctl.runtime.bundle.records import encode
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256, write_manifest
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import BundleError, InputError, OutputError, ParityError
from fctl.runtime.segment.host import HostNetwork

from ..runtime import tiny

BUNDLES = {
    "default": "default",
    "tiny": tiny.TINY,
    "tiny_global": tiny.TINY_GLOBAL,
    "tiny_fused": tiny.TINY_FUSED,
    "tiny_global_fused": tiny.TINY_GLOBAL_FUSED,
    "tiny_plain": tiny.TINY_PLAIN,
    "tiny_fixed": tiny.TINY_FIXED,
    "tiny_shares": tiny.TINY_SHARES,
    "tiny_whole": tiny.TINY_WHOLE,
}
STAGED = ("default", "tiny", "tiny_global", "tiny_whole")
AS_THEY_ARE = ("tiny_fused", "tiny_global_fused", "tiny_plain", "tiny_fixed", "tiny_shares")
WHOLE_GRAPHS = {"tiny": tiny.TINY_FUSED, "tiny_global": tiny.TINY_GLOBAL_FUSED}
TYPES = {"uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "float32": "TYPE_FP32"}

Arrays = dict[str, NDArray[Any]]
Served = Callable[[str], Path]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """The model's folder of a bundle's repository, written once; all share one repository."""
    repository = tmp_path_factory.mktemp("repository")
    return functools.cache(lambda name: write_repository(read_bundle(BUNDLES[name]), repository))


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's ModelConfig, from its file: the package around it needs gRPC."""
    package = pytest.importorskip("tritonclient")
    path = Path(package.__file__).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(schema: ModuleType, text: str) -> Any:
    """Strictly: an unknown field, a wrong type or a scalar given twice is an error."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse(text, schema.ModelConfig())


def tensors(fields: Any, schema: ModuleType) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(field.name, schema.DataType.Name(field.data_type), tuple(field.dims)) for field in fields]


def without_batch(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int | str, ...]]]:
    return [(spec.name, TYPES[spec.dtype], spec.shape[1:]) for spec in specs]


def raw_inputs(bundle: Bundle, batch: int) -> Arrays:
    """Real patches with their contexts, as the fused graph takes them; noise where the bundle is not for RGB."""
    manifest = bundle.manifest
    if manifest.input.bands != 3:
        random = np.random.default_rng(0)
        return {"patch": random.integers(0, 4096, (batch, 4, manifest.tile, manifest.tile), np.uint16)}
    batches = sample_patches(manifest, shipped_images(), batch, seed=1)
    arrays = {"patch": np.concatenate([one.patch for one in batches])} if manifest.sees_patch else {}
    for context in manifest.contexts:
        arrays[f"window_{context.name}"] = np.concatenate([one.pixels_of(context.name) for one in batches])
        if context.cells:
            arrays[context.positions] = np.concatenate([one.positions[context.name] for one in batches])
    return arrays


def batch_of(inputs: Arrays) -> int:
    return len(next(iter(inputs.values())))


def run(path: Path, graph: GraphSpec, inputs: Arrays) -> NDArray[Any]:
    session = choose_engine("onnxruntime", "fp32").session(path, graph, batch_of(inputs))
    return session.run(inputs)[graph.outputs[0].name]


def run_fused(path: Path, bundle: Bundle, inputs: Arrays) -> NDArray[Any]:
    ins, out = fused_interface(bundle, "fp32")
    graph = GraphSpec(role=SEGMENTER, precision="fp32", file=path.name, sha256="", inputs=ins, outputs=(out,))
    return run(path, graph, inputs)


def run_staged(bundle: Bundle, inputs: Arrays) -> NDArray[Any]:
    """As the runtime does: contexts that move are encoded one by one."""
    staged = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), batch_of(inputs))
    features = {}
    for context in bundle.manifest.contexts:
        windows = inputs[f"window_{context.name}"]
        parts = np.split(windows, len(windows)) if context.window.moves else [windows]
        features[context.name] = np.concatenate([staged.encode(context, part) for part in parts])
    positions = {name.removeprefix("positions_"): at for name, at in inputs.items() if name.startswith("positions_")}
    return staged.segment(inputs.get("patch", np.zeros(0)), features, positions)


@pytest.mark.parametrize("name", STAGED)
def test_the_fused_graph_computes_what_the_staged_ones_do(served: Served, name: str) -> None:
    bundle = read_bundle(BUNDLES[name])
    inputs = raw_inputs(bundle, 2)
    expected = run_staged(bundle, inputs)
    found = run_fused(served(name) / "1" / "model.onnx", bundle, inputs)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.ptp(expected) > 0


@pytest.mark.parametrize("name", WHOLE_GRAPHS)
def test_fusing_gives_what_the_fused_bundle_computes(served: Served, name: str) -> None:
    bundle, fused = read_bundle(BUNDLES[name]), read_bundle(WHOLE_GRAPHS[name])
    inputs = raw_inputs(bundle, 2)
    expected = run(*fused.graph(SEGMENTER, "fp32"), inputs)
    np.testing.assert_array_equal(run_fused(served(name) / "1" / "model.onnx", bundle, inputs), expected)
    assert fused_interface(bundle, "fp32") == fused_interface(fused, "fp32")


@pytest.mark.parametrize("name", WHOLE_GRAPHS)
def test_every_window_and_position_reaches_the_scores(served: Served, name: str) -> None:
    bundle = read_bundle(BUNDLES[name])
    path, inputs = served(name) / "1" / "model.onnx", raw_inputs(bundle, 2)
    scores = run_fused(path, bundle, inputs)
    for changed in inputs:
        other = run_fused(path, bundle, inputs | {changed: np.roll(inputs[changed], 1, axis=0)})
        assert np.abs(other - scores).max() > 1e-3 * np.abs(scores).max(), changed


@pytest.mark.parametrize("name", BUNDLES)
def test_the_served_graph_has_the_tensors_that_are_told(served: Served, name: str) -> None:
    model = onnx.load(served(name) / "1" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    inputs, output = fused_interface(read_bundle(BUNDLES[name]), "fp32")
    for value, spec in zip((*model.graph.input, *model.graph.output), (*inputs, output), strict=True):
        kind = value.type.tensor_type
        shape = tuple(side.dim_param or side.dim_value for side in kind.shape.dim)
        found = (value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), shape)
        assert found == (spec.name, spec.dtype, spec.shape)


def test_opset_and_ir_version_stay_what_they_were(served: Served) -> None:
    model = onnx.load(served("default") / "1" / "model.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    tiny_model = fused_model(read_bundle(tiny.TINY))
    assert [(entry.domain, entry.version) for entry in tiny_model.opset_import] == [("", 17)]
    assert tiny_model.ir_version == 8


@pytest.mark.parametrize("name", AS_THEY_ARE)
def test_a_graph_that_is_fused_already_is_served_as_it_is(served: Served, name: str) -> None:
    path, graph = read_bundle(BUNDLES[name]).graph(SEGMENTER, "fp32")
    assert sha256(served(name) / "1" / "model.onnx") == graph.sha256 == sha256(path)


def test_an_encoder_that_serves_two_contexts_is_stored_once(tmp_path: Path) -> None:
    bundle = shared_encoder(tmp_path / "shared.fctl")
    model = fused_model(bundle)
    used = {name for node in model.graph.node for name in node.input}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(stored) <= used
    assert sum(values.shape == (64, 3, 5, 5) for values in stored.values()) == 1
    staged = sum((bundle.folder / graph.file).stat().st_size for graph in bundle.manifest.graphs)
    assert model.ByteSize() < 1.1 * staged
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and "/wide" in node.output[0]]
    assert len(convolutions) == 2

    path = tmp_path / "fused.onnx"
    write_fused(bundle, path)
    inputs = raw_inputs(bundle, 2)
    expected = run_staged(bundle, inputs)
    assert np.abs(run_fused(path, bundle, inputs) - expected).max() <= 1e-5 * np.abs(expected).max()
    swapped = inputs | {"window_medium": inputs["window_large"], "window_large": inputs["window_medium"]}
    assert np.abs(run_fused(path, bundle, swapped) - expected).max() > 1e-3 * np.abs(expected).max()


class OneBatch:
    """Noise to quantize a graph with, as ONNX Runtime's quantizer reads it."""

    def __init__(self, graph: GraphSpec) -> None:
        random = np.random.default_rng(0)
        shapes = {one: (1, *(int(side) for side in one.shape[1:])) for one in graph.inputs}
        self.left = [{one.name: (255 * random.random(shape)).astype(one.dtype) for one, shape in shapes.items()}]

    def get_next(self) -> Arrays | None:
        return self.left.pop() if self.left else None


def test_int8_graphs_are_fused_too(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    bundle, graphs = shared_encoder(tmp_path / "shared.fctl"), []
    for graph in bundle.manifest.graphs:
        file = f"{graph.role}.int8.onnx"
        quantization.quantize_static(bundle.folder / graph.file, bundle.folder / file, OneBatch(graph))
        graphs.append(replace(graph, precision="int8", file=file, sha256=sha256(bundle.folder / file), bytes=None))
    bundle = Bundle(bundle.folder, replace(bundle.manifest, graphs=(*bundle.manifest.graphs, *graphs)))
    write_fused(bundle, tmp_path / "fused.onnx", precision="int8")
    kinds = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def shared_encoder(folder: Path) -> Bundle:
    """tiny.fctl with contexts of one size, both encoded by one graph with 4800 weights."""
    random = np.random.default_rng(0)
    folder.mkdir()
    window, features = spec("window", "uint8", 3, 16, 16), spec("features", "float32", 2, 4, 4)
    encoder = [
        onnx.helper.make_node("Cast", ["window"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["pixels", "kernel"], ["wide"], pads=[2] * 4, strides=[4, 4]),
        onnx.helper.make_node("Conv", ["wide", "narrow"], ["features"]),
    ]
    weights = {"kernel": random.normal(size=(64, 3, 5, 5)), "narrow": random.normal(size=(2, 64, 1, 1))}
    near, far = (spec(f"features_{name}", "float32", 2, 4, 4) for name in ("medium", "large"))
    patch, logits = spec("patch", "uint8", 3, 16, 16), spec("logits", "float32", 3, 16, 16)
    segmenter = [
        onnx.helper.make_node("Cast", ["patch"], ["pixels"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Conv", ["features_medium", "medium"], ["near"]),
        onnx.helper.make_node("Conv", ["features_large", "large"], ["far"]),
        onnx.helper.make_node("Sum", ["pixels", "near", "far"], ["logits"]),
    ]
    readers = {name: random.normal(size=(3, 2, 4, 4)) for name in ("medium", "large")}
    graphs = (
        save(folder / "encoder.onnx", encoder, weights, (window,), features),
        save(folder / "segmenter.onnx", segmenter, readers, (patch, near, far), logits),
    )
    manifest = read_bundle(tiny.TINY).manifest
    contexts = tuple(replace(context, size=16, encoder="encoder") for context in manifest.contexts)
    write_manifest(folder, replace(manifest, contexts=contexts, graphs=graphs))
    return read_bundle(folder)


def spec(name: str, dtype: str, *sides: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=("N", *sides))


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    inputs: tuple[TensorSpec, ...],
    output: TensorSpec,
) -> GraphSpec:
    kinds = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}
    ins, (out,) = (
        [onnx.helper.make_tensor_value_info(one.name, kinds[one.dtype], one.shape) for one in specs]
        for specs in (inputs, (output,))
    )
    stored = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, path.stem, ins, [out], stored)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    return GraphSpec(
        role=path.stem, precision="fp32", file=path.name, sha256=sha256(path), inputs=inputs, outputs=(output,)
    )


@pytest.mark.parametrize("name", BUNDLES)
def test_the_config_says_what_the_manifest_does(served: Served, schema: ModuleType, name: str) -> None:
    manifest, folder = read_bundle(BUNDLES[name]).manifest, served(name)
    config = parsed(schema, (folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert config.name == folder.name == manifest.name
    assert (config.backend, config.platform) == ("onnxruntime", "")
    contexts = manifest.contexts
    expected = {
        "patch": ("patch", TYPES[manifest.input.dtype], (manifest.input.bands, manifest.tile, manifest.tile)),
        **{
            f"window_{context.name}": (f"window_{context.name}", "TYPE_UINT8", (3, context.size, context.size))
            for context in contexts
        },
        **{
            context.positions: (context.positions, "TYPE_FP32", (2, context.cells.patch.count))
            for context in contexts
            if context.cells
        },
    }
    expected = expected if manifest.sees_patch else dict(list(expected.items())[1:])
    scores = (manifest.scores, "TYPE_FP32", (len(manifest.classes), manifest.tile, manifest.tile))
    if manifest.fixed_batch is None:
        assert config.max_batch_size == 8
        assert tensors(config.input, schema) == list(expected.values())
        assert tensors(config.output, schema) == [scores]
        assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
        assert 0 < config.dynamic_batching.max_queue_delay_microseconds <= 5000
        assert list(config.dynamic_batching.preferred_batch_size) == []
        assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    assert [output.label_filename for output in config.output] == [""]
    assert [(group.kind, group.count) for group in config.instance_group] == [(schema.ModelInstanceGroup.KIND_AUTO, 1)]
    for sample in config.model_warmup:
        told = {field.name: (field.data_type, list(field.dims), "zero_data") for field in config.input}
        warm = {
            key: (one.data_type, list(one.dims), one.WhichOneof("input_data_type"))
            for key, one in sample.inputs.items()
        }
        assert warm == told


def test_a_fixed_batch_is_an_axis_like_the_others(served: Served, schema: ModuleType) -> None:
    config = parsed(schema, (served("tiny_fixed") / "config.pbtxt").read_text(encoding="utf-8"))
    assert config.max_batch_size == 0
    assert tensors(config.input, schema) == [("patch", "TYPE_UINT16", (3, 4, 16, 16))]
    assert tensors(config.output, schema) == [("logits", "TYPE_FP32", (3, 2, 16, 16))]
    assert config.WhichOneof("scheduling_choice") is None
    assert [sample.batch_size for sample in config.model_warmup] == [1]


@pytest.mark.parametrize("name", ["default", "tiny_global"])
def test_parameters_tell_a_client_how_to_cut_and_merge(served: Served, schema: ModuleType, name: str) -> None:
    manifest = read_bundle(BUNDLES[name]).manifest
    config = parsed(schema, (served(name) / "config.pbtxt").read_text(encoding="utf-8"))
    found = {key: json.loads(value.string_value) for key, value in config.parameters.items()}
    contexts = found.pop("fctl_contexts")
    assert found == {
        "fctl_name": manifest.name,
        "fctl_checkpoint_sha256": manifest.provenance.checkpoint_sha256,
        "fctl_precision": "fp32",
        "fctl_classes": list(manifest.class_names),
        "fctl_tile": manifest.tile,
        "fctl_plan": {"kind": manifest.plan.kind, "overlap": manifest.plan.overlap},
        "fctl_merge": manifest.merge,
    }
    assert [{**context, "encoder": None} for context in contexts] == [
        encode(replace(context, encoder=None)) for context in manifest.contexts
    ]


def test_any_name_survives_the_text(schema: ModuleType) -> None:
    bundle = read_bundle(tiny.TINY_PLAIN)
    names = ('a "quoted" \\ name\n', "Gewässer \u2028\x01{")
    classes = tuple(ClassInfo(name=name, colour=(0, 0, 0)) for name in names)
    odd = Bundle(bundle.folder, replace(bundle.manifest, name="../städte v1.2", classes=classes))
    config = parsed(schema, triton_config(odd, precision="fp32", max_batch=4, tensorrt=False))
    assert json.loads(config.parameters["fctl_classes"].string_value) == list(names)
    assert json.loads(config.parameters["fctl_name"].string_value) == "../städte v1.2"
    assert config.name == model_name(odd.manifest) == "st_dte_v1_2"
    assert model_name(replace(odd.manifest, name="..")) == "model"


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1]), (3, [1, 3])])
def test_the_largest_batch_is_the_one_asked_for(schema: ModuleType, batch: int, sizes: list[int]) -> None:
    text = triton_config(read_bundle(tiny.TINY), precision="fp32", max_batch=batch, tensorrt=False)
    config = parsed(schema, text)
    assert config.max_batch_size == batch
    assert [sample.batch_size for sample in config.model_warmup] == sizes


def test_a_plan_is_served_in_place_of_the_graph(schema: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "fused.plan").write_bytes(b"a plan")
    bundle = read_bundle(tiny.TINY)
    folder = write_repository(bundle, tmp_path / "repository", plan=tmp_path / "fused.plan")
    assert sorted(path.name for path in folder.rglob("*")) == ["1", "config.pbtxt", "model.plan"]
    assert (folder / "1" / "model.plan").read_bytes() == b"a plan"
    config = parsed(schema, (folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert (config.backend, config.platform) == ("", "tensorrt_plan")
    assert tensors(config.input, schema) == without_batch(fused_interface(bundle, "fp32")[0])
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU


def test_a_model_that_exists_is_not_touched_and_others_may_be_there(tmp_path: Path) -> None:
    write_repository(read_bundle(tiny.TINY_PLAIN), tmp_path)
    before = (tmp_path / "tiny_plain" / "config.pbtxt").stat()
    with pytest.raises(OutputError, match="tiny_plain exists already; choose another `out`, or remove it"):
        write_repository(read_bundle(tiny.TINY_PLAIN), tmp_path, max_batch=2)
    assert (tmp_path / "tiny_plain" / "config.pbtxt").stat() == before
    write_repository(read_bundle(tiny.TINY_SHARES), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny_plain", "tiny_shares"]


def test_a_fused_graph_that_differs_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(bundle: Bundle, precision: str) -> onnx.ModelProto:
        model = fused_model(bundle)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "medium/weight")
        tensor.CopyFrom(onnx.numpy_helper.from_array(1.001 * onnx.numpy_helper.to_array(tensor), tensor.name))
        return model

    monkeypatch.setattr(fuse, "fused_model", damaged)
    with pytest.raises(
        ParityError, match=r"differs from its staged ones: .* export the network anew, with `graph` fused"
    ):
        write_repository(read_bundle(tiny.TINY), tmp_path / "repository")
    assert list(tmp_path.iterdir()) == []


def test_graphs_of_two_opsets_cannot_be_fused(tmp_path: Path) -> None:
    bundle = shared_encoder(tmp_path / "mixed.fctl")
    path = bundle.folder / "encoder.onnx"
    model = onnx.load(path)
    model.opset_import[0].version = 19
    onnx.save(model, path)
    with pytest.raises(BundleError, match=r"graphs of encoder and segmenter cannot be fused: .*different operator set"):
        write_repository(bundle, tmp_path / "repository")
    assert [path.name for path in tmp_path.iterdir()] == ["mixed.fctl"]


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        (tiny.TINY, {"max_batch": 0}, "`max_batch`: expected at least 1, found 0"),
        (tiny.TINY, {"plan": Path("none.plan")}, "`plan`: expected a TensorRT plan of the fused graph, found no file"),
        (tiny.TINY_PLAIN, {"plan": Path(__file__)}, "`plan`: TensorRT takes no uint16"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_repository(read_bundle(bundle), tmp_path / "repository", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_precision_that_the_bundle_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no int8 graph.*--precision int8 --calib IMAGES --out"):
        write_repository(read_bundle(tiny.TINY), tmp_path / "repository", precision="int8")
    assert list(tmp_path.iterdir()) == []
