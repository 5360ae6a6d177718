"""Scores and costs of systems as tables and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.evaluate.plots import BLUE, GREY, VERMILION, Panel, stacked

from .systems import Fields, System

Box = NDArray[np.float64]
"""Left, bottom, right and top, in pixels."""

_POINT, _OUTSIDE = 5, 1e6  # pixels from the middle of a point to its edge; what it costs to leave the panel
_TICKS = [first * 10.0**power for power in range(-3, 3) for first in (1, 2, 5)]
_BESIDE = (
    (7, 0, "left"), (-7, 0, "right"), (0, 10, "center"), (0, -10, "center"), (6, 8, "left"), (6, -8, "left"),
    (-6, 8, "right"), (-6, -8, "right"), (14, 16, "left"), (14, -16, "left"), (-14, 16, "right"), (-14, -16, "right"),
)  # fmt: skip  # across, up, in points, and the side of the name that is there


def tables(found: Mapping[System, Sequence[Fields]]) -> str:
    """Scores, IoU of classes and costs as Markdown.

    Args:
        found: By system, its results; scores of several seeds are their mean, with half their range.

    Returns:
        Three tables, what stands in them for two bundles, and what failed.
    """
    scored = {system: results for system, results in found.items() if "error" not in results[0]}
    if not scored:
        return "nothing is done yet"
    names = list(next(iter(scored.values()))[0]["iou"])
    heads = (
        ("system", "preset", "width", "steps", "in", "mIoU", "F1", "accuracy", "seeds"),
        ("system", "preset", *names, "mean"),
        (
            "system", "preset", "parameters, M", "GMAC per megapixel", "seconds per megapixel", "MB per megapixel",
            "peak, MB", "bundle, MB",
        ),
    )  # fmt: skip
    rows: tuple[list[Sequence[str]], ...] = ([], [], [])
    for system, results in scored.items():
        first, who = results[0], (system.name, f"`{system.preset}`")
        scores = [_spread([one[key] for one in results]) for key in ("miou", "f1", "accuracy")]
        rows[0].append((*who, f"{system.width:g}", str(first["steps"]), first["precision"], *scores, str(len(results))))
        classes = [f"{100 * first['iou'][name]:.1f}" for name in names]
        rows[1].append((*who, *classes, f"{100 * first['miou']:.1f}"))
        size, work, bundle = f"{first['parameters'] / 1e6:.1f}", f"{first['gmac']:.0f}", f"{first['bundle']:.0f}"
        took = [_figure(first, key, form) for key, form in (("seconds", ".3g"), ("megabytes", ".0f"), ("peak", ".0f"))]
        rows[2].append((*who, size, work, *took, bundle))
    failed = [f"- {system.preset}: {results[0]['error']}" for system, results in found.items() if system not in scored]
    pairs = [
        f"- `{system.preset}` refines the masks of `{system.refines}`: scores and costs are those of both, width and "
        "steps its own, whose time comes on top of the other's."
        for system in scored
        if system.refines
    ]
    made = [_markdown(head, lines) for head, lines in zip(heads, rows, strict=True)]
    return "\n\n".join([*made, *("\n".join(lines) for lines in (pairs, failed) if lines)])


def _figure(result: Fields, name: str, form: str) -> str:
    """A figure that is measured last of all; a dash where it is not there yet."""
    return format(result[name], form) if name in result else "-"


def _spread(values: Sequence[float]) -> str:
    """The mean in percent, with half the range where there are several."""
    half = 50 * (max(values) - min(values))
    return f"{100 * statistics.mean(values):.1f}" + (f" ± {half:.1f}" if len(values) > 1 else "")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def draw(found: Mapping[System, Sequence[Fields]], path: Path) -> None:
    """Draw accuracy against cost: mIoU by seconds for a megapixel.

    Args:
        found: By system, its results; what was not measured is left out.
        path: The picture, .png or .svg.
    """
    chart, (panel,) = stacked("Small trainings of equal budget: accuracy against cost", 1, "seconds per megapixel")
    panel.set_xscale("log")
    panel.set_ylabel("mIoU, %")
    points: list[tuple[str, float, float, str]] = []
    for system, results in found.items():
        if "seconds" not in results[0]:
            continue
        x, y = results[0]["seconds"], 100 * statistics.mean(one["miou"] for one in results)
        colour = VERMILION if system.ours else GREY if system.preset.endswith("-whole") else BLUE
        panel.plot([x], [y], "o", color=colour, markersize=7)
        points.append((system.preset, x, y, colour))
    panel.margins(0.12, 0.08)
    left, right = panel.get_xlim()
    panel.set_xticks([tick for tick in _TICKS if left < tick < right])
    panel.minorticks_off()
    panel.xaxis.set_major_formatter("{x:g}")
    chart.figure.draw_without_rendering()  # now all has its place
    _label(panel, points)
    chart.save(path)


def _label(panel: Panel, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Write a name beside each point, where it covers the least of points and other names."""
    taken = [_square(*panel.transData.transform((x, y))) for _, x, y, _ in points]
    whole = np.array(panel.get_window_extent().extents)
    for name, x, y, colour in points:
        tried = []
        for across, up, side in _BESIDE:
            text = panel.annotate(
                name, (x, y), xytext=(across, up), textcoords="offset points", ha=side, va="center", fontsize=8,
                color=colour,
            )  # fmt: skip
            box = np.array(text.get_window_extent().extents)
            inside = (box[:2] >= whole[:2]).all() and (box[2:] <= whole[2:]).all()
            tried.append((_covered(box, taken) + (0 if inside else _OUTSIDE), text, box))
        best = min(tried, key=lambda one: one[0])
        taken.append(best[2])
        for one in tried:
            if one is not best:
                one[1].remove()


def _square(x: float, y: float) -> Box:
    """What a point covers, in pixels."""
    return np.array([x - _POINT, y - _POINT, x + _POINT, y + _POINT])


def _covered(box: Box, others: Sequence[Box]) -> float:
    """How many pixels of others a box covers."""
    all_of = np.stack(others)
    sides = np.minimum(box[2:], all_of[:, 2:]) - np.maximum(box[:2], all_of[:, :2])
    return float(sides.clip(0).prod(axis=1).sum())
