"""Images to time with where none is given."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import rasterio

from fctl.runtime.bench.pixels import write_mosaic
from fctl.runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize(("bands", "dtype", "highest"), [(3, "uint8", 255), (4, "uint16", 65535), (2, "float32", 1)])
def test_a_mosaic_has_the_pixels_that_a_bundle_takes(tmp_path: Path, bands: int, dtype: str, highest: float) -> None:
    write_mosaic(tmp_path / "m.tif", 300, bands, dtype)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert (dataset.count, dataset.dtypes[0], dataset.shape) == (bands, dtype, (300, 300))
        pixels = dataset.read()
    assert 0.5 * highest < pixels.max() <= highest
    assert len(np.unique(pixels[0])) > 100  # a picture, not a colour


def test_a_large_mosaic_mirrors_what_comes_with_fctl(tmp_path: Path) -> None:
    write_mosaic(tmp_path / "m.tif", 2500, 3, "uint8")
    with rasterio.open(tmp_path / "m.tif") as dataset:
        pixels = dataset.read(1)
    height = next(row for row in range(1, 2000) if np.array_equal(pixels[row], pixels[row - 1]))
    assert np.array_equal(pixels[height : height + 100], pixels[height - 100 : height][::-1])


def test_without_pixels_an_image_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="name an image"):
        write_mosaic(tmp_path / "m.tif", 300, 3, "uint8")
