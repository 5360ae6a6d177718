"""What graphs give out on real patches: peaks, histograms, and what layers cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

import onnx
import onnx.shape_inference
import onnxruntime as ort
from onnx import helper
from onnx.numpy_helper import from_array

from fctl.calib import watch
from fctl.calib.macs import macs
from fctl.calib.plain import plain
from fctl.calib.ranges import BINS, Histogram
from fctl.calib.sample import sample_patches, shipped_images
from fctl.calib.watch import histograms, peaks, types_of
from fctl.runtime.bundle.manifest import SEGMENTER, GraphSpec
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.errors import BundleError
from fctl.runtime.segment.batches import PatchBatch

from ..conftest import write_geotiff
from ..runtime import tiny

Array = NDArray[Any]
Values = dict[str, dict[str, list[Array]]]
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
SEEN = (tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FIXED, tiny.TINY_GLOBAL_FUSED, "default")


def patches(bundle: Bundle, folder: Path, count: int) -> list[PatchBatch]:
    """Of the shipped images, or of noise in the bundle's bands."""
    spec = bundle.manifest.input
    if (spec.bands, spec.dtype) == (3, "uint8"):
        return sample_patches(bundle.manifest, shipped_images(), count, seed=0)
    pixels = np.random.default_rng(0).integers(0, 200, (64, 64, spec.bands)).astype(spec.dtype)
    return sample_patches(bundle.manifest, [write_geotiff(folder / "noise.tif", pixels)], count, seed=0)


def computed(bundle: Bundle, batches: Sequence[PatchBatch]) -> Values:
    """By role and tensor, all fp32 values of all patches: what ONNX Runtime gives when asked for every tensor."""
    found: Values = {}
    paths = {graph.role: bundle.folder / graph.file for graph in bundle.manifest.graphs}
    sessions = {role: whole_graph(onnx.load(path)) for role, path in paths.items()}

    def run(role: str, inputs: dict[str, Array]) -> dict[str, Array]:
        names = [value.name for value in sessions[role].get_outputs()]
        made = dict(zip(names, sessions[role].run(names, inputs), strict=True))
        for name, values in {**inputs, **made}.items():
            if values.dtype == np.float32:
                found.setdefault(role, {}).setdefault(name, []).append(values)
        return made

    for batch in batches:
        inputs = {"patch": batch.patch.repeat(bundle.manifest.fixed_batch or 1, axis=0)}
        for context in bundle.manifest.contexts:
            window = batch.pixels_of(context.name)
            inputs[context.input] = run(context.encoder, {"window": window})["features"] if context.encoder else window
            if context.cells:
                inputs[context.positions] = batch.positions[context.name]
        run(SEGMENTER, inputs)
    return found


def whole_graph(model: Any) -> Any:
    """A session with every fp32 tensor as an output."""
    given = {value.name for value in (*model.graph.input, *model.graph.output, *model.graph.initializer)}
    types = types_of(onnx.shape_inference.infer_shapes(model))
    made = [name for node in model.graph.node for name in node.output if name not in given and types[name] == FLOAT]
    model.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for name in made)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def one_graph(model: Any, folder: Path) -> Bundle:
    """tiny_plain.fctl with another segmenter."""
    bundle = read_bundle(tiny.TINY_PLAIN)
    onnx.save(model, folder / "net.onnx")
    graph = replace(bundle.manifest.graphs[0], file="net.onnx")
    return Bundle(folder, replace(bundle.manifest, graphs=(graph,)))


def batch_of(patch: Array) -> PatchBatch:
    return PatchBatch(tiles=(), patch=patch, contexts={}, shared={}, positions={})


def net(nodes: list[Any], shape: tuple[Any, ...], weights: Mapping[str, Array], kind: int = FLOAT) -> Any:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("patch", kind, shape)],
        [helper.make_tensor_value_info("logits", FLOAT, None)],
        [from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("source", SEEN, ids=lambda source: Path(source).stem)
def test_histograms_are_those_of_all_values(
    source: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_SAMPLED", 2**30)
    bundle = read_bundle(source)
    batches = patches(bundle, tmp_path, 2)
    expected = computed(bundle, batches)
    found = histograms(bundle, iter(batches), peaks(bundle, iter(batches), inputs=True), expected)
    found = {role: tensors for role, tensors in found.items() if role not in bundle.manifest.shared_roles}
    assert {role: set(tensors) for role, tensors in found.items()} == {r: set(t) for r, t in expected.items()}
    assert any(name.startswith(("features_", "positions_")) for name in found[SEGMENTER]) == (
        len(bundle.manifest.contexts) > 0
    )
    for role, tensors in expected.items():
        for name, runs in tensors.items():
            _assert_counted(found[role][name], np.concatenate([run.ravel() for run in runs]))


def _assert_counted(found: Histogram, values: Array) -> None:
    """Optimised differently, graphs differ in the last digits: values so near to an edge may lie on either side."""
    sizes = np.sort(np.abs(values[values != 0]).astype(np.float64))
    assert found.peak == pytest.approx(sizes.max(initial=0), rel=1e-5)
    assert found.counts.sum() == pytest.approx(len(sizes), rel=1e-4)
    beyond = np.cumsum(found.counts[::-1])[::-1][1:]
    edges, slack = found.peak * np.arange(1, BINS) / BINS, 1e-5 * found.peak
    assert (beyond >= len(sizes) - np.searchsorted(sizes, edges + slack)).all()
    assert (beyond <= len(sizes) - np.searchsorted(sizes, edges - slack)).all()


@pytest.mark.parametrize("source", [tiny.TINY, tiny.TINY_GLOBAL], ids=lambda source: source.stem)
def test_the_order_of_patches_changes_nothing(source: Path, tmp_path: Path) -> None:
    bundle = read_bundle(source)
    batches = patches(bundle, tmp_path, 5)
    measured = peaks(bundle, batches, inputs=True)
    assert peaks(bundle, batches[::-1], inputs=True) == measured
    forward, backward = (histograms(bundle, order, measured, measured) for order in (batches, batches[::-1]))
    halves = [histograms(bundle, part, measured, measured) for part in (batches[:2], batches[2:])]
    for role, tensors in forward.items():
        for name, histogram in tensors.items():
            assert histogram.counts.any(), name
            np.testing.assert_array_equal(histogram.counts, backward[role][name].counts)
            np.testing.assert_array_equal(histogram.counts, sum(half[role][name].counts for half in halves))


def test_inputs_have_peaks_only_where_asked(tmp_path: Path) -> None:
    """fp16 graphs are made from those without: an input's peak would keep its readers in fp32."""
    bundle = read_bundle(tiny.TINY_GLOBAL)
    batches = patches(bundle, tmp_path, 3)
    usual, more = peaks(bundle, batches), peaks(bundle, batches, inputs=True)
    added = {role: set(more[role]) - set(usual[role]) for role in more}
    assert added == {"encoder_global": set(), SEGMENTER: {"features_global", "positions_global"}}
    assert all(more[role][name] == peak for role, tensors in usual.items() for name, peak in tensors.items())
    assert more[SEGMENTER]["features_global"] == usual["encoder_global"]["features"]
    assert more[SEGMENTER]["positions_global"] == max(np.abs(batch.positions["global"]).max() for batch in batches)


def test_only_what_is_asked_for_is_counted(tmp_path: Path) -> None:
    bundle = read_bundle(tiny.TINY)
    batches = patches(bundle, tmp_path, 1)
    found = histograms(bundle, batches, peaks(bundle, batches), {SEGMENTER: ["pixels"]})
    assert {role: set(tensors) for role, tensors in found.items()} == {
        "encoder_medium": set(), "encoder_large": set(), SEGMENTER: {"pixels"}
    }  # fmt: skip


def test_plain_graphs_keep_the_names_of_what_is_watched() -> None:
    bundle = read_bundle("default")
    for graph in bundle.manifest.graphs:
        model = onnx.load(bundle.folder / graph.file)
        made = {name for node in model.graph.node for name in node.output}
        after = plain(model, graph.file, "int8")
        read = {node.input[0] for node in after.graph.node if node.op_type == "Conv"}
        assert read and read <= made | {value.name for value in model.graph.input}


class Spy:
    """A session that remembers how many elements each run gave out."""

    def __init__(self, session: Any) -> None:
        self._session, self.given = session, list[dict[str, Array]]()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        outputs: list[Array] = self._session.run(names, inputs)
        self.given.append(dict(zip(names, outputs, strict=True)))
        return outputs


def huge(count: int, side: int) -> Any:
    """A chain of `count` tensors (N, 3, side, 2 side), and their mean."""
    names = ["patch", *(f"t{i}" for i in range(count))]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    nodes.append(helper.make_node("GlobalAveragePool", [names[-1]], ["logits"]))
    return net(nodes, ("N", 3, side, 2 * side), {})


def test_of_large_tensors_a_sample_is_given_out(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    side, count = 1000, 6
    bundle = one_graph(huge(count, side), tmp_path)
    values = rng.normal(size=(1, 3, side, 2 * side)).astype(np.float32)
    values[0, 1] *= 0.01
    values[..., : side // 2] *= 3
    spies: list[Spy] = []
    load = watch.load_session
    monkeypatch.setattr(watch, "load_session", lambda model: spies.append(Spy(load(model))) or spies[-1])
    batches = [batch_of(values)]
    tensors = ["patch", *(f"t{i}" for i in range(count))]
    found = histograms(bundle, batches, peaks(bundle, batches, inputs=True), {SEGMENTER: tensors})[SEGMENTER]
    (given,) = spies[1].given
    assert len(given) == 1 + len(tensors)
    assert max(sample.size for sample in given.values()) <= 2**20 < values.size
    peak = float(np.abs(values).max())
    expected, _ = np.histogram(np.abs(values), BINS, (0, peak))
    for name in tensors:
        counts = found[name].counts
        assert found[name].peak == peak
        assert 2**19 < counts.sum() <= 2**20
        difference = np.cumsum(counts) / counts.sum() - np.cumsum(expected) / values.size
        assert np.abs(difference).max() < 0.005


@pytest.mark.parametrize("shape", [(1, 64, 706, 706), (1, 16384, 192), (1, 3, 768, 768), (1, 32, 128, 128), (1, 6)])
def test_samples_meet_every_row_and_channel(shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    step = watch._step(size)
    places = np.unravel_index(np.arange(0, size, step), shape)
    assert len(places[0]) <= 2**20
    assert len(places[0]) > 2**18 or step == 1
    for axis, side in enumerate(shape):
        met = np.bincount(places[axis], minlength=side)
        assert met.min() > 0.95 * met.max()


def test_values_beyond_the_peak_are_in_the_last_bin(tmp_path: Path) -> None:
    bundle = one_graph(huge(1, 4), tmp_path)
    batch = batch_of(np.full((1, 3, 4, 8), 5, np.float32))
    found = histograms(bundle, [batch], {SEGMENTER: {"t0": 2.0}}, {SEGMENTER: ["t0"]})
    assert found[SEGMENTER]["t0"].counts[-1] == found[SEGMENTER]["t0"].counts.sum() == 96


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_name(value: float, tmp_path: Path) -> None:
    bundle = one_graph(huge(1, 4), tmp_path)
    batches = [batch_of(np.full((1, 3, 4, 8), value, np.float32)), batch_of(np.zeros((1, 3, 4, 8), np.float32))]
    measured = peaks(bundle, batches)
    with pytest.raises(BundleError, match=r"net\.onnx: t0: int8 needs a finite range, found nan"):
        histograms(bundle, batches, measured, {SEGMENTER: ["t0"]})


def test_sizes_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["patch"], ["places"]),
        helper.make_node("Cast", ["places"], ["chosen"], to=FLOAT),
        helper.make_node("MatMul", ["w", "chosen"], ["logits"], name="product"),
    ]
    model = net(nodes, ("N", 3, 4, 8), {"w": np.ones((2, 4), np.float32)})
    bundle = one_graph(model, tmp_path)
    with pytest.raises(BundleError, match="expected a tensor 'chosen' of known shape, found none"):
        histograms(bundle, [], {SEGMENTER: {"chosen": 1.0}}, {SEGMENTER: ["chosen"]})
    with pytest.raises(BundleError, match="of known shape, found none"):
        macs(model)


def test_macs_are_those_counted_by_hand() -> None:
    node = helper.make_node
    shapes = {
        "dense": (8, 4, 3, 3), "grouped": (8, 2, 5, 5), "depthwise": (8, 1, 3, 3), "up": (8, 5, 2, 2),
        "gemm": (7, 30), "linear": (9, 6),
    }  # fmt: skip
    weights: dict[str, Array] = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    weights |= {"tokens": np.array([0, 8, -1]), "row": np.array([-1, 30]), "bias": np.zeros(8, np.float32)}
    nodes = [
        node("Cast", ["patch"], ["x"], to=FLOAT),
        node("Conv", ["x", "dense", "bias"], ["a"], "dense", strides=[2, 2], pads=[1] * 4),  # (8, 6, 10)
        node("Conv", ["a", "grouped"], ["b"], "grouped", group=4, pads=[2] * 4),
        node("Conv", ["b", "depthwise"], ["c"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        node("ConvTranspose", ["c", "up"], ["d"], "up", strides=[2, 2]),  # (5, 12, 20)
        node("Reshape", ["c", "tokens"], ["e"]),  # (8, 60)
        node("Transpose", ["e"], ["f"], perm=[0, 2, 1]),
        node("MatMul", ["e", "f"], ["g"], "attention"),  # (8, 8)
        node("Reshape", ["d", "row"], ["h"]),  # (40, 30)
        node("Gemm", ["h", "gemm"], ["i"], "gemm", transB=1),  # (40, 7)
        node("Gemm", ["i", "h"], ["j"], "turned", transA=1),  # (7, 30)
        node("MatMul", ["linear", "linear_input"], ["logits"], "linear"),
    ]
    weights["linear_input"] = np.zeros((6, 11), np.float32)
    expected = {
        "dense": 8 * 6 * 10 * 4 * 9, "grouped": 8 * 6 * 10 * 2 * 25, "depthwise": 8 * 6 * 10 * 9,
        "up": 8 * 6 * 10 * 5 * 4, "attention": 8 * 8 * 60, "gemm": 40 * 7 * 30, "turned": 7 * 30 * 40,
        "linear": 9 * 11 * 6,
    }  # fmt: skip
    for batch, times in (("N", 1), (1, 1)):
        model = net(nodes, (batch, 4, 12, 20), weights, UINT8)
        assert macs(model) == {name: times * count for name, count in expected.items()}


def test_macs_of_a_fixed_batch_are_of_all_of_it() -> None:
    conv = helper.make_node("Conv", ["patch", "w"], ["logits"], "conv")
    weights = {"w": np.zeros((5, 3, 1, 1), np.float32)}
    assert macs(net([conv], (3, 3, 4, 4), weights)) == {"conv": 3 * 16 * 5 * 3}


def test_macs_of_the_shipped_bundle() -> None:
    """A lite0 at 256 pixels: 0.4 G at 224, here without its last stages."""
    bundle = read_bundle("default")

    def total(graph: GraphSpec) -> int:
        return sum(macs(plain(onnx.load(bundle.folder / graph.file), graph.file, "int8")).values())

    found = {graph.role: total(graph) for graph in bundle.manifest.graphs}
    assert found["encoder_medium"] == found["encoder_large"]
    assert 0.2e9 < found["encoder_medium"] < found[SEGMENTER] < 1e9
