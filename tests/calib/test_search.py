"""The search for layers, on losses that are made up, and how much each layer of a real bundle loses."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from hypothesis import given
from hypothesis import strategies as st

from fctl.calib.sample import sample_patches
from fctl.calib.search import _CURVE, _RETURNS, Floor, Found, Sensitivity, search, sensitivities
from fctl.calib.trials import Fp32Graphs, Names, Numbers, Trials
from fctl.calib.watch import peaks
from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.parity import ClassIou
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.segment.batches import PatchBatch

from ..conftest import write_geotiff
from ..runtime import tiny
from .test_watch import patches

Layers = Sequence[tuple[int, float]]  # multiply-accumulates and loss of each
LAYERS = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1)), max_size=30)


def graphs_of(layers: Layers, more: int = 0) -> Fp32Graphs:
    """Fp32Graphs whose layers cost so much, every third in an encoder. more: work that stays float."""
    macs: dict[str, dict[str, int]] = {SEGMENTER: {"float": more}, "encoder_medium": {}}
    for index, (count, _) in enumerate(layers):
        macs[role_of(index)][f"layer{index}"] = count
    return Fp32Graphs(bundle=read_bundle(tiny.TINY), models={}, layers={}, macs=macs)


def role_of(index: int) -> str:
    return SEGMENTER if index % 3 else "encoder_medium"


def order_of(layers: Layers) -> list[Sensitivity]:
    """As `sensitivities` has them."""
    found = [
        Sensitivity(role=role_of(index), name=f"layer{index}", macs=macs, loss=loss)
        for index, (macs, loss) in enumerate(layers)
    ]
    return sorted(found, key=lambda one: (-one.loss, one.macs, one.role, one.name))


class Additive:
    """A loss that is the sum of its layers'; remembers what it was asked."""

    def __init__(self, layers: Layers) -> None:
        self._loss = {f"layer{index}": loss for index, (_, loss) in enumerate(layers)}
        self.asked: list[frozenset[tuple[str, str]]] = []

    def __call__(self, chosen: Names) -> float:
        self.asked.append(pairs(chosen))
        return math.fsum(self._loss[name] for _, name in self.asked[-1])


def pairs(chosen: Names) -> frozenset[tuple[str, str]]:
    return frozenset((role, name) for role, names in chosen.items() for name in names)


def run(layers: Layers, budget: float, more: int = 0) -> tuple[Found, Additive]:
    loss = Additive(layers)
    return search(graphs_of(layers, more), order_of(layers), loss, budget), loss


def greedy(layers: Layers, budget: float) -> int:
    """Work of the layers that are taken, those that lose least first, until one does not fit."""
    taken, losses = 0, list[float]()
    for one in reversed(order_of(layers)):
        losses.append(one.loss)
        if math.fsum(losses) > budget:
            break
        taken += one.macs
    return taken


@given(LAYERS, st.floats(0, 5), st.integers(0, 500))
def test_no_less_than_greedily_and_never_beyond_the_budget(layers: Layers, budget: float, more: int) -> None:
    found, _ = run(layers, budget, more)
    best, work = found.best, {f"layer{index}": macs for index, (macs, _) in enumerate(layers)}
    macs = sum(work[name] for _, name in pairs(best.chosen))
    assert best.loss == Additive(layers)(best.chosen) <= budget
    assert best.share == macs / max(1, sum(work.values()) + more)
    assert macs >= greedy(layers, budget)
    assert run(layers, budget, more)[0] == found


@given(LAYERS, st.floats(0, 5))
def test_every_set_is_measured_once_and_recorded(layers: Layers, budget: float) -> None:
    found, loss = run(layers, budget)
    graphs = graphs_of(layers)
    recorded = [pairs(point.chosen) for point in found.points]
    assert len(set(recorded)) == len(recorded)
    assert [point for point in recorded if point] == loss.asked  # without layers there is nothing to measure
    for point in found.points:
        assert (point.share, point.loss) == (graphs.share(point.chosen), Additive(layers)(point.chosen))
    assert found.best in found.points
    assert len(recorded) <= 2 + math.ceil(math.log2(max(1, len(layers)))) + _RETURNS + len(_CURVE)


@given(LAYERS, st.floats(0, 1))
def test_losses_that_follow_no_rule_keep_the_budget_too(layers: Layers, budget: float) -> None:
    def loss(chosen: Names) -> float:
        return zlib.crc32(repr(sorted(pairs(chosen))).encode()) / 2**32

    found = search(graphs_of(layers), order_of(layers), loss, budget)
    best = found.best
    assert best.loss == (loss(best.chosen) if best.chosen else 0.0) <= budget


def test_all_layers_where_the_budget_allows() -> None:
    layers = [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.1)]
    found, loss = run(layers, 0.75, more=100)
    assert found.best.chosen == {SEGMENTER: {"layer1", "layer2"}, "encoder_medium": {"layer0", "layer3"}}
    assert found.best.share == 0.5
    assert len(loss.asked[0]) == 4


def test_no_layer_where_none_fits() -> None:
    found, _ = run([(10, 0.1), (20, 0.2), (30, 0.3)], 0.05)
    assert (found.best.chosen, found.best.share, found.best.loss) == ({}, 0.0, 0.0)
    found, loss = run([], 0.05)
    assert (found.best.chosen, loss.asked) == ({}, [])


def test_the_curve_is_measured_whatever_fits() -> None:
    layers = [(10, 0.01 * index) for index in range(20)]
    for budget in (0.0, 0.1, 10.0):
        found, _ = run(layers, budget)
        sizes = {sum(map(len, point.chosen.values())) for point in found.points}
        assert {20, *(round(share * 20) for share in _CURVE)} <= sizes


def test_what_left_comes_back_where_it_fits() -> None:
    """Alone they lose much, with the others nothing: that shows only when they are tried again, largest first."""
    layers = [(1000 - index, 0.5) for index in range(20)] + [(10, 0.1)]

    def loss(chosen: Names) -> float:
        return float(("encoder_medium", "layer0") in pairs(chosen))

    found = search(graphs_of(layers), order_of(layers), loss, 0.2)
    kept = {name for _, name in pairs(found.best.chosen)}
    assert kept == {"layer20", *(f"layer{index}" for index in range(1, _RETURNS))}


# Classes with a floor


def kept_by(layers: Layers, costly: str) -> Callable[[Names], ClassIou | None]:
    """A class that one layer halves; the others take what they lose."""
    loss = Additive(layers)

    def weakest(chosen: Names) -> ClassIou:
        halved = any(name == costly for _, name in pairs(chosen))
        return ClassIou(name="kelp", share=0.01, iou=0.5 if halved else max(0.0, 1 - loss(chosen)))

    return weakest


@given(LAYERS, st.floats(0, 5), st.floats(0, 1))
def test_no_point_is_taken_whose_class_keeps_too_little(layers: Layers, budget: float, least: float) -> None:
    loss, floor = Additive(layers), Floor(weakest=kept_by(layers, "layer0"), iou=least)
    found = search(graphs_of(layers), order_of(layers), loss, budget, floor)
    best = found.best
    assert best.loss <= budget
    assert best.weakest == (floor.weakest(best.chosen) if best.chosen else None)
    assert best.weakest is None or best.weakest.iou >= least
    for point in found.points:
        assert not (point.share > best.share and point.loss <= budget and point.weakest and point.weakest.iou >= least)


def test_a_layer_that_costs_a_class_is_dropped_whatever_the_budget() -> None:
    layers = [(1000, 0.01), (10, 0.001), (20, 0.002)]
    floor = Floor(weakest=kept_by(layers, "layer0"), iou=0.9)
    found = search(graphs_of(layers), order_of(layers), Additive(layers), 1.0, floor)
    assert {name for _, name in pairs(found.best.chosen)} == {"layer1", "layer2"}
    lost = max(found.points, key=lambda point: point.share)
    assert (lost.loss, lost.weakest) == (pytest.approx(0.013), ClassIou(name="kelp", share=0.01, iou=0.5))
    free = search(graphs_of(layers), order_of(layers), Additive(layers), 1.0, replace(floor, iou=0.0))
    assert free.best.share == 1.0


def test_a_floor_is_tightened_by_what_may_be_lost() -> None:
    floor = Floor(weakest=lambda names: None, iou=0.8)
    assert floor.tightened(0.5).iou == pytest.approx(0.9)
    assert floor.tightened(1.0).iou == pytest.approx(0.8)
    assert Floor(weakest=floor.weakest, iou=0.0).tightened(0.5).iou == 0


# A real bundle


def numbers(graphs: Fp32Graphs, batches: Sequence[PatchBatch], clipped: Callable[[str, str], float]) -> Numbers:
    """Ranges that leave so much of the largest values, by role and tensor."""
    largest = peaks(graphs.bundle, batches, inputs=True)
    amax = {
        role: {layer.input: clipped(role, layer.input) * largest[role][layer.input] for layer in layers}
        for role, layers in graphs.layers.items()
    }
    return Numbers(amax=amax, biases={})


def test_layers_alone_those_that_hurt_most_first(tmp_path: Path) -> None:
    bundle, graphs = read_bundle(tiny.TINY), Fp32Graphs.of(read_bundle(tiny.TINY))
    batches = patches(bundle, tmp_path, 3)
    trials = Trials(graphs, batches)
    harsh = {(SEGMENTER, "pixels"): 0.1, ("encoder_medium", "means"): 0.5}
    clipping = numbers(graphs, batches, lambda role, tensor: harsh.get((role, tensor), 1.0))
    told: list[tuple[int, int]] = []
    found = sensitivities(trials, clipping, 3, lambda done, total: told.append((done, total)))
    assert told == [(done, 5) for done in range(1, 6)]
    assert [(one.role, one.name) for one in found[:2]] == [(SEGMENTER, "Conv_1"), ("encoder_medium", "Conv_2")]
    assert found[0].loss > found[1].loss > found[-1].loss >= 0
    assert [one.loss for one in found] == sorted((one.loss for one in found), reverse=True)
    for one in found:
        assert one.loss == 1 - trials.agreement({one.role: [one.name]}, clipping)
        assert one.macs == graphs.work({one.role: [one.name]})
    few = {(one.role, one.name): one.loss for one in sensitivities(trials, clipping, 1)}
    assert few == {(one.role, one.name): 1 - trials.agreement({one.role: [one.name]}, clipping, 1) for one in found}
    assert few != {(one.role, one.name): one.loss for one in found}


def test_of_layers_that_hurt_alike_those_that_save_least_come_first(tmp_path: Path, rng: np.random.Generator) -> None:
    """All is red, and stays red in int8."""
    bundle, graphs = read_bundle(tiny.TINY), Fp32Graphs.of(read_bundle(tiny.TINY))
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :, 0] = rng.integers(200, 256, (64, 64))
    batches = sample_patches(bundle.manifest, [write_geotiff(tmp_path / "red.tif", pixels)], 2, seed=0)
    found = sensitivities(Trials(graphs, batches), numbers(graphs, batches, lambda role, tensor: 1.0), 2)
    assert [(one.loss, one.macs, one.role, one.name) for one in found] == [
        (0, 96, "encoder_large", "Conv_2"), (0, 96, "encoder_medium", "Conv_2"), (0, 96, SEGMENTER, "Conv_2"),
        (0, 96, SEGMENTER, "Conv_4"), (0, 2304, SEGMENTER, "Conv_1"),
    ]  # fmt: skip
