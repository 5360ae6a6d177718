"""Where the contexts of a patch lie in a raster, and where the patch lies in them (§3.2, §4.2, Table 5).

Serving, training and the parity gate all take their windows from here. There are two kinds of context, behind one
protocol: windows centred on their patch, and global ones, which many patches share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .resampling import Pixels, Resampling, resample
from .sources import Source, read_padded
from .windows import TilePlan, Window


class Extent(Protocol):
    """Something with a size in pixels, such as a source."""

    @property
    def height(self) -> int:
        """Number of rows."""
        ...

    @property
    def width(self) -> int:
        """Number of columns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWindow(ABC):
    """How one context of a patch is cut.

    Attributes:
        size: Side in pixels after resampling: what the network takes.
        resampling: The filter that shrinks the window.
    """

    size: int
    resampling: Resampling

    @property
    @abstractmethod
    def shared(self) -> bool:
        """Whether many patches share one window, so that it is encoded once and the patch's place in it varies."""

    @property
    def moves(self) -> bool:
        """The former name of `shared`, for clients that were written against it."""
        return self.shared

    @abstractmethod
    def around(self, tile: Window, raster: Extent) -> Window:
        """The window of the raster that one patch is shown; it may reach beyond the raster."""

    def rows(self, tile: int, raster: Extent) -> int:
        """How many rows of the raster the window spans, for a patch of `tile` pixels a side."""
        return self.around(Window(0, 0, tile, tile), raster).height

    @abstractmethod
    def blocks(self, tile: int, raster: Extent) -> tuple[int, int]:
        """Rows and columns of windows that a raster is shown in, if these are shared; else (1, 1)."""

    @abstractmethod
    def describe(self, tile: int) -> str:
        """What the window is, in words, for a patch of `tile` pixels a side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CentredContext(ContextWindow):
    """A window around the patch, with the same centre.

    Attributes:
        factor: Side of the window over the side of the patch.
    """

    factor: float

    @property
    def shared(self) -> bool:
        """Every patch has a window of its own."""
        return False

    def around(self, tile: Window, raster: Extent) -> Window:
        """The window of the nearest size that leaves whole pixels on either side of the patch."""
        return tile.centred(self.side(tile.height), self.side(tile.width))

    def side(self, tile: int) -> int:
        """Side of the window in pixels of the raster, for a tile of `tile` pixels."""
        return _same_parity(self.factor, tile)

    def blocks(self, tile: int, raster: Extent) -> tuple[int, int]:
        """Nothing is shared."""
        return 1, 1

    def describe(self, tile: int) -> str:
        """The factor, and the side in pixels of the raster."""
        return f"{self.factor:g} x the tile ({self.side(tile)} pixels)"


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalContext(ContextWindow):
    """The whole raster, whose aspect ratio is not kept, or the scene block around the patch (§4.2, DeepGlobe).

    Attributes:
        scene: Side in pixels of the training images, which the network saw whole; None if it is not known. Along a
            side of the raster that is much longer, the context is a block of that length instead of the whole.
    """

    scene: int | None

    @property
    def shared(self) -> bool:
        """All patches of a scene block share its window."""
        return True

    def around(self, tile: Window, raster: Extent) -> Window:
        """The scene block that holds the patch, the most central one where several do."""
        y, height = _scene_block(tile.y, tile.height, raster.height, self.scene)
        x, width = _scene_block(tile.x, tile.width, raster.width, self.scene)
        return Window(y, x, height, width)

    def blocks(self, tile: int, raster: Extent) -> tuple[int, int]:
        """Scene blocks along both sides."""
        rows, columns = (len(scene_starts(tile, side, self.scene)) for side in (raster.height, raster.width))
        return rows, columns

    def describe(self, tile: int) -> str:
        """The whole image, or blocks of it."""
        return "the whole image" + (f", in blocks of {self.scene} pixels where it is larger" if self.scene else "")


def context_window(
    factor: float | Literal["global"], *, size: int, resampling: Resampling, scene: int | None = None
) -> ContextWindow:
    """The kind of context that a manifest or a configuration names.

    Args:
        factor: Side of the window over the side of the patch, or "global".
        size: Side in pixels after resampling.
        resampling: The filter that shrinks the window.
        scene: For a global context, the side in pixels of the training images, if it is known.

    Returns:
        A `CentredContext` or a `GlobalContext`.
    """
    if factor == "global":
        return GlobalContext(size=size, resampling=resampling, scene=scene)
    return CentredContext(size=size, resampling=resampling, factor=factor)


def scene_starts(tile: int, side: int, scene: int | None) -> tuple[int, ...]:
    """First pixels of the scene blocks along one side of a raster.

    Args:
        tile: Side of a tile in pixels. Blocks overlap by at least a tile, so that every tile lies inside one.
        side: Side of the raster in pixels.
        scene: Side of the training images in pixels, or None.

    Returns:
        The first pixel of each block; one block, the whole side, unless the raster is more than half as long again as
        a training image.
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
    """The context of one patch, cut and shrunk.

    Args:
        source: The raster.
        tile: The patch, in pixels of the raster.
        context: How to cut.

    Returns:
        Pixels (size, size, bands) in the raster's dtype, black beyond the raster.
    """
    return resample(read_padded(source, context.around(tile, source)), context.size, context.resampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The grid of cells of a network's enhanced stage.

    Attributes:
        stride: Distance between two cells in pixels of the network's input.
        offset: Centre of the first cell in pixels, so that cell u is centred at stride * u + offset.
        count: Cells per side.
    """

    stride: int
    offset: float
    count: int


def cell_positions(
    tile: Window, window: Window, patch_cells: Cells, context_cells: Cells, size: int
) -> NDArray[np.float32]:
    """Where the cells of a patch lie in a context that is shared (§3.3).

    The segmenter graph takes these positions, and builds crop matrices and ground offsets from them.

    Args:
        tile: The patch, in pixels of the raster.
        window: The context's window, in pixels of the raster.
        patch_cells: Cells of the patch.
        context_cells: Cells of the context.
        size: Side of the context in pixels after resampling.

    Returns:
        Positions (2, count) float32, rows then columns, in cells of the context.
    """
    axes = ((tile.y - window.y, window.height), (tile.x - window.x, window.width))
    pixels = patch_cells.stride * np.arange(patch_cells.count) + patch_cells.offset
    positions = [
        ((start + pixels + 0.5) * size / side - 0.5 - context_cells.offset) / context_cells.stride
        for start, side in axes
    ]
    return np.asarray(positions, dtype=np.float32)
