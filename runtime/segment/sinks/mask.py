"""The mask: a GeoTIFF of class ids with colours and the georeference of the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...raster.cog import create_cog
from ...raster.writer import RasterSpec
from ...tiling.merge import NODATA
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster
from .legend import metadata_of, style_of, write_metadata, write_style

_LARGE = 512  # a raster with a longer side has overviews


class MaskSink:
    """One band of uint8 class ids; 255 where the raster has no data.

    The file is a cloud-optimised GeoTIFF with overviews. Beside it lie a style for QGIS and GDAL's category names.
    """

    name = "mask"
    suffix = "_mask.tif"
    needs_probabilities = False
    needs_picture = False

    def companions(self, path: Path) -> tuple[Path, ...]:
        """A style for QGIS, and names of classes for GDAL."""
        return style_of(path), metadata_of(path)

    def disk(self, height: int, width: int, classes: int) -> int:
        """One byte for each pixel, and a third more for overviews of a large raster."""
        return height * width if max(height, width) <= _LARGE else height * width * 4 // 3

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a mask, see `Sink.open`."""
        spec = RasterSpec(
            height=raster.height, width=raster.width, dtype="uint8", descriptions=("class",), nodata=NODATA,
            colours=tuple(info.colour for info in raster.classes), tags=dict(raster.tags),
        )  # fmt: skip
        with create_cog(path, spec, raster.georeference, raster.options.creation) as writer:

            def write(block: Block) -> None:
                writer.write(block.ids[None], block.y, block.x)

            yield write
        write_style(style_of(path), raster.classes)
        write_metadata(metadata_of(path), raster.classes)
