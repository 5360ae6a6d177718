"""Confidence: a GeoTIFF with the highest probability of each pixel, or how far overlapping tiles agree on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...raster.writer import RasterSpec, create_raster
from ...tiling.merge import NODATA
from ..levels import LEVELS
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster


class ConfidenceSink:
    """One band of uint8: the confidence in 254ths, which its scale tells; 255 where the raster has no data."""

    name = "confidence"
    suffix = "_confidence.tif"
    needs_probabilities = False
    needs_confidence = True
    needs_picture = False

    def disk(self, height: int, width: int, classes: int) -> int:
        """One byte for each pixel."""
        return height * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a file of confidence, see `Sink.open`."""
        agreement = raster.options.confidence_type == "agreement"
        described = "agreement of overlapping tiles" if agreement else "highest probability"
        spec = RasterSpec(
            height=raster.height, width=raster.width, dtype="uint8", descriptions=(described,),
            nodata=NODATA, colours=None, tags=dict(raster.tags), scale=1 / LEVELS,
        )  # fmt: skip
        with create_raster(path, spec, raster.georeference) as writer:

            def write(block: Block) -> None:
                assert block.confidence is not None
                writer.write(block.confidence[None], block.y, block.x)

            yield write
