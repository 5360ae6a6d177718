"""A run that is spread over processes, a cluster or parts has the bytes of a run in one process, whatever is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fctl.runtime import Report, Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.segment.opening import with_scene_size
from fctl.runtime.segment.parts import assemble_parts
from fctl.runtime.segment.where import Where
from fctl.runtime.spread.crew import Crew
from tests.conftest import write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.segment.test_jobs import digests, paths_in

from .conftest import job, lead


def holed() -> np.ndarray[Any, Any]:
    pixels = slope_of(100, 70)
    pixels[:30, :40] = pixels[60:70] = 0
    return pixels


def odd_floats() -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(1).random((100, 70, 3)).astype(np.float32)
    pixels[3, 4:9], pixels[80, 20], pixels[40:60, 30:] = -4, -3.4e38, np.nan
    return pixels


@dataclass(frozen=True)
class Case:
    """What is asked, and what workers are to do no more than so often."""

    bundle: Path = tiny.TINY
    pixels: Callable[[], np.ndarray[Any, Any]] = lambda: slope_of(100, 70)
    profile: dict[str, object] = field(default_factory=dict)
    opening: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    noted: set[str] = field(default_factory=set)
    copied: bool = False


POLYGON = {
    "type": "Feature",
    "properties": {"name": "one"},
    "geometry": {"type": "Polygon", "coordinates": [[[300005, 2779990], [300030, 2779960], [300008, 2779955],
                                                     [300005, 2779990]]]},
}  # fmt: skip

CASES = {
    "centred contexts": Case(),
    "no contexts": Case(bundle=tiny.TINY_PLAIN, pixels=lambda: slope_of(90, 80, 4, "uint16")),
    "contexts encoded once": Case(bundle=tiny.TINY_ONCE),
    "the whole image as context": Case(bundle=tiny.TINY_GLOBAL, noted={"cut"}),
    "scene blocks": Case(bundle=tiny.TINY_GLOBAL, opening={"scene_size": 40}, noted={"cut"}),
    "one graph": Case(bundle=tiny.TINY_FUSED),
    "all turns": Case(opening={"tta": True}),
    "floats": Case(bundle=tiny.TINY_FLOAT, pixels=odd_floats),
    "percentiles": Case(pixels=lambda: slope_of(100, 70, 3, "uint16"), asked={"scale_range": "percentile:5,90"}),
    "no data": Case(pixels=holed, profile={"nodata": 0}),
    "awkward blocks": Case(copied=True, noted={"copied"}),
    "awkward floats": Case(bundle=tiny.TINY_FLOAT, pixels=odd_floats, copied=True, noted={"copied"}),
    "window": Case(asked={"where": Where(window=(20, 10, 41, 73))}),
    "polygons": Case(asked={"where": Where(aoi="aoi.geojson")}),
    "another resolution": Case(asked={"resolution": "0.9"}),
}


def asked_of(case: Case, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The image, and what is asked of it."""
    image = write_geotiff(folder / "image.tif", case.pixels(), **case.profile)
    asked = dict(case.asked)
    if asked.get("where", Where()).aoi:
        pytest.importorskip("pyogrio", reason="needs pyogrio")
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32640"}}
        document = {"type": "FeatureCollection", "crs": crs, "features": [POLYGON]}
        (folder / "aoi.geojson").write_text(json.dumps(document))
        asked["where"] = Where(aoi=folder / "aoi.geojson")
    return image, asked


def counted(report: Report) -> dict[str, object]:
    """What a report says, but for what may differ."""
    names = ("height", "width", "tiles", "area", "pixels", "not_finite", "implausible", "bad_blocks")
    return {name: getattr(report, name) for name in names}


def alone(case: Case, image: Path, out: Path, asked: dict[str, Any]) -> Report:
    with Segmenter(case.bundle, backend="onnxruntime", **case.opening) as segmenter:
        return segmenter.segment_file(image, paths_in(out), **asked)


OVER_NETWORK = ("centred contexts", "scene blocks", "floats", "percentiles", "awkward blocks", "polygons")
"""Cases of which other things go to workers than of the first; all are for processes, whose start is cheaper."""


@pytest.mark.once
@pytest.mark.parametrize(
    ("case", "crew"),
    [(name, "processes") for name in CASES] + [(name, "cluster") for name in OVER_NETWORK],
    indirect=["crew"],
)
def test_workers(case: str, crew: Crew, tmp_path: Path, trouble: Path) -> None:
    check_workers(CASES[case], crew, tmp_path, trouble)


def check_workers(case: Case, crew: Crew, tmp_path: Path, trouble: Path) -> None:
    image, asked = asked_of(case, tmp_path)
    whole = alone(case, image, tmp_path / "whole", asked)
    if case.copied:
        (trouble / "awkward").touch()
    leader = lead(crew, case.bundle, **case.opening)
    report = leader.segment_file(job(image, paths_in(tmp_path / "spread"), **asked))
    assert digests(tmp_path / "spread") == digests(tmp_path / "whole")
    assert counted(report) == counted(whole)
    assert report.computed + report.skipped >= whole.computed + whole.skipped
    noted = (trouble / "noted").read_text().split() if (trouble / "noted").exists() else []
    assert set(noted) == case.noted  # nobody measures or cuts anew what is sent along
    if "cut" in noted:
        assert len(noted) == (1 if "scene_size" not in case.opening else 4 * 3)


@pytest.mark.once
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_parts(case: Case, tmp_path: Path) -> None:
    image, asked = asked_of(case, tmp_path)
    whole = alone(case, image, tmp_path / "whole", asked)
    out = paths_in(tmp_path / "parts")
    with Segmenter(case.bundle, backend="onnxruntime", **case.opening) as segmenter:
        for part in ("2/3", "3/3", "1/3"):
            segmenter.segment_file(image, out, part=part, **asked)
    bundle = read_bundle(case.bundle)
    if "scene_size" in case.opening:
        bundle = with_scene_size(bundle, case.opening["scene_size"])
    report, _ = assemble_parts(bundle, job(image, out, **asked))
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    assert counted(report) == counted(whole)
