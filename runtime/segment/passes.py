"""The first pass over a scene: maps of all patches in a window, pasted together for its second encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..bundle.gathering import GatheredMap
from ..bundle.manifest import Context, Manifest
from ..tiling.contexts import cell_positions
from ..tiling.pasting import Pasted, Pasting
from ..tiling.turns import Turn
from ..tiling.windows import Window
from .batches import Positions, SharedWindow, on_host

Maps = Mapping[str, NDArray[np.generic]]
"""Maps on the host by name: (N, C, h, w) of patches, (1, C, H, W) of a window."""

Encode = Callable[[NDArray[np.generic], Mapping[str, Positions]], Maps]
"""Maps (N, C, h, w) of raw patches (N, bands, P, P), by their positions in the context that they are encoded with."""


def gathered_maps(
    manifest: Manifest, context: Context, scene: SharedWindow, turn: Turn, batch: int, encode: Encode
) -> dict[str, NDArray[np.float32]]:
    """Encode all patches of a window, and paste their maps together.

    Patches go through the network in the same batches whoever asks, so that the maps are the same to the bit.

    Args:
        manifest: The bundle's manifest.
        context: The context that gathers them.
        scene: Its window, with the patches in it.
        turn: How the window and all patches are turned.
        batch: How many patches are encoded at once.
        encode: Encodes them.

    Returns:
        Maps (1, C, H, W) of the window by name.
    """
    assert context.gathering is not None and scene.patches is not None, "who cuts such a window cuts its patches"
    frame = Window(0, 0, scene.window.height, scene.window.width)
    places, turned_frame = [turn.within(tile, frame)[0] for tile in scene.patches.grid], turn.within(frame, frame)[1]
    pixels, pasted = turn.pixels(on_host(scene.patches.pixels)), dict[str, Pasted]()
    rows, columns = sorted({place.y for place in places}), sorted({place.x for place in places})
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        filled = [*range(first, first + len(some)), *[first + len(some) - 1] * (batch - len(some))]
        maps = encode(pixels[filled], _positions(manifest.gathered_with(context), some, turned_frame, batch))
        for one in context.gathering.maps:
            if one.name not in pasted:
                down, across = _shares(manifest, context, one, turned_frame, (rows, columns))
                pasted[one.name] = Pasted(down, across, channels=maps[one.name].shape[1])
            for place, features in zip(some, maps[one.name], strict=False):  # what fills the batch up is left out
                pasted[one.name].add(rows.index(place.y), columns.index(place.x), features)
    return {name: one.map for name, one in pasted.items()}


def _positions(base: Context, places: list[Window], frame: Window, batch: int) -> dict[str, Positions]:
    """Where patches lie in the context that they are encoded with, (batch, 2, h), if it wants to know."""
    if base.cells is None:
        return {}
    found = [cell_positions(place, frame, base.cells.patch, base.cells.context, base.size) for place in places]
    return {base.name: np.stack(found + found[-1:] * (batch - len(found)))}


def _shares(
    manifest: Manifest, context: Context, one: GatheredMap, frame: Window, starts: tuple[list[int], list[int]]
) -> list[NDArray[np.float32]]:
    """What cells of a window take of those of patches that start so, along rows and along columns."""
    return [
        Pasting(
            cells=one.patch, size=manifest.tile, tile=manifest.tile, whole=one.scene, whole_size=context.size,
            window=side,
        ).shares(places)
        for side, places in zip((frame.height, frame.width), starts, strict=True)
    ]  # fmt: skip
