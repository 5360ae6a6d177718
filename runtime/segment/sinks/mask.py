"""The mask: a GeoTIFF of class ids with colours and the georeference of the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...raster.writer import RasterSpec, create_raster
from ...tiling.merge import NODATA
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster


class MaskSink:
    """One band of uint8 class ids; 255 where the raster has no data."""

    name = "mask"
    suffix = "_mask.tif"
    needs_probabilities = False
    needs_picture = False

    def disk(self, height: int, width: int, classes: int) -> int:
        """One byte for each pixel."""
        return height * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a mask, see `Sink.open`."""
        spec = RasterSpec(
            height=raster.height, width=raster.width, dtype="uint8", descriptions=("class",), nodata=NODATA,
            colours=tuple(info.colour for info in raster.classes), tags=dict(raster.tags),
        )  # fmt: skip
        with create_raster(path, spec, raster.georeference) as writer:

            def write(block: Block) -> None:
                writer.write(block.ids[None], block.y, block.x)

            yield write
