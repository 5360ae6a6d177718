"""The tables of the small Table 1, and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from experiments import scoreboard
from experiments.systems import SYSTEMS, Fields, System

UNET, ICNET, *_ = SYSTEMS
(CASCADE,) = (system for system in SYSTEMS if system.refines)


def result(miou: float, seconds: float = 2.0) -> Fields:
    return {
        "steps": 120, "precision": "bf16", "miou": miou, "f1": 0.75, "accuracy": 0.9,
        "iou": {"road": 0.25, "land": miou}, "parameters": 1_940_000, "gmac": 90.8, "seconds": seconds,
        "megabytes": 120.6, "peak": 452.7, "bundle": 7.8,
    }  # fmt: skip


def test_tables_have_means_of_seeds_and_tell_what_failed() -> None:
    found: dict[System, list[Fields]] = {
        UNET: [result(0.5), result(0.56), result(0.59)], ICNET: [{"error": "it is too large"}], CASCADE: [result(0.4)],
    }  # fmt: skip
    lines = scoreboard.tables(found).splitlines()
    assert "| U-Net | `unet` | 0.25 | 120 | bf16 | 55.0 ± 4.5 | 75.0 ± 0.0 | 90.0 ± 0.0 | 3 |" in lines
    assert "| U-Net | `unet` | 25.0 | 50.0 | 50.0 |" in lines  # classes are those of the first seed
    assert "| U-Net | `unet` | 1.9 | 91 | 2 | 121 | 453 | 8 |" in lines
    assert "| CascadePSP | `cascadepsp-r50` | 0.25 | 120 | bf16 | 40.0 | 75.0 | 90.0 | 1 |" in lines
    assert any(line.startswith("- `cascadepsp-r50` refines the masks of `fcn8s-vgg16`") for line in lines)
    assert lines[-1] == "- icnet-r50: it is too large"
    assert not any("ICNet" in line for line in lines)
    large = scoreboard.tables({UNET: [result(0.5) | {"peak": 1452.7}]})
    assert "| U-Net | `unet` | 1.9 | 91 | 2 | 121 | 1453 | 8 |" in large.splitlines()
    assert scoreboard.tables({ICNET: found[ICNET]}) == "nothing is done yet"


def test_names_in_the_picture_cover_neither_points_nor_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    panels: list[scoreboard.Panel] = []
    label = scoreboard._label
    monkeypatch.setattr(scoreboard, "_label", lambda panel, points: (panels.append(panel), label(panel, points)))
    random = np.random.default_rng(0)
    found = {system: [result(random.uniform(0.45, 0.65), random.uniform(0.5, 5))] for system in SYSTEMS}
    scoreboard.draw(found, tmp_path / "chart.svg")
    (panel,) = panels
    boxes = [np.array(text.get_window_extent().extents) for text in panel.texts]
    points = [scoreboard._square(*panel.transData.transform(line.get_xydata()[0])) for line in panel.lines]
    assert len(boxes) == len(points) == len(SYSTEMS)
    assert [scoreboard._covered(box, points) for box in boxes] == [0] * len(boxes)
    for number, box in enumerate(boxes[1:], 1):
        assert scoreboard._covered(box, boxes[:number]) == 0
    text = (tmp_path / "chart.svg").read_text("utf-8")
    assert all(system.preset in text for system in SYSTEMS)
