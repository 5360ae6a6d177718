"""Polygons of each class as a file of a geographic information system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ... import remedies
from ...errors import InputError
from ...raster.areas import PixelAreas
from ...tiling.merge import NODATA
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster

if TYPE_CHECKING:
    from .features import FeatureFile
    from .polygons import Polygons

_PACKAGES = {".gpkg": (), ".geojson": (), ".fgb": (), ".parquet": ("pyarrow",)}
"""What each format needs beside pyogrio and shapely, by the ending of its files."""


class VectorSink:
    """A polygon for each region of one class: GeoPackage, GeoJSON, FlatGeobuf or GeoParquet by its name."""

    name = "vector"
    suffix = "_polygons.gpkg"
    needs_probabilities = False
    needs_confidence = True
    needs_picture = False

    def check(self, path: Path) -> None:
        """Refuse an ending of another format, or one whose packages are missing."""
        ending = path.suffix.lower()
        if ending not in _PACKAGES:
            raise InputError(subject="`vector`", expected=" or ".join(_PACKAGES), found=path.name)
        for package in ("pyogrio", "shapely", *_PACKAGES[ending]):
            if find_spec(package) is None:
                raise InputError(
                    f"{ending} needs {package}, which is not installed", subject="`vector`",
                    remedy=remedies.install("vector"),
                )  # fmt: skip

    def disk(self, height: int, width: int, classes: int) -> int:
        """A guess: as much as the mask; how ragged the regions are is not known before."""
        return height * width

    def memory(self, width: int) -> int:
        """Measured on noise, whose regions are as many as can be: borders of some rows, and polygons to be written."""
        return 2400 * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a file of polygons, see `Sink.open`."""
        from .features import feature_file
        from .polygons import Polygons

        areas = PixelAreas(raster.georeference)
        with feature_file(path, raster, areas) as file:
            rows = _Rows(raster, Polygons(areas, raster.options.min_area), file)
            yield rows.write
            rows.finish()


class _Rows:
    """Joins blocks of the same rows, and hands them on."""

    def __init__(self, raster: MaskedRaster, polygons: Polygons, file: FeatureFile) -> None:
        self._width, self._polygons, self._file = raster.width, polygons, file
        self._ids: NDArray[np.uint8] = np.full((0, self._width), NODATA, np.uint8)
        self._confidence = self._ids

    def write(self, block: Block) -> None:
        """Take a block."""
        assert block.confidence is not None
        if block.x == 0:
            self._ids = np.empty((block.ids.shape[0], self._width), np.uint8)
            self._confidence = np.empty_like(self._ids)
        self._ids[:, block.x : block.window.right] = block.ids
        self._confidence[:, block.x : block.window.right] = block.confidence
        if block.window.right == self._width:
            for feature in self._polygons.add(self._ids, self._confidence):
                self._file.add(feature)

    def finish(self) -> None:
        """Hand on what reaches the last row."""
        for feature in self._polygons.finish():
            self._file.add(feature)
