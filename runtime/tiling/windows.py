"""Pixel geometry in integers: windows, and the plan of tiles over a raster."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from ..errors import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels: first row, first column, height, width. It may reach beyond its raster."""

    y: int
    x: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise InputError(f"a window needs at least one pixel, found {self.height} x {self.width}")

    @property
    def bottom(self) -> int:
        """First row below the window."""
        return self.y + self.height

    @property
    def right(self) -> int:
        """First column beyond the window."""
        return self.x + self.width

    def within(self, height: int, width: int) -> Window | None:
        """The part inside a raster of that size, or None where they do not touch."""
        top, left = max(self.y, 0), max(self.x, 0)
        bottom, right = min(self.bottom, height), min(self.right, width)
        return Window(top, left, bottom - top, right - left) if bottom > top and right > left else None

    def shared(self, other: Window) -> Window | None:
        """The pixels that both windows have, or None where they do not touch."""
        inside = self.moved(-other.y, -other.x).within(other.height, other.width)
        return inside.moved(other.y, other.x) if inside else None

    def inside(self, other: Window) -> tuple[slice, slice]:
        """The rows and columns of another window that this one covers; it must lie in the other."""
        y, x = self.y - other.y, self.x - other.x
        return slice(y, y + self.height), slice(x, x + self.width)

    def moved(self, rows: int, columns: int) -> Window:
        """The window of that size so many rows below and columns to the right."""
        return Window(self.y + rows, self.x + columns, self.height, self.width)

    def aligned(self, side: int, height: int, width: int) -> Window:
        """The smallest window of whole squares of a grid around this one, as far as a raster of that size reaches."""
        y, x = self.y // side * side, self.x // side * side
        bottom, right = min(-(-self.bottom // side) * side, height), min(-(-self.right // side) * side, width)
        return Window(y, x, bottom - y, right - x)

    def centred(self, height: int, width: int) -> Window:
        """The window of that size with the same centre; margins must be whole pixels."""
        if (height - self.height) % 2 or (width - self.width) % 2:
            raise InputError(
                f"a {height} x {width} window cannot share the centre of a {self.height} x {self.width} one: "
                "the difference must be even"
            )
        return Window(self.y - (height - self.height) // 2, self.x - (width - self.width) // 2, height, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """How tiles cover a side of a raster.

    Attributes:
        kind: "stride": neighbours overlap by exactly `overlap` pixels, and the last tile is flush with the end. "even":
            as few tiles as overlap by at least `overlap` pixels, spread evenly, as in the public release (508-pixel
            patches that overlap by 50 or more). "whole": tiles lie side by side, as with "stride" and no overlap, and
            networks do not look at their pixels, but at the whole image (`Manifest.sees_patch`).
        overlap: Overlap of neighbours in pixels.
    """

    kind: Literal["stride", "even", "whole"]
    overlap: int

    def starts(self, side: int, tile: int) -> tuple[int, ...]:
        """First pixels of the tiles along one side.

        Args:
            side: Side of the raster in pixels.
            tile: Side of a tile in pixels.

        Returns:
            The first pixel of every tile, in order; one tile where the side is no longer than it.

        Raises:
            InputError: The overlap does not fit the tile.
        """
        if not 0 <= self.overlap < tile:
            raise InputError(f"overlap must be from 0 to {tile - 1} for tiles of {tile} pixels, found {self.overlap}")
        if side <= tile:
            return (0,)
        count = -(-(side - self.overlap) // (tile - self.overlap))
        if self.kind == "even":
            return tuple(round(Fraction(index * (side - tile), count - 1)) for index in range(count))
        return tuple(min(index * (tile - self.overlap), side - tile) for index in range(count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The tiles of one raster: all pairs of `rows` and `columns`, in reading order.

    Attributes:
        height: Height of the raster in pixels, or the row at which the part that is wanted ends.
        width: Width of the raster in pixels, or the column at which that part ends.
        tile: Side of a tile in pixels.
        rows: First pixel row of each row of tiles.
        columns: First pixel column of each column of tiles.
    """

    height: int
    width: int
    tile: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @classmethod
    def over(cls, height: int, width: int, tile: int, plan: TilePlan) -> Grid:
        """The tiles of a raster of that size, all in pixels."""
        return cls(
            height=height, width=width, tile=tile, rows=plan.starts(height, tile), columns=plan.starts(width, tile)
        )

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Window]:
        return (Window(y, x, self.tile, self.tile) for y in self.rows for x in self.columns)

    def touching(self, window: Window) -> Grid:
        """The tiles that touch a window, where they are in the whole raster.

        Args:
            window: A window inside the raster.

        Returns:
            The grid. Its regions finish the pixels of the window, and those above and to the left of it on which the
            first of these tiles begin; only those of the window get the sums of the whole raster.
        """
        return Grid(
            height=window.bottom, width=window.right, tile=self.tile,
            rows=tuple(y for y in self.rows if y + self.tile > window.y and y < window.bottom),
            columns=tuple(x for x in self.columns if x + self.tile > window.x and x < window.right),
        )  # fmt: skip

    def region(self, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None) -> Region:
        """The part of the raster that some of the tiles finish.

        Args:
            rows: Index of the first row of tiles, and the index after the last one; None for all rows.
            columns: The same of the columns of tiles.

        Returns:
            The region. Regions whose indices follow each other finish pixels that follow each other.

        Raises:
            InputError: There are no such tiles.
        """
        down, across = rows or (0, len(self.rows)), columns or (0, len(self.columns))
        for what, (first, stop), count in (("rows", down, len(self.rows)), ("columns", across, len(self.columns))):
            if not 0 <= first < stop <= count:
                found = f"{first} to {stop}"
                raise InputError(subject="region", expected=f"{what} of tiles from 0 to {count}", found=found)
        return Region(grid=self, first=down[0], stop=down[1], left=across[0], end=across[1])

    def panels(self, width: int) -> tuple[tuple[int, int], ...]:
        """Split the columns of tiles evenly into panels.

        Args:
            width: How many pixels wide a panel may be; one column of tiles is always allowed.

        Returns:
            For each panel, the index of its first column of tiles and the index after its last one.
        """
        count = min(-(-(self.width - self.columns[0]) // max(width, 1)), len(self.columns))
        ends = [index * len(self.columns) // count for index in range(count + 1)]
        return tuple(pairwise(ends))


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Rows and columns of tiles of a grid, and the pixels that they finish.

    A pixel is finished by the region in which the last tiles over it start. Tiles above and to the left of the region
    that reach into it must be computed again, so that a pixel gets the same sum, in the same order, as when the whole
    raster is run.

    Attributes:
        grid: The tiles of the whole raster.
        first: Index of the first row of tiles.
        stop: Index after the last row of tiles.
        left: Index of the first column of tiles.
        end: Index after the last column of tiles.
    """

    grid: Grid
    first: int
    stop: int
    left: int
    end: int

    @property
    def finished(self) -> Window:
        """The pixels that the region finishes."""
        grid = self.grid
        bottom = grid.rows[self.stop] if self.stop < len(grid.rows) else grid.height
        right = grid.columns[self.end] if self.end < len(grid.columns) else grid.width
        y, x = grid.rows[self.first], grid.columns[self.left]
        return Window(y, x, bottom - y, right - x)

    @property
    def computed(self) -> Window:
        """The pixels under its tiles, without what lies beyond the raster."""
        y, x = self.tile_rows[0], self.tile_columns[0]
        bottom = min(self.tile_rows[-1] + self.grid.tile, self.grid.height)
        right = min(self.tile_columns[-1] + self.grid.tile, self.grid.width)
        return Window(y, x, bottom - y, right - x)

    @property
    def tile_rows(self) -> tuple[int, ...]:
        """First pixel rows of the tiles to compute, those from above that reach into the region among them."""
        return _reaching(self.grid.rows, self.first, self.stop, self.grid.tile)

    @property
    def tile_columns(self) -> tuple[int, ...]:
        """First pixel columns of the tiles to compute, those from the left that reach into the region among them."""
        return _reaching(self.grid.columns, self.left, self.end, self.grid.tile)

    def steps(self, y: int, until: int) -> tuple[int, ...]:
        """Where to stop on the way from one pixel row to another, so that no step is higher than a tile.

        Args:
            y: The pixel row to start from.
            until: The pixel row to reach.

        Returns:
            First rows of the tiles in between, the first row that the region finishes, and `until`.
        """
        if until <= y:  # as for each tile of a row but the first
            return ()
        stops = {row for row in (*self.tile_rows, self.grid.rows[self.first]) if y < row < until}
        return (*sorted(stops), until)

    def __len__(self) -> int:
        return len(self.tile_rows) * len(self.tile_columns)

    def __iter__(self) -> Iterator[Window]:
        side, columns = self.grid.tile, self.tile_columns
        return (Window(y, x, side, side) for y in self.tile_rows for x in columns)


def _reaching(starts: tuple[int, ...], first: int, stop: int, tile: int) -> tuple[int, ...]:
    """Those of the starts, in order, up to `stop`, whose tiles reach beyond the start at `first`."""
    return starts[bisect_right(starts, starts[first] - tile) : stop]
