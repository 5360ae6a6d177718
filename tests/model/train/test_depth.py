"""Training with images of another depth than the network's."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fctl.export.card import ExportOptions
from fctl.export.pipeline import export_bundle
from fctl.model.train.run import run_training
from fctl.model.weights.checkpoints import read_checkpoint
from fctl.runtime import Segmenter
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import RasterError
from fctl.runtime.raster.source import open_any
from tests.conftest import InProcess, write_geotiff
from tests.runtime import labelled

from .helpers import Train, assert_same, curve, rows, stage, state_of, write_config

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


@pytest.mark.usefixtures("shallow")
def test_a_run_with_the_same_range_sees_what_training_saw(folder: Path, in_process: InProcess, call: Train) -> None:
    """From 16 bits to a mask of fctl-run: the pixels of the validation image, byte by byte, and so the same scores."""
    pixels = np.asarray(Image.open(folder / "data" / "images" / "2.png"))
    deepen(folder / "data", "uint16", 16)
    alone = {"overrides": {"contexts": [], "encoders": "shared", "lcf": None}}
    config = write_config(folder, SHORT | {"network": alone})
    assert call(config, "--set", "data.scale_range=0,4080").returncode == 0
    bundle, image = folder / "deep.fctl", folder / "data" / "images" / "2.tif"
    export_bundle(folder / "run" / "best.pt", bundle, ExportOptions())
    run = partial(in_process, run_app, image, "--bundle", bundle, "--out", folder / "masks", "--backend", "onnxruntime")
    assert "expected uint8 pixels, found uint16" in run().stderr
    assert run("--scale-range", "0,4080").returncode == 0
    with open_any(folder / "masks" / "2_mask.tif") as mask, Segmenter(bundle, backend="onnxruntime") as segmenter:
        ids = mask.read(1)
        np.testing.assert_array_equal(ids, segmenter.segment(pixels).ids)
        assert mask.tags()["FCTL_SCALE_RANGE"] == "0,4080"
    truth = np.asarray(Image.open(folder / "data" / "masks" / "2.png"))
    score = naive_miou(truth, ids)
    (row,) = rows(folder / "run" / "validation.csv")[1:]
    assert float(row[3]) == pytest.approx(score, abs=1e-3)


def naive_miou(truth: NDArray[np.uint8], ids: NDArray[np.uint8]) -> float:
    """Mean IoU of ids (H, W) with a mask in colours (H, W, 3)."""
    hits = [(truth == colour).all(axis=2) for colour in labelled.COLOURS]
    known = np.logical_or.reduce(hits)
    return float(np.mean([np.sum(hit & (ids == i)) / np.sum(hit | ((ids == i) & known)) for i, hit in enumerate(hits)]))


def test_another_depth_is_refused_and_another_range_is_no_resumption(folder: Path, call: Train) -> None:
    deepen(folder / "data", "uint16", 257)
    with pytest.raises(RasterError, match=r"expected uint8 pixels, found uint16; .*name them with data\.scale_range"):
        run_training(write_config(folder, SHORT))
    assert not (folder / "run").exists()
    assert call(write_config(folder, SHORT | {"data": {"scale_range": "percentile:1,99"}})).returncode == 0
    again = call(write_config(folder, SHORT | {"data": {"scale_range": "percentile:2,98"}}), "--resume")
    assert again.returncode == 1 and "data.scale_range is not what it was trained with" in again.stderr
