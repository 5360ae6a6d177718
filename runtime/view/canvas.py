"""The mask of a run so far, small enough to be written again and again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import ClassInfo
from ..raster.classnames import names_tag
from ..raster.cog import create_cog
from ..raster.georeference import Georeference
from ..raster.writer import BLOCK, RasterSpec
from ..tiling.merge import NODATA
from ..tiling.windows import Window

MOST = 1 << 26
"""Pixels that a canvas has at most: 64 MB."""


class Canvas:
    """What is known of a mask. Of a large raster it holds every n-th pixel of every n-th row.

    Args:
        height: Rows of the raster.
        width: Columns of the raster.
        georeference: Where it lies.
        classes: The classes, by id.

    Attributes:
        step: The n of that.
    """

    def __init__(self, height: int, width: int, georeference: Georeference, classes: tuple[ClassInfo, ...]) -> None:
        self.step = max(1, math.ceil(math.sqrt(height * width / MOST)))
        self._ids = np.full((-(-height // self.step), -(-width // self.step)), NODATA, np.uint8)
        self._georeference, self._classes = georeference, classes

    def place(self, window: Window, ids: NDArray[np.uint8]) -> None:
        """Take over finished ids (rows, columns) of a window of the raster."""
        step = self.step
        y, x = -(-window.y // step), -(-window.x // step)
        found = ids[y * step - window.y :: step, x * step - window.x :: step]
        self._ids[y : y + found.shape[0], x : x + found.shape[1]] = found

    def save(self, path: Path) -> None:
        """Write what is known as a mask with overviews.

        Raises:
            OSError: It cannot be written.
        """
        height, width = self._ids.shape
        spec = RasterSpec(
            height=height, width=width, dtype="uint8", descriptions=("class",), nodata=NODATA,
            colours=tuple(info.colour for info in self._classes),
            tags=names_tag([info.name for info in self._classes]),
        )  # fmt: skip
        with create_cog(path, spec, self._georeference.thinned(self.step), {}) as writer:
            for y in range(0, height, 4 * BLOCK):
                writer.write(self._ids[None, y : y + 4 * BLOCK], y)
