"""A rare class that int8 loses while more than 99 % of the pixels agree.

The network is made so that it holds in any engine and on any processor: one layer must tell 0 from 1 in a band whose
neighbour reaches 255, and int8 rounds both to 0. One pixel of 256 is of that class. The other layer, which has nine
times the work, loses nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

import onnx
from onnx import helper
from onnx.numpy_helper import from_array

from fctl.calib import search, speed
from fctl.calib.sample import sample_patches
from fctl.calib.search import sensitivities
from fctl.calib.trials import Fp32Graphs, Numbers, Trials
from fctl.export.cli.command import app
from fctl.export.precision import int8, int8_patches, int8_speed
from fctl.export.precision.int8 import REPORT, Int8Options, add_int8
from fctl.export.precision.int8_budget import agreement_budget, within
from fctl.export.verify import Samples, fp32_reference, verify
from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import SEGMENTER, ClassInfo, Manifest
from fctl.runtime.bundle.parity import ClassIou
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256, write_manifest
from fctl.runtime.cli.info import info_app
from fctl.runtime.errors import ParityError
from fctl.runtime.evaluate.datasets import open_dataset
from tests.conftest import InProcess, write_geotiff
from tests.runtime import labelled, tiny

SHARE = 1 / 256
RARE, COMMON = "rare", "common"  # layers
FLOOR = "expected an IoU with fp32 of 85.00% or more"


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches, rounds and points; nothing is timed."""
    monkeypatch.setattr(int8_patches, "_TRIED", 4)
    monkeypatch.setattr(int8_patches, "_JUDGING", 4)
    monkeypatch.setattr(int8, "_ALONE", 1)
    monkeypatch.setattr(search, "_CURVE", ())
    monkeypatch.setattr(speed, "_ROUNDS", 1)
    monkeypatch.setattr(int8_speed, "speeds", lambda bundle, batch: ())


def pixels_of(value: int = 1) -> NDArray[np.uint8]:
    """Bands: noise up to 255; the value in one pixel of each 16 x 16, else 0; nothing."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :, 0] = np.random.default_rng(3).integers(0, 256, (64, 64))
    pixels[::2, ::2, 0] = 255
    pixels[3::16, 5::16, 1] = value
    return pixels


def bundle_of(folder: Path, *, alone: bool = False) -> Bundle:
    """Of 3 bands of bytes, into classes "land" and "kelp". alone: without the layer that loses nothing."""
    source = read_bundle(tiny.TINY_PLAIN)
    model = onnx.load(source.folder / source.manifest.graphs[0].file)
    graph = model.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    rare = np.array([0, 1, 0], np.float32).reshape(1, 3, 1, 1)
    common = np.zeros((1, 3, 3, 3), np.float32)
    common[:, 2] = 1
    weights = {
        "rare_w": rare, "rare_b": np.array([-0.5], np.float32), "common_w": common, "common_b": np.zeros(1, np.float32),
        "none": np.zeros((1, 1, 1, 1), np.float32),
    }  # fmt: skip
    other = helper.make_node("Conv", ["pixels", "common_w", "common_b"], ["land"], name=COMMON, pads=[1] * 4)
    if alone:
        other = helper.make_node("Mul", ["kelp", "none"], ["land"], name="zeros")
        del weights["common_w"], weights["common_b"]
    else:
        del weights["none"]
    graph.initializer.extend(from_array(value, name) for name, value in weights.items())
    graph.node.extend([
        helper.make_node("Cast", ["patch"], ["pixels"], name="cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "rare_w", "rare_b"], ["kelp"], name=RARE),
        other,
        helper.make_node("Concat", ["land", "kelp"], ["logits"], name="both", axis=1),
    ])  # fmt: skip
    folder.mkdir()
    onnx.save(model, folder / "segmenter.onnx")
    old = source.manifest.graphs[0]
    spec = replace(old.inputs[0], dtype="uint8", shape=(old.inputs[0].shape[0], 3, 16, 16))
    made = replace(old, file="segmenter.onnx", sha256=sha256(folder / "segmenter.onnx"), bytes=None, inputs=(spec,))
    classes = (ClassInfo(name="land", colour=(200, 180, 90)), ClassInfo(name="kelp", colour=(20, 120, 60)))
    pixels = replace(source.manifest.input, bands=3, dtype="uint8", scaling=None)
    manifest = replace(source.manifest, name="rare", classes=classes, input=pixels, graphs=(made,))
    write_manifest(folder, manifest)
    return Bundle(folder, manifest)


@pytest.fixture
def options(tmp_path: Path) -> Int8Options:
    return Int8Options(calib=(write_geotiff(tmp_path / "image.tif", pixels_of()),), count=8, ranges="minmax")


def classes_of(manifest: Manifest) -> dict[str, ClassIou]:
    """What the manifest says of int8."""
    parity = manifest.parity[-1]
    assert parity.precision == "int8"
    return {found.name: found for found in parity.class_iou}


def layers_of(folder: Path) -> dict[str, bool]:
    """Which layers are int8, by the report."""
    return {layer["name"]: layer["int8"] for layer in report_of(folder)["layers"]}


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / REPORT / "report.json").read_text(encoding="utf-8"))
    return found


def ids_of(folder: Path, precision: Any) -> NDArray[np.uint8]:
    with Segmenter(folder, backend="onnxruntime", precision=precision) as segmenter:
        return segmenter.segment(pixels_of()).ids


def test_without_a_floor_the_class_is_lost_and_told(options: Int8Options, tmp_path: Path) -> None:
    """99.6 % of the pixels agree; this is what every export did before classes had a floor."""
    out = tmp_path / "x.fctl"
    manifest = add_int8(bundle_of(tmp_path / "rare.fctl"), out, replace(options, min_class_iou=0.0))
    assert manifest.parity[-1].agreement == 1 - SHARE > 0.99
    assert layers_of(out) == {RARE: True, COMMON: True}
    lost, rest = ClassIou(name="kelp", share=SHARE, iou=0.0), ClassIou(name="land", share=1 - SHARE, iou=1 - SHARE)
    assert classes_of(manifest) == {"land": rest, "kelp": lost}
    found = report_of(out)["classes"]
    assert found["allowed"] == 0
    assert found["gate"][1] == {"name": "kelp", "share": SHARE, "iou": 0.0} == found["checks"][1]
    text = (out / REPORT / "report.md").read_text("utf-8")
    assert "| kelp | 0.39% | 0.00% | 0.39% | 0.00% |" in text.splitlines()
    assert not ids_of(out, "int8").any()


def test_a_floor_keeps_the_class_and_the_harmless_layer(options: Int8Options, tmp_path: Path) -> None:
    out = tmp_path / "x.fctl"
    manifest = add_int8(bundle_of(tmp_path / "rare.fctl"), out, options)
    assert layers_of(out) == {RARE: False, COMMON: True}
    assert {name: found.iou for name, found in classes_of(manifest).items()} == {"land": 1.0, "kelp": 1.0}
    assert read_bundle(out).manifest == manifest
    points = {point["layers"]: point for point in report_of(out)["points"]}
    assert points[2]["loss"] <= 0.8 * report_of(out)["budget"]["allowed"]  # within the budget of agreement
    assert points[2]["weakest_class"] == {"name": "kelp", "share": SHARE, "iou": 0.0}
    np.testing.assert_array_equal(ids_of(out, "int8"), ids_of(out, "fp32"))
    assert ids_of(out, "int8").sum() == 16


def test_the_floor_holds_with_labels_that_lack_the_class(options: Int8Options, tmp_path: Path) -> None:
    """They call everything land, so that int8 does better: mIoU rises from 50 to 100."""
    out, root = tmp_path / "x.fctl", tmp_path / "data"
    labelled.save(root / "masks" / "0.png", labelled.coloured(np.zeros((64, 64), np.uint8), labelled.COLOURS))
    labelled.save(root / "images" / "0.png", pixels_of())
    names = [
        {"name": name, "values": [list(colour)], "counted": True}
        for name, colour in zip(("land", "kelp"), labelled.COLOURS, strict=False)
    ]
    labelled.write_description(root / "dataset.json", classes=names)
    dataset = open_dataset(root)
    source = bundle_of(tmp_path / "rare.fctl")
    free = add_int8(source, tmp_path / "free.fctl", replace(options, labelled=dataset, min_class_iou=0.0))
    assert (classes_of(free)["kelp"].iou, report_of(tmp_path / "free.fctl")["budget"]["of"]) == (0.0, "mIoU lost")
    held = add_int8(source, out, replace(options, labelled=dataset))
    assert classes_of(held)["kelp"].iou == 1.0
    assert layers_of(out) == {RARE: False, COMMON: True}


def test_a_floor_that_cannot_be_kept_names_the_class(options: Int8Options, tmp_path: Path) -> None:
    with pytest.raises(ParityError) as caught:
        add_int8(bundle_of(tmp_path / "rare.fctl", alone=True), tmp_path / "x.fctl", options)
    told = str(caught.value)
    problem = f"int8 cannot keep the budget: class 'kelp', 0.39% of the pixels: {FLOOR}, 88.00% here, found"
    assert told.startswith(problem)
    assert "found 0.00% with 100.0% of the multiply-accumulates in int8, see `min_class_iou`" in told
    assert f"the layers that cost most alone: {SEGMENTER} {RARE} (0.39%)" in told
    assert told.endswith("nothing was written") and "\n" not in told
    assert not (tmp_path / "x.fctl").exists()


def test_a_class_that_only_the_gate_shows_is_held_there(tmp_path: Path) -> None:
    """The patches of the search lack it."""
    bundle = bundle_of(tmp_path / "rare.fctl")
    graphs = Fp32Graphs.of(bundle)
    without, shown = (
        sample_patches(bundle.manifest, [write_geotiff(tmp_path / f"{value}.tif", pixels_of(value))], 2, seed=0)
        for value in (0, 1)
    )
    numbers, trials = Numbers(amax={SEGMENTER: {"pixels": 255.0}}, biases={}), Trials(graphs, without)
    order, budget = sensitivities(trials, numbers, 1), agreement_budget(trials, numbers, 0.99, 0.85)
    found, parity = within(graphs, numbers, order, budget, Samples(batches=without, source="image"), tmp_path)
    assert (found.best.share, [one.name for one in parity.class_iou]) == (1.0, ["land"])
    with pytest.raises(ParityError) as caught:
        within(graphs, numbers, order, budget, Samples(batches=shown, source="image"), tmp_path)
    assert str(caught.value).startswith(
        "the int8 graphs differ from the fp32 graphs in ONNX Runtime: class 'kelp', 0.39% of the pixels: "
        f"{FLOOR}, found 0.00%, see `min_class_iou`; nothing was written; 100% of the multiply-accumulates are int8; "
    )
    assert f"the layers that cost most alone: {SEGMENTER} " in str(caught.value)


def test_every_gate_tells_classes(tmp_path: Path) -> None:
    """Also that of fp32, whose graphs are compared with the network."""
    bundle = bundle_of(tmp_path / "rare.fctl")
    image = write_geotiff(tmp_path / "image.tif", pixels_of())
    samples = Samples(batches=sample_patches(bundle.manifest, [image], 3, seed=0), source="image")
    assert verify(bundle, fp32_reference(bundle), samples).class_iou == (
        ClassIou(name="land", share=1 - SHARE, iou=1.0), ClassIou(name="kelp", share=SHARE, iou=1.0)
    )  # fmt: skip


def test_the_command_line(in_process: InProcess, options: Int8Options, tmp_path: Path) -> None:
    bundle_of(tmp_path / "rare.fctl")
    int8_of = ("--precision", "int8", "--calib", options.calib[0], "--count", 8, "--ranges", "minmax")
    usual = (tmp_path / "rare.fctl", *int8_of)
    done = in_process(app, *usual, "--out", tmp_path / "free.fctl", "--min-class-iou", 0)
    assert done.returncode == 0, done.stderr
    assert "class kelp: IoU with fp32" in done.stdout and "0.00%; 0.39% of pixels in fp32" in done.stdout
    done = in_process(app, *usual, "--out", tmp_path / "held.fctl")
    assert done.returncode == 0, done.stderr
    done = in_process(info_app, tmp_path / "held.fctl")
    assert "class kelp: IoU with fp32" in done.stdout and "100.00%; 0.39% of pixels in fp32" in done.stdout
    done = in_process(app, *usual, "--out", tmp_path / "x.fctl", "--min-class-iou", 0.8)
    assert done.returncode == 2
    assert "--min-class-iou: expected a percentage as 85, found 0.8" in " ".join(done.stderr.replace("│", " ").split())
    bundle_of(tmp_path / "alone.fctl", alone=True)
    done = in_process(app, tmp_path / "alone.fctl", *int8_of, "--out", tmp_path / "x.fctl")
    assert (done.returncode, "see --min-class-iou; the layers" in done.stderr) == (1, True)
    assert not (tmp_path / "x.fctl").exists()
