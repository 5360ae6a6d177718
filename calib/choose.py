"""The choice of patches that calibrate INT8: from all of a user's images, with classes as even as the images allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.records import OPTIONAL
from fctl.runtime.progress import TileProgress
from fctl.runtime.segment.batches import PatchBatch, joined
from fctl.runtime.segment.network import Network
from fctl.runtime.tiling.coarse import CoarseSource
from fctl.runtime.tiling.merge import Strip
from fctl.runtime.tiling.sources import Source
from fctl.runtime.tiling.windows import Window

from .blank import Mask, Sight, no_data_in, valid_of
from .sample import cut_each
from .stand_in import open_image

_CANDIDATES = 3  # for each patch that is chosen
_TRIES = 50  # places looked at for each candidate, where few have data


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A patch that was chosen.

    Attributes:
        image: Its image, as it was given.
        y: Its first row in the image.
        x: Its first column in the image.
        valid: The share of its pixels that have data, from 0 to 1.
        shares: The share of each class in these pixels, as the network predicts it.
        masks: For a bundle that refines masks, the folder of the image's mask; None for a stand-in.
    """

    image: str
    y: int
    x: int
    valid: float
    shares: tuple[float, ...]
    masks: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """What was drawn from an image.

    Attributes:
        quota: How many patches the image is to give.
        tiles: The candidates, in the order in which they were drawn.
    """

    quota: int
    tiles: tuple[Window, ...]


def choose_patches(
    network: Network,
    images: Sequence[Path],
    count: int,
    seed: int,
    progress: TileProgress | None = None,
    masks: Path | None = None,
) -> tuple[Chosen, ...]:
    """Choose distinct patches from images.

    All images give equally many patches, or as many as they have; where there are more images than patches, some are
    drawn and no other is opened. At least half of a patch has data, and it shows something, judged by its own image
    (`blank.Sight`). The network segments more
    candidates than are needed, and those that make its classes most even are taken.

    Args:
        network: The network.
        images: The images.
        count: How many patches to choose at most.
        seed: Random seed of the images and places.
        progress: Called with candidates that are segmented and candidates in all.
        masks: For a bundle that refines masks, the folder of those of the images; None for stand-ins.

    Returns:
        At least one patch, in the order of the images and within each in reading order.

    Raises:
        RasterError: An image, or its mask, does not fit the bundle.
        InputError: No image has anything to show, or one has no mask.
    """
    images = tuple(dict.fromkeys(images))
    drawn = _draw(network.manifest, images, count, seed, masks)
    if not drawn:
        borders = ("patches with data and a border in their coarse mask",) if network.manifest.refines else ()
        raise no_data_in(images, *borders)
    return _pick(drawn, _predict(network, drawn, progress, masks))


def cut_patches(manifest: Manifest, chosen: Sequence[Chosen]) -> Iterator[PatchBatch]:
    """Cut patches one by one, when they are asked for.

    Patches that follow each other in the same image open it once. Do not end one iteration within another: rasterio
    keeps its settings on a stack.

    Args:
        manifest: How patches and contexts are cut.
        chosen: The patches.

    Yields:
        Batches of one patch with all of its contexts.

    Raises:
        RasterError: An image cannot be read.
    """
    for (image, masks), patches in groupby(chosen, lambda patch: (patch.image, patch.masks)):
        with open_image(Path(image), manifest, manifest.tile, Path(masks) if masks else None) as source:
            tiles = (Window(patch.y, patch.x, manifest.tile, manifest.tile) for patch in patches)
            yield from cut_each(manifest, source, tiles)


def _draw(manifest: Manifest, images: Sequence[Path], count: int, seed: int, masks: Path | None) -> dict[Path, _Drawn]:
    """The candidates of all images that give any, in the order of the images.

    How much an image has to give shows only when it is read. A quota that it cannot meet goes to the others, which are
    then drawn from anew.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    most = dict.fromkeys(order, count)
    asked = dict.fromkeys(order, 0)
    tiles: dict[int, tuple[Window, ...]] = {}
    while grown := {index: quota for index, quota in _quotas(count, most).items() if quota > asked[index]}:
        for index, quota in grown.items():
            random = np.random.default_rng((seed, index))
            found = _candidates(manifest, images[index], _CANDIDATES * quota, random, masks)
            tiles[index], asked[index] = found, quota
            if len(tiles[index]) < quota:
                most[index] = len(tiles[index])
    quotas = _quotas(count, most)
    return {images[index]: _Drawn(quota=quotas[index], tiles=tiles[index]) for index in sorted(tiles) if quotas[index]}


def _quotas(count: int, most: Mapping[int, int]) -> dict[int, int]:
    """`count` in parts, as even as the most that each may have allows; the first get the remainder."""
    quotas, left = dict.fromkeys(most, 0), count
    while left and (growing := [index for index in most if quotas[index] < most[index]][:left]):
        for index in growing:
            quotas[index] += 1
        left -= len(growing)
    return quotas


def _candidates(
    manifest: Manifest, path: Path, wanted: int, random: np.random.Generator, masks: Path | None
) -> tuple[Window, ...]:
    """Distinct usable places of an image, at most as many as are wanted."""
    tile = manifest.tile
    with open_image(path, manifest, tile, masks) as source:
        sight = Sight(source, tile)
        rows, columns = (max(side - tile, 0) + 1 for side in (source.height, source.width))
        places = random.choice(rows * columns, min(rows * columns, wanted * _TRIES), replace=False)
        tiles = (Window(*divmod(int(place), columns), tile, tile) for place in places)
        return tuple(islice((window for window in tiles if _usable(source, window, sight)), wanted))


def _usable(source: Source, tile: Window, sight: Sight | None = None) -> bool:
    """Whether at least half of a tile has data and it shows something; beyond the image it need not have any data.

    One without a border in its coarse mask is never refined.
    """
    if isinstance(source, CoarseSource) and not source.has_border(tile):
        return False
    place = (sight or Sight(source, tile.height)).look(source, tile)
    return place.shows and place.data >= 0.5


def _predict(
    network: Network, drawn: Mapping[Path, _Drawn], progress: TileProgress | None, masks: Path | None
) -> dict[tuple[Path, Window], Chosen]:
    """Segment every candidate. A batch may hold patches of several images."""
    patches, total = _cut(network.manifest, drawn, masks), sum(len(image.tiles) for image in drawn.values())
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
                masks=None if masks is None else str(masks),
            )
        if progress:
            progress(len(found), total)
    return found


def _cut(
    manifest: Manifest, drawn: Mapping[Path, _Drawn], masks: Path | None
) -> Iterator[tuple[Path, PatchBatch, Mask]]:
    """All candidates, image by image in reading order: the image, the patch, and where it has data."""
    for path, image in drawn.items():
        with open_image(path, manifest, manifest.tile, masks) as source:
            tiles = sorted(image.tiles, key=lambda tile: (tile.y, tile.x))
            for batch in cut_each(manifest, source, tiles):
                yield path, batch, valid_of(source, batch.tiles[0])


def _scores(network: Network, patches: list[PatchBatch]) -> NDArray[np.float32]:
    """Scores (N, classes, P, P) of at most as many patches as the network takes at once."""
    return network.on_host(network.run(joined(patches, network.batch)))[: len(patches)]


def _shares(manifest: Manifest, scores: NDArray[np.float32], valid: Mask) -> tuple[float, ...]:
    """The share of each class in the pixels of a patch that have data, from its scores (classes, P, P)."""
    rows, columns = valid.shape
    ids = Strip(0, 0, scores, manifest.scores).ids()[:rows, :columns][valid]
    counts = np.bincount(ids, minlength=len(manifest.classes))[: len(manifest.classes)]  # without 255, no number
    return tuple((counts / len(ids)).tolist())


def _pick(drawn: Mapping[Path, _Drawn], seen: Mapping[tuple[Path, Window], Chosen]) -> tuple[Chosen, ...]:
    """The candidates that make classes most even.

    Each pick adds most to the sum of the square roots of the classes' totals, which grows faster the less there is of
    a class. A rule that only asked for the rarest class so far would be led by classes that are a few stray pixels.
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
