"""Gathering the cells of contexts that are encoded once a raster on a GPU, bit by bit as the host does it.

Everything is only enqueued.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_int, c_uint64
from dataclasses import dataclass

from .loaded import LoadedKernels
from .resources import Stream
from .tensors import Tensor


@dataclass(frozen=True, slots=True)
class Patchwork:
    """A rectangle of cells of one window, and where it goes.

    Attributes:
        cells: Features (1, C, side, side) of the window.
        first: First row and first column of the rectangle among them.
        shape: Its rows and columns.
        at: The row and the column where it goes.
    """

    cells: Tensor
    first: tuple[int, int]
    shape: tuple[int, int]
    at: tuple[int, int]


class GatheringKernels(LoadedKernels):
    """The kernels that paste cells together, and interpolate between them."""

    def paste(self, stream: Stream, parts: Sequence[Patchwork], target: int, height: int, width: int) -> None:
        """Paste rectangles of cells together.

        Args:
            stream: Where to enqueue the work.
            parts: The rectangles, which cover the target.
            target: Where to write (C, height, width) in the dtype of the cells.
            height: Rows of the target.
            width: Columns of the target.
        """
        for part in parts:
            _, channels, side, _ = part.cells.shape
            numbers = (channels, side, *part.first, *part.shape)
            self._launch(
                stream, f"paste_{part.cells.dtype.itemsize}", (*part.shape, channels),
                c_uint64(part.cells.pointer), *map(c_int, numbers), c_uint64(target),
                *map(c_int, (height, width, *part.at)),
            )  # fmt: skip

    def interpolate(
        self, stream: Stream, cells: Tensor, target: int, height: int, width: int, shares: tuple[float, float]
    ) -> None:
        """Interpolate linearly between cells, along rows and then along columns.

        Args:
            stream: Where to enqueue the work.
            cells: Cells (C, height + 1, width + 1); one less along an axis whose share is 0.
            target: Where to write (C, height, width).
            height: Rows of the target.
            width: Columns of the target.
            shares: How far the wanted cells lie beyond those at hand, along rows and along columns, in cells.
        """
        down, across = (int(share > 0) for share in shares)
        self._launch(
            stream, f"interpolate_{cells.dtype}", (height, width, cells.shape[0]),
            c_uint64(cells.pointer), *map(c_int, (cells.shape[0], height, width, down, across)),
            *map(c_float, shares), c_uint64(target),
        )  # fmt: skip
