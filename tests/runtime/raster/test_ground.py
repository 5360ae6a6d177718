"""How large pixels are on the ground, and the warning where a network was trained on others."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin

from fctl.runtime import Paths, Segmenter
from fctl.runtime.raster.georeference import Georeference
from fctl.runtime.raster.ground import ground_distance
from tests.conftest import write_geotiff
from tests.runtime import tiny


def distance_of(crs: str | None, transform: Affine | None) -> float | None:
    place = Georeference(crs=CRS.from_user_input(crs) if crs else None, transform=transform, gcps=((), None))
    return ground_distance(place, 1000, 1000)


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        ("EPSG:32640", from_origin(500000, 2780000, 0.5, 0.5), 0.5 / 0.9996),  # UTM is too short at its meridian
        ("EPSG:32640", Affine(0.3, 0.4, 500000, 0.4, -0.3, 2780000), 0.5 / 0.9996),  # rotated
        ("EPSG:32640", from_origin(500000, 2780000, 1, 4), 2 / 0.9996),  # pixels that are no squares
        ("EPSG:3857", from_origin(0, 8399738, 10, 10), 5.02),  # at 60 degrees, where Mercator is twice too long
        ("EPSG:4326", from_origin(10, 0, 0.001, 0.001), 110.9),
        ("EPSG:4326", from_origin(10, 60, 0.00001, 0.00001), 0.788),  # half as wide as high
        ("EPSG:4326", Affine(0.001, 0, 179.5, 0, 0.001, 0), 110.9),  # across the date line, south up
        ("EPSG:2263", from_origin(1000000, 200000, 1, 1), 0.3048),  # in feet
        (None, from_origin(500000, 2780000, 0.5, 0.5), None),
        ("EPSG:32640", None, None),
        ('LOCAL_CS["local",UNIT["metre",1]]', from_origin(0, 0, 1, 1), None),
    ],
)
def test_metres_on_the_ground(crs: str | None, transform: Affine | None, metres: float | None) -> None:
    found = distance_of(crs, transform)
    assert (found is None) == (metres is None)
    assert metres is None or (found is not None and math.isclose(found, metres, rel_tol=0.005))


@pytest.mark.parametrize(
    ("trained", "told"),
    [(2.0, "4 times smaller"), (0.125, "4 times larger"), (0.7, None), (0.4, None), (None, None)],
)
def test_other_ground_is_told(
    tmp_path: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture, trained: float | None, told: str | None
) -> None:
    image = write_geotiff(tmp_path / "a.tif", rng.integers(1, 256, (20, 30, 3)).astype(np.uint8))  # 0.5 m

    def change(manifest: dict[str, dict[str, object]]) -> None:
        manifest["input"]["ground_sample_distance"] = trained

    with Segmenter(tiny.variant(tiny.TINY, tmp_path, change), backend="onnxruntime") as segmenter:
        segmenter.segment_file(image, Paths(mask=tmp_path / "m.tif"), resolution="native")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (told is not None)
    assert told is None or f"{told}, so that classes may be wrong; work at another `resolution`" in warnings[0]
