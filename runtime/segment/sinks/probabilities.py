"""Probabilities: a GeoTIFF with one band for each class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...raster.writer import RasterSpec, create_raster
from ...tiling.merge import NODATA
from ..levels import LEVELS, as_bytes
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster


class ProbabilitiesSink:
    """One band for each class, named after it.

    As uint8, a band holds whole numbers of 254ths, which its scale tells, and 255 where the raster has no data; as
    float32, it holds the probabilities themselves, and NaN where the raster has no data.
    """

    name = "probabilities"
    suffix = "_prob.tif"
    needs_probabilities = True
    needs_picture = False

    def disk(self, height: int, width: int, classes: int) -> int:
        """Four bytes for each pixel and class, which is what float32 takes."""
        return 4 * classes * height * width

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a file of probabilities, see `Sink.open`."""
        exact = raster.options.probability_type == "float32"
        spec = RasterSpec(
            height=raster.height, width=raster.width, dtype=raster.options.probability_type, colours=None,
            nodata=float("nan") if exact else NODATA, scale=1.0 if exact else 1 / LEVELS,
            descriptions=tuple(info.name for info in raster.classes), tags=dict(raster.tags),
        )  # fmt: skip
        with create_raster(path, spec, raster.georeference) as writer:

            def write(block: Block) -> None:
                assert block.probabilities is not None
                found = block.probabilities
                writer.write(found if exact else as_bytes(found.astype(np.float32, copy=False)), block.y, block.x)

            yield write
