"""Adding up the scores of tiles on a GPU and averaging them, as the host does it.

Numbers are the host's, bit by bit, but for the softmax (the exponential function has no exact one). Everything is only
enqueued. Addresses point to contiguous memory of the GPU.
"""

from __future__ import annotations

import math
from ctypes import c_float, c_int, c_int64, c_uint64
from dataclasses import dataclass

from .arrays import DeviceArray
from .loaded import LoadedKernels
from .resources import Stream
from .shapes import Orientation, Rectangle, turn_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Where the tiles of one raster are added up, by address.

    Attributes:
        sums: Sums of the scores (classes, tile, width) float32, zeroed to begin with; row y of the raster lies in row
            y % tile.
        weight: Weight of a tile's rows and columns (tile,) float32.
        rows: Sum of the weights over each row of the raster (height,) float32.
        columns: Sum of the weights over each column of the raster (width,) float32.
        classes: Number of classes.
        tile: Side of a tile in pixels.
        height: Height of the raster in pixels.
        width: Width of the raster in pixels.
    """

    sums: int
    weight: int
    rows: int
    columns: int
    classes: int
    tile: int
    height: int
    width: int


class MergingKernels(LoadedKernels):
    """The kernels that merge tiles and average turns."""

    def add_tile(self, stream: Stream, sums: Sums, tile: Rectangle, scores: int) -> None:
        """Add one tile's scores, as the host's `Merger.add` does.

        Args:
            stream: Where to enqueue the work.
            sums: The sums to add to.
            tile: The tile; what reaches beyond the raster is left out.
            scores: Its scores (classes, tile, tile) float32.
        """
        rows, columns = min(tile.height, sums.height - tile.y), min(tile.width, sums.width - tile.x)
        pointers = (c_uint64(sums.sums), c_uint64(scores), c_uint64(sums.weight))
        self._launch(
            stream, "add_tile", (rows, columns, sums.classes),
            *pointers, c_int(sums.classes), c_int(sums.tile), c_int(sums.width),
            c_int(tile.y), c_int(tile.x), c_int(rows), c_int(columns),
        )  # fmt: skip

    def finish(
        self,
        stream: Stream,
        sums: Sums,
        y: int,
        rows: int,
        ids: int,
        probabilities: int | None = None,
        softmax: bool = False,
        lost: int | None = None,
    ) -> None:
        """Average finished rows, as the host's `Strip` does, and clear their sums for the rows to come.

        Where the score of a class is not finite, the id is 255 and the probabilities are NaN.

        Args:
            stream: Where to enqueue the work.
            sums: The sums.
            y: First row of the raster.
            rows: Number of rows, at most a tile's.
            ids: Where to write class ids (rows, width) uint8.
            probabilities: Where to write probabilities (classes, rows, width) float32, if they are wanted.
            softmax: Whether the scores are logits, whose softmax is taken; else they are probabilities already.
            lost: A uint32 to which the pixels whose scores are not finite are added, if they are to be counted.
        """
        pointers = (c_uint64(sums.sums), c_uint64(sums.rows), c_uint64(sums.columns))
        self._launch(
            stream, "finish", (rows, sums.width, 1),
            *pointers, c_int(sums.classes), c_int(sums.tile), c_int(sums.width), c_int(y), c_int(rows),
            c_uint64(ids), c_uint64(probabilities or 0), c_int(softmax), c_uint64(lost or 0),
        )  # fmt: skip

    def mask_missing(
        self, stream: Stream, image: DeviceArray, classes: int, ids: int, probabilities: int | None = None
    ) -> None:
        """Mask the pixels of a float image that have no data in some band, as the host's `ArraySource.valid` tells.

        Args:
            stream: Where to enqueue the work.
            image: The image (height, width, bands) float32.
            classes: Number of classes.
            ids: Class ids (height, width) uint8, which become 255.
            probabilities: Probabilities (classes, height, width) float32, which become NaN, if there are any.
        """
        height, width, bands = image.shape
        self._launch(
            stream, "mask_missing", (height, width, 1),
            c_uint64(image.pointer), *map(c_int64, image.strides), c_int(height), c_int(width), c_int(bands),
            c_int(classes), c_uint64(ids), c_uint64(probabilities or 0),
        )  # fmt: skip

    def add_turned(
        self, stream: Stream, total: int, scores: int, shape: tuple[int, ...], turn: Orientation, *, begin: bool
    ) -> None:
        """Add scores, turned back, to a total, as the host's `Turn.back` and a sum do.

        Args:
            stream: Where to enqueue the work.
            total: The total, of the shape of the scores.
            scores: Scores (..., side, side) float32 of turned squares.
            shape: Their shape.
            turn: How the squares were turned.
            begin: Whether the total begins with these scores, whatever it held.
        """
        planes, side = math.prod(shape[:-2]), shape[-1]
        pointers = (c_uint64(total), c_uint64(scores))
        sides = (c_int(planes), c_int(side))
        self._launch(stream, "add_turned", (side, side, planes), *pointers, *sides, *turn_arguments(turn), c_int(begin))

    def divide(self, stream: Stream, values: int, count: int, divisor: float) -> None:
        """Divide `count` float32 values at an address by a number, in place."""
        arguments = (c_uint64(values), c_int64(count), c_float(divisor))
        self._launch_along(stream, "divide", count, *arguments)
