from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from fctl.model.train.curve import draw_curve


@pytest.mark.parametrize("count", [1, 2, 300])
def test_a_curve_of_any_length_is_drawn(tmp_path: Path, count: int) -> None:
    losses, scores = [(i + 1, 1 / (i + 1)) for i in range(count)], [(count, 0.5)]
    chart = draw_curve("tiny", losses, scores, [])
    loss, score = chart.figure.axes
    every_step, mean = loss.lines
    assert every_step.get_xydata().tolist() == [list(point) for point in losses]
    assert list(mean.get_xdata()) == list(range(1, count + 1))
    assert score.lines[0].get_xydata().tolist() == [[count, 50.0]]
    chart.save(tmp_path / "curve.part")
    with Image.open(tmp_path / "curve.part") as picture:
        assert (picture.size, picture.format) == ((1000, 560), "PNG")
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16) or []}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # the running mean, and the score


def test_the_running_mean_is_that_of_the_steps_around() -> None:
    values = np.random.default_rng(0).random(60)
    chart = draw_curve("tiny", [(i + 1, value) for i, value in enumerate(values)], [(60, 0.5)], [])
    mean = chart.figure.axes[0].lines[1].get_ydata()
    assert mean[30] == pytest.approx(values[24:37].mean())
    assert mean[0] == pytest.approx(values[:7].mean())


def test_ends_of_stages_are_marked_and_every_line_is_in_a_legend() -> None:
    losses = [(i + 1, 1.0) for i in range(30)]
    loss, score = draw_curve("tiny", losses, [(10, 0.2), (20, 0.3), (30, 0.4)], [10, 20]).figure.axes
    for panel in (loss, score):
        assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"] == [10, 20]
    texts = [text.get_text() for panel in (loss, score) for text in panel.get_legend().get_texts()]
    assert texts == ["every step", "running mean", "end of a stage", "averaged weights"]
    assert (loss.get_ylabel(), score.get_ylabel(), score.get_xlabel()) == (
        "training loss", "validation mIoU, %", "step",
    )  # fmt: skip


def test_steps_are_whole_numbers_and_scores_that_have_no_meaning_leave_a_gap(tmp_path: Path) -> None:
    chart = draw_curve("no $score$", [(1, 0.5), (2, 0.4), (3, 0.3)], [(3, math.nan)], [])
    chart.save(tmp_path / "curve.png")
    score = chart.figure.axes[1]
    assert score.get_ylim() == (0, 100)
    assert all(tick == round(tick) for tick in score.get_xticks())
    assert len(score.get_xticks()) >= 2
