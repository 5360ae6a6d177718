"""Contexts encoded once a raster, in training: windows of a lattice around each patch (docs/shared-contexts.md).

A raster has one lattice, and its patches lie on it in some ways that repeat. In training each batch draws one of these
ways, as if the lattice of its scenes lay so, and all of its patches take it: then their windows are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from torch import Tensor

from fctl.runtime.segment.network import Cut
from fctl.runtime.tiling.contexts import CentredContext, ContextWindow
from fctl.runtime.tiling.lattice import Lattice, Place
from fctl.runtime.tiling.resampling import Pixels, Resampling, resample
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.windows import Window

from ..backbones import backbone_class, stage_of
from ..config import NetworkConfig, ServingConfig
from ..serving.manifest import served_contexts
from ..serving.module_network import gathered
from .gathering import GatheringWindow


@dataclass(frozen=True, slots=True)
class LatticePlace:
    """Where the patches of one batch lie on the lattice of a context.

    Attributes:
        lattice: The lattice.
        resampling: How its windows are shrunk.
        y: Their first row, in pixels of a raster on whose lattice a patch lies as they do.
        x: Their first column, likewise.
    """

    lattice: Lattice
    resampling: Resampling
    y: int
    x: int

    @property
    def rows(self) -> Place:
        """The rows of cells that they need."""
        return self.lattice.place(self.y)

    @property
    def columns(self) -> Place:
        """The columns of cells that they need."""
        return self.lattice.place(self.x)

    def windows(self, source: ArraySource, tile: Window) -> Pixels:
        """Cut the windows of which a patch needs cells.

        Args:
            source: The scene.
            tile: The patch in pixels of the scene; where it is larger or smaller than the patch that the network takes,
                the windows are so too.

        Returns:
            The windows, row by row: (windows, side, side, bands).
        """
        scale = Fraction(tile.height, self.lattice.tile)
        side = round(scale * self.lattice.span)
        ys = [tile.y + round(scale * (self.lattice.start(piece.number) - self.y)) for piece in self.rows.pieces]
        xs = [tile.x + round(scale * (self.lattice.start(piece.number) - self.x)) for piece in self.columns.pieces]
        cut = [read_padded(source, Window(y, x, side, side)) for y in ys for x in xs]
        return np.stack([resample(pixels, self.lattice.side, self.resampling) for pixels in cut])

    def features(self, windows: Sequence[Tensor]) -> Tensor:
        """What patches need of the features of their windows.

        Args:
            windows: Features (N, C, h, w) of the windows, in the order of `windows`.

        Returns:
            Features (N, C, H, W) of the context.
        """
        count = len(self.columns.pieces)
        rows = tuple(tuple(windows[first : first + count]) for first in range(0, len(windows), count))
        return gathered(Cut(rows=self.rows, columns=self.columns, windows=rows))


@dataclass(frozen=True, slots=True)
class LatticeWindows:
    """How a context that is encoded once a raster is cut.

    Attributes:
        lattice: Its lattice.
        resampling: How its windows are shrunk.
        starts: The first pixels of tiles, along either axis, that need the fewest windows: others would cost several
            times the work, and show the same cells.
    """

    lattice: Lattice
    resampling: Resampling
    starts: tuple[int, ...]

    @classmethod
    def of(cls, lattice: Lattice, resampling: Resampling, step: int) -> LatticeWindows:
        """How a context is cut.

        Args:
            lattice: Its lattice.
            resampling: How its windows are shrunk.
            step: Pixels of the raster from one tile to the next.
        """
        period = math.lcm(step, int(lattice.step))
        pieces = {start: len(lattice.place(start).pieces) for start in range(0, period, step)}
        fewest = min(pieces.values())
        return cls(lattice, resampling, tuple(start for start, count in pieces.items() if count == fewest))

    def draw(self, random: np.random.Generator) -> LatticePlace:
        """Draw where the patches of a batch lie on the lattice."""
        y, x = (int(start) for start in random.choice(self.starts, 2))
        return LatticePlace(self.lattice, self.resampling, y, x)


Windows: TypeAlias = Mapping[str, ContextWindow | LatticeWindows | GatheringWindow]
"""By name of the contexts, how each is cut: for each patch, once a raster, or with all patches in it."""


def context_windows(config: NetworkConfig, serving: ServingConfig, *, once: bool) -> Windows:
    """How the contexts of a network are cut in training.

    Args:
        config: The network.
        serving: How it is run.
        once: Whether contexts that can be are encoded once a raster.

    Returns:
        By name, how each context is cut.
    """
    names, step = config.context_names, config.patch - serving.overlap
    found: dict[str, ContextWindow | LatticeWindows | GatheringWindow] = {}
    stage = stage_of(config.backbone, config.stage)
    for context in served_contexts(config, serving, dict(zip(names, names, strict=True))):
        window = found[context.name] = context.window
        if once and context.sharing and isinstance(window, CentredContext):
            lattice = context.sharing.lattice(config.patch, window.side(config.patch), context.size)
            found[context.name] = LatticeWindows.of(lattice, context.resampling, step)
        elif context.gathering:
            cells = backbone_class(config.backbone).grid(config.patch, stage)
            found[context.name] = GatheringWindow(window, context.gathering, config.patch, stage, cells)
    return found
