"""Which patches calibrate INT8: from all of a user's images, and evenly of the classes that the network sees there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.errors import InputError
from fctl.runtime.progress import TileProgress
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.network import Network
from fctl.runtime.tiling.merge import Strip
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.windows import Window

from .sample import cut_each

_CANDIDATES = 3  # for each patch that is chosen
_TRIES = 50  # places looked at for each candidate, where few have data
_NAMED = 3  # images in an error

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A patch: its image, as it was given, and its first row and column there.

    valid: share of its pixels that have data. shares: of each class, among these, as the network predicts.
    """

    image: str
    y: int
    x: int
    valid: float
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """How many patches an image is to give, and the candidates, in the order in which they were drawn."""

    quota: int
    tiles: tuple[Window, ...]


def choose_patches(
    network: Network[Any, Any], images: Sequence[Path], count: int, seed: int, progress: TileProgress | None = None
) -> tuple[Chosen, ...]:
    """At least one and at most `count` patches in the order of their images, each in reading order; all are distinct.

    Images give equally many, or what they have: places are drawn from `seed`, and at least half of a patch has data, in
    more than one colour. Of more images than patches, some are drawn and no other is opened. Among candidates that the
    network segments, those are taken that make its classes most even.
    progress: called with candidates segmented and in all. Raises RasterError for an image that does not fit the bundle,
    InputError where no image has anything to show.
    """
    images = tuple(dict.fromkeys(images))
    drawn = _draw(network.manifest, images, count, seed)
    if not drawn:
        more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
        named = ", ".join(map(str, images[:_NAMED]))
        raise InputError(f"expected patches with data, found none in {named}{more}; give other images")
    return _pick(drawn, _predict(network, drawn, progress))


def cut_patches(manifest: Manifest, chosen: Sequence[Chosen]) -> Iterator[PatchBatch]:
    """Chosen patches in turn, one per batch with all of its contexts, cut when they are asked for.

    Those that follow each other in the same image open it once. Do not leave one iteration while in another: rasterio
    keeps its settings on a stack. Raises RasterError.
    """
    for image, patches in groupby(chosen, lambda patch: patch.image):
        with open_raster(Path(image), manifest.input, None, manifest.tile) as source:
            tiles = (Window(patch.y, patch.x, manifest.tile, manifest.tile) for patch in patches)
            yield from cut_each(manifest, source, tiles)


def _draw(manifest: Manifest, images: Sequence[Path], count: int, seed: int) -> dict[Path, _Drawn]:
    """Candidates of all images that give any, in the order of the images.

    What an image has shows only when it is looked at: quotas that it cannot meet go to others, which are drawn anew.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    most = dict.fromkeys(order, count)
    asked = dict.fromkeys(order, 0)
    tiles: dict[int, tuple[Window, ...]] = {}
    while grown := {index: quota for index, quota in _quotas(count, most).items() if quota > asked[index]}:
        for index, quota in grown.items():
            random = np.random.default_rng((seed, index))
            tiles[index], asked[index] = _candidates(manifest, images[index], _CANDIDATES * quota, random), quota
            if len(tiles[index]) < quota:
                most[index] = len(tiles[index])
    quotas = _quotas(count, most)
    return {images[index]: _Drawn(quota=quotas[index], tiles=tiles[index]) for index in sorted(tiles) if quotas[index]}


def _quotas(count: int, most: Mapping[int, int]) -> dict[int, int]:
    """`count` in parts as even as the most of each allows; the first get the remainder."""
    quotas, left = dict.fromkeys(most, 0), count
    while left and (growing := [index for index in most if quotas[index] < most[index]][:left]):
        for index in growing:
            quotas[index] += 1
        left -= len(growing)
    return quotas


def _candidates(manifest: Manifest, path: Path, wanted: int, random: np.random.Generator) -> tuple[Window, ...]:
    """At most as many distinct usable places of an image as are wanted."""
    tile = manifest.tile
    with open_raster(path, manifest.input, None, tile) as source:
        rows, columns = (max(side - tile, 0) + 1 for side in (source.height, source.width))
        places = random.choice(rows * columns, min(rows * columns, wanted * _TRIES), replace=False)
        tiles = (Window(*divmod(int(place), columns), tile, tile) for place in places)
        return tuple(islice((window for window in tiles if _usable(source, window)), wanted))


def _usable(source: Source, tile: Window) -> bool:
    """Whether at least half of a tile has data, in more than one colour; of a smaller image, half of that."""
    valid = _valid(source, tile)
    if 2 * np.count_nonzero(valid) < valid.size:
        return False
    colours = source.read(_inside(source, tile))[valid]
    return bool((colours != colours[0]).any())


def _valid(source: Source, tile: Window) -> Mask:
    """Where a tile has data: (rows, columns) of what lies inside the raster."""
    inside = _inside(source, tile)
    valid = source.valid(inside)
    return np.ones((inside.height, inside.width), np.bool_) if valid is None else valid


def _inside(source: Source, tile: Window) -> Window:
    """The part of a tile inside the raster, where it begins."""
    inside = tile.within(source.height, source.width)
    assert inside is not None
    return inside


def _predict(
    network: Network[Any, Any], drawn: Mapping[Path, _Drawn], progress: TileProgress | None
) -> dict[tuple[Path, Window], Chosen]:
    """Every candidate, with its classes. A batch may hold patches of several images."""
    patches, total = _cut(network.manifest, drawn), sum(len(image.tiles) for image in drawn.values())
    found: dict[tuple[Path, Window], Chosen] = {}
    while group := tuple(islice(patches, network.batch)):
        scores = _scores(network, [batch for _, batch, _ in group])
        for (path, batch, valid), patch_scores in zip(group, scores, strict=True):
            tile = batch.tiles[0]
            found[path, tile] = Chosen(
                image=str(path),
                y=tile.y,
                x=tile.x,
                valid=np.count_nonzero(valid) / tile.height**2,
                shares=_shares(network.manifest, patch_scores, valid),
            )
        if progress:
            progress(len(found), total)
    return found


def _cut(manifest: Manifest, drawn: Mapping[Path, _Drawn]) -> Iterator[tuple[Path, PatchBatch, Mask]]:
    """All candidates and where they have data, image by image in reading order."""
    for path, image in drawn.items():
        with open_raster(path, manifest.input, None, manifest.tile) as source:
            tiles = sorted(image.tiles, key=lambda tile: (tile.y, tile.x))
            for batch in cut_each(manifest, source, tiles):
                yield path, batch, _valid(source, batch.tiles[0])


def _scores(network: Network[Any, Any], patches: list[PatchBatch]) -> NDArray[np.float32]:
    """Scores (N, classes, P, P) of at most as many patches as the network takes at once."""
    filled = [*patches, *patches[-1:] * (network.batch - len(patches))]
    features = {}
    for context in network.manifest.contexts:
        windows = [batch.contexts[context.name] for batch in filled]
        if context.window.moves:
            scenes = {id(window): window for window in windows}  # neighbours share theirs, see `cut_each`
            encoded = {key: network.encode(context, window) for key, window in scenes.items()}
            features[context.name] = network.join(context, [encoded[id(window)] for window in windows])
        else:
            features[context.name] = network.encode(context, np.concatenate(windows))
    positions = {name: np.concatenate([batch.positions[name] for batch in filled]) for name in filled[0].positions}
    scores = network.segment(np.concatenate([batch.patch for batch in filled]), features, positions)
    return network.on_host(scores)[: len(patches)]


def _shares(manifest: Manifest, scores: NDArray[np.float32], valid: Mask) -> tuple[float, ...]:
    """Share of each class among the valid pixels of a patch, from its scores (classes, P, P)."""
    rows, columns = valid.shape
    ids = Strip(0, scores, manifest.scores).ids()[:rows, :columns][valid]
    counts = np.bincount(ids, minlength=len(manifest.classes))
    return tuple((counts / len(ids)).tolist())


def _pick(drawn: Mapping[Path, _Drawn], seen: Mapping[tuple[Path, Window], Chosen]) -> tuple[Chosen, ...]:
    """Each pick adds most to the sum of the square roots of the classes' totals: more, the less there is of a class.

    Unlike a rule that only asks for the class with least so far, it is not led by one that is but some stray pixels.
    """
    candidates = [seen[path, tile] for path, image in drawn.items() for tile in image.tiles]
    owners = np.repeat(np.arange(len(drawn)), [len(image.tiles) for image in drawn.values()])
    left = [image.quota for image in drawn.values()]
    offered = np.array([candidate.shares for candidate in candidates])
    totals, closed, picked = np.zeros(offered.shape[1]), np.zeros(len(candidates), np.bool_), list[int]()
    for _ in range(sum(left)):
        gains = np.sqrt(totals + offered).sum(axis=1).round(9)  # of equal ones, the first that was drawn
        best = int(np.where(closed, -1, gains).argmax())
        picked.append(best)
        totals += offered[best]
        closed[best] = True
        left[owners[best]] -= 1
        if not left[owners[best]]:
            closed |= owners == owners[best]
    order = sorted(picked, key=lambda index: (int(owners[index]), candidates[index].y, candidates[index].x))
    return tuple(candidates[index] for index in order)
