"""What an application set for warnings and log records of rasterio stays as it was."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fctl.runtime.raster.silence import ignored
from tests.conftest import write_geotiff
from tests.runtime import tiny

EMBEDDED = """
import logging, pathlib, sys, warnings

import numpy, onnxruntime, PIL.Image, rasterio  # libraries may bring filters of their own

logger = logging.getLogger("rasterio")
warnings.simplefilter("always", UserWarning)
image, mask, preview = map(pathlib.Path, sys.argv[2:])
before = list(warnings.filters), logger.level, list(logger.filters)
import fctl.runtime
from fctl.runtime import Paths, Segmenter

assert (warnings.filters, logger.level, logger.filters) == before
with Segmenter(sys.argv[1], backend="onnxruntime") as segmenter:
    segmenter.segment_file(image, Paths(mask=mask, preview=preview))
assert (warnings.filters, logger.level, logger.filters) == before
"""


@pytest.mark.once
def test_an_application_keeps_its_filters_and_sees_no_warning_of_ours(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(1, 256, (37, 50, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "nowhere.png")
    opaque = np.full((37, 50, 1), 255, np.uint8)
    write_geotiff(tmp_path / "a.tif", np.dstack([image, opaque]), nodata=0, photometric="RGB", alpha="yes")
    for name in ("nowhere.png", "a.tif"):
        outputs = (tmp_path / f"{name}.mask.tif", tmp_path / f"{name}.preview.png")
        command = [sys.executable, "-c", EMBEDDED, *map(str, (tiny.TINY, tmp_path / name, *outputs))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert all(path.is_file() for path in outputs)


def test_threads_that_overlap_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    first, second = ignored(UserWarning), ignored(UserWarning)
    with first:
        second.__enter__()
        warnings.warn("not seen", UserWarning, stacklevel=1)
    warnings.warn("nor this", UserWarning, stacklevel=1)
    second.__exit__(None, None, None)
    assert warnings.filters == before


def test_only_the_category_that_is_named_is_ignored() -> None:
    with ignored(UserWarning), pytest.warns(DeprecationWarning, match="seen"):
        warnings.warn("seen", DeprecationWarning, stacklevel=1)


def test_filters_that_were_cleared_meanwhile_stay_cleared() -> None:
    with warnings.catch_warnings():
        with ignored(UserWarning):
            warnings.resetwarnings()
        assert warnings.filters == []
