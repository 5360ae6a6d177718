"""How far overlapping tiles agree, as the confidence of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from fctl.runtime import Paths, Segmenter
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import InputError, OutputError
from fctl.runtime.segment import memory
from fctl.runtime.segment.options import OutputOptions
from fctl.runtime.segment.shards import plan as plans
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.segment.test_jobs import digests, paths_in, steps

Array = NDArray[Any]
AGREEMENT = OutputOptions(confidence_type="agreement")


def read(path: Path) -> Array:
    with rasterio.open(path) as dataset:
        pixels: Array = dataset.read(1)
    return pixels


def voting(folder: Path) -> Paths:
    return replace(paths_in(folder), options=AGREEMENT)


def test_pixels_on_which_tiles_differ_are_told(tmp_path: Path, segmenter: Segmenter) -> None:
    pixels = slope_of(100, 70)
    pixels[30:50, 20:40] = 0
    image = write_geotiff(tmp_path / "a.tif", pixels, nodata=0)
    segmenter.segment_file(image, paths_in(tmp_path / "plain"))
    segmenter.segment_file(image, voting(tmp_path / "voted"))
    for name in ("m.tif", "p.tif"):
        np.testing.assert_array_equal(read(tmp_path / "plain" / name), read(tmp_path / "voted" / name))
    mask, found = read(tmp_path / "voted" / "m.tif"), read(tmp_path / "voted" / "c.tif")
    np.testing.assert_array_equal(found == 255, mask == 255)
    assert 0 < (found < 254).mean() < 0.5
    assert (found[:12, :12] == 254).all()  # one tile alone
    with rasterio.open(tmp_path / "voted" / "c.tif") as dataset:
        assert (dataset.descriptions, dataset.scales) == (("agreement of overlapping tiles",), (1 / 254,))
    alone = Paths(
        mask=tmp_path / "alone" / "m.tif", others={"confidence": tmp_path / "alone" / "c.tif"}, options=AGREEMENT
    )
    segmenter.segment_file(image, alone)  # no probabilities at all
    np.testing.assert_array_equal(read(tmp_path / "alone" / "c.tif"), found)


@pytest.mark.once
@pytest.mark.parametrize("resolution", ["native", "0.9"])
def test_shards_and_interruptions_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolution: str
) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(130, 110))
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=1) as segmenter:
        segmenter.segment_file(image, voting(tmp_path / "whole"), resolution=resolution)
        monkeypatch.setattr(plans, "_TILES", 4)
        monkeypatch.setattr(memory, "PANEL", 30)
        segmenter.segment_file(image, voting(tmp_path / "many"), resolution=resolution)
        with pytest.raises(KeyboardInterrupt):
            segmenter.segment_file(image, voting(tmp_path / "again"), resolution=resolution, progress=steps(12))
        with pytest.raises(OutputError, match="confidence type agreement, now it is None"):
            segmenter.segment_file(image, paths_in(tmp_path / "again"), resolution=resolution, resume=True)
        segmenter.segment_file(image, voting(tmp_path / "again"), resolution=resolution, resume=True)
    assert (read(tmp_path / "whole" / "c.tif") < 254).any()
    expected = digests(tmp_path / "whole")
    assert digests(tmp_path / "many") == expected and digests(tmp_path / "again") == expected


@pytest.mark.skipif(not (find_spec("pyogrio") and find_spec("shapely")), reason="needs the extra vector")
def test_polygons_have_it_too(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(60, 50))
    segmenter.segment_file(image, voting(tmp_path / "out"))
    found, mask = read(tmp_path / "out" / "c.tif"), read(tmp_path / "out" / "m.tif")
    features = json.loads((tmp_path / "out" / "g.geojson").read_text())["features"]
    total = sum(entry["properties"]["confidence"] * entry["properties"]["pixels"] for entry in features)
    assert total / mask.size == pytest.approx(found.mean() / 254, abs=0.002)


def test_an_estimate_knows_of_it_and_other_kinds_are_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(160, 160))
    plain, voted = (segmenter.estimate(image, paths) for paths in (paths_in(tmp_path), voting(tmp_path)))
    assert voted.memory >= plain.memory and voted.disk == plain.disk
    assert segmenter.estimate(image, voting(tmp_path), trial=True).seconds
    wrong = replace(paths_in(tmp_path), options=OutputOptions(confidence_type="doubt"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="`confidence_type`: expected probability or agreement, found 'doubt'"):
        segmenter.segment_file(image, wrong)


def test_command_line(tmp_path: Path, in_process: InProcess) -> None:
    image = write_geotiff(tmp_path / "a.tif", slope_of(60, 60))
    command = (image, "--bundle", tiny.TINY, "--backend", "onnxruntime", "--no-preview", "--confidence")
    found = []
    for folder, word in (("a", "agreement"), ("d", "disagreement"), ("p", "probability"), ("n", None)):
        words = () if word is None else (word,)
        done = in_process(run_app, *command, *words, "-o", tmp_path / folder)
        assert done.returncode == 0, done.stderr
        found.append(read(tmp_path / folder / "a_confidence.tif"))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[2], found[3])
    assert (found[0] != found[2]).any()
