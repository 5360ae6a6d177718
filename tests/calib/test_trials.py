"""What trials say of int8 layers is what the bundle would compute with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

import onnx

from fctl.calib.network import GraphNetwork
from fctl.calib.plain import plain
from fctl.calib.quantise import quantised
from fctl.calib.trials import Fp32Graphs, Numbers, Trials
from fctl.calib.watch import peaks
from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import BundleError
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.host import HostNetwork

from ..runtime import tiny
from .test_watch import patches

Names = Mapping[str, Sequence[str]]
Ids = NDArray[Any]

MEDIUM, LARGE, GLOBAL = "encoder_medium", "encoder_large", "encoder_global"
CLIPPED = 0.6  # of the largest value: tiny networks lose little else
CHOSEN: tuple[tuple[Path, Names], ...] = (
    (tiny.TINY, {MEDIUM: ["Conv_2"]}),
    (tiny.TINY, {SEGMENTER: ["Conv_1", "Conv_4"]}),
    (tiny.TINY, {MEDIUM: ["Conv_2"], LARGE: ["Conv_2"], SEGMENTER: ["Conv_2"]}),
    (tiny.TINY_GLOBAL, {GLOBAL: ["Conv_2"]}),
    (tiny.TINY_GLOBAL, {GLOBAL: ["Conv_2"], SEGMENTER: ["Conv_1", "Conv_4"]}),
    (tiny.TINY_FUSED, {SEGMENTER: ["Conv_2", "Conv_7"]}),
    (tiny.TINY_GLOBAL_FUSED, {SEGMENTER: ["Conv_2", "Conv_4", "Conv_7"]}),
    (tiny.TINY_FIXED, {SEGMENTER: ["Conv_1"]}),
    (tiny.TINY_SHARES, {SEGMENTER: ["Conv_1", "Conv_3"]}),
)


def numbers_of(graphs: Fp32Graphs, batches: Sequence[PatchBatch]) -> Numbers:
    """Ranges that clip, and some bias for every layer."""
    largest = peaks(graphs.bundle, batches, inputs=True)
    amax = {
        role: {layer.input: CLIPPED * largest[role][layer.input] for layer in layers}
        for role, layers in graphs.layers.items()
    }
    biases = {}
    for role, layers in graphs.layers.items():
        channels = {tensor.name: tensor.dims[0] for tensor in graphs.models[role].graph.initializer}
        biases[role] = {layer.name: np.linspace(-2, 3, channels[layer.weight], dtype=np.float32) for layer in layers}
    return Numbers(amax=amax, biases=biases)


def segmented(bundle: Bundle, batches: Sequence[PatchBatch]) -> Ids:
    """Class ids of all patches, through the runtime."""
    network = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), 1)
    found = []
    for batch in batches:
        features = {
            context.name: network.encode(context, batch.pixels_of(context.name)) for context in bundle.manifest.contexts
        }
        patch = batch.patch.repeat(network.batch, axis=0)
        found.append(network.segment(patch, features, batch.positions)[0].argmax(0))
    return np.stack(found)


def written(bundle: Bundle, chosen: Names, numbers: Numbers, folder: Path) -> Bundle:
    """The bundle with other graphs: those with Q/DQ."""
    graphs = []
    for graph in bundle.manifest.graphs:
        names = chosen.get(graph.role, ())
        model = plain(onnx.load(bundle.folder / graph.file), graph.file, "int8")
        biases = {name: numbers.biases[graph.role][name] for name in names}
        onnx.save(quantised(model, names, numbers.amax[graph.role], biases), folder / graph.file)
        graphs.append(graph)
    return Bundle(folder, replace(bundle.manifest, graphs=tuple(graphs)))


@pytest.mark.parametrize(
    ("source", "chosen"), CHOSEN, ids=lambda value: getattr(value, "stem", None) or "+".join(value)
)
def test_agreement_is_that_of_the_bundle_written_out(source: Path, chosen: Names, tmp_path: Path) -> None:
    bundle = read_bundle(source)
    graphs, batches = Fp32Graphs.of(bundle), patches(bundle, tmp_path, 4)
    numbers, trials = numbers_of(graphs, batches), Trials(graphs, batches)
    same = segmented(written(bundle, chosen, numbers, tmp_path), batches) == segmented(bundle, batches)
    assert len(trials) == 4
    assert trials.agreement(chosen, numbers) == same.mean() < 1
    assert trials.agreement(chosen, numbers, 1) == same[0].mean()
    assert trials.agreement(chosen, numbers, 3) == same[:3].mean()
    worst, kept = trials.worst(chosen, numbers), same.mean(axis=(1, 2))
    assert (worst.kept / worst.fp32.size, worst.kept) == (kept.min(), (worst.fp32 == worst.int8).sum())
    assert kept[worst.number] == kept.min() and np.array_equal(worst.pixels, batches[worst.number].patch[0])
    assert trials.agreement(chosen, numbers) == same.mean()  # nothing is left of what was tried before


def test_classes_are_counted_as_the_bundle_written_out_has_them(tmp_path: Path) -> None:
    bundle = read_bundle(tiny.TINY)
    graphs, batches = Fp32Graphs.of(bundle), patches(bundle, tmp_path, 4)
    chosen, numbers = {MEDIUM: ["Conv_2"], SEGMENTER: ["Conv_2"]}, numbers_of(graphs, batches)
    fp32, int8 = segmented(bundle, batches), segmented(written(bundle, chosen, numbers, tmp_path), batches)
    trials = Trials(graphs, batches)
    expected = [[((fp32 == a) & (int8 == b)).sum() for b in range(3)] for a in range(3)]
    found = trials.confusion(chosen, numbers).counts
    np.testing.assert_array_equal(found[:3, :3], expected)
    assert found.shape == (4, 4) and found[3].sum() == found[:, 3].sum() == 0
    assert np.trace(found) < found.sum() == fp32.size
    np.testing.assert_array_equal(trials.confusion({}, numbers).counts, np.diag(found.sum(1)))


@pytest.mark.parametrize("source", [tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FIXED], ids=lambda source: source.stem)
def test_without_int8_layers_all_pixels_agree(source: Path, tmp_path: Path) -> None:
    """Whatever is known of others."""
    bundle = read_bundle(source)
    graphs, batches = Fp32Graphs.of(bundle), patches(bundle, tmp_path, 2)
    trials = Trials(graphs, iter(batches))
    for chosen in ({}, {SEGMENTER: ()}):
        assert trials.agreement(chosen, numbers_of(graphs, batches)) == 1.0


def test_a_fixed_batch_is_filled_with_the_patch(tmp_path: Path) -> None:
    bundle = read_bundle(tiny.TINY_FIXED)
    (batch,) = patches(bundle, tmp_path, 1)
    assert GraphNetwork(read_bundle(tiny.TINY_PLAIN).manifest, {}).filled(batch) is batch
    found = GraphNetwork(bundle.manifest, {}).filled(batch)
    np.testing.assert_array_equal(found.patch, np.concatenate([batch.patch] * 3))
    assert (found.tiles, found.contexts, found.positions) == (batch.tiles * 3, batch.contexts, batch.positions)


# Layers, and what they cost


def test_layers_by_role() -> None:
    graphs = Fp32Graphs.of(read_bundle(tiny.TINY))
    assert graphs.names == {MEDIUM: {"Conv_2"}, LARGE: {"Conv_2"}, SEGMENTER: {"Conv_1", "Conv_2", "Conv_4"}}
    assert [layer.input for layer in graphs.layers[SEGMENTER]] == ["pixels", "features_medium", "features_large"]
    assert graphs.work({MEDIUM: ["Conv_2"]}) == 4 * 4 * 2 * 3
    assert graphs.work({LARGE: ["Conv_2"], SEGMENTER: ["Conv_1", "Conv_2"]}) == 4 * 4 * 2 * 3 + 16 * 16 * 9 + 4 * 4 * 6
    assert (graphs.work({}), graphs.share({})) == (0, 0.0)
    assert graphs.share(graphs.names) == 1.0


def test_an_encoder_counts_for_each_context_that_it_encodes() -> None:
    bundle = read_bundle(tiny.TINY)
    contexts = tuple(replace(context, encoder=MEDIUM) for context in bundle.manifest.contexts)
    kept = tuple(graph for graph in bundle.manifest.graphs if graph.role != LARGE)
    graphs = Fp32Graphs.of(Bundle(bundle.folder, replace(bundle.manifest, contexts=contexts, graphs=kept)))
    assert graphs.work({MEDIUM: ["Conv_2"]}) == 2 * 96
    assert graphs.share({MEDIUM: ["Conv_2"]}) == 2 * 96 / (2 * 96 + 2304 + 2 * 96)


def test_products_that_stay_float_are_part_of_the_work() -> None:
    graphs = Fp32Graphs.of(read_bundle("default"))
    left = {role: graphs.macs[role].keys() - names for role, names in graphs.names.items()}
    assert set(left) == {MEDIUM, LARGE, SEGMENTER} and graphs.work(left) > 0
    assert graphs.work(left) + graphs.work(graphs.names) == sum(sum(macs.values()) for macs in graphs.macs.values())
    assert 0.9 < graphs.share(graphs.names) < 1


def test_graphs_of_other_precisions_are_left_alone() -> None:
    bundle = read_bundle(tiny.TINY)
    halves = tuple(replace(graph, precision="fp16", file="absent.onnx") for graph in bundle.manifest.graphs)
    both = replace(bundle.manifest, graphs=(*bundle.manifest.graphs, *halves))
    assert Fp32Graphs.of(Bundle(bundle.folder, both)).names == Fp32Graphs.of(bundle).names


def test_a_graph_with_pairs_is_refused(tmp_path: Path) -> None:
    bundle = read_bundle(tiny.TINY)
    graphs, batches = Fp32Graphs.of(bundle), patches(bundle, tmp_path, 1)
    made = written(bundle, {SEGMENTER: ["Conv_1"]}, numbers_of(graphs, batches), tmp_path)
    with pytest.raises(BundleError, match="expected a graph in fp32, found QuantizeLinear"):
        Fp32Graphs.of(made)
