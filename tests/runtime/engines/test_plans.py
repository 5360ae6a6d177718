"""Engines on disk: which plan fits which machine, and what is said of those that do not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fctl.runtime.bundle.manifest import SEGMENTER, GraphSpec
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.tensorrt.layers import LayerReport, read_dump, read_inspector
from fctl.runtime.engines.tensorrt.plans import (
    ENGINES,
    BuildOptions,
    Machine,
    PlanRecord,
    StoredPlan,
    batches_of,
    cache_folder,
    find_plan,
    misfit,
    plan_name,
    read_plan,
    read_record,
    store_plan,
)
from fctl.runtime.errors import EngineError
from tests.runtime import tiny

A2000 = Machine(
    version="10.3.0.30", system="Linux x86_64", gpu="NVIDIA RTX A2000, 26 SMs", compute_capability=86, driver="12.6"
)
ORIN = replace(A2000, gpu="Orin, 16 SMs", compute_capability=87)
T4 = replace(A2000, gpu="Tesla T4, 40 SMs", compute_capability=75)
OPTIONS = BuildOptions(flavour="tensorrt", batches=(1, 4))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "cache"))


def onnx_of(bundle: Path = tiny.TINY, role: str = SEGMENTER) -> tuple[Path, GraphSpec]:
    return read_bundle(bundle).graph(role, "fp32")


def record_of(graph: GraphSpec, options: BuildOptions = OPTIONS, machine: Machine = A2000) -> PlanRecord:
    return PlanRecord(
        schema="1.0", role=graph.role, precision=graph.precision, onnx_sha256=graph.sha256, plan_sha256="",
        options=options, machine=machine, profiles=options.batches, seconds=1.5,
        layers=LayerReport(products={"Half": ("a", "b"), "Float": ("c",)}, attention=("d+e",)),
    )  # fmt: skip


def stored(folder: Path, graph: GraphSpec, content: bytes = b"plan", **changes: object) -> StoredPlan:
    record = replace(record_of(graph), **changes)  # type: ignore[arg-type]
    return store_plan(folder, plan_name(graph, record.options, record.machine), content, record)


def test_a_plan_is_found_again(tmp_path: Path) -> None:
    path, graph = onnx_of()
    plan = stored(cache_folder(), graph)
    found = find_plan(graph, path, "tensorrt", 4, A2000)
    assert (found.path, found.record) == (plan.path, plan.record)
    assert [file.suffix for file in sorted(cache_folder().iterdir())] == [".engine", ".json"]


def test_a_bundle_may_carry_its_plans(tmp_path: Path) -> None:
    bundle = tiny.variant(tiny.TINY, tmp_path, lambda manifest: None)
    path, graph = onnx_of(bundle)
    plan = stored(bundle / ENGINES, graph)
    assert find_plan(graph, path, "tensorrt", 1, A2000).path == plan.path
    assert read_bundle(bundle).manifest.graphs  # engines do not change the bundle


def test_the_name_tells_what_it_is_for() -> None:
    _, graph = onnx_of()
    name = plan_name(graph, OPTIONS, A2000)
    assert name.startswith("segmenter-fp32-tensorrt-sm86-b1-4-")
    changes = (
        replace(OPTIONS, workspace=64), replace(OPTIONS, optimisation=5), replace(OPTIONS, version_compatible=True),
        replace(OPTIONS, batches=(4,)),
    )  # fmt: skip
    machines = (
        replace(A2000, version="10.4.0"),
        replace(A2000, gpu="other"),
        replace(A2000, driver="13.0"),
        replace(A2000, system="Windows"),
    )
    names = {name, *(plan_name(graph, other, A2000) for other in changes)}
    names |= {plan_name(graph, OPTIONS, machine) for machine in machines}
    assert len(names) == 1 + len(changes) + len(machines)


@pytest.mark.parametrize(
    ("change", "machine", "batch", "told"),
    [
        ({"onnx_sha256": "0" * 64}, A2000, 4, "was built from another graph"),
        ({}, A2000, 8, "runs batches of 1 and 4"),
        ({"machine": replace(A2000, version="10.4.0.1")}, A2000, 4, "version 10.4.0.1, this machine has 10.3.0.30"),
        (
            {}, ORIN, 4,
            "NVIDIA RTX A2000, 26 SMs, compute capability 8.6, this machine has Orin, 16 SMs, compute capability 8.7",
        ),
        ({"machine": ORIN}, replace(ORIN, gpu="Orin, 8 SMs"), 4, "this machine has Orin, 8 SMs"),
        (
            {"options": replace(OPTIONS, hardware_compatible=True)}, replace(ORIN, system="Linux aarch64"), 4,
            "is for Linux x86_64, this machine is Linux aarch64",
        ),
        ({}, replace(A2000, gpu="NVIDIA RTX A4000"), 4, "this machine has NVIDIA RTX A4000"),
        ({"options": replace(OPTIONS, flavour="tensorrt-rtx")}, A2000, 4, "is for tensorrt-rtx"),
        ({"options": replace(OPTIONS, hardware_compatible=True)}, T4, 4, "this machine has Tesla T4"),
        (
            {"options": replace(OPTIONS, version_compatible=True), "machine": replace(A2000, version="11.0.0.1")},
            A2000, 4, "is for version 11.0.0.1",
        ),
        (
            {"options": replace(OPTIONS, version_compatible=True), "machine": replace(A2000, version="10.16.0")},
            A2000, 4, "is for version 10.16.0",
        ),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_fit_is_refused_with_the_command_that_rebuilds_it(
    change: dict[str, object], machine: Machine, batch: int, told: str
) -> None:
    path, graph = onnx_of()
    stored(cache_folder(), graph, **change)
    with pytest.raises(EngineError) as caught:
        find_plan(graph, path, "tensorrt", batch, machine)
    message = str(caught.value)
    assert told in message
    assert f"fctl-export {tiny.TINY} --fmt trt --flavour tensorrt --precision fp32 --batch {batch}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "built", "machine"),
    [
        (replace(OPTIONS, hardware_compatible=True), A2000, ORIN),
        (replace(OPTIONS, version_compatible=True), A2000, replace(A2000, version="10.16.1.2")),
        (replace(OPTIONS, flavour="tensorrt-rtx"), replace(A2000, gpu=None, driver=None), A2000),
        (OPTIONS, A2000, replace(A2000, driver="13.2")),
    ],
    ids=["hardware", "version", "capability", "driver"],
)
def test_a_compatible_plan_fits(options: BuildOptions, built: Machine, machine: Machine) -> None:
    _, graph = onnx_of()
    record = record_of(graph, options, built)
    assert misfit(record, graph, options.flavour, 4, machine) is None


def test_no_plan_at_all_says_so() -> None:
    path, graph = onnx_of()
    with pytest.raises(EngineError, match=r"segmenter, fp32: expected a tensorrt engine for batch 4 .*found none"):
        find_plan(graph, path, "tensorrt", 4, A2000)


def test_the_default_bundle_is_called_so() -> None:
    path, graph = read_bundle("default").graph(SEGMENTER, "fp32")
    with pytest.raises(EngineError, match="fctl-export default --fmt trt"):
        find_plan(graph, path, "tensorrt", 4, A2000)


def test_a_damaged_plan_is_found_out() -> None:
    path, graph = onnx_of()
    plan = stored(cache_folder(), graph)
    plan.path.write_bytes(b"other")
    with pytest.raises(EngineError, match=r"expected sha256 .*damaged: remove it and build it again"):
        read_plan(find_plan(graph, path, "tensorrt", 4, A2000))


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1}', "[]"])
def test_a_damaged_record_is_one_line(text: str) -> None:
    path, graph = onnx_of()
    plan = stored(cache_folder(), graph)
    plan.path.with_suffix(".json").write_text(text)
    with pytest.raises(EngineError, match="expected the record of an engine, found") as caught:
        find_plan(graph, path, "tensorrt", 4, A2000)
    assert "\n" not in str(caught.value)


@pytest.fixture
def alarm() -> Iterator[None]:
    """Lets a test fail that waits for a pipe, instead of hanging."""

    def give_up(*_: object) -> None:
        raise TimeoutError("nothing came out of the pipe")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def put_in_place(path: Path, kind: str) -> None:
    """Put something at a path that is no regular file."""
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "no such file"])
def test_only_regular_files_are_plans_and_records(kind: str) -> None:
    path, graph = onnx_of()
    plan = stored(cache_folder(), graph)
    put_in_place(plan.path, kind)
    with pytest.raises(EngineError, match="found none"):
        find_plan(graph, path, "tensorrt", 4, A2000)
    with pytest.raises(EngineError, match=f"expected an engine, found {kind}; build it again"):
        read_plan(plan)
    record = plan.path.with_suffix(".json")
    put_in_place(record, kind)
    with pytest.raises(EngineError, match=f"expected the record of an engine, found {kind}; build it again"):
        read_record(record)


def test_a_plan_for_a_version_that_is_none_does_not_fit() -> None:
    _, graph = onnx_of()
    options = replace(OPTIONS, version_compatible=True)
    record = record_of(graph, options, replace(A2000, version="next"))
    assert misfit(record, graph, "tensorrt", 4, A2000) == "is for version next, this machine has 10.3.0.30"


def test_a_plan_without_a_record_is_not_there() -> None:
    path, graph = onnx_of()
    stored(cache_folder(), graph).path.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="found none"):
        find_plan(graph, path, "tensorrt", 4, A2000)


@pytest.mark.parametrize(
    ("bundle", "role", "expected"),
    [
        (tiny.TINY, "segmenter", (2, 4)),
        (tiny.TINY, "encoder_large", (2, 4)),
        (tiny.TINY_GLOBAL, "segmenter", (2, 4)),
        (tiny.TINY_GLOBAL, "encoder_global", (1,)),
        (tiny.TINY_FIXED, "segmenter", (3,)),
        (tiny.TINY_WHOLE, "segmenter", (2, 4)),
        (tiny.TINY_WHOLE, "encoder_whole", (1,)),
    ],
)
def test_what_encodes_a_moving_context_runs_alone(bundle: Path, role: str, expected: tuple[int, ...]) -> None:
    manifest = read_bundle(bundle).manifest
    graph = next(graph for graph in manifest.graphs if graph.role == role)
    assert batches_of(manifest, graph, (4, 2)) == expected


def line(name: str, kind: str, datatypes: list[str], nodes: str) -> str:
    """As TensorRT-RTX logs it."""
    tensors = ", ".join(
        f"{{ Name: t{i}, Dimensions: [1,3], Strides: [3,1], Datatype: {d}, Format: (Linear) Row }}"
        for i, d in enumerate(datatypes)
    )
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {tensors}], Constants: [ {{ Name: c, Datatype: Float }}], "
        f"Outputs: [ {{ Name: o, Datatype: Float }}], TacticName: t_0x1, StreamId: 0, Metadata: {nodes}"
    )


def test_the_builders_dump_is_read() -> None:
    dump = "\n".join(
        [
            "Layers:",
            line("conv_myl0_1", "correlation", ["Half"], "[ONNX Layer: conv_1][ONNX Layer: relu_1]"),
            line("conv [profile 1]_myl1_1", "correlation", ["Half"], "[ONNX Layer: conv_1][ONNX Layer: relu_1]"),
            line("cast", "kgen", ["UInt8"], "[ONNX Layer: cast_1]"),
            line("wait", "wait", [], ""),
            line("product", "gemm", ["Float", "Half"], "[ONNX Layer: matmul_1]"),
            line("fused", "runtime_fusion", ["Half"], "[ONNX Layer: matmul_2][ONNX Layer: add_1]"),
            line("_gemm_mha_v2_myl0_3", "kgen", ["Half"] * 3, "[ONNX Layer: qk][ONNX Layer: softmax][ONNX Layer: av]"),
            "",
            "I/O Tensors:",
        ]
    )
    report = read_dump(dump)
    assert report is not None
    assert report.products == {
        "Float": ("matmul_1",),
        "Half": ("add_1+matmul_2", "av+qk+softmax", "conv_1+relu_1"),
    }
    assert report.attention == ("av+qk+softmax",)
    assert report.summary == "1 Float, 3 Half, 1 fused attention"
    assert read_dump("nothing of the kind") is None


def test_the_inspectors_json_is_read() -> None:
    layers = [
        {
            "Name": "conv", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: conv_1]",
            "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        },
        {
            "Name": "quantised", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: conv_2]",
            "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
        },
        {"Name": "copy", "LayerType": "Reformat", "Metadata": "", "Inputs": []},
        {
            "Name": "new", "LayerType": "gemm", "Metadata": "[ONNX Layer: matmul_1]",
            "Inputs": [{"Name": "x", "Datatype": "Float"}],
        },
    ]  # fmt: skip
    report = read_inspector(json.dumps({"Layers": layers}))
    assert report is not None
    assert report.products == {"Float": ("matmul_1",), "Half": ("conv_1",), "Int8": ("conv_2",)}
    assert read_inspector(json.dumps({"Layers": ["just a name"]})) is None
