"""Scores and costs of systems as tables and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from fctl.runtime.evaluate.plots import BLUE, GREY, VERMILION, stacked

from .systems import Fields, System


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
        ("system", "preset", "width", "steps", "mIoU", "F1", "accuracy", "seeds"),
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
        rows[0].append((*who, f"{system.width:g}", str(first["steps"]), *scores, str(len(results))))
        classes = [f"{100 * first['iou'][name]:.1f}" for name in names]
        rows[1].append((*who, *classes, f"{100 * first['miou']:.1f}"))
        sizes = [f"{first['parameters'] / 1e6:.1f}", f"{first['gmac']:.0f}", f"{first['seconds']:.2f}"]
        rows[2].append((*who, *sizes, *(f"{first[key]:.0f}" for key in ("megabytes", "peak", "bundle"))))
    failed = [f"- {system.preset}: {results[0]['error']}" for system, results in found.items() if system not in scored]
    pairs = [
        f"- `{system.preset}` refines the masks of `{system.refines}`: scores and costs are those of both, width and "
        "steps its own, whose time comes on top of the other's."
        for system in scored
        if system.refines
    ]
    made = [_markdown(head, lines) for head, lines in zip(heads, rows, strict=True)]
    return "\n\n".join([*made, *("\n".join(lines) for lines in (pairs, failed) if lines)])


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
        found: By system, its results.
        path: The picture, .png or .svg.
    """
    chart, (panel,) = stacked("Small trainings of equal budget: accuracy against cost", 1, "seconds per megapixel")
    panel.set_xscale("log")
    for axis in (panel.xaxis.set_major_formatter, panel.xaxis.set_minor_formatter):
        axis("{x:g}")
    panel.set_ylabel("mIoU, %")
    for system, results in found.items():
        if "error" in results[0]:
            continue
        x, y = results[0]["seconds"], 100 * statistics.mean(one["miou"] for one in results)
        colour = VERMILION if system.ours else GREY if system.preset.endswith("-whole") else BLUE
        panel.plot([x], [y], "o", color=colour, markersize=7)
        panel.annotate(system.preset, (x, y), xytext=(6, 3), textcoords="offset points", fontsize=9, color=colour)
    chart.save(path)
