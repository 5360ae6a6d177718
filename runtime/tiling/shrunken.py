"""A raster shrunk by a whole number, of which each block is read and shrunk once, for windows that overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from .resampling import Pixels, Resampling, shrunk
from .sources import Source, read_padded, stacked
from .windows import Window

SIDE = 32
"""Side of a block in shrunken pixels."""


def divides(window: Window, side: int, resampling: Resampling) -> bool:
    """Whether a window can be put together from shrunken blocks.

    Each new pixel must be the mean of a square of its own: then it is the same whatever else is shrunk with it.

    Args:
        window: A square window of the raster.
        side: Its side in pixels after resampling.
        resampling: The filter.
    """
    return resampling == "box" and window.height > side and window.height % side == 0


def covering(window: Window, side: int, resampling: Resampling) -> Window:
    """What is read for a window: the blocks that it touches, if it is put together from blocks.

    Args:
        window: A square window of the raster.
        side: Its side in pixels after resampling.
        resampling: The filter.
    """
    if not divides(window, side, resampling):
        return window
    keys, block = _blocks(window, window.height // side), SIDE * (window.height // side)
    y, x = min(key.y for key in keys), min(key.x for key in keys)
    return Window(y, x, max(key.y for key in keys) + block - y, max(key.x for key in keys) + block - x)


class _Key(NamedTuple):
    """A block: by how much it is shrunk, and where it lies in pixels of the raster."""

    factor: int
    y: int
    x: int


class Shrunken:
    """Cuts windows from shrunken blocks, which it keeps until the windows that come lie below.

    Args:
        source: The raster.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._blocks: dict[_Key, Pixels] = {}
        self._dark: Pixels | None = None  # a pixel of those beyond the raster

    def stack(self, windows: Sequence[Window], side: int, count: int) -> Pixels:
        """Cut and shrink several windows, as `Source.stack` does with the filter "box".

        Args:
            windows: At most `count` windows for which `divides` is true; they may reach beyond the raster.
            side: Side in pixels after resampling.
            count: How many entries the stack has; those beyond the windows are black.

        Returns:
            Windows (count, bands, side, side) in the raster's dtype, black beyond the raster.

        Raises:
            RasterError: The raster cannot be read.
        """
        factor = windows[0].height // side
        self._forget_above(factor, min(window.y for window in windows))
        self._shrink(set().union(*(_blocks(window, factor) for window in windows)))
        images = [self._cut(window, factor, side) for window in windows]
        return stacked(images, images[0], side, count)

    def forget(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()

    def _forget_above(self, factor: int, top: int) -> None:
        side = SIDE * factor
        for key in [key for key in self._blocks if key.factor == factor and key.y + side <= top]:
            del self._blocks[key]

    def _shrink(self, keys: Iterable[_Key]) -> None:
        """Read and shrink blocks that are not at hand; those side by side are read in one go."""
        missing = sorted(key for key in keys if key not in self._blocks)
        for run in _side_by_side(missing):
            first, side = run[0], SIDE * run[0].factor
            window = Window(first.y, first.x, side, side * len(run))
            inside = window.within(self._source.height, self._source.width)
            pixels = read_padded(self._source, window) if inside else self._black(window)
            small = shrunk(pixels, SIDE, SIDE * len(run), "box")
            for number, key in enumerate(run):
                self._blocks[key] = small[:, SIDE * number : SIDE * (number + 1)]

    def _black(self, window: Window) -> Pixels:
        if self._dark is None:
            self._dark = np.zeros_like(self._source.read(Window(0, 0, 1, 1)))
        return np.tile(self._dark, (window.height, window.width, 1))

    def _cut(self, window: Window, factor: int, side: int) -> Pixels:
        """A window (side, side, bands), put together."""
        keys = sorted(_blocks(window, factor))
        rows = [
            np.concatenate([self._blocks[key] for key in row], axis=1) for _, row in groupby(keys, lambda key: key.y)
        ]
        y, x = (window.y - keys[0].y) // factor, (window.x - keys[0].x) // factor
        return np.concatenate(rows)[y : y + side, x : x + side]


def _blocks(window: Window, factor: int) -> set[_Key]:
    """The blocks that a window touches. Where they begin depends on the remainder of the window's place alone."""
    side = SIDE * factor
    across = range(_before(window.x, factor), window.right, side)
    return {_Key(factor, y, x) for y in range(_before(window.y, factor), window.bottom, side) for x in across}


def _before(start: int, factor: int) -> int:
    """The first pixel of the block that holds one."""
    return start - (start - start % factor) % (SIDE * factor)


def _side_by_side(keys: Sequence[_Key]) -> Iterator[list[_Key]]:
    """Blocks in runs that touch from left to right."""
    run = list[_Key]()
    for key in keys:
        if run and (key.factor, key.y, key.x) != (run[-1].factor, run[-1].y, run[-1].x + SIDE * key.factor):
            yield run
            run = []
        run.append(key)
    if run:
        yield run
