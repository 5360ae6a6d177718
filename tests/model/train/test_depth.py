"""Training with images of another depth than the network's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
from PIL import Image

from fctl.model.train.run import run_training
from fctl.model.weights.checkpoints import read_checkpoint
from fctl.runtime.errors import RasterError
from tests.conftest import write_geotiff

from .helpers import Train, assert_same, curve, stage, state_of, write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SHORT = {"epoch": 2, "stages": [stage(epochs=1)]}


def deepen(root: Path, dtype: str, factor: float) -> None:
    """Let all images of a data set have so many times their values, in another dtype."""
    document = json.loads((root / "dataset.json").read_text(encoding="utf-8")) | {"images": "images/*.tif"}
    (root / "dataset.json").write_text(json.dumps(document), encoding="utf-8")
    for path in sorted((root / "images").glob("*.png")):
        pixels = np.asarray(Image.open(path)) * np.float64(factor)
        write_geotiff(path.with_suffix(".tif"), pixels.astype(dtype), crs=None, transform=None)
        path.unlink()


@pytest.mark.parametrize(("dtype", "factor", "scale_range"), [("uint16", 257, "0,65535"), ("float32", 0.5, "0,127.5")])
def test_scaled_images_train_as_the_images_that_they_become(
    folder: Path, dtype: str, factor: float, scale_range: str
) -> None:
    run_training(write_config(folder, SHORT | {"out": "bytes"}))
    deepen(folder / "data", dtype, factor)
    run_training(write_config(folder, SHORT | {"out": "deep", "data": {"scale_range": scale_range}}))
    assert curve(folder / "deep") == curve(folder / "bytes")
    assert_same(state_of(folder / "deep" / "last.pt"), state_of(folder / "bytes" / "last.pt"))
    said = [(folder / name / "validation.csv").read_text() for name in ("bytes", "deep")]
    assert said[0] == said[1]
    cards = [read_checkpoint(folder / name / "last.pt").card for name in ("bytes", "deep")]
    told = [card.training["config"]["data"].get("scale_range") for card in cards if card]  # type: ignore[index]
    assert told == [None, scale_range]


def test_another_depth_is_refused_and_another_range_is_no_resumption(folder: Path, call: Train) -> None:
    deepen(folder / "data", "uint16", 257)
    with pytest.raises(RasterError, match=r"expected uint8 pixels, found uint16; .*name them with data\.scale_range"):
        run_training(write_config(folder, SHORT))
    assert not (folder / "run").exists()
    assert call(write_config(folder, SHORT | {"data": {"scale_range": "percentile:1,99"}})).returncode == 0
    again = call(write_config(folder, SHORT | {"data": {"scale_range": "percentile:2,98"}}), "--resume")
    assert again.returncode == 1 and "data.scale_range is not what it was trained with" in again.stderr
