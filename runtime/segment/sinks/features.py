"""Files of polygons, written in batches by GDAL (pyogrio) or, for GeoParquet, by Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

from ...raster.areas import PixelAreas
from ...raster.georeference import Georeference
from ...raster.silence import ignored
from ...tiling.windows import Window
from .base import MaskedRaster
from .polygons import Feature

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
_CORNERS = 200_000  # of the polygons that are written at once
_LAYER = "polygons"


class FeatureFile:
    """A file of polygons that grows; `feature_file` makes it.

    Args:
        path: The file: a GeoPackage, or GeoJSON.
        raster: The raster whose mask it shows.
        areas: Areas of its pixels.
    """

    def __init__(self, path: Path, raster: MaskedRaster, areas: PixelAreas) -> None:
        self._path, self._raster, self._known = path, raster, areas.known
        self._tolerance = raster.options.simplify / _side(raster, areas)
        self._features, self._corners, self._started = list[Feature](), 0, False

    def add(self, feature: Feature) -> None:
        """Take a polygon."""
        self._features.append(feature)
        self._corners += shapely.get_num_coordinates(feature.outline)
        if self._corners >= _CORNERS:
            self.flush()

    def flush(self) -> None:
        """Write what was taken."""
        features, names = self._features, [info.name for info in self._raster.classes]
        outlines = np.array([feature.outline for feature in features], dtype=object)
        if self._tolerance > 0:
            outlines = shapely.simplify(outlines, self._tolerance)
        fields = {
            "class_id": np.array([feature.id for feature in features], np.int32),
            "class": np.array([names[feature.id] for feature in features], dtype=object),
            "pixels": np.array([feature.pixels for feature in features], np.int64),
            "area_m2": np.array([feature.metres if self._known else np.nan for feature in features], np.float64),
            "confidence": np.array([round(feature.confidence, 4) for feature in features], np.float64),
        }
        driver = _DRIVERS[self._path.suffix.lower()]
        options = {"VERSION": "1.2"} if driver == "GPKG" and not self._started else None  # older programs read it too
        with ignored(UserWarning):  # a raster may lie nowhere
            pyogrio.raw.write(
                str(self._path), shapely.to_wkb(shapely.transform(outlines, self._placed)), list(fields.values()),
                list(fields), layer=_LAYER, driver=driver, geometry_type="Polygon",
                crs=_wkt(self._raster.georeference), append=self._started, dataset_options=options,
            )  # fmt: skip
        self._features, self._corners, self._started = [], 0, True

    def finish(self) -> None:
        """Write the rest; a file without polygons is one too."""
        if self._features or not self._started:
            self.flush()

    def _placed(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns and rows (n, 2) as coordinates; without a transform as QGIS shows such a raster: rows go down."""
        transform, (x, y) = self._raster.georeference.transform, places.T
        if transform is None or transform.is_identity:
            return np.stack([x, -y], axis=1)
        across = transform.a * x + transform.b * y + transform.c
        return np.stack([across, transform.d * x + transform.e * y + transform.f], axis=1)


def _wkt(place: Georeference) -> str | None:
    """The coordinate reference system of polygons; None where control points alone tell where a raster lies."""
    return str(place.crs.wkt) if place.crs is not None and place.transform is not None else None


def _side(raster: MaskedRaster, areas: PixelAreas) -> float:
    """Metres of the side of a square pixel with the area of one in the middle; 1 where the raster lies nowhere."""
    return float(np.sqrt(areas.of_rows(Window(raster.height // 2, raster.width // 2, 1, 1))[0]))


@contextmanager
def feature_file(path: Path, raster: MaskedRaster, areas: PixelAreas) -> Iterator[FeatureFile]:
    """Make a file of polygons, which is complete when the block ends well.

    FlatGeobuf and GeoParquet cannot grow: they are made of a GeoPackage that is removed.

    Args:
        path: The file.
        raster: The raster whose mask it shows.
        areas: Areas of its pixels.

    Yields:
        What takes the polygons.

    Raises:
        OSError: It cannot be written.
    """
    growing = path if path.suffix.lower() in (".gpkg", ".geojson") else path.with_name(f"{path.stem}.growing.gpkg")
    try:
        file = FeatureFile(growing, raster, areas)
        with _written():
            yield file
            file.finish()
            if growing != path:
                _copy(growing, path, raster.georeference)
    finally:
        if growing != path:
            growing.unlink(missing_ok=True)


@contextmanager
def _written() -> Iterator[None]:
    """Turn errors of GDAL into those of the file system."""
    try:
        yield
    except pyogrio.errors.DataSourceError as error:
        raise OSError(str(error)) from error


def _copy(growing: Path, path: Path, place: Georeference) -> None:
    """Copy a GeoPackage batch by batch."""
    with pyogrio.open_arrow(str(growing), use_pyarrow=False) as (about, stream):
        if path.suffix.lower() == ".parquet":
            _write_parquet(path, stream, about["geometry_name"] or "wkb_geometry", place)
        else:
            with ignored(UserWarning):
                pyogrio.write_arrow(
                    stream, str(path), layer=_LAYER, driver=_DRIVERS[path.suffix.lower()], crs=_wkt(place),
                    geometry_name=about["geometry_name"] or "wkb_geometry", geometry_type="Polygon",
                )  # fmt: skip


def _write_parquet(path: Path, stream: object, name: str, place: Georeference) -> None:
    """Write GeoParquet 1.1, whose geometry is WKB; the coordinate reference system is PROJJSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = pa.RecordBatchReader.from_stream(stream)
    crs = place.crs.to_dict(projjson=True) if place.crs and _wkt(place) else None
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs}
    geo = {"version": "1.1.0", "primary_column": name, "columns": {name: column}}
    schema = reader.schema.with_metadata({"geo": json.dumps(geo)})
    with pq.ParquetWriter(str(path), schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
