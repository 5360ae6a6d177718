"""Patches and their context windows, cut from a raster: the one implementation (§3.2, §4.2, Table 5).

Serving, training and the parity gate all cut here. Arrays are (height, width, bands) in the raster's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .resampling import Pixels, Resampling, resample
from .sources import Source, read_padded
from .windows import TilePlan, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWindow:
    """One context of a patch: factor = side of the window over the side of the patch, or "global" for the whole
    raster, whose aspect ratio is not kept; size = side in pixels after resampling.

    scene: side in pixels of the images whose whole the network was trained with. Along a side of the raster that is
    much longer, a global context is not the whole but the scene block around the patch.
    """

    factor: float | Literal["global"]
    size: int
    resampling: Resampling
    scene: int | None = None

    @property
    def moves(self) -> bool:
        """Whether the patch's place in the window differs from patch to patch."""
        return self.factor == "global"

    def around(self, tile: Window, source: Source) -> Window:
        """The window of this context for one patch."""
        if self.factor == "global":
            y, height = _scene_block(tile.y, tile.height, source.height, self.scene)
            x, width = _scene_block(tile.x, tile.width, source.width, self.scene)
            return Window(y, x, height, width)
        return tile.centred(_same_parity(self.factor, tile.height), _same_parity(self.factor, tile.width))


def scene_starts(tile: int, side: int, scene: int | None) -> tuple[int, ...]:
    """First pixel of every scene block along a side; one block, the whole side, unless that is much longer.

    Blocks overlap by at least a tile, so that every tile lies inside one.
    """
    if scene is None or 2 * side <= 3 * scene:
        return (0,)
    return TilePlan(kind="even", overlap=tile).starts(side, scene)


def _scene_block(start: int, length: int, side: int, scene: int | None) -> tuple[int, int]:
    """First pixel and length of the block that holds a tile, the most central one where several do."""
    starts = scene_starts(length, side, scene)
    if scene is None or len(starts) == 1:
        return 0, side
    holding = [first for first in starts if first <= start and start + length <= first + scene]
    return min(holding, key=lambda first: abs(2 * first + scene - 2 * start - length)), scene


def _same_parity(factor: float, side: int) -> int:
    """`factor` times `side`, to the nearest side that leaves whole pixels on either side."""
    return side + 2 * round((factor - 1) * side / 2)


def cut_context(source: Source, tile: Window, context: ContextWindow) -> Pixels:
    """The context of one patch, (size, size, bands): black beyond the raster, then resampled."""
    return resample(read_padded(source, context.around(tile, source)), context.size, context.resampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The grid of a network's enhanced stage: cell u is centred at pixel stride * u + offset; count per side."""

    stride: int
    offset: float
    count: int


def cell_positions(
    tile: Window, window: Window, patch_cells: Cells, context_cells: Cells, size: int
) -> NDArray[np.float32]:
    """Where the cells of a patch lie in a context, in cells of the context: (2, count), rows then columns.

    The segmenter graph takes it for contexts that move (the global one), and builds crop matrices and ground
    offsets from it.
    """
    axes = ((tile.y - window.y, window.height), (tile.x - window.x, window.width))
    pixels = patch_cells.stride * np.arange(patch_cells.count) + patch_cells.offset
    positions = [
        ((start + pixels + 0.5) * size / side - 0.5 - context_cells.offset) / context_cells.stride
        for start, side in axes
    ]
    return np.asarray(positions, dtype=np.float32)
