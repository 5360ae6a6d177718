"""The patches of an int8 export: those that calibrate, those that layers are tried on, and those that the gate sees."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fctl.calib.choose import Chosen, choose_patches
from fctl.calib.sample import find_images
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.progress import StageProgress, TileProgress
from fctl.runtime.segment.opening import open_network

log = logging.getLogger(__name__)

_TRIED = 48  # patches that layers are tried on, beside those that calibrate
_JUDGING = 32  # and others for the gate
_SCORES = 2**25  # numbers that the gate holds of scores, at most


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Patches of a user's images by their purpose; the three sets are disjoint where there are enough patches.

    Attributes:
        calibrating: Patches whose values give the ranges of activations.
        tried: Patches that sets of layers are tried on.
        judging: Patches of the parity gate.
    """

    calibrating: tuple[Chosen, ...]
    tried: tuple[Chosen, ...]
    judging: tuple[Chosen, ...]


def choose(
    bundle: Bundle,
    places: Sequence[Path],
    count: int,
    seed: int,
    progress: StageProgress | None = None,
    masks: Path | None = None,
) -> Patches:
    """Choose patches of a user's images for an int8 export.

    Args:
        bundle: A bundle with fp32 graphs.
        places: Images, or folders of images.
        count: How many patches calibrate; more are chosen to try layers on and for the gate.
        seed: The random seed of their places.
        progress: Called while patches are chosen.
        masks: For a bundle that refines masks, the folder of those of the images; None for stand-ins.

    Returns:
        The patches, fewer than wanted where the images do not hold as many.

    Raises:
        InputError: There are no images, or none of them shows anything.
        RasterError: An image cannot be read, or does not fit the bundle.
    """
    wanted = count + _TRIED + _JUDGING
    with closing(open_network(bundle, "auto", "fp32", 4, False)) as network:
        chosen = choose_patches(network, find_images(places), wanted, seed, stage(progress, "choosing patches"), masks)
    if len(chosen) < wanted:
        log.warning("the images hold %d different patches, fewer than the %d wanted", len(chosen), wanted)
    return _parts(chosen, count, _most_judging(bundle.manifest))


def stage(progress: StageProgress | None, name: str) -> TileProgress | None:
    """What reports the progress of one named stage; None where nobody asked for progress."""
    return partial(progress, name) if progress else None


def _parts(chosen: Sequence[Chosen], count: int, most: int) -> Patches:
    """Divide patches by purpose; where enough of them hold nothing but data, those that try and judge do.

    Args:
        chosen: All patches.
        count: How many are wanted to calibrate.
        most: How many may judge.
    """
    wanted = max(1, len(chosen) * (_TRIED + _JUDGING) // (_TRIED + _JUDGING + count))
    full = [patch for patch in chosen if patch.valid == 1]
    pool = full if len(full) > wanted else chosen
    others, _ = _split(pool, wanted, len(pool) - wanted)
    judging, tried = _split(others, _JUDGING, _TRIED)
    calibrating = tuple(patch for patch in chosen if patch not in others) or tuple(chosen)
    return Patches(calibrating=calibrating, tried=tried, judging=judging[:most])


def _most_judging(manifest: Manifest) -> int:
    """How many patches' scores the gate can hold in memory, several times over."""
    return max(2, _SCORES // (len(manifest.classes) * manifest.tile**2))


def _split(chosen: Sequence[Chosen], first: int, second: int) -> tuple[tuple[Chosen, ...], tuple[Chosen, ...]]:
    """Split patches in the ratio of two numbers, each part at even distances. A single patch is in both parts."""
    count = max(1, len(chosen) * first // (first + second))
    taken = {index * len(chosen) // count for index in range(count)}
    return (
        tuple(patch for index, patch in enumerate(chosen) if index in taken),
        tuple(patch for index, patch in enumerate(chosen) if index not in taken) or tuple(chosen),
    )
