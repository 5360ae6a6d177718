"""Real builds with TensorRT-RTX, whose builder needs no GPU: plans of the hand-made bundles."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tensorrt_rtx")

import tensorrt_rtx as trt

from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.cuda import driver
from fctl.runtime.engines.tensorrt import builder
from fctl.runtime.engines.tensorrt.builder import build_plan, build_plans, machine_for
from fctl.runtime.engines.tensorrt.flavours import load_flavour
from fctl.runtime.engines.tensorrt.plans import BuildOptions, StoredPlan, find_plan, read_plan
from fctl.runtime.errors import DeviceMemoryError, EngineError, InputError
from tests.runtime import tiny

SM86 = BuildOptions(flavour="tensorrt-rtx", batches=(1, 4), compute_capability=86)
BUNDLES = [tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FUSED, tiny.TINY_GLOBAL_FUSED, tiny.TINY_WHOLE]


def build(bundle: Path, folder: Path, options: BuildOptions = SM86) -> dict[str, StoredPlan]:
    plans = build_plans(read_bundle(bundle), "fp32", options, folder)
    return {plan.record.role: plan for plan in plans}


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.stem)
def test_every_graph_of_a_bundle_is_built(bundle: Path, tmp_path: Path) -> None:
    plans, read = build(bundle, tmp_path), read_bundle(bundle)
    assert set(plans) == {graph.role for graph in read.manifest.graphs}
    machine = machine_for(SM86)
    for role, plan in plans.items():
        _, graph = read.graph(role, "fp32")
        record = plan.record
        assert (record.onnx_sha256, record.machine, record.precision) == (graph.sha256, machine, "fp32")
        assert len(read_plan(plan)) == plan.path.stat().st_size > 1000
        assert record.layers is not None and set(record.layers.products) <= {"Float"}
    assert plans[SEGMENTER].record.profiles == (1, 4)


def test_uint16_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"TensorRT has no uint16, .*`backend` onnxruntime-cuda") as caught:
        build(tiny.TINY_PLAIN, tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_builds_are_the_same_to_the_byte() -> None:
    path, graph = read_bundle(tiny.TINY).graph(SEGMENTER, "fp32")
    built = [build_plan(path, graph, SM86, machine_for(SM86)) for _ in range(2)]
    assert bytes(built[0][0]) == bytes(built[1][0])
    assert built[0][1].plan_sha256 == built[1][1].plan_sha256


def test_a_plan_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    first = build(tiny.TINY, tmp_path)
    times = {role: plan.path.stat().st_mtime_ns for role, plan in first.items()}
    second = build(tiny.TINY, tmp_path)
    assert {role: plan.path.stat().st_mtime_ns for role, plan in second.items()} == times
    assert second == first


def test_options_reach_the_builder(tmp_path: Path) -> None:
    options = replace(SM86, workspace=64, optimisation=1)
    plan = build(tiny.TINY, tmp_path, options)[SEGMENTER]
    assert plan.record.options == options


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (replace(SM86, compute_capability=87), "tensorrt-rtx knows 75, 80, 86, 89, 120, 121, found 87"),
        (
            replace(SM86, hardware_compatible=True),
            "`hardware_compatible` and `version_compatible` are for `flavour` tensorrt",
        ),
        (replace(SM86, flavour="tensorrt"), "`compute_capability`: tensorrt builds for the GPU of this machine"),
        (replace(SM86, batches=()), "`batch`: expected numbers from 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: BuildOptions, told: str) -> None:
    with pytest.raises(InputError, match=told):
        build(tiny.TINY, tmp_path, options)


@pytest.mark.skipif(driver.missing() is None, reason="for machines without a GPU")
def test_without_a_gpu_the_error_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"builds for the GPU of this machine: no NVIDIA driver .*`compute_capability`"
    ):
        build(tiny.TINY, tmp_path, replace(SM86, compute_capability=None))


def test_a_precision_that_the_bundle_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no fp16 graph"):
        build_plans(read_bundle(tiny.TINY), "fp16", SM86, tmp_path)


def damaged(tmp_path: Path, content: bytes) -> Bundle:
    shutil.copytree(tiny.TINY, tmp_path / "bad.fctl")
    bundle = read_bundle(tmp_path / "bad.fctl")
    (tmp_path / "bad.fctl" / "segmenter.onnx").write_bytes(content)
    return bundle


def test_a_graph_that_does_not_parse_leaves_nothing(tmp_path: Path) -> None:
    bundle = damaged(tmp_path, b"not an onnx file")
    with pytest.raises(EngineError, match=r"segmenter.onnx: tensorrt-rtx .* cannot read this graph"):
        build_plans(bundle, "fp32", SM86, tmp_path / "plans")
    assert not list((tmp_path / "plans").glob("segmenter*"))


def test_out_of_memory_halves_the_batch_for_all_graphs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A builder of a GPU that is too small cannot be had here: what it says is put in its place."""

    def build_small(path: Path, graph: Any, options: BuildOptions, machine: Any) -> Any:
        if max(options.batches) > 2 and graph.role == SEGMENTER:
            raise DeviceMemoryError("ran out of memory")
        return build_plan(path, graph, options, machine)

    monkeypatch.setattr(builder, "build_plan", build_small)
    plans = build(tiny.TINY, tmp_path, replace(SM86, batches=(8,)))
    assert {plan.record.profiles for plan in plans.values()} == {(2,)}
    assert len(list(tmp_path.glob("*.engine"))) == len(list(tmp_path.glob("*.json"))) == len(plans)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "out of memory at batch 8: building for batch 4 instead",
        "out of memory at batch 4: building for batch 2 instead",
    ]


def test_a_plan_of_a_compute_capability_fits_every_gpu_that_has_it(tmp_path: Path) -> None:
    shutil.copytree(tiny.TINY, tmp_path / "city.fctl")
    build_plans(read_bundle(tmp_path / "city.fctl"), "fp32", SM86, tmp_path / "city.fctl" / "engines")
    path, graph = read_bundle(tmp_path / "city.fctl").graph(SEGMENTER, "fp32")
    here = replace(machine_for(SM86), gpu="NVIDIA RTX A2000, 26 SMs", driver="13.0")
    assert find_plan(graph, path, "tensorrt-rtx", 4, here).record.profiles == (1, 4)
    with pytest.raises(EngineError, match=r"is for compute capability 8.6, this machine has .* 8.9"):
        find_plan(graph, path, "tensorrt-rtx", 4, replace(here, compute_capability=89))


def test_the_flavour_is_what_it_says() -> None:
    assert load_flavour("tensorrt-rtx") is trt
