"""Which layers become int8: as many multiply-accumulates as a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fctl.runtime.progress import TileProgress

from .trials import Fp32Graphs, Names, Numbers, Trials

_RETURNS = 12  # layers that are tried again, one by one, after the search
_CURVE = (0.9, 0.75, 0.5, 0.25)  # shares of the layers at which the curve is measured besides

Loss = Callable[[Names], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """One layer alone in int8. macs: of one patch; loss: share of the pixels whose class changes."""

    role: str
    name: str
    macs: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Layers in int8, by role. share: of all multiply-accumulates; loss: as the budget counts it."""

    chosen: Names
    share: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """The most that a budget allows, and all points that were measured on the way, in order."""

    best: Point
    points: tuple[Point, ...]


def sensitivities(
    trials: Trials, numbers: Numbers, patches: int, progress: TileProgress | None = None
) -> tuple[Sensitivity, ...]:
    """Every layer alone in int8, on so many patches: those that hurt most come first.

    Of layers that hurt alike, those come first that save least.
    """
    graphs, found = trials.graphs, list[Sensitivity]()
    every = [(role, layer.name) for role, layers in graphs.layers.items() for layer in layers]
    for role, name in every:
        loss = 1 - trials.agreement({role: (name,)}, numbers, patches)
        found.append(Sensitivity(role=role, name=name, macs=graphs.work({role: (name,)}), loss=loss))
        if progress:
            progress(len(found), len(every))
    return tuple(sorted(found, key=lambda one: (-one.loss, one.macs, one.role, one.name)))


def search(graphs: Fp32Graphs, order: Sequence[Sensitivity], loss: Loss, budget: float) -> Found:
    """The set of layers with most work, of those that were tried, whose loss is within the budget; or none at all.

    order: layers, those first that are to leave first. Leaving halves the interval between all layers and none; then
    those that left and have most work come back one by one where the budget allows it.
    """
    measured: dict[frozenset[int], Point] = {}

    def point(kept: Iterable[int]) -> Point:
        key = frozenset(kept)
        if key not in measured:
            names = _names(order, key)
            measured[key] = Point(chosen=names, share=graphs.share(names), loss=loss(names) if key else 0.0)
        return measured[key]

    count = len(order)
    fits = _fewest_out(count, lambda out: point(range(out, count)).loss <= budget)
    kept = set(range(fits, count))
    for index in sorted(range(fits), key=lambda index: -order[index].macs)[:_RETURNS]:
        if point(kept | {index}).loss <= budget:
            kept.add(index)
    point(kept)
    for share in _CURVE:
        point(range(count - round(share * count), count))
    best = max((one for one in measured.values() if one.loss <= budget), key=lambda one: one.share)
    return Found(best=best, points=tuple(measured.values()))


def _fewest_out(count: int, fits: Callable[[int], bool]) -> int:
    """How many layers must leave, tried by halves: what is given was tried, or is all of them."""
    if fits(0):
        return 0
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _names(order: Sequence[Sensitivity], kept: Iterable[int]) -> dict[str, frozenset[str]]:
    names: dict[str, set[str]] = {}
    for index in sorted(kept):
        names.setdefault(order[index].role, set()).add(order[index].name)
    return {role: frozenset(found) for role, found in names.items()}
