"""The eight ways to turn and mirror a square (§4.2, test-time augmentation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from .windows import Window

Scalar = TypeVar("Scalar", bound=np.generic)


class LazyWindows(Protocol):
    """Windows (N, bands, side, side) that are cut when a graph needs them, as those of an image on a GPU are."""

    def __len__(self) -> int:
        """N, the number of windows."""
        ...

    def turned(self, turn: Turn) -> LazyWindows:
        """The same windows, to be turned once they are cut."""
        ...


Windows: TypeAlias = "NDArray[np.generic] | LazyWindows"
"""Windows (N, bands, side, side): an array, or something that cuts them later."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the eight ways: mirrored left to right or not, then turned counter-clockwise by quarters.

    Attributes:
        mirrored: Whether the square is mirrored first.
        quarters: How many quarter turns follow, from 0 to 3.
    """

    mirrored: bool
    quarters: int

    def pixels(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Turn an array (..., side, side); the result is contiguous."""
        flipped = array[..., ::-1] if self.mirrored else array
        return np.ascontiguousarray(np.rot90(flipped, self.quarters, axes=(-2, -1)))

    def windows(self, windows: Windows) -> Windows:
        """Turn windows (N, bands, side, side), now or when they are cut."""
        return self.pixels(windows) if isinstance(windows, np.ndarray) else windows.turned(self)

    def back(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Undo `pixels`; the result may be a view."""
        upright = np.rot90(array, -self.quarters, axes=(-2, -1))
        return upright[..., ::-1] if self.mirrored else upright

    @property
    def axes(self) -> tuple[tuple[int, bool], tuple[int, bool]]:
        """For rows and columns after the turn: which axis they were, 0 or 1, and whether they run the other way."""
        corner, below, right = (
            divmod(int(value), 2) for value in self.pixels(np.arange(4).reshape(2, 2)).flat[[0, 2, 1]]
        )
        steps = [(other[0] - corner[0], other[1] - corner[1]) for other in (below, right)]
        (rows, columns) = ((0, down < 0) if down else (1, across < 0) for down, across in steps)
        return rows, columns

    def within(self, tile: Window, frame: Window) -> tuple[Window, Window]:
        """Follow a tile into the turned frame.

        Args:
            tile: A window inside the frame.
            frame: The window that is turned.

        Returns:
            The tile and the frame after the turn, in coordinates whose origin is the turned frame's first pixel.
        """
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
