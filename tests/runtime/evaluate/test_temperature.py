"""The temperature with which probabilities fit labels best, and bundles that have one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.report import write_report
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.evaluate.tables import tables
from fctl.runtime.evaluate.temperature import TEMPERATURES, TemperatureFit
from fctl.runtime.tiling.temperature import tempered
from tests.conftest import write_geotiff
from tests.runtime import labelled, tiny
from tests.runtime.naive import slope_of

SAME = np.arange(256).astype(np.uint8)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=0))
    return (powers / powers.sum(axis=0)).astype(np.float32)


def labelled_by_chance(rng: np.random.Generator, temperature: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels that are drawn by probabilities of a temperature, and the probabilities without it."""
    logits = rng.normal(0, 2, (3, 900, 900))
    shares = np.cumsum(softmax(logits / temperature), axis=0)
    truth = (rng.random((900, 900)) > shares[:2]).sum(axis=0).astype(np.uint8)
    return truth, softmax(logits)


@pytest.mark.once
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_the_temperature_of_labels_is_found(rng: np.random.Generator, temperature: float) -> None:
    truth, probabilities = labelled_by_chance(rng, temperature)
    fit = TemperatureFit.of(truth, probabilities, SAME)
    found, loss = fit.best()
    assert found == pytest.approx(temperature, rel=0.05)
    assert loss <= fit.before and fit.pixels == -(-900 * 900 // 17)
    likely = np.take_along_axis(tempered(probabilities, found), truth[None].astype(np.intp), axis=0)
    assert loss == pytest.approx(float(-np.log(likely).mean()), rel=0.01)


def test_parts_add_up_and_what_has_no_label_or_class_counts_for_nothing(rng: np.random.Generator) -> None:
    truth, probabilities = labelled_by_chance(rng, 2.0)
    halves = [TemperatureFit.of(truth[rows], probabilities[:, rows], SAME) for rows in (slice(450), slice(450, None))]
    total = halves[0] + halves[1]
    assert total.best()[0] == pytest.approx(2, rel=0.05)
    table = np.full(256, 255, np.uint8)
    table[:3] = 2, 0, 1  # the data set has the bundle's classes in another order, and a fourth
    mixed = table[truth]
    mixed[:100], mixed[100:200], probabilities[:, 200:300] = 255, 3, np.nan
    fit = TemperatureFit.of(mixed, probabilities, table)
    assert fit.pixels == -(-900 * 600 // 17)
    assert fit.best()[0] == pytest.approx(2, rel=0.05)
    nothing = TemperatureFit.of(np.full_like(truth, 255), probabilities, table)
    assert nothing.pixels == 0 and np.isnan(nothing.best()).all() and np.isnan(nothing.before)


def test_certain_probabilities_that_are_right_want_the_lowest_temperature() -> None:
    sure = np.full((2, 40, 40), 0.1, np.float32)
    sure[0] = 0.9
    assert TemperatureFit.of(np.zeros((40, 40), np.uint8), sure, SAME).best()[0] == pytest.approx(TEMPERATURES[0])


def write_mostly_right(root: Path) -> None:
    """A data set in which the tiny bundle is right at nine pixels of ten."""
    labelled.write_description(root / "dataset.json")
    rng = np.random.default_rng(4)
    with Segmenter(tiny.TINY, backend="onnxruntime") as segmenter:
        for index, (height, width) in enumerate(((200, 200), (150, 100))):
            pixels = slope_of(height, width)
            labelled.save(root / "images" / f"{index}.png", pixels)
            ids = segmenter.segment(pixels).ids
            truth = np.where(rng.random(ids.shape) < 0.1, rng.integers(0, 3, ids.shape), ids)
            labelled.save(root / "masks" / f"{index}.png", labelled.coloured(truth, labelled.COLOURS))


def test_an_evaluation_fits_it_and_reports_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_mostly_right(tmp_path / "data")
    dataset = open_dataset(tmp_path / "data")

    def heat(manifest: dict[str, object]) -> None:
        manifest["temperature"] = 2.0

    (tmp_path / "hot").mkdir()
    hot = tiny.variant(tiny.TINY, tmp_path / "hot", heat)
    runs = plan_runs([read_bundle(tiny.TINY), read_bundle(hot)], backends=("onnxruntime",))
    found = evaluate(dataset, runs, tmp_path / "kept", fit_temperature=True)
    cold, warm = (result.temperature for result in found.results)
    assert cold == pytest.approx(warm, rel=0.02)  # that of the bundle as it is told, not on top of its own
    assert found.results[0].fit and found.results[0].fit.pixels > 1000
    assert 0.2 < cold < 9 and "calibration error" not in tables(found)[0].header
    assert tables(found)[-1].rows[0][1] == f"{cold:.3f}"
    write_report(found, tmp_path / "kept", tmp_path / "report")
    told = [run["temperature"] for run in json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))["runs"]]
    assert [entry["bundle"] for entry in told] == [None, 2.0]
    assert told[0]["best"] == pytest.approx(cold) and told[0]["best_loss"] <= told[0]["loss"]
    assert "## Temperature" in (tmp_path / "report" / "report.md").read_text("utf-8")


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_SHARES])
def test_outputs_have_the_temperature_of_the_bundle(tmp_path: Path, bundle: Path) -> None:
    def heat(manifest: dict[str, object]) -> None:
        manifest["temperature"] = 1.8

    pixels = slope_of(60, 50)
    if bundle is tiny.TINY_SHARES:
        pixels = np.concatenate([pixels, pixels[:, :, :1]], axis=2).astype(np.uint16) * 3
    image = write_geotiff(tmp_path / "a.tif", pixels, photometric="minisblack")
    masks, found, tags = [], [], []
    (tmp_path / "hot").mkdir()
    for name, folder in (("cold", bundle), ("hot", tiny.variant(bundle, tmp_path / "hot", heat))):
        paths = Paths(
            mask=tmp_path / f"{name}.tif", probabilities=tmp_path / f"{name}_p.tif",
            others={"confidence": tmp_path / f"{name}_c.tif"},
        )  # fmt: skip
        with Segmenter(folder, backend="onnxruntime") as segmenter:
            segmenter.segment_file(image, paths)
            direct = segmenter.segment(pixels, probabilities=True).probabilities
        assert direct is not None
        with rasterio.open(paths.mask) as mask, rasterio.open(tmp_path / f"{name}_p.tif") as shares:
            masks.append(mask.read(1))
            tags.append(mask.tags().get("FCTL_TEMPERATURE"))
            np.testing.assert_array_equal(shares.read(), np.rint(direct * 254))
        with rasterio.open(tmp_path / f"{name}_c.tif") as confidence:
            np.testing.assert_array_equal(confidence.read(1), np.rint(direct.max(axis=0) * 254))
        found.append(direct)
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(found[1], tempered(found[0], 1.8))
    assert not np.array_equal(found[0], found[1])
    assert tags == [None, "1.8"]
