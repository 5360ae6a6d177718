"""Every kind of preset, narrow and on small patches, through the whole export: staged and fused."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import onnx
import onnx.helper
import onnx.parser
import torch
from PIL import Image

from fctl.calib.sample import sample_patches, shipped_images
from fctl.export.card import ExportOptions
from fctl.export.graphs import frozen
from fctl.export.onnx_graph import compares_features
from fctl.export.pipeline import export_bundle, in_torch
from fctl.export.precision.rounding import rounding_bundle
from fctl.export.verify import Reference, Samples, Scores, tolerance_of, verify
from fctl.model.build import build
from fctl.model.config import GLOBAL
from fctl.model.presets import PRESETS, narrow, preset
from fctl.model.weights.checkpoints import load_network, read_checkpoint, save_checkpoint
from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.parity import Parity
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import ParityError
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.segmenter import Segmenter

from ..model.helpers import inputs, lively, small_card, small_preset
from . import builds

SINGLE = ("unet", "segnet-vgg16", "pspnet-r50", "deeplabv3plus-r50", "icnet-r50")
WHOLE = ("fcn8s-vgg16-whole", "unet-whole")
KINDS = ("fctl-vgg16", "fctl-mit-b0", "fcn8s-vgg16", "segformer-b0", *SINGLE, *WHOLE)  # test_release.py has the others
FUSED = ("fctl-vgg16",)


Export = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a preset as one kind of graph, once."""

    @functools.cache
    def exported(name: str, graph: str) -> Path:
        network = small_preset(name)
        if name.startswith("fctl-mit"):  # one encoder for all: tracing takes long, and there are three alike
            network = replace(network, encoders="shared")
        if name == "segformer-b0":  # at its own width: narrower heads are not fused into attention kernels
            network = replace(preset(name, classes=3).network, patch=128, decoder_channels=32)
        network = lively(network)
        serving = replace(preset(name, classes=3).serving, overlap=16 if network.config.sees_patch else 0, scene=None)
        folder = tmp_path_factory.mktemp(name)
        save_checkpoint(folder / "net.pt", replace(small_card(network.config), serving=serving), network.state_dict())
        export_bundle(folder / "net.pt", folder / "net.fctl", ExportOptions(graph=graph))  # type: ignore[arg-type]
        return folder / "net.fctl"

    return exported


@pytest.mark.parametrize("name", FUSED)
def test_staged_and_fused_agree(name: str, export: Export) -> None:
    image = np.asarray(Image.open(shipped_images()[0]))[:150, :170].copy()
    results = []
    for folder in (export(name, "staged"), export(name, "fused")):
        with Segmenter(folder, backend="onnxruntime") as segmenter:
            results.append(segmenter.segment(image, probabilities=True))
    np.testing.assert_allclose(results[0].probabilities, results[1].probabilities, atol=1e-4)
    assert (results[0].ids == results[1].ids).mean() > 0.999
    assert np.ptp(results[0].probabilities) > 0.1


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_bundle_is_one_graph(name: str, export: Export) -> None:
    manifest = read_bundle(export(name, "fused")).manifest
    contexts = preset(name, classes=3).network.context_names
    assert [graph.role for graph in manifest.graphs] == ["segmenter"]
    assert [tensor.name for tensor in manifest.segmenter.inputs] == ["patch", *(f"window_{name}" for name in contexts)]
    assert all(context.encoder is None for context in manifest.contexts)
    assert len(list(export(name, "staged").glob("*.onnx"))) == 1 + len(contexts)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("name", "graph"), [("default", "staged"), *((name, "staged") for name in KINDS), *((n, "fused") for n in FUSED)]
)
def test_the_builder_makes_of_every_layer_what_is_listed(
    name: str, graph: str, precision: Precision, export: Export, tmp_path: Path
) -> None:
    """A layer that was Half, Int8 or part of a fused attention and is not any more shows here."""
    pytest.importorskip("tensorrt_rtx")
    bundle = read_bundle("default" if name == "default" else export(name, graph))
    if precision == "fp16":
        bundle = builds.halved(bundle, tmp_path)
    if precision == "int8":
        bundle = builds.quantised(bundle, tmp_path)
    builds.assert_listed(bundle, precision, f"{name}, {graph}")


@pytest.mark.parametrize("name", KINDS)
def test_every_context_matters(name: str, export: Export) -> None:
    manifest = read_bundle(export(name, "staged")).manifest
    effects = {effect.name: effect.change for effect in manifest.parity[0].contexts}
    assert set(effects) == set(preset(name, classes=3).network.context_names)
    assert all(change > 1e-3 for change in effects.values()), effects


@pytest.mark.parametrize("name", KINDS)
def test_no_batch_norm_pad_or_shape_is_left(name: str, export: Export) -> None:
    """But for the pads that put the cells of VGG16's last stages into their frames (export/framing.py)."""
    decoding = "encoder.onnx" if name in WHOLE else "segmenter.onnx"
    for path in export(name, "staged").glob("*.onnx"):
        kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
        assert not kinds.keys() & {"BatchNormalization", "Shape", "Identity"}, (path.name, kinds)
        frames = 2 if path.name == decoding else 1
        framed = _is_framed(name) and not _is_once(path) and (name not in WHOLE or path.name == decoding)
        assert kinds["Pad"] == (frames if framed else 0), (path.name, kinds)


def test_scores_of_segnet_may_jump_and_those_of_others_may_not(export: Export) -> None:
    """Where rounding decides which of four cells is the largest, an engine has another score nearby."""
    assert _verify_jumped("segnet-vgg16", export, by=0.1).max_error > 0.05
    with pytest.raises(ParityError, match=r"expected at most 0\.001"):
        _verify_jumped("unet", export, by=0.1)
    with pytest.raises(ParityError, match=r"expected at most 0\.25"):
        _verify_jumped("segnet-vgg16", export, by=1.0)


def test_scores_of_segnet_may_jump_in_fp16_too(export: Export, tmp_path: Path) -> None:
    """A trained one keeps its classes in fp16, but not each score; random ones keep neither (docs/presets.md)."""
    for name, error in (("segnet-vgg16", 0.25), ("unet", 0.01)):
        half = builds.halved(read_bundle(export(name, "staged")), tmp_path)
        assert tolerance_of(rounding_bundle(half, "fp16", tmp_path), "fp16").error == error


def _verify_jumped(name: str, export: Export, by: float) -> Parity:
    """The parity gate of a preset against a network one pixel of which scores more, by a part of the largest score."""
    folder = export(name, "staged")
    bundle, read = read_bundle(folder), read_checkpoint(folder.parent / "net.pt")
    assert read.card is not None
    right = in_torch(bundle.manifest, load_network(read.card.network, read.state, str(folder)))

    def jumped(batch: PatchBatch) -> Scores:
        scores = right(batch).copy()
        scores[:, :, 3, 5] += by * np.abs(scores).max()
        return scores

    samples = Samples(batches=sample_patches(bundle.manifest, shipped_images(), 2, seed=0), source="shipped")
    return verify(bundle, Reference(name="PyTorch", scores=jumped, original=None), samples)


@pytest.mark.parametrize(
    ("compared", "other", "jumps"), [("x", "y", True), ("x", "zero", False), ("x", "made", False), ("n", "m", False)]
)
def test_only_graphs_that_compare_floats_with_each_other_jump(compared: str, other: str, jumps: bool) -> None:
    """Comparisons with constants, as those of a leaky ReLU, and of shapes decide nothing by rounding."""
    graph = onnx.parser.parse_graph(f"""
        g (float[2] a, float[2] b, int64[2] i, int64[2] j) => (bool[2] out) <float[1] zero = {{0}}> {{
            x = Neg(a)
            y = Neg(b)
            n = Neg(i)
            m = Neg(j)
            made = Constant<value = float[1] {{0}}>()
            out = Greater({compared}, {other})
        }}""")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    assert compares_features(model) is jumps


def _is_framed(name: str) -> bool:
    """Whether a preset pads as FCN-8s does, so that its exported encoders have frames."""
    return preset(name, classes=3).network.backbone == "vgg16"


def _is_once(graph: Path) -> bool:
    """Whether a graph encodes contexts once a raster: its windows have no padding, so that there is no frame."""
    return graph.stem.rpartition("_")[2].isdecimal()


def test_a_global_context_asks_for_positions_only_where_they_matter() -> None:
    plain = small_preset("release-deepglobe")
    assert any(context.factor == GLOBAL for context in plain.contexts)
    assert plain.placed == ()
    vgg = small_preset("fctl-vgg16")
    whole = replace(vgg, contexts=plain.contexts)
    assert whole.placed == ("large",)  # for ALE's crop
    assert whole.lcf is not None
    assert replace(whole, ale=None).placed == ()  # offsets from index to index stay the same
    assert replace(whole, ale=None, lcf=replace(whole.lcf, position="ground")).placed == ("large",)


@pytest.mark.parametrize("name", ["fctl-vgg16", "fctl-mit-b0", "segformer-b0"])
def test_the_frozen_network_computes_the_same(name: str) -> None:
    network = lively(small_preset(name))
    with torch.inference_mode():
        expected, found = network(*inputs(network.config)), frozen(network)(*inputs(network.config))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("stage", ["pool3", "pool4"])
def test_deeper_stages_can_be_computed_from_the_enhanced_one(stage: str) -> None:
    config = small_preset("fctl-vgg16")
    channels = {"pool3": 32, "pool4": 64}[stage]
    config = replace(config, stage=stage, resume=True, channels=channels)
    network = lively(config)
    patch, contexts, positions = inputs(config)
    with torch.inference_mode():
        features = {name: network.encode(name, window) for name, window in contexts.items()}
        plain = network.encoder(patch)
        enhanced = network.enhance(plain[stage], features, positions)
        stages = plain | {stage: enhanced} | network.encoder.backbone.resume(enhanced, stage)
        expected = network.decoder(stages, config.patch)
        found = network(patch, contexts, positions)
        unresumed = network.decoder(plain | {stage: enhanced}, config.patch)
    torch.testing.assert_close(found, expected)
    assert (found - unresumed).abs().max() > 1e-2 * found.abs().max()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_built_narrow(name: str) -> None:
    network = preset(name, classes=4).network
    with torch.device("meta"):
        built, thin = build(network), build(narrow(network, 1 / 8))
    assert {key for key in built.state_dict() if "neck" not in key} == set(thin.state_dict())
    assert sum(p.numel() for p in thin.parameters()) < sum(p.numel() for p in built.parameters()) / 10
