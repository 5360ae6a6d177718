"""Which windows of a raster's lattices nobody asks for, and which are the same as another one (docs/adaptive.md)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fctl.model.presets import PRESETS
from fctl.model.serving.shared import shared_encoder
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.errors import FctlError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.tiling.lattice import Lattice
from fctl.runtime.tiling.windows import Window

from .adaptive_tiles import HIDDEN

Start = tuple[int, int]
"""First row and column of a tile."""


@dataclass(frozen=True, kw_only=True)
class Identical:
    """The windows of a raster in which contexts are encoded once.

    Attributes:
        raster: The file's name.
        height: Its height in pixels.
        width: Its width in pixels.
        tiles: How many tiles it has.
        empty: How many of these have no data and are passed over already.
        windows: How many windows the others ask for, all that lie beyond the raster as one.
        repeated: How many of them have the pixels of another one.
    """

    raster: str
    height: int
    width: int
    tiles: int
    empty: int
    windows: int
    repeated: int


def lattices_of(preset: str) -> dict[str, Lattice]:
    """By context, the lattices of a preset whose contexts are encoded once a raster."""
    config = PRESETS[preset].network
    found = dict[str, Lattice]()
    for context in config.contexts:
        sharing = shared_encoder(config, context, "encoder")
        if sharing is not None:
            found[context.name] = sharing.lattice(config.patch, context.window(config.patch), context.size)
    return found


def asked_for(
    lattices: Mapping[str, Lattice], tiles: Sequence[Start], shown: Iterable[str], side: int
) -> dict[str, int]:
    """Count the windows that some tiles ask for.

    Args:
        lattices: By context, in order: of the medium one, of the large one.
        tiles: The tiles of a raster that begins with the first of them and ends with the last.
        shown: What each tile is shown, a key of `HIDDEN`.
        side: Side of a tile in pixels.

    Returns:
        By context: how many windows that touch the raster, and one for all others.
    """
    bottom, right = (max(tile[axis] for tile in tiles) + side for axis in (0, 1))
    names = ("medium", "large")
    found = {name: set[Start]() for name in lattices}
    for tile, seen in zip(tiles, shown, strict=True):
        for name, (own, lattice) in zip(names, lattices.items(), strict=True):
            if name not in HIDDEN[seen]:
                rows, columns = (lattice.numbers((start,), flipped=False) for start in tile)
                found[own] |= set(itertools.product(rows, columns))

    counts = dict[str, int]()
    for own, windows in found.items():
        across = set(lattices[own].touching([row for row, _ in windows], bottom))
        along = set(lattices[own].touching([column for _, column in windows], right))
        inside = sum(row in across and column in along for row, column in windows)
        counts[own] = inside + (inside < len(windows))
    return counts


def identical(manifest: Manifest, path: Path) -> Identical | None:
    """Count windows that are the same as another one.

    Args:
        manifest: How windows are cut.
        path: A raster.

    Returns:
        The counts; None where the raster does not fit the bundle.
    """
    try:
        with open_raster(path, manifest.input, None, cache=1 << 28) as source:
            grid = grid_of(manifest, source.height, source.width)
            wanted, tiles = list[Window](), list(grid.region())
            for tile in tiles:
                inside = tile.within(source.height, source.width)
                valid = source.valid(inside) if inside else None
                if valid is None or valid.any():
                    wanted.append(tile)
            count, hashes = 0, set[bytes]()
            for context in manifest.contexts:
                lattice, sharing, beyond = manifest.lattices[context.name], context.sharing, False
                assert sharing is not None
                numbers = {
                    pair
                    for tile in wanted
                    for pair in itertools.product(*(lattice.numbers((at,), flipped=False) for at in (tile.y, tile.x)))
                }
                for row, column in sorted(numbers):
                    window = Window(lattice.start(row), lattice.start(column), int(lattice.span), int(lattice.span))
                    if window.within(source.height, source.width) is None:
                        beyond = True
                        continue
                    pixels = np.asarray(source.stack([window], sharing.size, context.resampling, 1))
                    count += 1
                    hashes.add(context.name.encode() + hashlib.sha256(pixels.tobytes()).digest())
                if beyond:
                    black = np.zeros((1, manifest.input.bands, sharing.size, sharing.size), np.uint8)
                    count += 1
                    hashes.add(context.name.encode() + hashlib.sha256(black.tobytes()).digest())
            return Identical(
                raster=path.name, height=source.height, width=source.width, tiles=len(tiles),
                empty=len(tiles) - len(wanted), windows=count, repeated=count - len(hashes),
            )  # fmt: skip
    except FctlError as error:
        print(f"{path.name}: {error}", flush=True)
        return None
