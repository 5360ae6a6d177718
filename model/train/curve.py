"""The curves of a training: losses and validation scores over steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.evaluate.plots import BLUE, GREY, PALE_BLUE, VERMILION, Chart, stacked

_SMOOTHED = 50  # steps of the running mean, at most

Point = tuple[float, float]


def draw_curve(title: str, losses: Sequence[Point], scores: Sequence[Point], stages: Sequence[int]) -> Chart:
    """Draw the loss and the validation mIoU over the steps of a training, above each other.

    Args:
        title: Title of the chart.
        losses: Step and loss, in order of steps.
        scores: Step and mIoU from 0 to 1, in order of steps; NaN leaves a gap.
        stages: The last step of every stage but the last; a line marks each.

    Returns:
        The chart.

    Raises:
        EngineError: matplotlib is not installed.
    """
    chart, (loss, score) = stacked(title, 2, "step")
    steps, values = [step for step, _ in losses], np.array([value for _, value in losses])
    dot = "o" if len(steps) == 1 else ""  # one step makes no line
    loss.plot(steps, values, color=PALE_BLUE, linewidth=0.9, marker=dot, label="every step")
    loss.plot(steps, _smoothed(values), color=BLUE, linewidth=2, marker=dot, label="running mean")
    loss.set(ylabel="training loss", ylim=(0, None))
    miou = [100 * value for _, value in scores]
    score.plot([step for step, _ in scores], miou, color=VERMILION, marker="o", markersize=4, label="averaged weights")
    score.set_ylabel("validation mIoU, %")
    if not np.isfinite(miou).any():
        score.set_ylim(0, 100)
    for index, step in enumerate(stages):
        loss.axvline(step, color=GREY, linestyle="--", linewidth=1.2, label="_" if index else "end of a stage")
        score.axvline(step, color=GREY, linestyle="--", linewidth=1.2)
    score.set_xlim(0, 1.01 * max([1.0, *steps]))
    score.locator_params(axis="x", integer=True, min_n_ticks=2)
    loss.legend(loc="upper right", frameon=False)
    score.legend(loc="lower right", frameon=False)
    return chart


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A running mean around every value, narrower at both ends."""
    reach = min(_SMOOTHED, max(1, len(values) // 5)) // 2
    return np.array([values[max(0, index - reach) : index + reach + 1].mean() for index in range(len(values))])
