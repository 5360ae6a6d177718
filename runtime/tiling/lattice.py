"""Windows in which a context is encoded once for a whole raster, and where patches find their cells in them.

A context of factor k shows each pixel of the raster to its encoder some k^2 times, once for each patch around. Instead,
the raster as the context sees it can be encoded once, in windows that lie on a lattice. Each window keeps its central
cells: those near its border saw the border. What a patch needs of the context is then cut from these cells.

Both axes are alike, so everything here is about one of them. Positions are exact fractions, and the lattice starts
where the context of the first tile does, whatever part of the raster a run begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import InputError
from .contexts import Cells


@dataclass(frozen=True, slots=True)
class Piece:
    """The kept cells of one window of a lattice that a patch needs, along one axis.

    Attributes:
        number: The window's number: 0 at the first tile's context, or where the lattice says; negative before that.
        first: The first of these cells, among all cells of the window.
        count: How many they are.
    """

    number: int
    first: int
    count: int

    @property
    def cells(self) -> slice:
        """These cells, among all cells of the window."""
        return slice(self.first, self.first + self.count)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a patch finds its cells of a context, along one axis.

    Attributes:
        pieces: The cells, in the order in which they follow each other.
        beyond: How far each cell of the patch lies beyond the one of `pieces` that has its number, from 0 to less than
            1 cell. Where it is not 0, `pieces` hold one cell more than the patch needs.
    """

    pieces: tuple[Piece, ...]
    beyond: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """The windows of one context, along one axis.

    Attributes:
        tile: Side of a tile in pixels of the raster.
        window: Side of the window that a patch is shown, in pixels of the raster.
        size: Side in pixels to which that window is shrunk.
        cells: The cells that the encoder gives of it.
        side: Side of a window of the lattice in pixels, after it is shrunk as much.
        own: The cells that the encoder gives of a window of the lattice.
        first: The first of these that is kept.
        kept: How many of them are kept.
        begin: How many cells of the first tile's context lie before those that window 0 keeps.

    Raises:
        InputError: Windows of the lattice would not start at whole pixels of the raster, or their cells not lie as far
            apart as those that a patch is shown.
    """

    tile: int
    window: int
    size: int
    cells: Cells
    side: int
    own: Cells
    first: int
    kept: int
    begin: int = 0

    def __post_init__(self) -> None:
        found = (self.span, self.step, self._origin)
        if any(Fraction(value).denominator != 1 for value in found):
            raise InputError(
                subject="a shared context", expected="windows that start at whole pixels of the raster",
                found=f"sides of {found[0]}, steps of {found[1]} and a start at {found[2]} pixels",
            )  # fmt: skip
        if self.own.stride != self.cells.stride:
            raise InputError(
                subject="a shared context", expected=f"cells {self.cells.stride} pixels apart", found=self.own.stride
            )
        if not (self.first >= 0 and self.kept >= 1 and self.first + self.kept <= self.own.count):
            raise InputError(
                subject="a shared context", expected=f"cells to keep among {self.own.count}",
                found=f"{self.kept} from {self.first} on",
            )  # fmt: skip

    @property
    def span(self) -> Fraction:
        """Side of a window of the lattice in pixels of the raster: a whole number."""
        return self.side * self._ratio

    @property
    def step(self) -> Fraction:
        """Pixels of the raster from one window to the next: a whole number."""
        return self.kept * self._cell

    def start(self, number: int) -> int:
        """First pixel of a window in the raster; it may lie before it."""
        return int(self._origin + number * self.step)

    def place(self, start: int, *, flipped: bool = False) -> Place:
        """Where a tile finds its cells.

        Args:
            start: The tile's first pixel along the axis.
            flipped: Whether the tile, its context and the windows of the lattice are all mirrored along the axis. Cells
                do not lie symmetrically in a window, so that they are others then.

        Returns:
            The pieces, and the offset to interpolate with.
        """
        first = self._in_window_0(start, flipped)
        sign = -1 if flipped else 1
        whole = first.numerator // first.denominator
        beyond = first - whole
        needed = self.cells.count + (beyond > 0)
        numbers = sorted((whole // self.kept, (whole + needed - 1) // self.kept))
        pieces = []
        for number in range(numbers[0], numbers[1] + 1):
            start_there = whole - number * self.kept
            low, high = max(start_there, 0), min(start_there + needed, self.kept)
            pieces.append(Piece(number=sign * number, first=self.first + low, count=high - low))
        return Place(pieces=tuple(pieces), beyond=beyond)

    def numbers(self, starts: Sequence[int], *, flipped: bool) -> tuple[int, ...]:
        """The windows that some tiles need, in order.

        Args:
            starts: First pixels of the tiles along the axis.
            flipped: Whether they are also needed mirrored.

        Returns:
            Their numbers.
        """
        ways = (False, True) if flipped else (False,)
        places = [self.place(start, flipped=way) for start in starts for way in ways]
        return tuple(sorted({piece.number for place in places for piece in place.pieces}))

    def touching(self, numbers: Sequence[int], length: int) -> tuple[int, ...]:
        """Those of some windows that show anything of a raster, which is so long in pixels; the others are black."""
        return tuple(one for one in numbers if self.start(one) < length and self.start(one) + self.span > 0)

    @property
    def _ratio(self) -> Fraction:
        """Pixels of the raster in a pixel of what is encoded."""
        return Fraction(self.window, self.size)

    @property
    def _cell(self) -> Fraction:
        """Pixels of the raster from one cell to the next."""
        return self._ratio * self.cells.stride

    @property
    def _reach(self) -> Fraction:
        """How far a context reaches beyond its tile, in pixels of the raster."""
        return Fraction(self.window - self.tile, 2)

    @property
    def _origin(self) -> Fraction:
        """First pixel of window 0, whose first kept cell is cell `begin` of the context of a tile at 0."""
        ahead = Fraction(self.cells.offset) - Fraction(self.own.offset) + self.own.stride * (self.begin - self.first)
        return self._ratio * ahead - self._reach

    def _in_window_0(self, start: int, flipped: bool) -> Fraction:
        """Where the first cell of a tile's context lies, counted from the first kept cell of window 0.

        Mirrored, positions are negative: the window's first pixel is then what was its end, and windows follow each
        other the other way round.
        """
        if not flipped:
            return start / self._cell - self.begin
        context_end = start - self._reach + self.window
        window_end = self._origin + self.span
        ahead = Fraction(self.cells.offset) - Fraction(self.own.offset)
        return (window_end - context_end) / self._cell + ahead / self.own.stride - self.first
