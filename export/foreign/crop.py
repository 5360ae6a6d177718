"""Scores that are smaller than their image: a coarser grid over all of it, or the middle of it at full size.

The image is shifted by some pixels. On a coarser grid the scores move by so many cells as the shift spans; where only
the middle is scored, they move by the shift itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from fctl.runtime.errors import InputError

from ..choices import Crop
from ..verify import Scores
from .options import Array, Contract, ForeignOptions, side_of

Run = Callable[[Array], Array]
"""A network, from raw images (N, bands, P, P) to scores or class ids with the batch in front."""

_STRIDE = 32  # a shift by a multiple of it keeps the phase of the network's own strides
_CLEAR = 0.5  # of how much scores of different places differ: scores of the same place differ by less
_BLOCK = 8  # pixels of a square that is changed to see where its scores lie


def margin_of(run: Run, images: Array, contract: Contract, options: ForeignOptions, origin: str) -> int:
    """How many pixels at each edge of its image a network gives no scores for.

    Args:
        run: The network.
        images: Raw images (N, bands, P, P) of real scenes.
        contract: What was found out about the network.
        options: What the user states about it.
        origin: The name of the network in error messages.

    Returns:
        0 for scores of the whole image, on whatever grid.

    Raises:
        InputError: The scores show neither the whole image nor its middle, or something else than the user states.
    """
    tile, side = contract.tile, side_of(contract)
    if side == tile:
        if options.crop == "valid":
            raise InputError("the scores cover the whole tile: leave `crop` out", subject=origin)
        return 0
    found, crop = _told_apart(run, images, tile, side, contract), options.crop
    size = f"scores of {side} x {side} for a tile of {tile}"
    if found == "neither":
        remedy = "export the network with padding, so that it scores all of its image"
        raise InputError(f"{size} are no grid over it and not its middle", subject=origin, remedy=remedy)
    if crop == "auto":
        if found is None and tile % side:
            raise InputError(
                f"{size} do not show whether they cover all of it",
                subject=origin,
                remedy="say what they are with `crop`, valid (only the middle is scored) or none (all of it)",
            )
        crop = found or "none"
    elif found and found != crop:
        raise InputError(
            subject=f"{origin}: `crop` {crop}",
            expected=f"scores of {_SHOWN[crop]}",
            found=f"scores of {_SHOWN[found]}, as shifting the image shows",
            remedy=f"give `crop` {found}",
        )
    if crop == "none":
        return 0
    if (tile - side) % 2 or not _is_centred(run, images, tile, side, contract):
        raise InputError(
            f"scores of {side} x {side} lie not in the middle of a tile of {tile}",
            subject=origin,
            remedy="pad the network's output to the tile, or crop it to the middle",
        )
    return (tile - side) // 2


_SHOWN: dict[Crop, str] = {"none": "the whole tile", "valid": "only the middle of the tile"}


def _told_apart(run: Run, images: Array, tile: int, side: int, contract: Contract) -> Crop | Literal["neither"] | None:
    """Which of the two it is; None where the scores do not show it."""
    shift = _shift(tile, side)
    if not shift:
        return None
    wide = np.pad(images, ((0, 0), (0, 0), (0, shift), (0, shift)), mode="reflect")
    before = _planes(run(wide[..., :tile, :tile]), side, contract)
    after = _planes(run(wide[..., shift:, shift:]), side, contract)
    errors = [_difference(before, after, cells) for cells in range(shift + 1)]
    unlike = float(np.median(errors))
    best = int(np.argmin(errors))
    if not errors[best] < _CLEAR * unlike:
        return None
    coarse = shift * side / tile
    if best == shift and errors[shift] < _CLEAR * errors[min(round(coarse), shift - 1)]:
        return "valid"
    if abs(best - coarse) <= 1:
        return "none" if best != shift else None
    return "neither" if best > coarse else None  # a middle on a coarser grid; or scores that depend on the place alone


def _shift(tile: int, side: int) -> int:
    """By how many pixels to shift: enough to tell the two apart, and at most half the scores; 0 where nothing is."""
    step = next((step for step in (_STRIDE, 16, 8, 4) if 2 * step <= side), 0)
    if not step:
        return 0
    wanted = 2 * tile / (tile - side)  # the two then lie two cells apart
    return min(max(step, -int(-wanted // step) * step), side // 2 // step * step)


def _difference(before: Scores, after: Scores, cells: int) -> float:
    """How much the inner parts of scores differ, if the later ones have moved by some cells."""
    side = before.shape[-1]
    edge = min(side // 8, (side - cells) // 4)  # padding spoils the scores at the edges
    a = before[..., cells + edge : side - edge, cells + edge : side - edge]
    b = after[..., edge : side - edge - cells, edge : side - edge - cells]
    return float(np.abs(a - b).mean())


def _is_centred(run: Run, images: Array, tile: int, side: int, contract: Contract) -> bool:
    """Whether scores at full size lie in the middle: a change of the image's centre changes those in their centre."""
    changed = images.copy()
    first = (tile - _BLOCK) // 2
    part = changed[..., first : first + _BLOCK, first : first + _BLOCK]
    low, high = images.min(), images.max()
    part[:] = np.where(part.astype(np.float64) > images.astype(np.float64).mean(), low, high)
    changes = np.square(_planes(run(changed), side, contract) - _planes(run(images), side, contract)).sum((0, 1))
    if not changes.any():
        return True
    places = np.arange(side) + 0.5
    margin = (tile - side) / 2
    offsets = [float((changes.sum(axis) * places).sum() / changes.sum()) - side / 2 for axis in (0, 1)]
    return all(abs(offset) <= max(1, margin / 2) for offset in offsets)


def _planes(output: Array, side: int, contract: Contract) -> Scores:
    """Scores or class ids as (N, channels, side, side) float32."""
    values = output.astype(np.float32)
    if values.size == len(values) * side * side:
        return values.reshape(-1, 1, side, side)
    return values if contract.scores_layout == "nchw" else values.transpose(0, 3, 1, 2)
