"""Probabilities: a GeoTIFF with one band for each class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...atomic import atomic_write
from ...raster.writer import RasterSpec, create_raster
from ..pipeline import Rows
from .base import MaskedRaster, RowWriter


class ProbabilitiesSink:
    """One band of float32 for each class, named after it; NaN where the raster has no data."""

    name = "probabilities"
    suffix = "_prob.tif"
    needs_probabilities = True

    def disk(self, height: int, width: int, classes: int) -> int:
        """Four bytes for each pixel and class."""
        return 4 * classes * height * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[RowWriter]:
        """Start a file of probabilities, see `Sink.open`."""
        spec = RasterSpec(
            height=raster.source.height, width=raster.source.width, dtype="float32",
            descriptions=tuple(info.name for info in raster.classes), nodata=float("nan"), colours=None,
            tags=dict(raster.tags),
        )  # fmt: skip
        with atomic_write(path) as temporary, create_raster(temporary, spec, raster.source.georeference) as writer:

            def write(rows: Rows) -> None:
                assert rows.probabilities is not None
                writer.write(rows.probabilities)

            yield write
