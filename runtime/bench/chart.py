"""A comparison as a chart: a bar for each case, divided into what the engine works and what it waits for."""

from __future__ import annotations

from ..evaluate.plots import BLUE, GREEN, GREY, PALE_BLUE, Chart, stacked
from ..stopwatch import Stage
from .results import Comparison, labelled

_COLOURS: dict[Stage, str] = {"encode": PALE_BLUE, "gather": GREEN, "segment": BLUE}
_REST = "the rest: the engine waits"
_BAR = 0.62  # of the distance between two bars


def draw(comparison: Comparison) -> Chart:
    """Draw the seconds of all cases: those of the network by stage, and the rest.

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
    chart, (panel,) = stacked(f"Seconds: {where}", 1, "seconds, medians")
    left = [0.0] * len(results)
    for stage, colour in _COLOURS.items():
        widths = [result.taken(stage).median for result in results]
        panel.barh(range(len(results)), widths, _BAR, left, color=colour, label=stage)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    rest = [max(result.seconds.median - start, 0.0) for result, start in zip(results, left, strict=True)]
    panel.barh(range(len(results)), rest, _BAR, left, color=GREY, label=_REST)
    panel.set_yticks(
        range(len(results)), [label.replace(", ", "\n", 1) for label in labels], fontsize=9, parse_math=False
    )
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(_COLOURS) + 1, frameon=False, fontsize=9)
    return chart
