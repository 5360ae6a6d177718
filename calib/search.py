"""The search for the layers that become int8: as many multiply-accumulates as a budget allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fctl.runtime.bundle.parity import ClassIou
from fctl.runtime.progress import TileProgress

from .trials import Fp32Graphs, Names, Numbers, Trials

_RETURNS = 12  # dropped layers that are tried again, one by one, after the search
_CURVE = (0.9, 0.75, 0.5, 0.25)  # further points of the report's curve, as fractions of the layers

Loss = Callable[[Names], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The effect of one layer alone in int8.

    Attributes:
        role: The role of the layer's graph.
        name: The name of the layer.
        macs: Its multiply-accumulates for one patch.
        loss: The fraction of the pixels whose class changes.
    """

    role: str
    name: str
    macs: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A set of layers in int8 that was measured.

    Attributes:
        chosen: The layers, by the role of their graph.
        share: Their fraction of all multiply-accumulates.
        loss: Their loss, in the unit of the budget.
        weakest: The class that keeps least of its pixels; None where classes have no floor, or all are too rare.
    """

    chosen: Names
    share: float
    loss: float
    weakest: ClassIou | None = None


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What every class must keep, unless it is too rare.

    Attributes:
        weakest: Finds the class that keeps least of its pixels with some layers in int8.
        iou: The least IoU of its pixels with those of fp32, from 0 to 1; 0 lets everything pass.
    """

    weakest: Callable[[Names], ClassIou | None]
    iou: float

    def holds(self, point: Point) -> bool:
        """Whether all classes of a point keep enough."""
        return point.weakest is None or point.weakest.iou >= self.iou

    def tightened(self, margin: float) -> Floor:
        """The floor with only a part of what classes may lose, from 0 to 1."""
        return replace(self, iou=1 - margin * (1 - self.iou)) if self.iou else self


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search.

    Attributes:
        best: The point with most multiply-accumulates within the budget.
        points: All points that were measured, in order.
    """

    best: Point
    points: tuple[Point, ...]


def sensitivities(
    trials: Trials, numbers: Numbers, patches: int, progress: TileProgress | None = None
) -> tuple[Sensitivity, ...]:
    """Measure every layer alone in int8.

    Args:
        trials: The patches, and the graphs to try on them.
        numbers: Ranges and biases of the layers.
        patches: How many of the patches each layer is tried on.
        progress: Called with the layers that are done and with their total.

    Returns:
        All layers, most harmful first; of equally harmful ones, those with fewest multiply-accumulates first.
    """
    graphs, found = trials.graphs, list[Sensitivity]()
    every = [(role, layer.name) for role, layers in graphs.layers.items() for layer in layers]
    for role, name in every:
        loss = 1 - trials.agreement({role: (name,)}, numbers, patches)
        found.append(Sensitivity(role=role, name=name, macs=graphs.work({role: (name,)}), loss=loss))
        if progress:
            progress(len(found), len(every))
    return tuple(sorted(found, key=lambda one: (-one.loss, one.macs, one.role, one.name)))


def search(
    graphs: Fp32Graphs, order: Sequence[Sensitivity], loss: Loss, budget: float, floor: Floor | None = None
) -> Found:
    """Find the set of layers with most multiply-accumulates whose loss is within a budget.

    Bisection finds how many of the most harmful layers must be dropped. Dropped layers with most work are then added
    again, one by one, where the budget allows it.

    Args:
        graphs: The fp32 graphs, which know the work of each layer.
        order: The layers, most harmful first; the search drops them from INT8 in this order.
        loss: Measures the loss of a set of layers; called at most once for each set, and never for the empty one.
        budget: The largest loss that is allowed.
        floor: What every class must keep, whatever the loss; None where only the loss counts.

    Returns:
        The best of all sets that were tried, which may be empty, and all points.
    """
    measured: dict[frozenset[int], Point] = {}

    def measure(kept: Iterable[int]) -> Point:
        """The point at which some layers of the order are kept in int8, measured once."""
        key = frozenset(kept)
        if key not in measured:
            names = _names(order, key)
            point = Point(chosen=names, share=graphs.share(names), loss=loss(names) if key else 0.0)
            measured[key] = replace(point, weakest=floor.weakest(names)) if floor and key else point
        return measured[key]

    def fits(point: Point) -> bool:
        """Whether a point keeps the budget, and its classes the floor."""
        return point.loss <= budget and (floor is None or floor.holds(point))

    count = len(order)
    dropped = _fewest_dropped(count, lambda dropped: fits(measure(range(dropped, count))))
    kept = set(range(dropped, count))
    for index in sorted(range(dropped), key=lambda index: -order[index].macs)[:_RETURNS]:
        if fits(measure(kept | {index})):
            kept.add(index)
    measure(kept)
    for share in _CURVE:
        measure(range(count - round(share * count), count))
    best = max((one for one in measured.values() if fits(one)), key=lambda one: one.share)
    return Found(best=best, points=tuple(measured.values()))


def _fewest_dropped(count: int, fits: Callable[[int], bool]) -> int:
    """How many layers must be dropped, by bisection; the result was tried, or is all of them."""
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
