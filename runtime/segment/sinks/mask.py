"""The mask: a GeoTIFF of class ids with colours and the georeference of the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...atomic import atomic_write
from ...raster.writer import RasterSpec, create_raster
from ...tiling.merge import NODATA
from ..pipeline import Rows
from .base import MaskedRaster, RowWriter


class MaskSink:
    """One band of uint8 class ids; 255 where the raster has no data."""

    name = "mask"
    suffix = "_mask.tif"
    needs_probabilities = False

    def disk(self, height: int, width: int, classes: int) -> int:
        """One byte for each pixel."""
        return height * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[RowWriter]:
        """Start a mask, see `Sink.open`."""
        spec = RasterSpec(
            height=raster.source.height, width=raster.source.width, dtype="uint8", descriptions=("class",),
            nodata=NODATA, colours=tuple(info.colour for info in raster.classes), tags=dict(raster.tags),
        )  # fmt: skip
        with atomic_write(path) as temporary, create_raster(temporary, spec, raster.source.georeference) as writer:

            def write(rows: Rows) -> None:
                writer.write(rows.ids[None])

            yield write
