"""Charts: the only place that knows matplotlib, which is an extra and is loaded when the first chart is drawn.

Figures are made and written without pyplot, so nothing here opens a window or changes what an application has set.
Colours are those of Okabe and Ito, which people tell apart whatever colours they see.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .. import remedies
from ..errors import EngineError
from .calibration import Calibration
from .metrics import Confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Panel: TypeAlias = "Axes"

BLUE, PALE_BLUE, VERMILION, GREEN, GREY = "#0072B2", "#A6CDE6", "#D55E00", "#009E73", "#767676"
INK = "#222222"
_GRID = "#DDDDDD"
_DPI = 100
_SIZE = (10.0, 5.6)  # width and height in inches
_MARGIN = 0.012  # left and right of a title, as a share of the figure's width
_FEW = 12  # classes, up to which the cells of a confusion matrix have room for counts
_NO_PIXELS = "#EFEFEF"  # rows of classes that no mask holds


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart that can be written.

    Attributes:
        figure: What matplotlib draws.
        fitted: Whether the picture grows to hold all text, instead of having the figure's size.
    """

    figure: Figure
    fitted: bool = False

    def save(self, path: Path) -> None:
        """Write the chart, as SVG where the name ends so, else as PNG.

        Args:
            path: The file; it is replaced if it exists.

        Raises:
            OSError: The file cannot be written.
        """
        box = "tight" if self.fitted else None
        kind, unsaid = ("svg", "Date") if path.suffix.lower() == ".svg" else ("png", "Software")
        self.figure.savefig(path, format=kind, bbox_inches=box, pad_inches=0.15, metadata={unsaid: None})


def check_matplotlib() -> None:
    """Find out whether charts can be drawn: call this before work whose report has charts.

    Raises:
        EngineError: matplotlib is not installed; the error says how to install it.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise EngineError("charts need matplotlib, which is not installed", remedy=remedies.install("report"))


def stacked(title: str, panels: int, xlabel: str) -> tuple[Chart, list[Panel]]:
    """An empty chart of 1000 x 560 pixels with panels above each other that share their x axis.

    Args:
        title: Title of the chart; it is cut off at the right edge.
        panels: How many panels.
        xlabel: What the x axis shows.

    Returns:
        The chart, and the axes of its panels from top to bottom.

    Raises:
        EngineError: matplotlib is not installed.
    """
    figure = _figure(*_SIZE)
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    heading = figure.suptitle(title, x=_MARGIN, ha="left", fontsize=13, color=INK, parse_math=False)
    _shorten(heading, (1 - 2 * _MARGIN) * figure.bbox.width)
    axes: list[Panel] = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color=_GRID, linewidth=0.8)
        panel.set_axisbelow(True)
    axes[-1].set_xlabel(xlabel)
    return Chart(figure), axes


def draw_confusion(title: str, confusion: Confusion, names: Sequence[str]) -> Chart:
    """A confusion matrix: truth by row, prediction by column, with the IoU and F1 of every class beside its row.

    Args:
        title: Title of the chart.
        confusion: Pixels by class.
        names: Names of the classes, in the order of the matrix.

    Returns:
        The chart. Cells show the percentage of their row's pixels, and, for up to 12 classes, how many these are.

    Raises:
        EngineError: matplotlib is not installed.
    """
    many, side = len(names), 0.92 if len(names) <= _FEW else 0.46
    width = many + 2.3  # cells; two columns of scores stand right of the matrix
    figure = _figure(width * side, many * side)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(many, 0))
    _draw_cells(axes, confusion)
    for x, kind, scores in ((many + 0.75, "IoU", confusion.iou()), (many + 1.75, "F1", confusion.f1())):
        axes.text(x, -0.12, kind, ha="center", va="bottom", fontsize=11, color=INK)
        for row, score in enumerate(scores):
            text = "-" if np.isnan(score) else f"{100 * score:.1f}"
            axes.text(x, row + 0.5, text, ha="center", va="center", fontsize=11, color=INK)
    _label_classes(axes, names, side)
    axes.set_xlabel("prediction", x=many / width / 2, fontsize=11, color=GREY)
    axes.set_ylabel("truth", fontsize=11, color=GREY)
    axes.set_title(title, loc="left", fontsize=13, color=INK, pad=14, parse_math=False)
    note = "Cells: % of the row's pixels" + (", and how many these are" if many <= _FEW else "")
    axes.text(0, many + 0.12, f"{note}. Scores: %", ha="left", va="top", fontsize=9.5, color=GREY)
    return Chart(figure, fitted=True)


def draw_reliability(title: str, calibration: Calibration) -> Chart:
    """A reliability diagram: the share of right pixels by confidence, above the share of pixels that have it.

    Args:
        title: Title of the chart, to which the expected calibration error is added.
        calibration: Pixels by confidence.

    Returns:
        The chart. Where probabilities can be trusted, the bars end at the diagonal.

    Raises:
        EngineError: matplotlib is not installed.
    """
    confidence, right, pixels = calibration.bins()
    error = f"expected calibration error {100 * calibration.error():.1f} %"
    chart, (upper, lower) = stacked(f"{title}: {error}", 2, "confidence: the highest probability of a pixel")
    edges, width = np.arange(len(pixels)) / len(pixels), 1 / len(pixels)
    upper.bar(edges, np.nan_to_num(right), width, align="edge", color=PALE_BLUE, edgecolor="white")
    upper.plot((0, 1), (0, 1), color=GREY, linewidth=1.2)
    upper.plot(confidence, right, "o", color=VERMILION, markersize=5)
    upper.set_ylabel("right pixels")
    upper.set_ylim(0, 1)
    lower.bar(edges, pixels / max(int(pixels.sum()), 1), width, align="edge", color=BLUE, edgecolor="white")
    lower.set_ylabel("pixels")
    lower.set_xlim(0, 1)
    return chart


def _figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, that Agg draws."""
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _shorten(text: Text, width: float) -> None:
    """Cut a text off, with an ellipsis, where it is wider than so many pixels."""
    full = text.get_text()
    for end in range(len(full) - 1, -1, -1):
        if text.get_window_extent().width <= width:
            return
        text.set_text(f"{full[:end]}...")


def _draw_cells(axes: Axes, confusion: Confusion) -> None:
    """Colour every cell by its share of the row's pixels, and write the percentage and, for few classes, the count."""
    import matplotlib
    from matplotlib.colors import PowerNorm

    totals = confusion.counts.sum(1, keepdims=True)
    shares = np.where(totals > 0, confusion.counts / np.maximum(totals, 1), np.nan)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=_NO_PIXELS)
    axes.pcolormesh(shares, cmap=colours, norm=PowerNorm(0.7, vmin=0, vmax=1), edgecolors="white", linewidth=1.5)
    few = len(shares) <= _FEW
    for (row, column), share in np.ndenumerate(shares):
        text = "-" if np.isnan(share) else f"{100 * share:.{int(few)}f}"
        ink, x = "white" if share > 0.45 else INK, column + 0.5
        axes.text(x, row + (0.42 if few else 0.5), text, ha="center", va="center", fontsize=10, color=ink)
        if few:
            count = _short(int(confusion.counts[row, column]))
            axes.text(x, row + 0.68, count, ha="center", va="center", fontsize=8, color=ink)


def _label_classes(axes: Axes, names: Sequence[str], side: float) -> None:
    """Name rows and columns; columns from bottom to top where a name is wider than a cell of `side` inches."""
    centres = [index + 0.5 for index in range(len(names))]
    axes.set_yticks(centres, names, fontsize=11, color=INK, parse_math=False)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(centres, names, fontsize=11, color=INK, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    labels = axes.get_xticklabels()
    if max(label.get_window_extent().width for label in labels) > 0.95 * side * _DPI:
        for label in labels:
            label.set_rotation(90)


def _short(count: int) -> str:
    """A count of pixels in few letters."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {letter}"
    return str(count)
