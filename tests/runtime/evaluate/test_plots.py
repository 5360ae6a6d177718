from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.evaluate.plots import BLUE, Chart, draw_confusion, stacked

COUNTS = np.array([[900, 100, 0], [250_000, 750_000, 0], [0, 0, 0]])
NAMES = ("road", "water", "nothing")


def texts(chart: Chart) -> list[str]:
    """All that is written inside the axes."""
    (axes,) = chart.figure.axes
    return [text.get_text() for text in axes.texts]


def saved(chart: Chart, path: Path) -> np.ndarray:
    chart.save(path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def test_a_confusion_matrix_shows_percentages_counts_and_scores() -> None:
    found = texts(draw_confusion("title", Confusion(COUNTS), NAMES))
    assert found[:6] == ["90.0", "900", "10.0", "100", "0.0", "0"]
    assert found[6:12] == ["25.0", "250.0 k", "75.0", "750.0 k", "0.0", "0"]
    assert found[12:18] == ["-", "0"] * 3
    confusion = Confusion(COUNTS)
    assert found[18:22] == ["IoU", *(f"{100 * value:.1f}" for value in confusion.iou()[:2]), "-"]
    assert found[22:26] == ["F1", *(f"{100 * value:.1f}" for value in confusion.f1()[:2]), "-"]


def test_rows_are_the_truth_and_columns_the_prediction(tmp_path: Path) -> None:
    chart = draw_confusion("title", Confusion(COUNTS), NAMES)
    (axes,) = chart.figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "truth")
    assert axes.yaxis_inverted() and axes.xaxis.get_ticks_position() == "top"
    (cells,) = axes.collections
    shown = np.ma.getdata(cells.get_array()).reshape(3, 3)
    np.testing.assert_allclose(shown[:2], [[0.9, 0.1, 0], [0.25, 0.75, 0]])
    assert np.ma.getmaskarray(cells.get_array()).reshape(3, 3)[2].all()


def test_of_many_classes_only_percentages_are_written() -> None:
    chart = draw_confusion("title", Confusion(np.eye(13, dtype=np.int64) * 10), [f"class {i}" for i in range(13)])
    assert texts(chart)[:14] == ["100", *["0"] * 12, "0"]
    (axes,) = chart.figure.axes
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {90}


@pytest.mark.parametrize("names", [NAMES, ("a class whose name is longer than its cell", "$x$", "_y")])
def test_names_and_titles_are_written_in_full(tmp_path: Path, names: tuple[str, ...]) -> None:
    """The picture grows with them: its edges stay white, and nothing is taken for a formula."""
    picture = saved(draw_confusion("a long $title$ " * 8, Confusion(COUNTS), names), tmp_path / "a.png")
    for edge in (picture[:8], picture[-8:], picture[:, :8], picture[:, -8:]):
        assert (edge > 250).all()
    assert picture.shape[1] > 700


def test_long_titles_are_cut_where_the_picture_ends(tmp_path: Path) -> None:
    for title, whole in (("tiny", True), ("a-long-name" * 30, False)):
        chart, _ = stacked(title, 2, "step")
        assert (chart.figure.get_suptitle() == title) == whole
        assert chart.figure.get_suptitle().endswith("...") != whole
        picture = saved(chart, tmp_path / "a.png")
        assert picture.shape == (560, 1000, 3)
        assert (picture[:, -8:] > 250).all()


def test_a_chart_is_what_is_drawn_on_its_panels(tmp_path: Path) -> None:
    chart, panels = stacked("tiny", 2, "step")
    assert panels == chart.figure.axes and len(panels) == 2
    panels[1].plot([0, 1], [1, 1], color=BLUE, linewidth=5)
    picture = saved(chart, tmp_path / "a.png")
    place = panels[1].transData.transform((0.5, 1))
    colour = [round(255 * part) for part in to_rgb(BLUE)]
    assert picture[round(560 - place[1]), round(place[0])].tolist() == colour


def test_no_state_of_pyplot_is_touched(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
import fctl.runtime.evaluate.report, fctl.runtime.evaluate.plots as plots
assert "matplotlib" not in sys.modules
plots.stacked("tiny", 1, "step")[0].save(Path("a.png"))
assert "matplotlib.pyplot" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
