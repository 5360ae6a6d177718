"""int8 graphs beside fp32 ones, from calibration to the report: of the shipped bundle once, of hand-made ones often."""

from __future__ import annotations

import json
import logging
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("onnx")

import onnx
from onnx import helper
from onnx.numpy_helper import from_array

from fctl.calib import search, speed
from fctl.calib.choose import Chosen
from fctl.calib.ranges import METHODS
from fctl.calib.sample import sample_patches, shipped_images
from fctl.calib.search import sensitivities
from fctl.calib.speed import Speed, speeds
from fctl.calib.trials import Fp32Graphs, Names, Numbers, Trials
from fctl.calib.watch import peaks
from fctl.export.cli.command import app
from fctl.export.precision import int8, int8_budget, int8_patches, int8_speed
from fctl.export.precision.int8 import REPORT, Int8Options, add_int8
from fctl.export.verify import Samples
from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import SCHEMA, SEGMENTER, Manifest
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256
from fctl.runtime.cli.info import info_app
from fctl.runtime.engines import base
from fctl.runtime.engines.tensorrt.builder import build_plan, machine_for
from fctl.runtime.engines.tensorrt.plans import BuildOptions
from fctl.runtime.errors import BundleError, InputError, OutputError, ParityError, RasterError
from fctl.runtime.evaluate.datasets import Dataset, open_dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import plan_runs
from tests.conftest import InProcess, write_geotiff
from tests.runtime import labelled, tiny

Array = NDArray[Any]
Call = Callable[..., subprocess.CompletedProcess[str]]

IMAGES = shipped_images()
SHIPPED = IMAGES[0].parent
LOOSE = Int8Options(calib=(SHIPPED,), count=8, ranges="minmax", min_agreement=0.9, min_class_iou=0.0)
TINY = (tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FUSED, tiny.TINY_GLOBAL_FUSED)
SIXTEEN_BITS = (tiny.TINY_PLAIN, tiny.TINY_FIXED, tiny.TINY_SHARES)

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(autouse=True, scope="module")
def fewer() -> Iterator[None]:
    """Patches, rounds and points."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_patches, "_TRIED", 2)
        patch.setattr(int8_patches, "_JUDGING", 2)
        patch.setattr(int8, "_ALONE", 1)
        patch.setattr(search, "_CURVE", (0.5,))
        patch.setattr(speed, "_ROUNDS", 1)
        yield


@pytest.fixture(autouse=True)
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is timed, but for the shipped bundle: OpenVINO takes longest to load."""
    only = ("onnxruntime",)
    monkeypatch.setattr(int8_speed, "speeds", lambda bundle, batch, engines=only: speeds(bundle, batch, engines))


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with int8 graphs."""
    out = tmp_path_factory.mktemp("int8") / "city.fctl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_CURVE", ())
        add_int8(read_bundle("default"), out, replace(LOOSE, count=4, min_agreement=0.97))
    return out


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / REPORT / "report.json").read_text(encoding="utf-8"))
    return found


def models(folder: Path) -> dict[str, Any]:
    """The int8 graphs of a bundle, by role."""
    graphs = [graph for graph in read_bundle(folder).manifest.graphs if graph.precision == "int8"]
    return {graph.role: onnx.load(folder / graph.file) for graph in graphs}


def layers_in(model: Any) -> set[str]:
    """Nodes whose weight comes out of a DequantizeLinear."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return {
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and made_by.get(node.input[1]) == "DequantizeLinear"
    }


def corrected(folder: Path) -> bool:
    """Whether int8 graphs have biases of their own."""
    return any(t.name.endswith("/bias") for model in models(folder).values() for t in model.graph.initializer)


# The shipped bundle


def test_the_manifest_has_graphs_of_both_and_what_the_gate_found(shipped: Path) -> None:
    source, bundle = read_bundle("default").manifest, read_bundle(shipped)
    manifest = bundle.manifest
    assert manifest.precisions == ("fp32", "int8")
    made = manifest.graphs[len(source.graphs) :]
    added = replace(source, schema=SCHEMA, name="city", graphs=(*source.graphs, *made))
    assert manifest == replace(added, parity=manifest.parity)
    own = [graph for graph in source.graphs if graph.role not in source.shared_roles]  # the others stay in fp32
    for before, after in zip(own, made, strict=True):
        file = f"{Path(before.file).stem}.int8.onnx"
        size = (shipped / file).stat().st_size
        assert after == replace(before, precision="int8", file=file, sha256=sha256(shipped / file), bytes=size)
    first, second = manifest.parity
    assert (first,) == source.parity
    assert (second.precision, second.reference) == ("int8", "the fp32 graphs in ONNX Runtime")
    assert (second.patches, second.source) == (2, str(SHIPPED))
    assert 0.97 <= second.agreement < 1 and 1e-3 < second.max_error < 1
    assert [effect.name for effect in second.contexts] == [context.name for context in manifest.contexts]
    assert all(effect.change > 0.01 for effect in second.contexts)
    assert {one.name for one in second.class_iou} == set(manifest.class_names)
    assert sum(one.share for one in second.class_iou) == pytest.approx(1)
    assert 0.9 < min(one.iou for one in second.class_iou) < 1


def test_the_rest_of_the_bundle_is_copied_byte_by_byte(shipped: Path) -> None:
    source = read_bundle("default").folder
    names = {path.name for path in source.iterdir()}
    made = {f"{role}.int8.onnx" for role in models(shipped)}
    assert {path.name for path in shipped.iterdir()} == {*names, *made, REPORT}
    for name in names - {"manifest.json"}:
        assert (shipped / name).read_bytes() == (source / name).read_bytes()


def test_the_report_says_what_is_in_the_graphs(shipped: Path) -> None:
    report, graphs = report_of(shipped), Fp32Graphs.of(read_bundle("default"))
    chosen = {role: layers_in(model) for role, model in models(shipped).items()}
    told = {role: {one["name"] for one in report["layers"] if one["int8"] and one["role"] == role} for role in chosen}
    assert told == chosen
    assert report["share_of_macs"] == graphs.share(chosen) > 0.5
    assert {(one["role"], one["name"]) for one in report["layers"]} == {
        (role, name) for role, names in graphs.names.items() for name in names
    }
    losses = [one["loss"] for one in report["layers"]]
    assert losses == sorted(losses, reverse=True) and losses[0] > 0
    assert report["budget"]["of"] == "pixels that change"
    assert report["budget"]["allowed"] == pytest.approx(0.03)
    assert report["budget"]["found"] <= 0.8 * 0.03
    assert set(report["agreement_of_all_layers"]) == {"minmax", "minmax, bias correction"}
    assert report["bias_correction"] == (len(set(report["agreement_of_all_layers"].values())) == 2)
    assert (len(report["patches"]), len(report["checks"])) == (4, 2)
    assert {patch["image"] for patch in report["patches"]} <= set(map(str, IMAGES))
    files = {graph.precision: 0 for graph in read_bundle(shipped).manifest.graphs}
    for graph in read_bundle(shipped).manifest.graphs:
        files[graph.precision] += (shipped / graph.file).stat().st_size
    assert report["bytes"] == files
    assert {one["engine"] for one in report["speeds"]} >= {"onnxruntime"}
    assert sorted(path.name for path in (shipped / REPORT).iterdir()) == [
        "report.json", "report.md", "sensitivity.png", "worst.png"
    ]  # fmt: skip
    assert f"{sum(map(len, chosen.values()))} of 169 layers" in (shipped / REPORT / "report.md").read_text("utf-8")


def test_weights_take_a_quarter_of_what_fp32_takes(shipped: Path) -> None:
    """Scales and zero points with them; in the shipped bundle fp32 graphs store fp16."""
    for role, model in models(shipped).items():
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        weights = [tensor for tensor in stored.values() if tensor.data_type == onnx.TensorProto.INT8 and tensor.dims]
        weights = [tensor for tensor in weights if not tensor.name.endswith("/zero")]
        elements = sum(math.prod(tensor.dims) for tensor in weights)
        taken = sum(
            len(stored[name].raw_data)
            for tensor in weights
            for name in (tensor.name, f"{tensor.name}/scale", f"{tensor.name}/zero")
        )
        assert taken < 0.3 * 4 * elements, role
        size = (shipped / f"{role}.int8.onnx").stat().st_size
        assert size < 0.32 * 4 * elements, role  # 169 layers of few channels: nodes are a tenth of it
        assert size < 0.6 * (shipped / f"{role}.onnx").stat().st_size, role


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_it_runs_by_the_name_of_its_precision(backend: str, shipped: Path) -> None:
    pytest.importorskip(backend)
    image = np.asarray(Image.open(IMAGES[0]))[:300, :400]
    with (
        Segmenter(shipped, backend=backend, precision="int8") as narrow,
        Segmenter(shipped, backend="onnxruntime") as wide,
    ):
        same = narrow.segment(image).ids == wide.segment(image).ids
    assert 0.95 < same.mean() < 1


@pytest.mark.parametrize("exact", [True, False])
def test_a_processor_that_cannot_is_told(
    exact: bool, shipped: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "adds_int8_exactly", lambda: exact)
    for precision in ("fp32", "int8"):
        Segmenter(shipped, backend="onnxruntime", precision=precision).close()
    assert caplog.text.count("without VNNI") == (0 if exact else 1)


def test_info_shows_both(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        info_app([str(shipped)], prog_name="fctl-info")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    classes = (f"class {name}: IoU with fp32" for name in read_bundle(shipped).manifest.class_names)
    for part in ("segmenter.int8.onnx", "segmenter.onnx", "fp32", "int8", "the fp32 graphs in ONNX Runtime", *classes):
        assert part in shown


def test_tensorrt_builds_int8_layers(shipped: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = BuildOptions(flavour="tensorrt-rtx", batches=(1,), compute_capability=86)
    path, graph = read_bundle(shipped).graph("encoder_large", "int8")
    plan, record = build_plan(path, graph, options, machine_for(options))
    assert len(bytes(plan)) > 1000
    assert record.layers is not None and record.precision == "int8"
    assert len(record.layers.products["Int8"]) >= len(layers_in(onnx.load(path))) - 2  # layers may be joined


# Hand-made bundles


@pytest.mark.parametrize("source", [*TINY, *SIXTEEN_BITS], ids=lambda source: source.stem)
def test_hand_made_bundles(source: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """Moving contexts, one graph, a fixed batch, a softmax in the graph."""
    bundle = read_bundle(source)
    options, pixels = LOOSE, np.asarray(Image.open(IMAGES[1]))[:50, :70]
    if source in SIXTEEN_BITS:
        pixels = rng.integers(0, 65536, (50, 70, 4), np.uint16)
        options = replace(options, calib=(write_geotiff(tmp_path / "image.tif", pixels),))
    manifest = add_int8(bundle, tmp_path / "made.fctl", options)
    assert read_bundle(tmp_path / "made.fctl").manifest == manifest
    assert manifest.parity[-1].agreement >= 0.9
    assert [graph.role for graph in manifest.graphs] == 2 * [graph.role for graph in bundle.manifest.graphs]
    assert any(layers_in(model) for model in models(tmp_path / "made.fctl").values())
    with (
        Segmenter(tmp_path / "made.fctl", backend="onnxruntime", precision="int8") as narrow,
        Segmenter(tmp_path / "made.fctl", backend="onnxruntime") as wide,
    ):
        assert (narrow.segment(pixels).ids == wide.segment(pixels).ids).mean() > 0.85


def test_two_runs_make_the_same(tmp_path: Path) -> None:
    made = [add_int8(read_bundle(tiny.TINY), tmp_path / name / "x.fctl", LOOSE) for name in "ab"]
    assert made[0] == made[1]
    reports = [report_of(tmp_path / name / "x.fctl") for name in "ab"]
    assert [report.pop("speeds") != [] for report in reports] == [True, True]
    assert [[point.pop("speed") for point in report["points"]] != [] for report in reports] == [True, True]
    assert reports[0] == reports[1]
    other = add_int8(read_bundle(tiny.TINY), tmp_path / "c.fctl", replace(LOOSE, seed=1))
    assert {graph.sha256 for graph in other.graphs} != {graph.sha256 for graph in made[0].graphs}


def test_of_all_ranges_those_are_taken_that_keep_most(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told: dict[str, tuple[int, int]] = {}
    options = replace(LOOSE, ranges="auto")
    with caplog.at_level(logging.INFO, "fctl"):
        add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", options, lambda *step: told.update({step[0]: step[1:]}))
    report = report_of(tmp_path / "x.fctl")
    agreements = report["agreement_of_all_layers"]
    biased = agreements.pop(f"{report['ranges']}, bias correction")
    assert list(agreements) == list(METHODS)
    assert agreements[report["ranges"]] == max(agreements.values())
    assert report["bias_correction"] == corrected(tmp_path / "x.fctl") == (biased > max(agreements.values())) is True
    assert all(f"ranges by {method}: " in caplog.text for method in METHODS)
    assert "calibrating with 8 patches, trying layers on 2 others" in caplog.text
    assert list(told) == [
        "choosing patches", "largest values", "histograms", "bias correction", "each layer alone in int8"
    ]  # fmt: skip
    assert all(done == total for done, total in told.values())
    assert told["largest values"] == (8, 8) and told["each layer alone in int8"] == (5, 5)


# Budgets that cannot be kept


def test_a_budget_that_cannot_be_kept_is_told_with_numbers_and_layers(tmp_path: Path) -> None:
    options = replace(LOOSE, min_agreement=1.0, calib=IMAGES)
    with pytest.raises(ParityError, match=r"at most 0\.00% allowed") as caught:
        add_int8(read_bundle(tiny.TINY), tmp_path / "new" / "x.fctl", options)
    told = str(caught.value)
    assert told.startswith("int8 cannot keep the budget: pixels that change: ")
    for part in ("of the multiply-accumulates in int8", "the layers that cost most alone: ", "nothing was written"):
        assert part in told
    assert told.count("%)") == 5 and f"{SEGMENTER} Conv_1 (" in told and "\n" not in told
    assert list(tmp_path.iterdir()) == []


def gate(folder: Path, loss: Callable[[Names], float], agreement: float, images: Sequence[Path]) -> Any:
    """What `within` makes of tiny.fctl: ranges that are far too short, a made-up loss, and patches of images."""
    bundle = read_bundle(tiny.TINY)
    graphs, batches = Fp32Graphs.of(bundle), sample_patches(bundle.manifest, images, 3, seed=1)
    largest = peaks(bundle, batches, inputs=True)
    numbers = Numbers(amax={role: {n: 0.7 * p for n, p in found.items()} for role, found in largest.items()}, biases={})
    order = sorted(sensitivities(Trials(graphs, batches), numbers, 1), key=lambda one: one.macs)
    budget = int8_budget.Budget(name="made up", loss=loss, allowed=1.0, agreement=agreement, margins=(0.8, 0.5, 0.3))
    return int8_budget.within(graphs, numbers, order, budget, Samples(batches=batches, source="images"), folder)


def layers_by_tens(names: Names) -> float:
    return sum(map(len, names.values())) / 10


def test_where_other_patches_lose_more_fewer_layers_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    every, parity = gate(tmp_path, layers_by_tens, 0.0, IMAGES)
    assert every.best.share == 1.0
    with caplog.at_level(logging.INFO, "fctl"):
        fewer, better = gate(tmp_path, layers_by_tens, parity.agreement + 1e-9, IMAGES)
    assert better.agreement > parity.agreement
    assert sum(map(len, fewer.best.chosen.values())) == 3
    assert caplog.text.count("other patches lose more") == 2
    assert list(tmp_path.iterdir()) == []


def test_where_they_always_lose_more_the_gate_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"expected 100\.00%, found \d\d\.\d+%; nothing was written; \d+% of"
    ) as caught:
        gate(tmp_path, layers_by_tens, 1.0, IMAGES)
    assert "the layers that cost most alone: " in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# Labelled images


def own_labels(root: Path, sizes: Sequence[tuple[int, int]] = ((60, 70), (50, 50))) -> Dataset:
    """A data set whose masks are what tiny.fctl predicts: its mIoU is 100."""
    labelled.write_folder(root, sizes)
    with Segmenter(tiny.TINY, backend="onnxruntime") as segmenter:
        for path in sorted((root / "images").iterdir()):
            ids = segmenter.segment(np.asarray(Image.open(path))).ids
            labelled.save(root / "masks" / path.name, labelled.coloured(ids, labelled.COLOURS))
    return open_dataset(root)


def miou(folder: Path, dataset: Dataset, precision: Any, scratch: Path) -> float:
    runs = plan_runs([read_bundle(folder)], backends=("onnxruntime",), precisions=(precision,))
    return evaluate(dataset, runs, scratch).results[0].confusion.miou(dataset.description.counted)


def test_miou_on_labelled_images_is_held(tmp_path: Path) -> None:
    dataset = own_labels(tmp_path / "data")
    options = replace(LOOSE, labelled=dataset, max_miou_drop=0.2, min_agreement=1.0)  # which counts for nothing then
    manifest = add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", options)
    budget = report_of(tmp_path / "x.fctl")["budget"]
    wide, narrow = (miou(tmp_path / "x.fctl", dataset, precision, tmp_path) for precision in ("fp32", "int8"))
    assert wide == 1.0
    assert budget == {"of": "mIoU lost", "allowed": 0.2, "found": wide - narrow}
    assert 0 < budget["found"] <= 0.2
    assert manifest.parity[-1].precision == "int8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.fctl"]


def test_miou_that_cannot_be_held(tmp_path: Path) -> None:
    options = replace(LOOSE, labelled=own_labels(tmp_path / "data"), max_miou_drop=0.0)
    with pytest.raises(ParityError, match=r"mIoU lost: at most 0\.00% allowed.*layers that cost most alone: "):
        add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", options)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_classes_that_do_not_match_are_told_at_once(tmp_path: Path) -> None:
    dataset = own_labels(tmp_path / "data")
    options = replace(LOOSE, labelled=dataset, calib=(tmp_path / "absent.tif",))
    with pytest.raises(InputError, match="expected the classes red, green, blue of tiny, found building, "):
        add_int8(read_bundle("default"), tmp_path / "x.fctl", options)


# Patches


@given(st.integers(1, 400), st.integers(1, 80), st.integers(1, 300))
def test_patches_are_parted_as_they_were_asked_for(found: int, first: int, second: int) -> None:
    chosen = [Chosen(image="a.tif", y=index, x=0, valid=1.0, shares=()) for index in range(found)]
    taken, rest = int8_patches._split(chosen, first, second)
    assert taken and rest
    if found == 1:
        assert taken == rest == (chosen[0],)
        return
    assert sorted((*taken, *rest), key=lambda patch: patch.y) == chosen
    assert len(taken) == max(1, found * first // (first + second))
    if found == first + second:
        assert (len(taken), len(rest)) == (first, second)
    gaps = np.diff([patch.y for patch in taken])
    assert len(set(gaps.tolist())) <= 2


def test_patches_to_judge_by_are_all_data_where_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_patches, "_TRIED", 6)
    monkeypatch.setattr(int8_patches, "_JUDGING", 4)
    for every, all_data in ((2, True), (4, False)):
        chosen = [
            Chosen(image="a.tif", y=index, x=0, valid=0.6 if index % every else 1.0, shares=()) for index in range(32)
        ]
        made = int8_patches._parts(chosen, 22, 4)
        assert (len(made.calibrating), len(made.tried), len(made.judging)) == (22, 6, 4)
        assert sorted((*made.calibrating, *made.tried, *made.judging), key=lambda patch: patch.y) == chosen
        assert all(patch.valid == 1 for patch in (*made.tried, *made.judging)) == all_data
        assert int8_patches._parts(chosen, 22, 3).judging == made.judging[:3]


def test_few_patches_are_told(tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture) -> None:
    image = write_geotiff(tmp_path / "a.tif", rng.integers(1, 256, (17, 18, 3), np.uint8))
    with caplog.at_level(logging.INFO, "fctl"):
        add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", replace(LOOSE, calib=(image,), min_agreement=0.3))
    assert "the images hold 6 different patches, fewer than the 12 wanted" in caplog.text
    report = report_of(tmp_path / "x.fctl")
    assert (len(report["patches"]), len(report["checks"])) == (4, 1)
    places = [(patch["y"], patch["x"]) for patch in (*report["patches"], *report["checks"])]
    assert len(set(places)) == 5


def test_one_patch_is_better_than_none(tmp_path: Path, rng: np.random.Generator) -> None:
    image = write_geotiff(tmp_path / "a.tif", rng.integers(1, 256, (16, 16, 3), np.uint8))
    add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", replace(LOOSE, calib=(image,), min_agreement=0.3))
    report = report_of(tmp_path / "x.fctl")
    assert report["patches"] == report["checks"]


# Speeds


def test_slow_engines_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    best = search.Point(chosen={SEGMENTER: frozenset("ab")}, share=0.5, loss=0.0)
    timed = (
        Speed(engine="openvino", seconds={"fp32": 0.3, "bf16": 0.2, "int8": 0.1}),
        Speed(engine="onnxruntime", seconds={"fp32": 0.1, "int8": 0.4}),
    )
    with caplog.at_level(logging.INFO, "fctl"):
        int8_speed.log_result(best, timed)
        assert "2 layers, 50.0 % of the multiply-accumulates, are int8" in caplog.text
        assert "openvino runs int8 at 2.00 times the speed of its fastest other precision" in caplog.text
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "onnxruntime runs int8 at 0.25 times the speed of its fastest other precision: run without `precision` "
            "int8 there"
        ]
        assert "not timed" not in caplog.text
        int8_speed.log_result(best, timed[1:])
    assert "not timed, for they are not here or cannot run it: openvino" in caplog.text


def test_about_every_fifth_point_is_timed() -> None:
    shares = (0.0, 0.1, 0.19, 0.23, 0.4, 0.55, 0.78, 0.83, 0.95)
    points = tuple(search.Point(chosen={}, share=share, loss=0.0) for share in shares)
    found = search.Found(best=points[4], points=points)
    assert [point.share for point in points if int8_speed._is_worth_timing(point, found)] == [
        0.19,
        0.4,
        0.55,
        0.78,
        0.95,
    ]


def test_points_that_were_timed_have_their_speed_in_the_report(tmp_path: Path) -> None:
    add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", LOOSE)
    lines = (tmp_path / "x.fctl" / REPORT / "report.md").read_text("utf-8").splitlines()
    start = lines.index("| layers | share of MACs | loss | speed |") + 2
    report = report_of(tmp_path / "x.fctl")
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in lines[start : start + len(report["points"])]]
    told = {count: float(gain) for count, _, _, gain in rows if gain}
    assert str(sum(one["int8"] for one in report["layers"])) in told
    assert 2 <= len(told) <= 6 and min(told.values()) > 0


def test_where_no_engine_is_timed_the_report_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_speed, "speeds", lambda bundle, batch: speeds(bundle, batch, ()))
    add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", LOOSE)
    assert report_of(tmp_path / "x.fctl")["speeds"] == []


# Refusals


def test_what_exists_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.fctl").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        add_int8(read_bundle(tiny.TINY), tmp_path / "x.fctl", LOOSE)
    assert list((tmp_path / "x.fctl").iterdir()) == []


def test_int8_is_made_once_and_from_fp32(shipped: Path, tmp_path: Path) -> None:
    bundle = read_bundle(shipped)
    with pytest.raises(BundleError, match="holds int8 graphs already: run it with `precision` int8"):
        add_int8(bundle, tmp_path / "x.fctl", LOOSE)
    halves = tuple(replace(graph, precision="fp16") for graph in bundle.manifest.graphs if graph.precision == "int8")
    with pytest.raises(BundleError, match="int8 graphs are made from fp32 ones, found fp16"):
        add_int8(Bundle(shipped, replace(bundle.manifest, graphs=halves)), tmp_path / "x.fctl", LOOSE)


def test_images_that_are_none_or_do_not_fit(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("none")
    bundle, wrong = read_bundle(tiny.TINY), write_geotiff(tmp_path / "w.tif", rng.integers(0, 9, (40, 40, 5), np.uint8))
    for place, kind, told in (
        (tmp_path / "images", InputError, "expected images .*, found none"),
        (wrong, RasterError, r"w\.tif: expected 3 bands"),
        (tmp_path / "absent.tif", RasterError, r"absent\.tif"),
    ):
        with pytest.raises(kind, match=told):
            add_int8(bundle, tmp_path / "x.fctl", replace(LOOSE, calib=(place,)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "w.tif"]


def other_segmenter(folder: Path, nodes: list[Any], weights: dict[str, Array]) -> Bundle:
    """tiny_plain.fctl with another graph from patch (N, 4, 16, 16) to logits (N, 2, 16, 16)."""
    bundle = read_bundle(tiny.TINY_PLAIN)
    model = onnx.load(bundle.folder / bundle.manifest.graphs[0].file)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend([helper.make_node("Cast", ["patch"], ["pixels"], to=onnx.TensorProto.FLOAT), *nodes])
    model.graph.initializer.extend(from_array(value, name) for name, value in weights.items())
    onnx.save(model, folder / "net.onnx")
    graph = replace(bundle.manifest.graphs[0], file="net.onnx")
    return Bundle(folder, replace(bundle.manifest, graphs=(graph,)))


def test_networks_without_layers_for_int8_are_refused_with_the_reason(tmp_path: Path) -> None:
    weights = {"w": np.ones((4, 2, 1, 1), np.float32)}
    up = other_segmenter(tmp_path, [helper.make_node("ConvTranspose", ["pixels", "w"], ["logits"])], weights)
    told = r"layers that may be int8 with 10% of the multiply-accumulates or more, found 0\.0%; the rest stays float"
    with pytest.raises(BundleError, match=rf"{told} \(ConvTranspose\): run it in fp32 or fp16") as caught:
        add_int8(up, tmp_path / "x.fctl", LOOSE)
    assert "\n" not in str(caught.value)
    halves = {"starts": np.array([0, 0]), "ends": np.array([9, 2])}
    nodes = [helper.make_node("Slice", ["pixels", "starts", "ends"], ["logits"])]
    with pytest.raises(BundleError, match=rf"{told}: run it"):
        add_int8(other_segmenter(tmp_path, nodes, halves), tmp_path / "x.fctl", LOOSE)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        assert list((tmp_path / "new").iterdir()) != []
        raise KeyboardInterrupt

    monkeypatch.setattr(int8, "write_report", fail)
    with pytest.raises(KeyboardInterrupt):
        add_int8(read_bundle(tiny.TINY), tmp_path / "new" / "x.fctl", LOOSE)
    assert list(tmp_path.iterdir()) == []


# The command line


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, in_process: InProcess, tmp_path: Path) -> Call:
    """fctl-export in an empty folder, in this process: loading onnx for every call takes longer than all the rest."""
    monkeypatch.chdir(tmp_path)
    return partial(in_process, app)


def assert_one_error(done: subprocess.CompletedProcess[str], told: str) -> None:
    assert done.returncode == 1, done.stderr
    error = done.stderr
    assert error.startswith("error: ") and error.count("\n") == 1, done.stderr
    assert told in error


INT8 = ("--precision", "int8", "--out", "x.fctl")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([tiny.TINY, "--calib", "a", "--out", "x.fctl"], "--calib is for --precision int8: leave it out"),
        ([tiny.TINY, "--calib", "a", "--precision", "fp16", "--out", "x.fctl"], "--calib is for --precision int8"),
        (["c.pt", "--count", "9", "--out", "x.fctl"], "--count is for --precision int8"),
        ([tiny.TINY, *INT8, "--calib", "a", "--split", "x"], "--split is for --eval: leave it out"),
        ([tiny.TINY, *INT8, "--calib", "a", "--max-miou-drop", "1"], "--max-miou-drop is for --eval"),
        ([tiny.TINY, *INT8, "--calib", "a", "--description", "d.json"], "--description is for --eval"),
        (
            [tiny.TINY, *INT8, "--calib", "a", "--eval", "b", "--min-agreement", "98"],
            "--min-agreement is for int8 without --eval",
        ),
        ([tiny.TINY, *INT8, "--calib", "a", "--ranges", "kl"], "'kl' is not one of 'auto', 'minmax', 'percentile',"),
        ([tiny.TINY, *INT8, "--calib", "a", "--min-agreement", "101"], "--min-agreement"),
        ([tiny.TINY, *INT8, "--calib", "a", "--min-class-iou", "101"], "--min-class-iou"),
        (["c.pt", "--min-class-iou", "90", "--out", "x.fctl"], "--min-class-iou is for --precision int8"),
        ([tiny.TINY, *INT8, "--calib", "a", "--count", "0"], "--count"),
        ([tiny.TINY, *INT8, "--calib", "a", "--patches", "b"], "--patches is for other precisions of a bundle"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, value[1:])),
)
def test_a_wrong_call_exits_with_two(arguments: list[object], told: str, call: Call, tmp_path: Path) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("network", [tiny.TINY, "absent.pt"], ids=["bundle", "checkpoint"])
def test_without_images_it_says_how_to_give_them(network: object, call: Call, tmp_path: Path) -> None:
    """Of a checkpoint before it is exported."""
    assert_one_error(call(network, *INT8), f"{network} holds no int8 graphs: to make them, give --calib with images")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already(shipped: Path, call: Call, tmp_path: Path) -> None:
    assert_one_error(call(shipped, *INT8), "holds int8 graphs already: run it with --precision int8")
    done = call(shipped, *INT8, "--fmt", "trt", "--calib", SHIPPED)
    assert_one_error(done, "holds int8 graphs already: leave --calib out")
    assert_one_error(call(tiny.TINY, *INT8, "--calib", SHIPPED, "--eval", tmp_path / "none"), "none")
    assert list(tmp_path.iterdir()) == []


def test_a_whole_run(call: Call, tmp_path: Path) -> None:
    own_labels(tmp_path / "data")
    usual = (*INT8, "--calib", IMAGES[0], "--calib", IMAGES[1], "--count", 5, "--seed", 2, "--ranges", "mse")
    done = call(tiny.TINY, *usual, "--eval", "data", "--split", "0", "--max-miou-drop", 30, "--min-class-iou", 0)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "wrote x.fctl"
    assert "the fp32 graphs in ONNX Runtime" in done.stdout and "int8" in done.stdout
    for line in ("calibrating with 5 patches, trying layers on 2 others", "mIoU in fp32: 100.00", "layers in int8"):
        assert line in done.stderr
    report = report_of(tmp_path / "x.fctl")
    assert (report["ranges"], report["budget"]["of"], report["budget"]["allowed"]) == ("mse", "mIoU lost", 0.3)
    assert {patch["image"] for patch in report["patches"]} == {str(IMAGES[0]), str(IMAGES[1])}
    assert report["bias_correction"] == corrected(tmp_path / "x.fctl") is False  # it does not help here
    dataset = open_dataset(tmp_path / "data")
    first = replace(dataset, samples=dataset.samples[:1])
    assert report["budget"]["found"] == 1 - miou(tmp_path / "x.fctl", first, "int8", tmp_path)
    again = call(tiny.TINY, *usual)
    assert_one_error(again, "x.fctl exists already")


def test_agreement_is_in_percent(call: Call, tmp_path: Path) -> None:
    usual = (*INT8, "--calib", SHIPPED, "--count", 5, "--ranges", "minmax", "--min-class-iou", 0)
    done = call(tiny.TINY, *usual, "--min-agreement", 90)
    assert done.returncode == 0, done.stderr
    manifest: Manifest = read_bundle(tmp_path / "x.fctl").manifest
    assert manifest.parity[-1].agreement >= 0.9
    assert report_of(tmp_path / "x.fctl")["budget"]["allowed"] == pytest.approx(0.1)
    done = call(
        tiny.TINY, "--precision", "int8", "--out", "y.fctl", "--calib", SHIPPED, "--count", 5, "--min-agreement", 100
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: int8 cannot keep the budget: pixels that change: at most 0.00%"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["x.fctl"]
