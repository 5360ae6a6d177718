"""Probabilities: a GeoTIFF with one band for each class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...raster.writer import RasterSpec, create_raster
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster


class ProbabilitiesSink:
    """One band of float32 for each class, named after it; NaN where the raster has no data."""

    name = "probabilities"
    suffix = "_prob.tif"
    needs_probabilities = True
    needs_picture = False

    def disk(self, height: int, width: int, classes: int) -> int:
        """Four bytes for each pixel and class."""
        return 4 * classes * height * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a file of probabilities, see `Sink.open`."""
        spec = RasterSpec(
            height=raster.height, width=raster.width, dtype="float32", nodata=float("nan"), colours=None,
            descriptions=tuple(info.name for info in raster.classes), tags=dict(raster.tags),
        )  # fmt: skip
        with create_raster(path, spec, raster.georeference) as writer:

            def write(block: Block) -> None:
                assert block.probabilities is not None
                writer.write(block.probabilities, block.y, block.x)

            yield write
