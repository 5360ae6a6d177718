from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from numpy.typing import NDArray

from fctl.calib.sample import sample_patches, shipped_images
from fctl.export import pipeline
from fctl.export.card import ExportOptions
from fctl.export.graphs import frozen, round_weights
from fctl.export.pipeline import export_bundle
from fctl.export.verify import MAX_ERROR, MIN_AGREEMENT, WEAK_CONTEXT, Reference, Samples, verify
from fctl.model.network import FCtL
from fctl.runtime.bundle.manifest import SEGMENTER, Manifest, Parity
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import CheckpointError, InputError, OutputError, ParityError
from fctl.runtime.segment.host import HostNetwork

from ..model.helpers import LARGE, MEDIUM, WHOLE, WIDE, build, inputs, lively, save_small, small_config

CONFIGS = {
    "separate": small_config(),
    "global": small_config(stage="s8", contexts=(MEDIUM, WHOLE)),
    "shared": small_config(stage="s8", contexts=(MEDIUM, LARGE), encoders="shared"),
    "plain": small_config(contexts=(), lcf=None, ale=None),
    "half": small_config(stage="s8", contexts=(WIDE,)),
}
OPTIONS = {
    "half": ExportOptions(
        half_weights=True, classes=("land", "water", "road"), licence="MIT", ground_sample_distance=0.25
    )
}
CONTEXTS = [(case, name) for case, config in CONFIGS.items() for name in config.context_names]


@dataclass(frozen=True)
class Exported:
    network: FCtL
    manifest: Manifest
    bundle: Bundle

    @property
    def parity(self) -> Parity:
        return self.manifest.parity[0]

    def models(self) -> list[onnx.ModelProto]:
        return [onnx.load(self.bundle.folder / graph.file) for graph in self.manifest.graphs]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Bundles of random networks in which every context matters; each is exported once, when first asked for."""
    done: dict[str, Exported] = {}

    def get(case: str) -> Exported:
        if case not in done:
            folder, network = tmp_path_factory.mktemp(case), lively(CONFIGS[case])
            checkpoint = save_small(folder / "checkpoint.pt", network)
            manifest = export_bundle(checkpoint, folder / f"{case}.fctl", OPTIONS.get(case, ExportOptions()))
            done[case] = Exported(network, manifest, read_bundle(folder / f"{case}.fctl"))
        return done[case]

    return get


def windows_for(manifest: Manifest, batch: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]:
    """Random patches, and contexts of which shared ones are the same for the whole batch."""
    random = np.random.default_rng(0)
    patch = random.integers(0, 256, (batch, 3, manifest.tile, manifest.tile), np.uint8)
    contexts = {
        context.name: random.integers(
            0, 256, (1 if context.window.shared else batch, 3, context.size, context.size), np.uint8
        )
        for context in manifest.contexts
    }
    return patch, contexts


def positions_for(case: str, batch: int) -> dict[str, NDArray[np.float32]]:
    return {name: value.numpy() for name, value in inputs(CONFIGS[case], batch=batch)[2].items()}


def segment(case: str, bundle: Bundle, batch: int, engine: str = "onnxruntime") -> NDArray[np.float32]:
    """Logits of 3 patches, `batch` at a time."""
    staged = HostNetwork(bundle, choose_engine(engine, "fp32"), batch)
    (patch, windows), positions = windows_for(bundle.manifest, 3), positions_for(case, 3)
    shared = {context.name for context in bundle.manifest.contexts if context.window.shared}
    logits = []
    for start in range(0, 3, batch):
        part = slice(start, start + batch)
        features = {
            context.name: np.repeat(staged.encode(context, windows[context.name]), batch, axis=0)
            if context.name in shared
            else staged.encode(context, windows[context.name][part])
            for context in bundle.manifest.contexts
        }
        logits.append(staged.segment(patch[part], features, {name: at[part] for name, at in positions.items()}))
    return np.concatenate(logits)


def in_torch(case: str, network: FCtL, manifest: Manifest) -> NDArray[np.float32]:
    (patch, windows), positions = windows_for(manifest, 3), positions_for(case, 3)
    contexts = {name: torch.from_numpy(np.repeat(window, 3 // len(window), 0)) for name, window in windows.items()}
    with torch.inference_mode():
        logits = network(
            torch.from_numpy(patch), contexts, {name: torch.from_numpy(at) for name, at in positions.items()}
        )
    return logits.numpy()  # type: ignore[no-any-return]


def relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", CONFIGS)
def test_parity_passes_and_is_recorded(exported: Callable[[str], Exported], case: str) -> None:
    parity = exported(case).parity
    assert 0 < parity.max_error < MAX_ERROR
    assert parity.agreement >= MIN_AGREEMENT
    assert parity.patches == 8
    assert parity.source == "the images shipped with fctl"
    assert parity.classes


@pytest.mark.parametrize("case", CONFIGS)
def test_the_manifest_is_read_as_it_was_written(exported: Callable[[str], Exported], case: str) -> None:
    found = exported(case)
    assert found.bundle.manifest == found.manifest
    assert found.manifest.name == case


@pytest.mark.parametrize(
    ("case", "licence", "distance", "names"),
    [
        ("separate", "CC0-1.0", 0.5, ("class 0", "class 1", "class 2")),
        ("half", "MIT", 0.25, ("land", "water", "road")),
    ],
)
def test_the_manifest_says_what_the_checkpoint_does_unless_told_otherwise(
    exported: Callable[[str], Exported], case: str, licence: str, distance: float, names: tuple[str, ...]
) -> None:
    manifest = exported(case).manifest
    assert manifest.provenance.licence == licence
    assert manifest.input.ground_sample_distance == distance
    assert manifest.class_names == names
    assert [info.colour for info in manifest.classes] == [(0, 100, 200), (50, 100, 200), (100, 100, 200)]
    assert manifest.extensions == {"training": {"data": "none", "steps": 0}}


@pytest.mark.parametrize(
    ("case", "roles"),
    [
        ("separate", ["encoder_medium", "encoder_medium_128", "encoder_large", "encoder_large_128", SEGMENTER]),
        ("global", ["encoder_medium", "encoder_medium_128", "encoder_whole", SEGMENTER]),
        ("shared", ["encoder", "encoder_128", SEGMENTER]),
        ("plain", [SEGMENTER]),
        ("half", ["encoder_wide", "encoder_wide_192", SEGMENTER]),
    ],
)
def test_every_encoder_is_one_graph(exported: Callable[[str], Exported], case: str, roles: list[str]) -> None:
    """And another one for the larger windows in which centred contexts are encoded once a raster."""
    found = exported(case)
    assert [graph.role for graph in found.manifest.graphs] == roles
    names = {path.name for path in found.bundle.folder.iterdir()}
    assert names == {"manifest.json", "check.npz", *(f"{role}.onnx" for role in roles)}


def test_a_global_context_takes_positions(exported: Callable[[str], Exported]) -> None:
    graph = exported("global").bundle.graph(SEGMENTER, "fp32")[1]
    assert {spec.name: (spec.dtype, spec.shape) for spec in graph.inputs} == {
        "patch": ("uint8", ("N", 3, 64, 64)),
        "features_medium": ("float32", ("N", 16, 8, 8)),
        "features_whole": ("float32", ("N", 16, 8, 8)),
        "positions_whole": ("float32", ("N", 2, 8)),
    }
    assert {spec.name: spec.shape for spec in graph.outputs} == {"logits": ("N", 3, 64, 64)}


@pytest.mark.parametrize("case", CONFIGS)
def test_graphs_use_only_what_every_engine_knows(exported: Callable[[str], Exported], case: str) -> None:
    for model in exported(case).models():
        assert {entry.domain: entry.version <= 20 for entry in model.opset_import} == {"": True}
        assert model.ir_version <= 10
        assert len(model.functions) == 0
        operators = {node.op_type for node in model.graph.node}
        assert not operators & {"BatchNormalization", "Identity", "Shape", "Pad", "Dropout", "If", "Loop"}


@pytest.mark.parametrize("case", CONFIGS)
def test_the_batch_is_symbolic_and_nothing_else(exported: Callable[[str], Exported], case: str) -> None:
    for model in exported(case).models():
        for value in (*model.graph.input, *model.graph.output):
            batch, *sides = value.type.tensor_type.shape.dim
            assert batch.dim_param == "N"
            assert all(side.dim_value > 0 for side in sides)


@pytest.mark.parametrize("case", CONFIGS)
def test_graphs_hold_nothing_that_is_not_used(exported: Callable[[str], Exported], case: str) -> None:
    for model in exported(case).models():
        used = {name for node in model.graph.node for name in node.input}
        stored = [tensor.name for tensor in model.graph.initializer]
        assert [name for name in stored if name not in used] == []
        assert len(set(stored)) == len(stored)
        outputs = {output.name for output in model.graph.output}
        assert [n.name for n in model.graph.node if not any(o in used | outputs for o in n.output)] == []


@pytest.mark.parametrize("case", CONFIGS)
def test_graphs_tell_nothing_of_the_machine_that_made_them(exported: Callable[[str], Exported], case: str) -> None:
    for model in exported(case).models():
        content = model.SerializeToString()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize(("case", "name"), CONTEXTS)
def test_every_context_reaches_the_logits(exported: Callable[[str], Exported], case: str, name: str) -> None:
    found = exported(case)
    assert {effect.name: effect.change > WEAK_CONTEXT for effect in found.parity.contexts}[name]
    staged = HostNetwork(found.bundle, choose_engine("onnxruntime", "fp32"), 3)
    patch, _ = windows_for(found.manifest, 3)
    random = np.random.default_rng(1)
    features = {
        spec.name.removeprefix("features_"): random.normal(size=(3, *spec.shape[1:])).astype(np.float32)
        for spec in found.bundle.graph(SEGMENTER, "fp32")[1].inputs
        if spec.name.startswith("features_")
    }
    positions = positions_for(case, 3)
    logits = staged.segment(patch, features, positions)
    swapped = staged.segment(patch, features | {name: np.roll(features[name], 1, axis=0)}, positions)
    assert relative_error(swapped, logits) >= 10 * MAX_ERROR


def test_positions_reach_the_logits(exported: Callable[[str], Exported]) -> None:
    found = exported("global")
    staged = HostNetwork(found.bundle, choose_engine("onnxruntime", "fp32"), 3)
    (patch, windows), positions = windows_for(found.manifest, 3), positions_for("global", 3)
    encoded = {context.name: staged.encode(context, windows[context.name]) for context in found.manifest.contexts}
    features = {name: np.repeat(known, 3 // len(known), axis=0) for name, known in encoded.items()}
    logits = staged.segment(patch, features, positions)
    moved = staged.segment(patch, features, {"whole": np.roll(positions["whole"], 1, axis=0)})
    assert relative_error(moved, logits) >= MAX_ERROR


@pytest.mark.parametrize("case", CONFIGS)
def test_a_batch_of_3_equals_3_batches_of_1(exported: Callable[[str], Exported], case: str) -> None:
    bundle = exported(case).bundle
    assert relative_error(segment(case, bundle, 3), segment(case, bundle, 1)) < 1e-5


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", [case for case in CONFIGS if case != "half"])
def test_engines_compute_what_torch_does(exported: Callable[[str], Exported], case: str, engine: str) -> None:
    pytest.importorskip(engine)
    found = exported(case)
    expected = in_torch(case, found.network, found.manifest)
    assert relative_error(segment(case, found.bundle, 3, engine), expected) < 1e-4


@pytest.mark.parametrize("case", ["separate", "global", "shared"])
def test_freezing_a_network_changes_nothing(case: str) -> None:
    network = lively(CONFIGS[case])
    before = copy.deepcopy(network.state_dict())
    with torch.inference_mode():
        folded, original = (n(*inputs(CONFIGS[case])) for n in (frozen(network), network))
        torch.testing.assert_close(folded, original, rtol=1e-4, atol=1e-4 * float(original.abs().max()))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_half_weights_are_those_of_the_rounded_network(exported: Callable[[str], Exported]) -> None:
    found = exported("half")
    assert found.parity.max_error <= 1e-5
    assert found.parity.original_agreement is not None
    assert 0.9 < found.parity.original_agreement <= 1
    assert found.parity.reference.endswith("weights rounded to fp16")
    rounded = frozen(found.network)
    round_weights(rounded)
    expected = in_torch("half", rounded, found.manifest)
    assert relative_error(segment("half", found.bundle, 3), expected) <= 1e-5
    assert relative_error(in_torch("half", found.network, found.manifest), expected) > 1e-5


def test_half_weights_are_stored_in_half_the_space(exported: Callable[[str], Exported]) -> None:
    found = exported("half")
    halves, singles = 0, 0
    for model in found.models():
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            halves += values.size if values.dtype == np.float16 else 0
            singles += values.size if values.dtype == np.float32 else 0
    assert halves > 20 * singles
    assert sum(p.numel() for p in found.network.parameters()) * 0.9 < halves


def test_fp32_weights_are_not_halved(exported: Callable[[str], Exported]) -> None:
    found = exported("separate")
    kinds = {tensor.data_type for model in found.models() for tensor in model.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds
    assert found.parity.original_agreement is None


def test_a_context_that_is_cut_off_fails_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    network = lively(small_config(stage="s8", ale=None, encoders="shared"))
    torch.nn.init.zeros_(network.lcf.attention["large"].value.weight)  # type: ignore[union-attr, arg-type]
    checkpoint = save_small(tmp_path / "cut.pt", network)
    with pytest.raises(ParityError, match="context 'large' is not wired in") as caught:
        export_bundle(checkpoint, tmp_path / "cut.fctl", ExportOptions())
    assert "medium" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_damaged_weights_fail_parity(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    found = exported("shared")
    folder = shutil.copytree(found.bundle.folder, tmp_path / "damaged.fctl")
    _check(Bundle(folder, found.manifest), found.network)
    _double_one_weight(folder / found.bundle.graph(SEGMENTER, "fp32")[1].file)
    with pytest.raises(ParityError, match=r"max \|difference\| / max \|logit\|: expected at most 0.001, found"):
        _check(Bundle(folder, found.manifest), found.network)


def test_weights_of_another_network_fail_parity(exported: Callable[[str], Exported]) -> None:
    found = exported("shared")
    with pytest.raises(ParityError, match="pixels of the same class"):
        _check(found.bundle, lively(CONFIGS["shared"], seed=1))


def test_logits_that_are_not_numbers_fail_parity(exported: Callable[[str], Exported]) -> None:
    found = exported("shared")
    broken = copy.deepcopy(found.network)
    torch.nn.init.constant_(broken.decoder.score.bias, float("nan"))  # type: ignore[union-attr, arg-type]
    with pytest.raises(ParityError, match="found nan"):
        _check(found.bundle, broken)


def test_one_image_is_enough_to_verify_a_global_context(exported: Callable[[str], Exported]) -> None:
    found = exported("global")
    batches = sample_patches(found.manifest, shipped_images()[:1], 3, seed=0)
    parity = verify(
        found.bundle, reference_to(found.manifest, found.network), Samples(batches=batches, source="one image")
    )
    assert all(effect.change > WEAK_CONTEXT for effect in parity.contexts)


def reference_to(manifest: Manifest, network: FCtL) -> Reference:
    return Reference(name="PyTorch", scores=pipeline.in_torch(manifest, network), original=None)


def _check(bundle: Bundle, network: FCtL) -> Parity:
    batches = sample_patches(bundle.manifest, shipped_images(), 3, seed=0)
    return verify(bundle, reference_to(bundle.manifest, network), Samples(batches=batches, source="shipped"))


def _double_one_weight(path: Path) -> None:
    model = onnx.load(path)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == conv.input[1])
    tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, path)


def test_an_output_that_exists_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "old.fctl"
    out.mkdir()
    (out / "kept").touch()
    with pytest.raises(OutputError, match=r"old\.fctl exists already"):
        export_bundle(tmp_path / "checkpoint.pt", out, ExportOptions())
    assert [path.name for path in out.iterdir()] == ["kept"]


def test_another_architecture_names_the_settings_that_differ(tmp_path: Path) -> None:
    checkpoint = save_small(tmp_path / "small.pt", build(CONFIGS["plain"]))
    message = "differs from fctl-lite0 in patch, contexts, channels, lcf, ale, decoder_channels; leave out `arch`"
    with pytest.raises(CheckpointError, match=message):
        export_bundle(checkpoint, tmp_path / "out.fctl", ExportOptions(arch="fctl-lite0"))


@pytest.mark.parametrize(
    "options",
    [ExportOptions(), ExportOptions(arch="fctl-lite0"), ExportOptions(classes=("land", "water"))],
    ids=["neither", "no classes", "no arch"],
)
def test_bare_weights_need_an_architecture_and_classes(tmp_path: Path, options: ExportOptions) -> None:
    torch.save(build(CONFIGS["plain"]).state_dict(), tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match="give `arch` and `classes`"):
        export_bundle(tmp_path / "bare.pt", tmp_path / "out.fctl", options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (ExportOptions(arch="fctl-lite0", classes=("a", "b", "c")), CheckpointError, "the weights do not fit"),
        (ExportOptions(arch="fctl-lite0", classes=("a", "b")), InputError, "scores 3 classes, found 2 names"),
        (ExportOptions(arch="vgg", classes=("a", "b")), InputError, "`arch`: unknown architecture 'vgg'"),
        (ExportOptions(arch="fctl-lite0", classes=("a",)), InputError, "classes must be at least 2, found 1"),
    ],
)
def test_bare_weights_must_fit_what_was_said(
    tmp_path: Path, options: ExportOptions, error: type[Exception], message: str
) -> None:
    torch.save(build(CONFIGS["plain"]).state_dict(), tmp_path / "bare.pt")
    with pytest.raises(error, match=message):
        export_bundle(tmp_path / "bare.pt", tmp_path / "out.fctl", options)
    assert not (tmp_path / "out.fctl").exists()


def test_class_names_must_be_as_many_as_classes(tmp_path: Path) -> None:
    checkpoint = save_small(tmp_path / "small.pt", build(CONFIGS["plain"]))
    with pytest.raises(InputError, match="`classes`: expected 3 names, found 2"):
        export_bundle(checkpoint, tmp_path / "out.fctl", ExportOptions(classes=("land", "water")))


def test_graphs_are_described_as_they_are(exported: Callable[[str], Exported]) -> None:
    found = exported("separate")
    path, graph = found.bundle.graph("encoder_large", "fp32")
    assert path == found.bundle.folder / "encoder_large.onnx"
    assert [(spec.name, spec.dtype, spec.shape) for spec in graph.inputs] == [("window", "uint8", ("N", 3, 64, 64))]
    assert [(spec.name, spec.dtype, spec.shape) for spec in graph.outputs] == [("features", "float32", ("N", 16, 4, 4))]
    with pytest.raises(ValueError, match="holds no fp32 graph 'encoder_tiny'"):
        found.bundle.graph("encoder_tiny", "fp32")
