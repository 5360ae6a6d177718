"""A comparison as a chart: a bar for each case, divided into the stages of the foreground."""

from __future__ import annotations

from ..evaluate.plots import BLUE, GREEN, GREY, PALE_BLUE, VERMILION, Chart, stacked
from ..stopwatch import Stage
from .results import FOREGROUND, Comparison, labelled

_COLOURS: dict[Stage, str] = {
    "wait": "#E69F00", "encode": PALE_BLUE, "gather": "#F0E442", "segment": BLUE, "merge": GREEN, "write": VERMILION,
    "read": "#56B4E9", "shrink": "#CC79A7", "other": GREY,
}  # fmt: skip
_BAR = 0.62  # of the distance between two bars


def draw(comparison: Comparison) -> Chart:
    """Draw the seconds of all cases by stage.

    Args:
        comparison: What was found.

    Returns:
        The chart.

    Raises:
        EngineError: matplotlib is not installed.
    """
    results = comparison.results
    common, labels = labelled(results)
    where = ", ".join(filter(None, (comparison.image, common)))
    chart, (panel,) = stacked(f"Seconds by stage: {where}", 1, "seconds, medians")
    left = [0.0] * len(results)
    shown = [stage for stage in (*FOREGROUND, "read", "shrink") if any(stage in result.stages() for result in results)]
    for stage in shown:
        widths = [found[stage].median if stage in (found := result.stages()) else 0.0 for result in results]
        panel.barh(range(len(results)), widths, _BAR, left, color=_COLOURS[stage], label=stage)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    panel.set_yticks(
        range(len(results)), [label.replace(", ", "\n", 1) for label in labels], fontsize=9, parse_math=False
    )
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(shown), frameon=False, fontsize=9)
    return chart
