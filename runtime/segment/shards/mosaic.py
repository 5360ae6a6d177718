"""The shards of a raster, put together again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...raster.writer import BLOCK
from ...tiling.windows import Window
from ..levels import confidence_of
from ..picture import PicturePart
from ..pipeline import Block
from .parts import Part

COLUMNS = 16 * BLOCK
"""Width in pixels of the blocks that are handed out: with the probabilities of 5 classes they take 20 MB."""


class _Piece(NamedTuple):
    """A block of a shard: where it lies, and its number in the shard's file."""

    window: Window
    part: Part
    number: int


class Mosaic:
    """All shards of a raster. Blocks of the same rows, of whatever panel, have the same height.

    Args:
        box: The part of the raster that is wanted, which the shards cover.
        parts: The shards, open.
    """

    def __init__(self, box: Window, parts: Sequence[Part]) -> None:
        self._box, self._parts = box, parts
        self._rows: dict[int, list[_Piece]] = {}
        for part in parts:
            for index, window in enumerate(part.windows):
                self._rows.setdefault(window.y, []).append(_Piece(window, part, index))
        self._tops = sorted(self._rows)
        self._ids: dict[int, NDArray[np.uint8]] = {}  # rows (rows, width) that are still needed
        self._open: set[Part] = set()

    def blocks(self, *, probabilities: bool, confidence: bool = False) -> Iterator[Block]:
        """The box in blocks whose first rows and columns in it are multiples of 256, in reading order.

        Args:
            probabilities: Whether they carry probabilities.
            confidence: Whether they carry the confidence of each pixel.

        Yields:
            Blocks of 256 x 4096 pixels, and what is left at the lower and the right border. Rows and columns count from
            the corner of the box.

        Raises:
            OutputError: A shard cannot be read back.
        """
        box = self._box
        for y in range(box.y, box.bottom, BLOCK):
            bottom = min(y + BLOCK, box.bottom)
            ids = self._id_rows(y, bottom)
            for x in range(0, box.width, COLUMNS):
                window = Window(y, box.x + x, bottom - y, min(COLUMNS, box.width - x))
                found = self._probabilities(window) if probabilities else None
                yield Block(
                    y=y - box.y, x=x, ids=np.ascontiguousarray(ids[:, x : x + window.width]), probabilities=found,
                    confidence=self._confidence(window, found) if confidence else None,
                )  # fmt: skip

    def picture(self) -> Iterator[PicturePart]:
        """The parts of the picture."""
        for part in self._parts:
            yield from part.picture()
            part.close()  # there may be more shards than files that a process may open

    def _touching(self, y: int, bottom: int) -> list[int]:
        """First rows of the pieces that touch some rows."""
        return self._tops[bisect_right(self._tops, y) - 1 : bisect_right(self._tops, bottom - 1)]

    def _id_rows(self, y: int, bottom: int) -> NDArray[np.uint8]:
        """Class ids (rows, width) of whole rows of the box; each piece is unpacked once."""
        tops = self._touching(y, bottom)
        touched = {piece.part for top in tops for piece in self._rows[top]}
        for part in self._open - touched:
            part.close()
        self._open = touched
        self._ids = {top: self._ids[top] if top in self._ids else self._unpacked(top) for top in tops}
        rows = [self._ids[top][max(y - top, 0) : bottom - top] for top in tops]
        return np.concatenate(rows)

    def _unpacked(self, top: int) -> NDArray[np.uint8]:
        pieces, box = self._rows[top], self._box
        rows = Window(top, box.x, pieces[0].window.height, box.width)
        ids = np.empty((rows.height, rows.width), np.uint8)
        for window, part, index in pieces:
            if common := window.shared(rows):  # some lie beside the box, with all that they finish
                ids[common.inside(rows)] = part.ids(index)[common.inside(window)]
        return ids

    def _probabilities(self, window: Window) -> NDArray[np.float32]:
        """Probabilities (classes, rows, columns) of a window."""
        found: NDArray[np.float32] | None = None
        for top in self._touching(window.y, window.bottom):
            for piece, part, index in self._rows[top]:
                common = piece.shared(window)
                if common is None:
                    continue
                scores = part.probabilities(index)
                if found is None:
                    found = np.empty((len(scores), window.height, window.width), np.float32)
                found[(slice(None), *common.inside(window))] = scores[(slice(None), *common.inside(piece))]
        assert found is not None, "the shards cover the raster"
        return found

    def _confidence(self, window: Window, probabilities: NDArray[np.float32] | None) -> NDArray[np.uint8]:
        """The confidence (rows, columns) of a window, in 254ths."""
        if probabilities is not None and not self._parts[0].has_confidence:
            return confidence_of(probabilities)
        found = np.empty((window.height, window.width), np.uint8)
        for top in self._touching(window.y, window.bottom):
            for piece, part, index in self._rows[top]:
                if common := piece.shared(window):
                    found[common.inside(window)] = part.confidence(index)[common.inside(piece)]
        return found
