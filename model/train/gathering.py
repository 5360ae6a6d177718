"""A window that is encoded with what the patches in it know, in training: all patches of the image at hand.

Whatever computes what they know is not trained at the same time, so that it takes no gradients, and the patches of an
image can go through it one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fctl.runtime.bundle.gathering import Gathering
from fctl.runtime.tiling.contexts import ContextWindow
from fctl.runtime.tiling.pasting import Pasting, Shares
from fctl.runtime.tiling.resampling import Pixels, resample
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.windows import Grid, Window

from ..backbones import Stage
from ..geometry import apply_separable, cells_of_patch
from ..interface import SharingNetwork


@dataclass(frozen=True)
class DrawnScene:
    """The patches of one window.

    Attributes:
        pixels: The patches (n, P, P, bands).
        positions: Where their cells lie in the window (n, 2, h).
        shares: By map, what its cells take of each patch, along rows and along columns: (n, H, h) each.
    """

    pixels: Pixels
    positions: Tensor
    shares: dict[str, tuple[Shares, Shares]]

    def filled(self, count: int) -> DrawnScene:
        """The same with more patches, of which nothing is taken."""
        more = count - len(self.pixels)
        return DrawnScene(
            pixels=np.concatenate([self.pixels, np.repeat(self.pixels[-1:], more, axis=0)]),
            positions=torch.cat([self.positions, self.positions[-1:].repeat(more, 1, 1)]),
            shares={
                name: (np.pad(rows, ((0, more), (0, 0), (0, 0))), np.pad(columns, ((0, more), (0, 0), (0, 0))))
                for name, (rows, columns) in self.shares.items()
            },
        )


@dataclass(frozen=True)
class GatheredPatches:
    """The patches of the windows of a batch; windows with fewer are filled up.

    Attributes:
        context: The context that patches are encoded with.
        patches: The patches (N, n, bands, P, P) uint8.
        positions: Where their cells lie in that context, (N, n, 2, h).
        rows: By map, what its cells take of each patch along rows, (N, n, H, h).
        columns: The same along columns.
    """

    context: str
    patches: Tensor
    positions: Tensor
    rows: dict[str, Tensor]
    columns: dict[str, Tensor]

    @classmethod
    def of(cls, context: str, drawn: Sequence[DrawnScene]) -> GatheredPatches:
        """The patches of several windows, for a context with which they are encoded."""
        most = max(len(scene.pixels) for scene in drawn)
        scenes = [scene.filled(most) for scene in drawn]
        pixels = np.ascontiguousarray(np.moveaxis(np.stack([scene.pixels for scene in scenes]), -1, -3))

        def stacked(axis: int) -> dict[str, Tensor]:
            return {
                name: torch.from_numpy(np.stack([scene.shares[name][axis] for scene in scenes]))
                for name in scenes[0].shares
            }

        positions = torch.stack([scene.positions for scene in scenes])
        return cls(context, torch.from_numpy(pixels), positions, stacked(0), stacked(1))

    def gathered(
        self, network: SharingNetwork, patches: Sequence[Tensor], contexts: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What the windows gather.

        Args:
            network: The network.
            patches: The n patches of each window in turn, (N, bands, P, P), as they are shown to the network.
            contexts: Features of the context that they are encoded with.

        Returns:
            Maps (N, C, H, W) by name.
        """
        found: dict[str, Tensor] = {}
        device = patches[0].device
        with torch.no_grad():
            for number, patch in enumerate(patches):
                positions = {self.context: self.positions[:, number].to(device)}
                for name, one in network.maps_of_patches(patch, contexts, positions).items():
                    rows, columns = (shares[name][:, number].to(one) for shares in (self.rows, self.columns))
                    part = apply_separable(rows, one, columns)
                    found[name] = found[name] + part if name in found else part
        return found


@dataclass(frozen=True, slots=True)
class GatheringWindow:
    """How a context is cut that is encoded with what patches know.

    Attributes:
        window: How its window is cut.
        gathering: What is gathered.
        patch: Side of a patch in pixels, as the network takes it.
        stage: The stage whose cells are placed.
        cells: How many of them a patch has, along either axis.
    """

    window: ContextWindow
    gathering: Gathering
    patch: int
    stage: Stage
    cells: int

    def draw(self, source: ArraySource, tile: Window) -> DrawnScene:
        """Cut all patches of the window around a tile.

        Args:
            source: The scene.
            tile: The tile; where it is larger or smaller than a patch, all patches are so too.

        Returns:
            The patches.
        """
        block, side = self.window.around(tile, source), tile.height
        plan = replace(self.gathering.plan, overlap=min(self.gathering.plan.overlap * side // self.patch, side - 1))
        grid = Grid.over(block.height, block.width, side, plan)
        cut = [read_padded(source, place.moved(block.y, block.x)) for place in grid]
        return DrawnScene(
            pixels=np.stack([resample(pixels, self.patch, "box") for pixels in cut]),
            positions=torch.stack([self._placed(place, block) for place in grid]),
            shares=self._shares(grid, block),
        )

    def _placed(self, place: Window, block: Window) -> Tensor:
        return positions_in(place, block, self.patch, (self.cells, self.stage), self.window.size)

    def _shares(self, grid: Grid, block: Window) -> dict[str, tuple[Shares, Shares]]:
        """By map, what its cells take of each patch, in reading order."""
        found = {}
        for one in self.gathering.maps:
            rows, columns = (
                Pasting(
                    cells=one.patch, size=self.patch, tile=grid.tile, whole=one.scene, whole_size=self.window.size,
                    window=side,
                ).shares(starts)
                for side, starts in ((block.height, grid.rows), (block.width, grid.columns))
            )  # fmt: skip
            across = np.tile(columns, (len(grid.rows), 1, 1))
            found[one.name] = (rows.repeat(len(grid.columns), axis=0), across)
        return found


def positions_in(place: Window, window: Window, patch: int, grid: tuple[int, Stage], size: int) -> Tensor:
    """Where the cells of a patch lie in a global context.

    Args:
        place: The tile that the patch is cut from, larger or smaller than it, in pixels of the window.
        window: The context's window.
        patch: Side of the patch in pixels, as the network takes it.
        grid: How many cells the patch has along either axis, and their stage.
        size: Side in pixels to which the window is shrunk.

    Returns:
        Positions (2, h), rows then columns, in cells of the context.
    """
    (cells, stage), scale = grid, patch / place.height
    axes = ((place.y, window.height), (place.x, window.width))
    return torch.stack([
        cells_of_patch(cells, stage, start=scale * start, window=scale * side, size=size) for start, side in axes
    ])  # fmt: skip
