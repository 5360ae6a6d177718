"""What tiles of the Dubai scenes become while some of their contexts are black; contexts are encoded once a scene."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Context
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.segment.batches import BatchCutter, PatchBatch, grid_of
from fctl.runtime.segment.network import FeatureCache, Network
from fctl.runtime.tiling.merge import Merger, best_classes
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window

from .scenes import SCENES, Image8, at, read_scene

NONE, MEDIUM, LARGE, ALL = "none", "medium", "large", "all"
HIDDEN: Mapping[str, tuple[str, ...]] = {NONE: ("medium", "large"), MEDIUM: ("large",), LARGE: ("medium",), ALL: ()}
"""By what a tile is shown: the contexts that are black."""
CHEAPER = (NONE, MEDIUM, LARGE)

DOUBT = 0.2  # the two highest probabilities of a pixel in doubt are closer than this

Scores = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Decides whether a tile does with less.

    Attributes:
        shown: What the tile is shown first, one of `CHEAPER`.
        threshold: The least mean margin of that prediction with which it is kept.
    """

    shown: str
    threshold: float

    def keeps(self, cheaper: Scores) -> bool:
        """Whether the scores (classes, P, P) of the cheaper prediction are kept."""
        return bool(_sureness(cheaper)[0] >= self.threshold)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """All tiles of the scenes but those that are black, in reading order.

    Axis 1 of `changed`, `margin`, `best` and `sure` is what the tile was shown, as in `CHEAPER`.

    Attributes:
        scene: The number of the scene, (n,).
        y: First row in the scene, (n,).
        x: First column in the scene, (n,).
        held: How much of the tile lies in the part that was not trained on, from 0 to 1, (n,).
        changed: The share of the tile's pixels that have another class than with all contexts, (n, 3).
        margin: The mean distance of the two highest probabilities, (n, 3).
        best: The mean of the highest probability, (n, 3).
        sure: The share of pixels that are not in doubt, (n, 3).
    """

    scene: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    held: Values
    changed: Values
    margin: Values
    best: Values
    sure: Values

    def save(self, path: Path) -> None:
        """Keep the table."""
        np.savez_compressed(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Tiles:
        """Read a table that was kept."""
        with np.load(path) as kept:
            return cls(**{field.name: kept[field.name] for field in fields(cls)})

    def of(self, chosen: NDArray[np.bool_]) -> Tiles:
        """Some of the tiles, (n,)."""
        return Tiles(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What the merged masks of part 7 of one scene come to.

    Attributes:
        pixels: How many pixels part 7 has.
        changed: By what was shown, or by gate: pixels with another class than with all contexts.
        confusion: By the same names: truth against class.
    """

    pixels: int
    changed: Mapping[str, int]
    confusion: Mapping[str, Confusion]

    def plain(self) -> dict[str, object]:
        """All of it, as JSON has it."""
        confusion = {name: one.counts.tolist() for name, one in self.confusion.items()}
        return {"pixels": self.pixels, "changed": dict(self.changed), "confusion": confusion}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Masks:
        """What `plain` made."""
        confusion = {name: Confusion(np.array(one)) for name, one in plain["confusion"].items()}
        return cls(pixels=plain["pixels"], changed=plain["changed"], confusion=confusion)


def look(
    network: Network, data: Path, number: int, gates: Mapping[str, Gate], *, whole: bool = False
) -> tuple[Tiles, Masks]:
    """Segment part 7 of a scene, in its scene, with none, one and all of the contexts, and as gates decide.

    Args:
        network: A network that encodes its contexts, a medium and a large one, once a raster.
        data: The folder of the data set.
        number: The scene.
        gates: By name, gates that decide tile by tile.
        whole: Whether tiles that have nothing of part 7 are looked at too.

    Returns:
        The tiles, and the merged masks of part 7.
    """
    scene = read_scene(data, number)
    black = {context.name: _of_black(network, context) for context in network.manifest.contexts}
    manifest = network.manifest
    region = grid_of(manifest, *scene.labels.shape).region()
    masks = {name: np.zeros(scene.labels.shape, np.uint8) for name in (*HIDDEN, *gates)}
    mergers = {name: Merger(region, len(manifest.classes), manifest.merge, manifest.scores) for name in masks}
    rows, cache = list[tuple[object, ...]](), FeatureCache()
    tiles = (t for t in region if scene.pixels[at(t)].any() and (whole or t.shared(scene.held)))
    for batch in _batches(network, scene.pixels, tiles):
        found = _scores(network, batch, cache, black)
        for index, tile in enumerate(batch.tiles):
            scores = {shown: some[index] for shown, some in found.items()}
            rows.append((number, tile.y, tile.x, _overlap(tile, scene.held), *_row(scores)))
            scores |= {n: scores[gate.shown if gate.keeps(scores[gate.shown]) else ALL] for n, gate in gates.items()}
            for name, merger in mergers.items():
                for strip in merger.add([tile], scores[name][None]):
                    masks[name][at(strip.window)] = strip.ids()
    for name, merger in mergers.items():
        for strip in merger.flush():
            masks[name][at(strip.window)] = strip.ids()
    names = [field.name for field in fields(Tiles)]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    held = {name: mask[at(scene.held)] for name, mask in masks.items()}
    return Tiles(**dict(zip(names, columns, strict=True))), Masks(
        pixels=held[ALL].size,
        changed={name: int((mask != held[ALL]).sum()) for name, mask in held.items()},
        confusion={
            name: Confusion.of(scene.labels[at(scene.held)], mask, len(manifest.classes)) for name, mask in held.items()
        },
    )


def look_at_all(
    network: Network, data: Path, gates: Mapping[str, Gate], whole: Collection[int] = ()
) -> tuple[Tiles, dict[int, Masks]]:
    """Segment part 7 of all scenes, see `look`, and some scenes whole; masks are told by scene."""
    found = dict[int, tuple[Tiles, Masks]]()
    for number in SCENES:
        found[number] = look(network, data, number, gates, whole=number in whole)
        print(f"scene {number}: {len(found[number][0].y)} tiles", flush=True)
    parts = [tiles for tiles, _ in found.values()]
    joined = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Tiles)}
    return Tiles(**joined), {number: masks for number, (_, masks) in found.items()}


def _batches(network: Network, pixels: Image8, tiles: Iterator[Window]) -> Iterator[PatchBatch]:
    """Some tiles of a scene with their contexts, as a run cuts them."""
    cutter = BatchCutter(network.manifest, ArraySource(pixels), network.lattices)
    while group := tuple(itertools.islice(tiles, network.batch)):
        yield cutter.cut(group, network.batch)


def _of_black(network: Network, context: Context) -> NDArray[np.float32]:
    """What a batch gets of a context that is black, as everything beyond a raster is."""
    sharing = context.sharing
    assert sharing is not None
    window = np.zeros((1, network.manifest.input.bands, sharing.size, sharing.size), np.uint8)
    cells = np.asarray(network.encode_once(context, window))
    kept = slice(sharing.first, sharing.first + sharing.cells.count)
    return np.repeat(cells[:, :, kept, kept], network.batch, axis=0)


def _scores(
    network: Network, batch: PatchBatch, cache: FeatureCache, black: Mapping[str, NDArray[np.float32]]
) -> dict[str, Scores]:
    """The scores (N, classes, P, P) of a batch, by what it is shown."""
    features = network.encode_contexts(batch, cache=cache)
    found = dict[str, Scores]()
    for shown, hidden in HIDDEN.items():
        seen = {name: black[name] if name in hidden else some for name, some in features.items()}
        found[shown] = network.on_host(network.segment(batch.patch, seen, batch.positions)).copy()
    return found


def _row(scores: Mapping[str, Scores]) -> tuple[Values, Values, Values, Values]:
    """What `Tiles` holds of a tile: changed, margin, best and sure."""
    classes = best_classes(scores[ALL])
    changed = np.array([(best_classes(scores[shown]) != classes).mean() for shown in CHEAPER])
    margin, best, sure = np.array([_sureness(scores[shown]) for shown in CHEAPER]).T
    return changed, margin, best, sure


def _sureness(scores: Scores) -> tuple[float, float, float]:
    """How sure logits (classes, P, P) are: mean margin, mean highest probability, share of pixels not in doubt."""
    powers = np.exp(scores - scores.max(axis=0))
    second, first = np.partition(powers / powers.sum(axis=0), -2, axis=0)[-2:]
    margin = first - second
    return float(margin.mean()), float(first.mean()), float((margin >= DOUBT).mean())


def _overlap(tile: Window, part: Window) -> float:
    """How much of a tile lies in a part, from 0 to 1."""
    common = tile.shared(part)
    return 0.0 if common is None else common.height * common.width / (tile.height * tile.width)
