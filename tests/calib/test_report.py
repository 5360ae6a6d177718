"""The report of an int8 export, from numbers made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from fctl.calib.choose import Chosen
from fctl.calib.layers import Layer
from fctl.calib.report import (
    Measured,
    document,
    draw_curve,
    draw_worst,
    markdown,
    write_report,
)
from fctl.calib.search import Point, Sensitivity
from fctl.calib.speed import Speed
from fctl.calib.trials import Changed, Fp32Graphs
from fctl.runtime.bundle.manifest import SEGMENTER
from fctl.runtime.bundle.parity import ClassIou
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.evaluate.pictures import error_colours
from fctl.runtime.evaluate.plots import Chart, Panel

from ..runtime import tiny

ENCODER, COUNT = "encoder_medium", 50
LONG = "-".join(["a-network-of-a-city-whose-name-is-long"] * 5)


def graphs_of(name: str) -> Fp32Graphs:
    """50 layers of 10 each in the segmenter, one of 300 in an encoder, and 200 that stay float."""
    bundle = read_bundle(tiny.TINY)
    names = {SEGMENTER: [f"conv{index}" for index in range(COUNT)], ENCODER: ["stem"]}
    layers = {
        role: tuple(Layer(name=name, op="Conv", input="x", weight="w", axis=0) for name in found)
        for role, found in names.items()
    }
    macs = {SEGMENTER: dict.fromkeys(names[SEGMENTER], 10) | {"up": 200}, ENCODER: {"stem": 300}}
    return Fp32Graphs(
        bundle=Bundle(bundle.folder, replace(bundle.manifest, name=name)), models={}, layers=layers, macs=macs
    )


def changed(side: int = 64) -> Changed:
    """A patch of the first class, whose lower quarter becomes the second."""
    fp32 = np.zeros((side, side), np.uint8)
    int8 = fp32.copy()
    int8[3 * side // 4 :] = 1
    return Changed(number=0, pixels=np.full((3, side, side), 200, np.uint8), fp32=fp32, int8=int8)


def measured(
    losses: Mapping[int, float],
    gains: Mapping[int, float],
    *,
    allowed: float = 0.01,
    name: str = "tiny",
    best: int = 20,
) -> Measured:
    """Losses and gains by how many of the segmenter's layers are int8, beside the encoder's."""
    graphs = graphs_of(name)

    def point(count: int, loss: float) -> Point:
        names = {SEGMENTER: frozenset(f"conv{index}" for index in range(count)), ENCODER: frozenset(("stem",))}
        return Point(chosen=names, share=graphs.share(names), loss=loss)

    points = {count: point(count, loss) for count, loss in losses.items()}
    order = [
        Sensitivity(role=SEGMENTER, name=f"conv{COUNT - 1 - index}", macs=10, loss=0.02 / (1 + index))
        for index in range(COUNT)
    ]
    return Measured(
        graphs=graphs,
        patches=[Chosen(image=f"{name}.tif", y=3, x=4, valid=1.0, shares=(0.25, 0.75, 0.0)) for name in "aabc"],
        checks=[Chosen(image="d.tif", y=5, x=6, valid=0.5, shares=(0.0, 0.0, 1.0))],
        gate=[Chosen(image="e.tif", y=7, x=8, valid=1.0, shares=(1.0, 0.0, 0.0))] * 2,
        seed=5,
        agreement={"minmax": 0.97, "mse": 0.98123, "mse, bias correction": 0.985},
        method="mse",
        corrected=True,
        budget=("pixels that change", allowed),
        sensitivity=[*order, Sensitivity(role=ENCODER, name="stem", macs=300, loss=0.0)],
        best=points.get(best) or Point(chosen={}, share=0.0, loss=0.0),
        worst=changed(),
        points=list(points.values()),
        floats={
            SEGMENTER: {"up": "ConvTranspose", "qk": "product of two activations"},
            ENCODER: {"e": "ConvTranspose"},
        },
        speeds=[Speed(engine="openvino", seconds={"fp32": 0.03, "int8": 0.0151})] if gains else [],
        gains={points[count].share: gain for count, gain in gains.items()},
        engine="openvino" if gains else None,
        sizes=(12_340_000, 3_210_000),
    )


USUAL = measured({50: 0.03, 35: 0.012, 20: 0.008, 10: 0.001}, {50: 1.9, 20: 1.25})


def rows(text: str, first: str) -> list[str]:
    """Of the table whose header begins so."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {first} "))
    assert lines[start + 1].count("|") == lines[start].count("|")
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        assert line.count("|") == lines[start].count("|")
        found.append(line)
    return found


def test_the_figures() -> None:
    text = markdown(USUAL)
    assert (
        "21 of 51 layers that may be int8, 50.0% of the multiply-accumulates. Loss (pixels that change): 0.80%, "
        "allowed 1.00%. Graphs: 3.2 MB, in fp32 12.3 MB." in text
    )
    assert "Calibrated with 4 patches of 3 images, tried on 1 others" in text
    assert "Ranges: mse; bias correction: yes." in text
    assert "bias correction: no." in markdown(replace(USUAL, corrected=False))
    assert rows(text, "all layers in int8") == [
        "| minmax | 97.000% |", "| mse | 98.123% |", "| mse, bias correction | 98.500% |"
    ]  # fmt: skip
    assert rows(text, "engine") == ["| openvino | fp32 30.0, int8 15.1 | 1.99 |"]
    assert rows(text, "layers") == [
        "| 51 | 80.0% | 3.000% | 1.90 |", "| 36 | 65.0% | 1.200% |  |", "| 21 | 50.0% | 0.800% | 1.25 |",
        "| 11 | 40.0% | 0.100% |  |",
    ]  # fmt: skip
    assert "Speed: in openvino, over its fastest other precision." in text
    assert rows(text, "float by rule") == ["| ConvTranspose | 2 |", "| product of two activations | 1 |"]
    assert "\n\n\n" not in text and text.endswith("|\n")


def test_classes_are_told_rarest_first() -> None:
    land, kelp, ice = (
        ClassIou(name=name, share=share, iou=iou)
        for name, share, iou in (("land", 0.9933, 0.998), ("kelp", 0.0067, 0.76), ("ice", 0.0, 0.0))
    )
    told = replace(USUAL, check_classes=[land, kelp, ice], gate_classes=[land, kelp], min_class_iou=0.8)
    assert rows(markdown(told), "class") == [
        "| ice | 0.00% | 0.00% |  |  |", "| kelp | 0.67% | 76.00% | 0.67% | 76.00% |",
        "| land | 99.33% | 99.80% | 99.33% | 99.80% |",
    ]  # fmt: skip
    assert "Those with 0.1% of the pixels in fp32 must keep 80.0%." in markdown(told)
    assert document(told)["classes"] == {
        "allowed": 0.8,
        "checks": [
            {"name": "land", "share": 0.9933, "iou": 0.998}, {"name": "kelp", "share": 0.0067, "iou": 0.76},
            {"name": "ice", "share": 0.0, "iou": 0.0},
        ],
        "gate": [{"name": "land", "share": 0.9933, "iou": 0.998}, {"name": "kelp", "share": 0.0067, "iou": 0.76}],
    }  # fmt: skip
    assert "\n\n\n" not in markdown(told) and "| class |" not in markdown(USUAL)
    weak = replace(USUAL, points=[replace(USUAL.points[0], weakest=kelp), *USUAL.points[1:]])
    assert [point.get("weakest_class") for point in document(weak)["points"]] == [
        {"name": "kelp", "share": 0.0067, "iou": 0.76}, None, None, None
    ]  # fmt: skip


def test_layers_that_hurt_most_are_listed_and_the_rest_counted() -> None:
    found = rows(markdown(USUAL), "layer alone in int8")
    assert len(found) == 41
    assert found[0] == "| segmenter: `conv49` | 1.00% | 2.000% | **float** |"
    assert found[35] == "| segmenter: `conv14` | 1.00% | 0.056% | int8 |"
    assert found[40].startswith("| 11 more |")
    few = replace(USUAL, sensitivity=USUAL.sensitivity[-2:])
    assert rows(markdown(few), "layer alone in int8")[-1] == "| encoder_medium: `stem` | 30.00% | 0.000% | int8 |"


def test_what_was_not_timed_is_not_told() -> None:
    text = markdown(measured({50: 0.03, 20: 0.008}, {}))
    assert "| engine " not in text and "Speed" not in text
    assert rows(text, "layers") == ["| 51 | 80.0% | 3.000% |  |", "| 21 | 50.0% | 0.800% |  |"]
    assert "float by rule" not in markdown(replace(USUAL, floats={SEGMENTER: {}}))
    assert "\n\n\n" not in text


def test_json_has_everything(tmp_path: Path) -> None:
    write_report(USUAL, tmp_path / "int8")
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == [
        "report.json", "report.md", "sensitivity.png", "worst.png"
    ]  # fmt: skip
    found: dict[str, Any] = json.loads((tmp_path / "int8" / "report.json").read_text(encoding="utf-8"))
    assert found == document(USUAL)
    assert found["budget"] == {"of": "pixels that change", "allowed": 0.01, "found": 0.008}
    assert (found["ranges"], found["bias_correction"]) == ("mse", True)
    assert found["agreement_of_all_layers"] == USUAL.agreement
    assert found["bytes"] == {"fp32": 12_340_000, "int8": 3_210_000}
    assert found["speeds"] == [{"engine": "openvino", "seconds": {"fp32": 0.03, "int8": 0.0151}}]
    assert len(found["layers"]) == 51
    assert found["layers"][0] == {"role": SEGMENTER, "name": "conv49", "macs": 10, "loss": 0.02, "int8": False}
    assert {layer["name"] for layer in found["layers"] if layer["int8"]} == {"stem", *(f"conv{i}" for i in range(20))}
    assert found["points"][0] == {"layers": 51, "share_of_macs": 0.8, "loss": 0.03, "speed": 1.9}
    assert (found["seed"], found["gate"][0]["image"]) == (5, "e.tif")
    assert found["patches"][2] == {"image": "b.tif", "y": 3, "x": 4, "valid": 1.0, "shares": [0.25, 0.75, 0.0]}
    assert [patch["image"] for patch in found["checks"]] == ["d.tif"]
    assert found["float_layers"][ENCODER] == {"e": "ConvTranspose"}
    assert (tmp_path / "int8" / "report.md").read_text(encoding="utf-8") == markdown(USUAL)
    with Image.open(tmp_path / "int8" / "sensitivity.png") as image:
        assert image.size == (1000, 560)


# The picture


def picture_of(chart: Chart, path: Path) -> NDArray[np.uint8]:
    chart.save(path)
    with Image.open(path) as picture:
        assert (picture.size, picture.format) == ((1000, 560), "PNG")
        return np.asarray(picture.convert("RGB"))


def test_points_budget_and_what_was_taken_are_where_they_belong(tmp_path: Path) -> None:
    chart = draw_curve(USUAL)
    picture = picture_of(chart, tmp_path / "sensitivity.png")
    loss, speed = chart.figure.axes

    def colour(panel: Panel, x: float, y: float, turn: int = 0) -> tuple[int, ...]:
        place = panel.transData.transform((x, y))
        return tuple(map(int, picture[560 - 1 - int(place[1]) + turn, int(place[0])]))

    for share, lost in ((80, 3.0), (65, 1.2), (50, 0.8), (40, 0.1)):
        assert colour(loss, share, lost) == (0, 114, 178)
    for share, gain in ((80, 1.9), (50, 1.25)):
        assert colour(speed, share, gain) == (0, 158, 115)
    for turn in (-8, 8):
        assert colour(loss, 50, 0.8, turn) == (213, 94, 0)
    (budget,) = (line for line in loss.lines if line.get_label() == "budget")
    assert set(budget.get_ydata()) == {1.0}
    (other,) = (line for line in speed.lines if line.get_label() == "its fastest other precision")
    assert set(other.get_ydata()) == {1.0}


def test_every_line_is_in_a_legend_and_axes_say_what_they_show() -> None:
    chart = draw_curve(USUAL)
    loss, speed = chart.figure.axes
    assert chart.figure.get_suptitle() == "INT8: tiny"
    legends = [[text.get_text() for text in panel.get_legend().get_texts()] for panel in (loss, speed)]
    assert legends == [["budget", "measured", "taken"], ["its fastest other precision", "int8 in openvino"]]
    assert (loss.get_ylabel(), speed.get_ylabel()) == ("pixels that change, %", "relative speed")
    assert speed.get_xlabel() == "share of the multiply-accumulates in int8, %"
    assert (loss.get_xlim(), speed.get_xlim()) == ((0, 100), (0, 100))
    assert loss.get_ylim()[0] == speed.get_ylim()[0] == 0


@pytest.mark.parametrize(
    "numbers",
    [
        USUAL,
        measured({50: 0.9, 20: 0.3}, {50: 12.5}, allowed=0.333, name=LONG),
        measured({50: 1e-5, 20: 0.0}, {50: 123.0, 20: 0.01}, allowed=0.0),
        measured({50: -0.02, 20: 0.01}, {50: 1.5}),
        measured({}, {}, name="W" * 200),
    ],
    ids=["usual", "long", "nothing allowed", "gains accuracy", "empty"],
)
def test_text_and_points_are_whole(numbers: Measured, tmp_path: Path) -> None:
    """Text keeps off the edges, and points lie inside the axes."""
    chart = draw_curve(numbers)
    picture = picture_of(chart, tmp_path / "sensitivity.png")
    dark = (picture < 250).any(axis=2)
    assert not (dark[:4].any() or dark[-4:].any() or dark[:, :4].any() or dark[:, -4:].any())
    for panel in chart.figure.axes:
        lowest, highest = panel.get_ylim()
        for line in panel.lines:
            assert all(lowest <= y <= highest for y in line.get_ydata())


@pytest.mark.parametrize(("side", "shown"), [(64, 64), (1120, 560)])
def test_the_worst_patch_is_drawn_with_what_changes(side: int, shown: int) -> None:
    picture = np.asarray(draw_worst(replace(USUAL, worst=changed(side)))).astype(int)
    colour = error_colours(USUAL.graphs.bundle.manifest.classes)[0]
    assert colour not in [info.colour for info in USUAL.graphs.bundle.manifest.classes]
    wrong = (picture == colour).all(axis=2)
    right = wrong[:, 3 * wrong.shape[1] // 4 :]  # the last of four panels; the legend is further left
    assert right.sum() == shown * shown // 4
    for info in USUAL.graphs.bundle.manifest.classes[:2]:
        assert (picture == info.colour).all(axis=2).any()
    assert "![image, fp32, int8 and where they differ](worst.png)" in markdown(USUAL)


def test_without_points_there_are_axes_and_a_budget() -> None:
    numbers = replace(measured({}, {}), best=Point(chosen={}, share=0.0, loss=0.0))
    (loss,) = draw_curve(numbers).figure.axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["budget", "taken"]
    assert "| layers | share of MACs" in markdown(numbers)


def test_without_speeds_the_loss_has_the_chart_for_itself() -> None:
    for gains, panels in (({}, 1), ({50: 1.5}, 2)):
        assert len(draw_curve(measured({50: 0.03, 20: 0.008}, gains)).figure.axes) == panels
