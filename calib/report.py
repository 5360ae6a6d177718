"""What an int8 export measured: report.md, report.json, sensitivity.png and worst.png in a folder of the bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fctl.runtime.bundle.records import encode
from fctl.runtime.evaluate.pictures import Prediction, draw_comparison, panel_size

from .choose import Chosen
from .search import Point, Sensitivity
from .speed import Speed
from .trials import Changed, Fp32Graphs

_SIZE = (1000, 560)  # width, height
_PLOT = (80, 60, 920, 490)  # left, top, right, bottom of the axes
_INK, _FAINT, _GRID = (34, 34, 34), (120, 120, 120), (225, 225, 225)
_KEPT, _TRIED, _SPEED = (222, 45, 38), (33, 102, 235), (60, 140, 60)
_TICKS = 5  # of an axis, beside 0
_SHOWN = 40  # layers in the table


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that is known of an int8 export when it is done.

    patches: those that calibrated, drawn from `seed`; checks: those on which layers were tried; gate: those that judged
    in the end. agreement: of all layers in int8, by what was tried (ranges, bias correction). budget: what the loss is
    (in words), and how much of it is allowed. best: what was taken, of points. worst: the check that it changes most.
    gains: of some points, by their share of the work, the speed in `engine` over its fastest other precision.
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


def write_report(measured: Measured, folder: Path) -> None:
    """Write all of it into a new folder."""
    folder.mkdir()
    (folder / "report.md").write_text(markdown(measured), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(document(measured), indent=2) + "\n", encoding="utf-8")
    draw_curve(measured).save(folder / "sensitivity.png")
    draw_worst(measured).save(folder / "worst.png")


def document(measured: Measured) -> dict[str, Any]:
    """As JSON: every window, layer and point."""
    kept = measured.best.chosen
    return {
        "ranges": measured.method,
        "bias_correction": measured.corrected,
        "agreement_of_all_layers": dict(measured.agreement),
        "budget": {"of": measured.budget[0], "allowed": measured.budget[1], "found": measured.best.loss},
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
            for point in measured.points
        ],
        "seed": measured.seed,
        "patches": [encode(patch) for patch in measured.patches],
        "checks": [encode(patch) for patch in measured.checks],
        "gate": [encode(patch) for patch in measured.gate],
    }


def markdown(measured: Measured) -> str:
    """The figures, and the layers that matter."""
    best, (what, allowed) = measured.best, measured.budget
    every = sum(len(names) for names in measured.graphs.names.values())
    lines = [
        "# INT8",
        "",
        f"{_count(best)} of {every} layers that may be int8, {best.share:.1%} of the multiply-accumulates. Loss "
        f"({what}): {best.loss:.2%}, allowed {allowed:.2%}. Fp32Graphs: {measured.sizes[1] / 1e6:.1f} MB, in fp32 "
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


def _speed_table(speeds: Sequence[Speed]) -> list[str]:
    if not speeds:
        return []
    rows = [
        f"| {speed.engine} | {', '.join(f'{name} {1000 * value:.1f}' for name, value in speed.seconds.items())} | "
        f"{speed.gain:.2f} |"
        for speed in speeds
    ]
    return ["| engine | ms a patch, with its contexts | int8 over the fastest other |", "|---|---|---|", *rows, ""]


def _count(point: Point) -> int:
    return sum(len(names) for names in point.chosen.values())


def _gain(measured: Measured, point: Point) -> str:
    return f"{measured.gains[point.share]:.2f}" if point.share in measured.gains else ""


def draw_curve(measured: Measured) -> Image.Image:
    """Loss in percent (left) and speed over the fastest other precision (right) over the share of MACs in int8."""
    font = ImageFont.load_default(size=15)
    canvas = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(canvas)
    left, top, right, bottom = _PLOT
    what, allowed = measured.budget
    losses, gains = [point.loss for point in measured.points], sorted(measured.gains.items())
    highest, fastest = _end(max(1.25 * allowed, *losses, 1e-6)), _end(max([1.0, *measured.gains.values()]))
    for tick in range(_TICKS + 1):
        part = tick / _TICKS
        x, y = left + (right - left) * part, bottom + (top - bottom) * part
        draw.line((left, y, right, y), fill=_GRID)
        draw.text((left - 8, y), f"{100 * highest * part:.6g}", fill=_TRIED, font=font, anchor="rm")
        draw.text((x, bottom + 8), f"{100 * part:.0f}", fill=_FAINT, font=font, anchor="mt")
        if gains:
            draw.text((right + 8, y), f"{fastest * part:.6g}", fill=_SPEED, font=font, anchor="lm")

    def place(share: float, height: float) -> tuple[float, float]:
        return left + (right - left) * share, bottom + (top - bottom) * min(max(height, 0.0), 1.0)

    line = place(0, allowed / highest)[1]
    draw.line((left, line, right, line), fill=_KEPT)
    points = sorted(measured.points, key=lambda point: point.share)
    draw.line([place(point.share, point.loss / highest) for point in points], fill=_TRIED, width=1)
    for point in points:
        x, y = place(point.share, point.loss / highest)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_TRIED)
    draw.line([place(share, gain / fastest) for share, gain in gains], fill=_SPEED, width=2)
    for share, gain in gains:
        x, y = place(share, gain / fastest)
        draw.rectangle((x - 3, y - 3, x + 3, y + 3), fill=_SPEED)
    x, y = place(measured.best.share, measured.best.loss / highest)
    draw.ellipse((x - 7, y - 7, x + 7, y + 7), outline=_KEPT, width=3)
    title = f": {what}, % (blue; red: the budget, and what was taken)"
    name = _fitted(measured.graphs.bundle.manifest.name, right - left - font.getlength(title), font)
    draw.text((left, 12), name + title, fill=_INK, font=font)
    beside = f"; speed in {measured.engine} over its fastest other precision (green)" if gains else ""
    draw.text((left, 34), f"over the share of multiply-accumulates in int8, %{beside}", fill=_FAINT, font=font)
    return canvas


def draw_worst(measured: Measured) -> Image.Image:
    """The patch that int8 changes most: image, classes in fp32 and in int8, and where they differ."""
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


def _end(largest: float) -> float:
    """Where an axis ends, so that its ticks are 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(largest / _TICKS))
    return _TICKS * next(step * power for step in (1, 2, 5, 10, 20) if _TICKS * step * power >= largest)


def _fitted(name: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name, or as much of it as fits."""
    if font.getlength(name) <= width:
        return name
    return next(cut for end in range(len(name), -1, -1) if font.getlength(cut := f"{name[:end]}...") <= width)
