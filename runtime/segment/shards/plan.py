"""How a raster is cut into shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise

from ...tiling.windows import Grid, Region

PANEL = 16384
"""Width of a panel in pixels. Two panels share a column of tiles, which is computed twice; memory grows with the width.
"""

_HIGHEST = 64  # rows of tiles of a shard that is made by itself: what a worker that dies loses
_TILES = 256  # in a shard: what a kill costs at most, beside a row of tiles that is computed again


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """The shards of a raster.

    A panel is a range of columns of tiles and runs from top to bottom, so that memory does not grow with the width of
    the raster. A shard is a band of rows of tiles of one panel.

    Attributes:
        grid: The tiles of the raster.
        panel: How many pixels wide a panel may be.
        rows: How many rows of tiles a shard has.
    """

    grid: Grid
    panel: int
    rows: int

    @classmethod
    def over(cls, grid: Grid, panel: int = PANEL) -> ShardPlan:
        """Shards of about 256 tiles, in panels that are at most so many pixels wide."""
        columns = -(-len(grid.columns) // len(grid.panels(panel)))
        return cls(grid=grid, panel=panel, rows=max(1, round(_TILES / columns)))

    @classmethod
    def spread(cls, grid: Grid, shares: int) -> ShardPlan:
        """Shards that several workers make, each by itself.

        A shard that is made by itself computes a row of tiles anew, that above it, and the windows of contexts around
        it. So shards are high, but not so high that some workers have nothing to do while others finish: of all heights
        that would take within a twentieth of the shortest time, the lowest is taken.

        Args:
            grid: The tiles of the raster.
            shares: How many workers there are; more or fewer may come.

        Returns:
            The plan.
        """
        panels, rows = len(grid.panels(PANEL)), len(grid.rows)

        def time(height: int) -> int:
            shards = panels * -(-rows // height)
            return -(-shards // shares) * (height + 1)

        times = {height: time(height) for height in range(1, min(_HIGHEST, rows) + 1)}
        return cls(grid=grid, panel=PANEL, rows=next(h for h, t in times.items() if t <= 1.05 * min(times.values())))

    def numbers(self) -> dict[str, int]:
        """What a journal keeps of the plan."""
        return {"panel": self.panel, "rows": self.rows}

    def as_in(self, numbers: Mapping[str, int]) -> ShardPlan:
        """The plan of the same raster that a journal keeps."""
        return ShardPlan(grid=self.grid, panel=numbers["panel"], rows=numbers["rows"])

    @cached_property
    def shards(self) -> tuple[Region, ...]:
        """All shards, panel by panel, each from top to bottom."""
        ends = [*range(0, len(self.grid.rows), self.rows), len(self.grid.rows)]
        bands = list(pairwise(ends))
        return tuple(
            self.grid.region(rows=band, columns=panel) for panel in self.grid.panels(self.panel) for band in bands
        )

    @property
    def whole(self) -> tuple[Region, ...]:
        """The panels, whose tiles are all that an uninterrupted run computes."""
        return tuple(self.grid.region(columns=panel) for panel in self.grid.panels(self.panel))

    def runs(self, done: Collection[int], wanted: Sequence[int] | None = None) -> Iterator[tuple[int, ...]]:
        """What is left to do.

        Args:
            done: Indices of the shards that are done.
            wanted: Indices of the shards that are wanted, in order; None for all.

        Yields:
            Indices of shards that follow each other in one panel, and so can be segmented in one go.
        """
        shards = self.shards
        left = [index for index in (range(len(shards)) if wanted is None else wanted) if index not in done]
        for _, group in groupby(enumerate(left), key=lambda item: (item[1] - item[0], shards[item[1]].left)):
            yield tuple(index for _, index in group)

    def left(self, done: Collection[int], wanted: Sequence[int] | None = None) -> int:
        """How many tiles are left to compute, where some shards are done; arguments as for `runs`."""
        return sum(len(self.region(run)) for run in self.runs(done, wanted))

    def region(self, run: tuple[int, ...]) -> Region:
        """The region of shards that follow each other in one panel."""
        first, last = self.shards[run[0]], self.shards[run[-1]]
        return self.grid.region(rows=(first.first, last.stop), columns=(first.left, first.end))

    def tiles(self, wanted: Sequence[int]) -> Grid:
        """The tiles that some shards, of which there is at least one, take."""
        regions = [self.region(run) for run in self.runs((), wanted)]
        return replace(
            self.grid,
            rows=tuple(sorted({row for region in regions for row in region.tile_rows})),
            columns=tuple(sorted({column for region in regions for column in region.tile_columns})),
        )
