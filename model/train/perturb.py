"""Labels made into masks as coarse as those that a refiner gets: their borders moved, here and there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.evaluate.metrics import IGNORE

LOWEST = 0.8
"""The least IoU with the labels that a class keeps."""

_TRIES = 40  # places at which a border is moved
_BLOCK = 256  # pixels a side of the parts of an image that are changed each by itself

Ids = NDArray[np.uint8]


def perturbed(ids: Ids, random: np.random.Generator, lowest: float = LOWEST) -> Ids:
    """Let classes grow over their borders in random places, by random lengths, until one has a random IoU.

    Where one class grows, another one shrinks: of a mask and what surrounds it, this dilates the mask in some places
    and erodes it in others.

    Args:
        ids: Class ids (height, width); 255 where unlabelled, which stays so.
        random: What draws.
        lowest: The least IoU with `ids` that any class keeps.

    Returns:
        Class ids (height, width).
    """
    found, wanted = ids.copy(), random.uniform(lowest, 1)
    border = _border(ids)
    for _ in range(_TRIES if len(border) else 0):
        y, x = border[random.integers(len(border))]
        reach = int(random.integers(1, 2 + max(ids.shape) // 24))
        around = int(random.integers(reach, 2 + max(ids.shape) // 4))
        here = np.s_[max(0, y - around) : y + around + 1, max(0, x - around) : x + around + 1]
        trial = found.copy()
        trial[here] = _grown(found[here], int(ids[y, x]), reach)
        if _least_iou(trial, ids) >= wanted:
            found = trial
    return found


def perturbed_image(ids: Ids, seed: int, lowest: float = LOWEST) -> Ids:
    """The same of a whole image, block by block, alike each time.

    Args:
        ids: Class ids (height, width); 255 where unlabelled.
        seed: What decides on all of it.
        lowest: As in `perturbed`.

    Returns:
        Class ids (height, width).
    """
    found = ids.copy()
    for y in range(0, ids.shape[0], _BLOCK):
        for x in range(0, ids.shape[1], _BLOCK):
            here = np.s_[y : y + _BLOCK, x : x + _BLOCK]
            found[here] = perturbed(ids[here], np.random.default_rng((seed, y, x)), lowest)
    return found


def _border(ids: Ids) -> NDArray[np.int64]:
    """Rows and columns (n, 2) of labelled pixels whose lower or right neighbour has another class."""
    differs = np.zeros(ids.shape, np.bool_)
    differs[:-1] |= (ids[:-1] != ids[1:]) & (ids[1:] != IGNORE)
    differs[:, :-1] |= (ids[:, :-1] != ids[:, 1:]) & (ids[:, 1:] != IGNORE)
    return np.argwhere(differs & (ids != IGNORE))


def _grown(ids: Ids, index: int, reach: int) -> Ids:
    """Ids of which one class also has what lies within some pixels of it, along rows and columns."""
    near = _within(_within(ids == index, reach).T, reach).T
    return np.where(near & (ids != IGNORE), np.uint8(index), ids)


def _within(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Which pixels lie at most so many rows above or below one of a mask."""
    sums = np.cumsum(np.pad(mask.astype(np.int32), ((reach + 1, reach), (0, 0))), axis=0)
    near: NDArray[np.bool_] = sums[2 * reach + 1 :] > sums[: -2 * reach - 1]
    return near


def _least_iou(found: Ids, ids: Ids) -> float:
    """The lowest IoU of the classes that the labels have."""
    pairs = np.bincount(ids.ravel().astype(np.int64) * (IGNORE + 1) + found.ravel(), minlength=(IGNORE + 1) ** 2)
    table = pairs.reshape(IGNORE + 1, IGNORE + 1)[:IGNORE, :IGNORE]
    both, union = np.diag(table), table.sum(0) + table.sum(1) - np.diag(table)
    there = table.sum(1) > 0
    return float((both[there] / union[there]).min()) if there.any() else 1.0
