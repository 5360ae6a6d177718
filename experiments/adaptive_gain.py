"""What a gate would save of the time of shared contexts: arithmetic on measured parts (docs/adaptive.md)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts.shared_work import shared_work
from fctl.model.presets import PRESETS

from .adaptive_cost import EXACT, FIRST, NONE, SHARED, ratio
from .adaptive_tiles import ALL, MEDIUM, Tiles
from .adaptive_tiles import NONE as NOTHING
from .adaptive_windows import Start, asked_for, lattices_of

Values = NDArray[np.float64]

_PRICES = 1000  # of a changed pixel in saved time: how many are tried


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of a run with shared contexts, whose sum is 1.

    Attributes:
        alone: All that a run without contexts takes.
        fusion: What contexts add to tiles once they are encoded: LCF, ALE, and gathering of features.
        fusion_of_two: The share of `fusion` that is left where the large context is dropped.
        windows: Encoding all windows.
        look: Of `alone`, what the engine takes: the price of a prediction without contexts.
    """

    alone: float
    fusion: float
    fusion_of_two: float
    windows: float
    look: float


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the tiles of a network lie, if the tiles of another one lie at the same places of the ground.

    Attributes:
        preset: The preset with its lattices.
        side: Side of a tile in pixels.
        step: From tile to tile in pixels.
    """

    preset: str
    side: int
    step: int


LITE = Geometry(preset="fctl-lite0", side=256, step=192)
VGG = Geometry(preset="fctl-vgg16", side=508, step=388)


def measured(costs: Mapping[str, object]) -> Parts:
    """The parts, by processor seconds."""
    ways = _ways(costs)
    alone, first = (ratio(ways, name, SHARED, "processor") for name in (NONE, FIRST))
    windows, some = (
        statistics.median(one["encode"] / one["processor"] for one in ways[name]) for name in (SHARED, FIRST)
    )
    fusion = 1 - alone - windows
    look = statistics.median(one["segment"] / one["processor"] for one in ways[NONE]) * alone
    return Parts(
        alone=alone, fusion=fusion, windows=windows, look=look,
        fusion_of_two=(first - alone - some * first) / fusion,
    )  # fmt: skip


def counted(preset: str, side: int) -> Parts:
    """The parts of a preset on a raster, by multiplications at full width.

    The large context is taken as half of what contexts add to a tile.
    """
    work = shared_work(PRESETS[preset], side, fitted=False)  # windows as they were when this was decided
    alone, fusion = work.patches * work.alone, work.patches * work.fusion
    total = alone + fusion + work.encoding
    return Parts(
        alone=alone / total, fusion=fusion / total, fusion_of_two=0.5, windows=work.encoding / total, look=alone / total
    )


def exact_ceiling(costs: Mapping[str, object]) -> float:
    """What is saved of exact contexts if no tile has any."""
    return 1 - ratio(_ways(costs), NONE, EXACT, "processor")


def saved(parts: Parts, tiles: Tiles, shown: NDArray[np.str_], geometry: Geometry) -> tuple[float, float]:
    """What is saved where tiles are shown less.

    Args:
        parts: The parts of a run.
        tiles: The tiles, those of a scene as a raster of its own.
        shown: What each of them is shown, (n,): none, medium or all.
        geometry: Where they lie.

    Returns:
        The share of the time, and the share of the windows that nobody asks for.
    """
    left = sum(share * (shown == seen).mean() for seen, share in ((MEDIUM, parts.fusion_of_two), (ALL, 1.0)))
    asked = every = 0
    lattices = lattices_of(geometry.preset)
    for number in np.unique(tiles.scene):
        here = tiles.scene == number
        places = _places(tiles.of(here), geometry)
        asked += sum(asked_for(lattices, places, shown[here], geometry.side).values())
        every += sum(asked_for(lattices, places, [ALL] * len(places), geometry.side).values())
    idle = 1 - asked / every
    return float(parts.fusion * (1 - left) + parts.windows * idle), idle


def clairvoyant(tiles: Tiles, without: float, medium: float, limit: float) -> tuple[NDArray[np.str_], float]:
    """What a gate would show that knew every loss beforehand, and how to save most within a limit.

    Each tile gets what saves most for what it loses, as if windows went in proportion to the tiles that need them.

    Args:
        tiles: The tiles.
        without: What is saved if no tile has any context.
        medium: What is saved if all tiles have the medium one alone.
        limit: The highest mean loss.

    Returns:
        What each tile is shown, (n,), and the share of the time that would be saved, were windows to go in proportion.
    """
    gains = np.array([without, medium, 0.0])
    losses = np.stack([tiles.changed[:, 0], tiles.changed[:, 1], np.zeros(len(tiles.y))], axis=1)
    best, most = np.full(len(tiles.y), 2), 0.0
    for price in np.geomspace(1e-2, 1e3, _PRICES):
        chosen = (gains - price * losses).argmax(axis=1)
        if np.take_along_axis(losses, chosen[:, None], axis=1).mean() <= limit and gains[chosen].sum() > most:
            best, most = chosen, gains[chosen].sum()
    return np.array([NOTHING, MEDIUM, ALL])[best], float(most / len(best))


def _ways(costs: Mapping[str, object]) -> Mapping[str, list[dict[str, float]]]:
    ways = costs["ways"]
    assert isinstance(ways, dict)
    return ways


def _places(tiles: Tiles, geometry: Geometry) -> Sequence[Start]:
    """Where tiles start, by the rows and columns that they are in."""
    rows, columns = (np.unique(axis, return_inverse=True)[1] for axis in (tiles.y, tiles.x))
    return [(int(row) * geometry.step, int(column) * geometry.step) for row, column in zip(rows, columns, strict=True)]
