"""What an int8 export measured: report.md, report.json, sensitivity.png and worst.png in a folder of the bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fctl.runtime.bundle.parity import ClassIou
from fctl.runtime.bundle.records import encode
from fctl.runtime.evaluate.pictures import Prediction, draw_comparison, panel_size
from fctl.runtime.evaluate.plots import BLUE, GREEN, GREY, VERMILION, Chart, Panel, stacked

from .choose import Chosen
from .classes import RARE
from .search import Point, Sensitivity
from .speed import Speed
from .trials import Changed, Fp32Graphs

_SHOWN = 40  # layers in the table


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that is known of an int8 export when it is done.

    Attributes:
        graphs: The fp32 graphs.
        patches: The patches that calibrated.
        checks: The patches on which layers were tried.
        gate: The patches that judged in the end.
        seed: Seed of the patches' places.
        agreement: By what was tried (ranges, bias correction), the share of pixels that keep their class with all
            layers in int8.
        method: How ranges were found.
        corrected: Whether biases are corrected.
        budget: What the loss is, in words, and how much of it is allowed.
        sensitivity: The layers, most harmful first.
        best: The point that was taken.
        worst: The patch, of the checks, that the best point changes most.
        points: All points that were measured.
        floats: By role of a graph and layer, why the layer stays float.
        speeds: Speeds of the finished bundle.
        gains: By share of the work of some points, the speed in `engine` over that of its fastest other precision.
        engine: The engine in which points were timed, or None.
        sizes: Bytes of the graphs in fp32 and in int8.
        check_classes: How well classes keep their pixels on `checks`.
        gate_classes: The same on `gate`.
        min_class_iou: The least IoU that was asked for.
    """

    graphs: Fp32Graphs
    patches: Sequence[Chosen]
    checks: Sequence[Chosen]
    gate: Sequence[Chosen]
    seed: int
    agreement: Mapping[str, float]
    method: str
    corrected: bool
    budget: tuple[str, float]
    sensitivity: Sequence[Sensitivity]
    best: Point
    worst: Changed
    points: Sequence[Point]
    floats: Mapping[str, Mapping[str, str]]
    speeds: Sequence[Speed]
    gains: Mapping[float, float]
    engine: str | None
    sizes: tuple[int, int]
    check_classes: Sequence[ClassIou] = ()
    gate_classes: Sequence[ClassIou] = ()
    min_class_iou: float = 0.0


def write_report(measured: Measured, folder: Path) -> None:
    """Write the report into a new folder.

    Args:
        measured: What was measured.
        folder: The folder, which must not exist.

    Raises:
        EngineError: matplotlib is not installed.
        OSError: The folder exists or cannot be written.
    """
    folder.mkdir()
    (folder / "report.md").write_text(markdown(measured), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(document(measured), indent=2) + "\n", encoding="utf-8")
    draw_curve(measured).save(folder / "sensitivity.png")
    draw_worst(measured).save(folder / "worst.png")


def document(measured: Measured) -> dict[str, Any]:
    """The report as plain values for JSON, with every patch, layer and point."""
    kept = measured.best.chosen
    return {
        "ranges": measured.method,
        "bias_correction": measured.corrected,
        "agreement_of_all_layers": dict(measured.agreement),
        "budget": {"of": measured.budget[0], "allowed": measured.budget[1], "found": measured.best.loss},
        "classes": {
            "allowed": measured.min_class_iou,
            "checks": [encode(one) for one in measured.check_classes],
            "gate": [encode(one) for one in measured.gate_classes],
        },
        "share_of_macs": measured.best.share,
        "bytes": {"fp32": measured.sizes[0], "int8": measured.sizes[1]},
        "speeds": [encode(speed) for speed in measured.speeds],
        "layers": [encode(one) | {"int8": one.name in kept.get(one.role, ())} for one in measured.sensitivity],
        "float_layers": {role: dict(reasons) for role, reasons in measured.floats.items()},
        "points": [
            {
                "layers": _count(point),
                "share_of_macs": point.share,
                "loss": point.loss,
                "speed": measured.gains.get(point.share),
            }
            | ({"weakest_class": encode(point.weakest)} if point.weakest else {})
            for point in measured.points
        ],
        "seed": measured.seed,
        "patches": [encode(patch) for patch in measured.patches],
        "checks": [encode(patch) for patch in measured.checks],
        "gate": [encode(patch) for patch in measured.gate],
    }


def markdown(measured: Measured) -> str:
    """The report as Markdown: the figures, and the layers that matter."""
    best, (what, allowed) = measured.best, measured.budget
    every = sum(len(names) for names in measured.graphs.names.values())
    lines = [
        "# INT8",
        "",
        f"{_count(best)} of {every} layers that may be int8, {best.share:.1%} of the multiply-accumulates. Loss "
        f"({what}): {best.loss:.2%}, allowed {allowed:.2%}. Graphs: {measured.sizes[1] / 1e6:.1f} MB, in fp32 "
        f"{measured.sizes[0] / 1e6:.1f} MB.",
        "",
        f"Calibrated with {len(measured.patches)} patches of {len({one.image for one in measured.patches})} images, "
        f"tried on {len(measured.checks)} others, judged on {len(measured.gate)} more (report.json has their places). "
        f"Ranges: {measured.method}; bias correction: {'yes' if measured.corrected else 'no'}.",
        "",
        "| all layers in int8 | same class |",
        "|---|---|",
        *(f"| {name} | {value:.3%} |" for name, value in measured.agreement.items()),
        "",
        *_class_table(measured),
        *_speed_table(measured.speeds),
        "| layers | share of MACs | loss | speed |",
        "|---|---|---|---|",
        *(
            f"| {_count(point)} | {point.share:.1%} | {point.loss:.3%} | {_gain(measured, point)} |"
            for point in sorted(measured.points, key=lambda point: -point.share)
        ),
        "",
        *([f"Speed: in {measured.engine}, over its fastest other precision.", ""] if measured.gains else []),
        "![loss and speed over the share of int8](sensitivity.png)",
        "",
        "The patch of which most pixels change:",
        "",
        "![image, fp32, int8 and where they differ](worst.png)",
        "",
        "| layer alone in int8 | share of MACs | pixels that change | in the end |",
        "|---|---|---|---|",
    ]
    total = max(1, measured.graphs.work(measured.graphs.macs))
    for one in measured.sensitivity[:_SHOWN]:
        kept = "int8" if one.name in best.chosen.get(one.role, ()) else "**float**"
        lines.append(f"| {one.role}: `{one.name}` | {one.macs / total:.2%} | {one.loss:.3%} | {kept} |")
    if len(measured.sensitivity) > _SHOWN:
        lines.append(f"| {len(measured.sensitivity) - _SHOWN} more | | less than that | |")
    reasons: dict[str, int] = {}
    for found in measured.floats.values():
        for reason in found.values():
            reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        rows = [f"| {reason} | {count} |" for reason, count in sorted(reasons.items())]
        lines += ["", "| float by rule | layers |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _class_table(measured: Measured) -> list[str]:
    """The table of classes, if any were compared: rarest first, since a rare one is what agreement hides."""
    tried, gate = ({one.name: one for one in found} for found in (measured.check_classes, measured.gate_classes))
    names = sorted(tried | gate, key=lambda name: max(one[name].share for one in (tried, gate) if name in one))
    if not names:
        return []
    rows = [
        f"| {name} | " + " | ".join(_class_cells(found.get(name)) for found in (tried, gate)) + " |" for name in names
    ]
    return [
        f"IoU of each class between fp32 and int8. Those with {RARE:.1%} of the pixels in fp32 must keep "
        f"{measured.min_class_iou:.1%}.",
        "",
        "| class | pixels, tried | IoU, tried | pixels, gate | IoU, gate |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _class_cells(one: ClassIou | None) -> str:
    """The share and the IoU of a class as two cells, empty where it does not occur."""
    return f"{one.share:.2%} | {one.iou:.2%}" if one else " | "


def _speed_table(speeds: Sequence[Speed]) -> list[str]:
    """The table of speeds, if anything was timed."""
    if not speeds:
        return []
    rows = [
        f"| {speed.engine} | {', '.join(f'{name} {1000 * value:.1f}' for name, value in speed.seconds.items())} | "
        f"{speed.gain:.2f} |"
        for speed in speeds
    ]
    return ["| engine | ms a patch, with its contexts | int8 over the fastest other |", "|---|---|---|", *rows, ""]


def _count(point: Point) -> int:
    """How many layers of a point are int8."""
    return sum(len(names) for names in point.chosen.values())


def _gain(measured: Measured, point: Point) -> str:
    """The relative speed of a point, empty where it was not timed."""
    return f"{measured.gains[point.share]:.2f}" if point.share in measured.gains else ""


def draw_curve(measured: Measured) -> Chart:
    """Draw what int8 costs and gains over the share of the work that is int8: the loss, and below it the speed.

    Args:
        measured: The export. Where nothing was timed, the loss has the chart for itself.

    Returns:
        The chart.

    Raises:
        EngineError: matplotlib is not installed.
    """
    title = f"INT8: {measured.graphs.bundle.manifest.name}"
    chart, panels = stacked(title, 2 if measured.gains else 1, "share of the multiply-accumulates in int8, %")
    _draw_losses(panels[0], measured)
    if measured.gains:
        _draw_gains(panels[1], measured)
    return chart


def _draw_losses(axes: Panel, measured: Measured) -> None:
    """Draw the loss of all points, the budget, and the point that was taken."""
    what, allowed = measured.budget
    points = sorted(measured.points, key=lambda point: point.share)
    losses = [100 * point.loss for point in points]
    best = (100 * measured.best.share, 100 * measured.best.loss)
    axes.axhline(100 * allowed, color=GREY, linestyle="--", linewidth=1.2, label="budget")
    if points:
        shares = [100 * point.share for point in points]
        axes.plot(shares, losses, color=BLUE, marker="o", markersize=5, label="measured")
    axes.plot(
        *best, color=VERMILION, marker="o", markersize=12, markerfacecolor="none", markeredgewidth=2.2, linestyle="",
        label="taken", clip_on=False,
    )  # fmt: skip
    highest, lowest = max(100 * allowed, *losses, best[1], 1e-4), min(0.0, *losses, best[1])
    axes.set(xlim=(0, 100), ylim=(1.25 * lowest, 1.25 * highest), ylabel=f"{what}, %")
    axes.legend(loc="upper left", frameon=False, ncols=3)


def _draw_gains(axes: Panel, measured: Measured) -> None:
    """Draw the speed of the points that were timed, relative to the engine's fastest other precision."""
    gains = sorted(measured.gains.items())
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1.2, label="its fastest other precision")
    shares, speeds = [100 * share for share, _ in gains], [gain for _, gain in gains]
    axes.plot(shares, speeds, color=GREEN, marker="s", markersize=5, label=f"int8 in {measured.engine}")
    axes.set(ylabel="relative speed", ylim=(0, 1.4 * max(1.0, *speeds)))
    axes.legend(loc="upper left", frameon=False, ncols=2)


def draw_worst(measured: Measured) -> Image.Image:
    """Draw the patch that int8 changes most: image, classes in fp32 and in int8, and where they differ."""
    worst, manifest = measured.worst, measured.graphs.bundle.manifest
    place, change = measured.checks[worst.number], 1 - worst.kept / worst.fp32.size
    side, _ = panel_size(*worst.fp32.shape)
    shown = np.arange(side) * len(worst.fp32) // side
    nearest = np.ix_(shown, shown)
    return draw_comparison(
        f"{Path(place.image).name}, row {place.y}, column {place.x}: {change:.1%} of the pixels change",
        worst.pixels.transpose(1, 2, 0)[nearest],
        worst.fp32[nearest],
        [Prediction(title="int8", ids=worst.int8[nearest])],
        manifest.classes,
        range(len(manifest.classes)),
        reference="fp32",
    )
