"""No value without data spoils a patch, and no score that is not finite becomes a class."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmentation, Segmenter
from tests.conftest import write_geotiff
from tests.runtime import tiny

Array = NDArray[Any]
LOWEST = float(np.finfo(np.float32).min)


@pytest.fixture(scope="module")
def floats() -> Iterator[Segmenter]:
    """A network whose scores depend on the mean of the patch, and are NaN where a band is below -1."""
    with Segmenter(tiny.TINY_FLOAT, backend="onnxruntime", batch=3) as segmenter:
        yield segmenter


@pytest.fixture
def image(rng: np.random.Generator) -> Array:
    return rng.random((37, 50, 3)).astype(np.float32) * 4


def assert_only_these_are_lost(found: Segmentation, clean: Segmentation, lost: list[list[int]]) -> None:
    assert found.probabilities is not None and clean.probabilities is not None
    assert np.argwhere(found.ids == 255).tolist() == lost
    assert np.argwhere(np.isnan(found.probabilities).any(axis=0)).tolist() == lost
    kept = found.ids < 255
    np.testing.assert_array_equal(found.ids[kept], clean.ids[kept])
    np.testing.assert_array_equal(found.probabilities[:, kept], clean.probabilities[:, kept])


@pytest.mark.parametrize("value", [np.nan, np.inf, LOWEST])
@pytest.mark.parametrize("tta", [False, True])
def test_one_bad_value_in_an_array_costs_one_pixel(image: Array, value: float, tta: bool) -> None:
    image[20, 30, 2] = 0
    with Segmenter(tiny.TINY_FLOAT, backend="onnxruntime", batch=3, tta=tta) as segmenter:
        clean = segmenter.segment(image, probabilities=True)
        image[20, 30, 2] = value
        assert_only_these_are_lost(segmenter.segment(image, probabilities=True), clean, [[20, 30]])


@pytest.mark.parametrize("nodata", [LOWEST, None])
def test_one_bad_value_in_a_file_costs_one_pixel(
    tmp_path: Path, floats: Segmenter, image: Array, nodata: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    image[20, 30, 2] = 0
    clean = floats.segment(image).ids
    image[20, 30, 2] = LOWEST
    path = write_geotiff(tmp_path / "a.tif", image, nodata=nodata)
    report = floats.segment_file(path, Paths(mask=tmp_path / "m.tif"))
    clean[20, 30] = 255
    with rasterio.open(tmp_path / "m.tif") as mask:
        np.testing.assert_array_equal(mask.read(1), clean)
    assert (report.implausible, report.not_finite) == (0 if nodata else 1, 0)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"{path}: 1 pixel holds a value far beyond" in line for line in warnings] == ([] if nodata else [True])


def test_scores_that_are_not_finite_are_no_class(
    tmp_path: Path, floats: Segmenter, image: Array, caplog: pytest.LogCaptureFixture
) -> None:
    lost = [[3, 4], [10, 20], [36, 49]]
    clean = floats.segment(image, probabilities=True)
    for y, x in lost:  # the mean of the patch stays as it is
        image[y, x, 0] -= 8
        image[y, x - 1, 0] += 8
    with caplog.at_level(logging.WARNING):
        found = floats.segment(image, probabilities=True)
    assert np.argwhere(found.ids == 255).tolist() == lost
    assert found.probabilities is not None and clean.probabilities is not None
    assert np.argwhere(np.isnan(found.probabilities).all(axis=0)).tolist() == lost
    assert "the image: the network gave scores that are not finite at 3 pixels" in caplog.text
    caplog.clear()
    path, paths = write_geotiff(tmp_path / "a.tif", image), Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.png")
    report = floats.segment_file(path, paths)
    assert (report.not_finite, sum(report.pixels.values())) == (3, 37 * 50 - 3)
    assert f"{path}: the network gave scores that are not finite at 3 pixels" in caplog.text
    assert len(caplog.records) == 1


def test_pixels_without_data_are_not_counted_twice(tmp_path: Path, floats: Segmenter, image: Array) -> None:
    image[5, 5], image[6, 6] = LOWEST, -3
    path = write_geotiff(tmp_path / "a.tif", image, nodata=LOWEST)
    report = floats.segment_file(path, Paths(mask=tmp_path / "m.tif"))
    assert (report.not_finite, report.implausible, sum(report.pixels.values())) == (1, 0, 37 * 50 - 2)
