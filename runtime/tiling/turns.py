"""The eight ways to turn and mirror a square (§4.2, test-time augmentation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .windows import Window


@dataclass(frozen=True, slots=True)
class Turn:
    """Mirrored left to right, or not, then turned counter-clockwise by some quarters."""

    mirrored: bool
    quarters: int

    def pixels(self, array: Any) -> Any:
        """An array (..., height, width), turned; or what can turn itself, as stacks on a GPU do."""
        if not isinstance(array, np.ndarray):
            return array.turned(self)
        flipped = array[..., ::-1] if self.mirrored else array
        return np.ascontiguousarray(np.rot90(flipped, self.quarters, axes=(-2, -1)))

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Undo `pixels`."""
        upright = np.rot90(array, -self.quarters, axes=(-2, -1))
        return upright[..., ::-1] if self.mirrored else upright

    def within(self, tile: Window, frame: Window) -> tuple[Window, Window]:
        """Where a tile of `frame` lies in the turned frame, and the turned frame itself, with its corner at 0, 0."""
        y, x = tile.y - frame.y, tile.x - frame.x
        tile, frame = Window(y, x, tile.height, tile.width), Window(0, 0, frame.height, frame.width)
        if self.mirrored:
            tile = Window(tile.y, frame.width - tile.right, tile.height, tile.width)
        for _ in range(self.quarters):
            tile = Window(frame.width - tile.right, tile.y, tile.width, tile.height)
            frame = Window(0, 0, frame.width, frame.height)
        return tile, frame


UPRIGHT = Turn(mirrored=False, quarters=0)
DIHEDRAL = tuple(Turn(mirrored, quarters) for mirrored in (False, True) for quarters in range(4))
