"""One small run, whose outputs are looked at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from fctl.runtime import Paths, Segmenter, Where
from tests.conftest import write_geotiff

HEIGHT, WIDTH = 330, 300
CRS = "EPSG:32640"
CORNERS = [(40.5, 30.25), (210.0, 55.0), (180.0, 260.0), (90.0, 200.0)]  # columns and rows of a polygon


@dataclass(frozen=True)
class Run:
    """The files of a run, and one of the same image in a polygon."""

    image: Path
    mask: Path
    confidence: Path
    probabilities: Path
    stats: Path
    stats_of_polygon: Path
    other: Path
    ring: list[tuple[float, float]]

    def files(self, *roles: str) -> dict[str, Path]:
        return {role: getattr(self, role) for role in ("mask", *roles)}


def degrees(mask: Path, columns: list[float], rows: list[float]) -> list[tuple[float, float]]:
    """Longitudes and latitudes of places in a raster."""
    with rasterio.open(mask) as dataset:
        xs, ys = zip(*(dataset.transform * place for place in zip(columns, rows, strict=True)), strict=True)
        return list(zip(*transform(dataset.crs, "EPSG:4326", xs, ys), strict=True))


@pytest.fixture(scope="session")
def run(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("view")
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 256, (HEIGHT // 30, WIDTH // 30, 3))
    pixels = np.kron(blocks, np.ones((30, 30, 1))) * 0.8 + rng.integers(0, 50, (HEIGHT, WIDTH, 3))
    image = write_geotiff(folder / "image.tif", pixels.astype(np.uint8))
    paths = {name: folder / f"{name}.tif" for name in ("confidence", "probabilities")} | {
        "stats": folder / "stats.json"
    }
    others = {"confidence": paths["confidence"], "stats": paths["stats"]}
    segmenter.segment_file(image, Paths(mask=folder / "mask.tif", probabilities=paths["probabilities"], others=others))
    ring = degrees(folder / "mask.tif", *map(list, zip(*CORNERS, strict=True)))
    aoi = folder / "aoi.geojson"
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    aoi.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": geometry}))
    part = Paths(mask=folder / "part.tif", others={"stats": folder / "part.json"})
    segmenter.segment_file(image, part, where=Where(aoi=aoi))
    with rasterio.open(folder / "mask.tif") as dataset:
        ids, tags, colours, profile = dataset.read(1), dataset.tags(), dataset.colormap(1), dataset.profile
    assert len(np.unique(ids)) == 3
    changed = ids.copy()
    changed[100:140, 60:200] = (changed[100:140, 60:200] + 1) % 3
    kept = {name: profile[name] for name in ("height", "width", "count", "dtype", "crs", "transform", "nodata")}
    with rasterio.open(folder / "other.tif", "w", driver="GTiff", **kept) as dataset:
        dataset.write(changed, 1)
        dataset.update_tags(**tags)
        dataset.write_colormap(1, colours)
    return Run(
        image=image, mask=folder / "mask.tif", confidence=paths["confidence"], probabilities=paths["probabilities"],
        stats=paths["stats"], stats_of_polygon=folder / "part.json", other=folder / "other.tif", ring=ring,
    )  # fmt: skip
