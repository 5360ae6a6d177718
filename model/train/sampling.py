"""Random patches with their contexts: cut by the runtime's own code, so that training sees what serving does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.tiling.contexts import ContextWindow, cut_context
from fctl.runtime.tiling.resampling import Pixels, resample
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.windows import Window

from ..backbones import backbone_class, stage_of
from ..config import NetworkConfig
from ..geometry import cells_of_patch
from ..whole import PIXELS
from .gathering import DrawnScene, GatheredPatches, GatheringWindow, positions_in
from .lattices import LatticePlace, LatticeWindows, Windows
from .perturb import perturbed
from .recipe import Recipe
from .scenes import Scene


@dataclass(frozen=True)
class TrainingBatch:
    """A batch of patches.

    Attributes:
        patch: Patches (N, bands, P, P) uint8; black where the network does not look at them.
        contexts: By name the contexts' windows (N, bands, S, S) uint8; (N, windows, bands, S, S) of those in `places`.
        positions: By name of the contexts that are placed (`NetworkConfig.placed`), positions (N, 2, h) float32 of the
            patch's cells, rows then columns, in cells of the context.
        labels: Class ids (N, P, P) int64, 255 where unlabelled; of the whole image where that is what the network sees.
        places: By name of the contexts that are encoded once a raster, where the patches lie on the context's lattice.
        scenes: By name of the contexts that are encoded with what patches know, the patches in their windows.
        coarse: For a network that refines masks: where the coarse mask of each patch has one class, (N, P, P) of 0 and
            1. The labels tell then of the same class: 1 where a pixel has it, 0 where it has another.
    """

    patch: Tensor
    contexts: dict[str, Tensor]
    positions: dict[str, Tensor]
    labels: Tensor
    places: dict[str, LatticePlace] = field(default_factory=dict)
    scenes: dict[str, GatheredPatches] = field(default_factory=dict)
    coarse: Tensor | None = None


@dataclass(frozen=True)
class _Drawn:
    """One patch (P, P, bands) of a batch: contexts (..., S, S, bands) and positions (2, h) by name, labels (P, P).

    And by name, the patches in the windows of contexts that are encoded with what patches know.
    A coarse mask (P, P) has class ids, as far as the scene has one.
    """

    patch: Pixels
    contexts: dict[str, Pixels]
    positions: dict[str, Tensor]
    labels: NDArray[np.uint8]
    scenes: dict[str, DrawnScene]
    coarse: NDArray[np.uint8] | None = None


class Sampler:
    """Draws random patches of scenes.

    Some patches are drawn around a pixel of a class that is drawn evenly, so that rare classes are seen; the others
    lie anywhere.

    Args:
        scenes: The scenes.
        config: The network that the patches are for.
        windows: By name, how the contexts of the network are cut.
        recipe: How patches are drawn.
    """

    def __init__(self, scenes: Sequence[Scene], config: NetworkConfig, windows: Windows, recipe: Recipe) -> None:
        self.windows, self.recipe, self.config = dict(windows), recipe, config
        self._placed = tuple(name for name in config.placed if name in self.windows)
        turns = 8 if recipe.turns else 1
        self.views = [view for scene in scenes for view in itertools.islice(_dihedral(scene), turns)]
        labelled = np.array([(scene.labels != IGNORE).sum() for scene in scenes], dtype=np.float64).repeat(turns)
        self.chances = labelled / labelled.sum()

    def batch(self, seed: int) -> TrainingBatch:
        """Draw a batch.

        Args:
            seed: Which batch; together with the recipe's seed it determines all that is drawn.

        Returns:
            The batch.
        """
        # Drawn apart: patches are the same whatever contexts there are, and however they are encoded.
        random, dropped, placed, refined = (
            np.random.default_rng((self.recipe.seed, seed, *more)) for more in ((), (1,), (2,), (3,))
        )
        places = {name: cut.draw(placed) for name, cut in self.windows.items() if isinstance(cut, LatticeWindows)}
        items = [self._patch(random, places) for _ in range(self.recipe.batch)]
        for item in items:
            for name, context in item.contexts.items():
                if dropped.random() < self.recipe.context_dropout and self.config.sees_patch:
                    item.contexts[name] = np.zeros_like(context)
        coarse = None
        if self.config.refines:
            pairs = [_of_one_class(item, self.recipe.perturb, refined) for item in items]
            items = [replace(item, labels=labels) for item, (labels, _) in zip(items, pairs, strict=True)]
            coarse = torch.from_numpy(np.stack([mask for _, mask in pairs]))
        return TrainingBatch(
            coarse=coarse,
            patch=_stack([item.patch for item in items]),
            contexts={name: _stack([item.contexts[name] for item in items]) for name in self.windows},
            positions={name: torch.stack([item.positions[name] for item in items]) for name in self._placed},
            labels=torch.from_numpy(np.stack([item.labels for item in items]).astype(np.int64)),
            places=places,
            scenes={
                name: GatheredPatches.of(window.gathering.context, [item.scenes[name] for item in items])
                for name, window in self.windows.items()
                if isinstance(window, GatheringWindow)
            },
        )

    def batches(self, seeds: Sequence[int], workers: int = 1) -> Iterator[TrainingBatch]:
        """Draw batches in the background.

        Args:
            seeds: Which batches, in order.
            workers: Threads that cut patches, each two batches ahead.

        Yields:
            The batches, in the order of the seeds.
        """
        waiting = iter(seeds)
        with ThreadPoolExecutor(workers) as pool:
            pending = [pool.submit(self.batch, seed) for seed in itertools.islice(waiting, 2 * workers)]
            while pending:
                batch = pending.pop(0).result()
                pending += [pool.submit(self.batch, seed) for seed in itertools.islice(waiting, 1)]
                yield batch

    def _patch(self, random: np.random.Generator, places: Mapping[str, LatticePlace]) -> _Drawn:
        """Draw one patch."""
        index = random.choice(len(self.views), p=self.chances)
        source, labels, coarse = self.views[index]
        side = round(self.config.patch * self.recipe.scale ** random.uniform(-1, 1) / 2) * 2
        y, x = self._corner(random, labels, side)
        tile = Window(y, x, side, side)
        if not self.config.sees_patch:
            return self._whole(source, labels, tile)
        return _Drawn(
            patch=resample(read_padded(source, tile), self.config.patch, "box"),
            contexts={
                name: places[name].windows(source, tile) if name in places else cut_context(source, tile, _of(window))
                for name, window in self.windows.items()
            },
            positions={name: self._positions(tile, source, _of(self.windows[name])) for name in self._placed},
            labels=_cut_labels(labels, tile, self.config.patch),
            scenes={
                name: window.draw(source, tile)
                for name, window in self.windows.items()
                if isinstance(window, GatheringWindow)
            },
            coarse=None if coarse is None else _cut_labels(coarse, tile, self.config.patch),
        )

    def _whole(self, source: ArraySource, labels: NDArray[np.uint8], tile: Window) -> _Drawn:
        """The whole image, or the scene block around a tile, with the labels of all of it, as large as a patch."""
        ((name, context),) = self.windows.items()
        side, size, window = self.config.patch, _of(context).size, _of(context).around(tile, source)
        place = cells_of_patch(side, PIXELS, start=0, window=side, size=size)
        return _Drawn(
            patch=np.zeros((side, side, source.pixels.shape[2]), source.pixels.dtype),
            contexts={name: cut_context(source, tile, _of(context))},
            positions={name: torch.stack([place, place])},
            labels=_cut_labels(labels, window, side),
            scenes={},
        )

    def _positions(self, tile: Window, source: ArraySource, context: ContextWindow) -> Tensor:
        """Where the cells of a patch, cut from a larger or smaller tile, lie in a global context: (2, h)."""
        stage, patch = stage_of(self.config.backbone, self.config.stage), self.config.patch
        cells = backbone_class(self.config.backbone).grid(patch, stage)
        window = context.around(tile, source)
        return positions_in(tile.moved(-window.y, -window.x), window, patch, (cells, stage), context.size)

    def _corner(self, random: np.random.Generator, labels: NDArray[np.uint8], side: int) -> tuple[int, int]:
        """Draw the first row and column of a tile: around a pixel of a class, or anywhere."""
        height, width = labels.shape
        wanted = int(random.integers(self.config.classes))
        if random.random() < self.recipe.balance and len(candidates := _pixels_of(labels, wanted)):
            y, x = candidates[random.integers(len(candidates))] - random.integers(0, side, 2)
        else:
            y, x = random.integers(0, [max(height - side, 0) + 1, max(width - side, 0) + 1])
        return int(np.clip(y, 0, max(height - side, 0))), int(np.clip(x, 0, max(width - side, 0)))


def _dihedral(scene: Scene) -> Iterator[tuple[ArraySource, NDArray[np.uint8], NDArray[np.uint8] | None]]:
    """The eight turns and flips of a scene, as views: patches and contexts turn together, and coarse masks too."""
    for step in (1, -1):
        pixels, labels = scene.pixels[:, ::step], scene.labels[:, ::step]
        coarse = None if scene.coarse is None else scene.coarse[:, ::step]
        for turns in range(4):
            turned = None if coarse is None else np.rot90(coarse, turns)
            yield ArraySource(np.rot90(pixels, turns)), np.rot90(labels, turns), turned


def _of_one_class(
    item: _Drawn, perturb: float, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels and coarse mask (P, P) of one of a patch's classes, drawn evenly: 1 where a pixel has it, else 0.

    Args:
        item: The patch.
        perturb: How many masks are made of the labels, where there is another one.
        random: What draws.
    """
    found = np.unique(item.labels[item.labels != IGNORE])
    index = int(random.choice(found)) if len(found) else 0
    labels = np.where(item.labels == IGNORE, np.uint8(IGNORE), (item.labels == index).astype(np.uint8))
    if random.random() < perturb or item.coarse is None:
        return labels, (perturbed(labels, random) == 1).astype(np.uint8)
    return labels, (item.coarse == index).astype(np.uint8)


def _pixels_of(labels: NDArray[np.uint8], index: int) -> NDArray[np.int64]:
    """Rows and columns (n, 2) of pixels of a class, one of 64 being looked at: enough to aim at."""
    return np.argwhere(labels[::8, ::8] == index) * 8


def _cut_labels(labels: NDArray[np.uint8], tile: Window, side: int) -> NDArray[np.uint8]:
    """Nearest labels (side, side) of a tile, 255 beyond the scene."""
    place = (np.arange(side) + 0.5) / side
    rows, columns = tile.y + (place * tile.height).astype(int), tile.x + (place * tile.width).astype(int)
    cut = np.full((side, side), IGNORE, np.uint8)
    inside = np.ix_(rows < labels.shape[0], columns < labels.shape[1])
    cut[inside] = labels[np.ix_(rows[rows < labels.shape[0]], columns[columns < labels.shape[1]])]
    return cut


def _of(window: ContextWindow | LatticeWindows | GatheringWindow) -> ContextWindow:
    """A context that is cut for each patch."""
    window = window.window if isinstance(window, GatheringWindow) else window
    assert isinstance(window, ContextWindow), "the places of the others were drawn"
    return window


def _stack(images: list[Pixels]) -> Tensor:
    """Images (..., H, W, bands) as one tensor (N, ..., bands, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.stack(images), -1, -3)))
