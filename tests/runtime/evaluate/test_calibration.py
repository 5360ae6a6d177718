"""How far probabilities can be trusted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fctl.runtime import Segmenter
from fctl.runtime.bundle.manifest import ClassInfo
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.evaluate.calibration import BINS, Calibration
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.pictures import Prediction, draw_comparison
from fctl.runtime.evaluate.report import write_report
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.evaluate.tables import tables
from tests.runtime import labelled, tiny


def test_the_error_is_how_far_shares_and_confidences_differ() -> None:
    """100 pixels at 127/254 of which 70 are right, and 300 at 1 of which 270 are: 1/4 x 0.2 + 3/4 x 0.1."""
    confidence = np.repeat(np.array([127, 254], np.uint8), (100, 300))
    truth = np.zeros(400, np.uint8)
    ids = np.zeros(400, np.uint8)
    ids[:30] = ids[100:130] = 1
    found = Calibration.of(truth, ids, confidence)
    assert found.error() == pytest.approx(0.125)
    assert (found.pixels[127], found.right[127], found.pixels[254], found.right[254]) == (100, 70, 300, 270)
    mean, right, pixels = found.bins()
    assert (len(pixels), pixels.sum(), pixels[7], pixels[14]) == (BINS, 400, 100, 300)
    assert (mean[7], right[7], mean[14], right[14]) == pytest.approx((0.5, 0.7, 1, 0.9))
    assert (found + found).error() == pytest.approx(0.125)
    assert np.isnan(Calibration.empty().error())


def test_pixels_without_label_or_data_do_not_count() -> None:
    truth, ids = np.array([0, 255, 0], np.uint8), np.array([0, 0, 255], np.uint8)
    assert Calibration.of(truth, ids, np.array([200, 200, 255], np.uint8)).pixels.sum() == 1


def test_an_evaluation_measures_it_and_reports_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    labelled.write_folder(tmp_path / "data")
    dataset, bundle = open_dataset(tmp_path / "data"), read_bundle(tiny.TINY)
    runs = plan_runs([bundle], backends=("onnxruntime",))
    found = evaluate(dataset, runs, tmp_path / "kept", calibration=True)
    expected = Calibration.empty()
    with Segmenter(bundle, backend="onnxruntime") as segmenter:
        for index, sample in enumerate(dataset.samples):
            pixels = np.asarray(Image.open(sample.image))
            result = segmenter.segment(pixels, probabilities=True)
            assert result.probabilities is not None
            levels = np.rint(result.probabilities.max(axis=0) * 254).astype(np.uint8)
            expected += Calibration.of(labelled.truth_of(*pixels.shape[:2], 3, index), result.ids, levels)
    measured = found.results[0].calibration
    assert measured is not None
    np.testing.assert_array_equal(measured.pixels, expected.pixels)
    np.testing.assert_array_equal(measured.right, expected.right)
    write_report(found, tmp_path / "kept", tmp_path / "report")
    told = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["runs"][0]["calibration"]
    assert told["expected_error"] == pytest.approx(expected.error())
    assert sum(entry["pixels"] for entry in told["bins"]) == expected.pixels.sum()
    assert "](reliability_1.png)" in (tmp_path / "report" / "report.md").read_text("utf-8")
    with Image.open(tmp_path / "report" / "reliability_1.png") as picture:
        assert picture.convert("RGB").getextrema() != ((255, 255),) * 3
    assert f"{100 * expected.error():.1f}" in tables(found)[0].rows[0]


@pytest.mark.parametrize(
    "colours", [((222, 45, 38), (1, 2, 3)), ((214, 64, 69), (255, 0, 255)), ((0, 0, 0), (9, 9, 9))]
)
def test_the_colour_of_errors_is_that_of_no_class(colours: tuple[tuple[int, int, int], ...]) -> None:
    classes = [ClassInfo(name=str(index), colour=colour) for index, colour in enumerate(colours)]
    truth, wrong = np.zeros((90, 90), np.uint8), np.ones((90, 90), np.uint8)
    drawn = draw_comparison(
        "", np.full((90, 90, 3), 200, np.uint8), truth, [Prediction(title="", ids=wrong)], classes, (0, 1)
    )
    panels = np.asarray(drawn)
    pixels, counts = np.unique(panels.reshape(-1, 3), axis=0, return_counts=True)
    large = [tuple(pixel) for pixel, count in zip(pixels.tolist(), counts, strict=True) if count >= 80 * 80]
    errors = [colour for colour in large if colour not in {*colours, (255, 255, 255), (200, 200, 200)}]
    assert len(errors) == 1
    assert all(np.linalg.norm(np.subtract(errors[0], colour)) > 100 for colour in colours)
