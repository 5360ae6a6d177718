"""Pixel geometry in integers: windows, and the plan of tiles over a raster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
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
            patches that overlap by 50 or more).
        overlap: Overlap of neighbours in pixels.
    """

    kind: Literal["stride", "even"]
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
        height: Height of the raster in pixels.
        width: Width of the raster in pixels.
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

    def band(self, first: int, stop: int) -> Band:
        """The part of the raster that some rows of tiles finish.

        Args:
            first: Index of the first row of tiles.
            stop: Index after the last one.

        Returns:
            The band. Bands whose indices follow each other finish pixel rows that follow each other.

        Raises:
            InputError: There are no such rows of tiles.
        """
        if not 0 <= first < stop <= len(self.rows):
            found = f"{first} to {stop}"
            raise InputError(subject="band", expected=f"rows of tiles from 0 to {len(self.rows)}", found=found)
        return Band(grid=self, first=first, stop=stop)

    def all_rows(self) -> Band:
        """The band that is the whole raster."""
        return self.band(0, len(self.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Rows of tiles of a grid, and the pixel rows that they finish.

    A pixel row is finished by the band in which the last tiles over it start. Tiles above the band that reach into it
    must be computed again, so that a pixel gets the same sum, in the same order, as when the whole raster is run.

    Attributes:
        grid: The tiles of the whole raster.
        first: Index of the first row of tiles.
        stop: Index after the last one.
    """

    grid: Grid
    first: int
    stop: int

    @property
    def y(self) -> int:
        """First pixel row that the band finishes."""
        return self.grid.rows[self.first]

    @property
    def bottom(self) -> int:
        """First pixel row that it does not finish."""
        return self.grid.rows[self.stop] if self.stop < len(self.grid.rows) else self.grid.height

    @property
    def tile_rows(self) -> tuple[int, ...]:
        """First pixel rows of the tiles to compute, those from above that reach into the band among them."""
        return tuple(y for y in self.grid.rows[: self.stop] if y + self.grid.tile > self.y)

    def __len__(self) -> int:
        return len(self.tile_rows) * len(self.grid.columns)

    def __iter__(self) -> Iterator[Window]:
        side = self.grid.tile
        return (Window(y, x, side, side) for y in self.tile_rows for x in self.grid.columns)
