"""The budget of an int8 export: what layers in int8 may cost, and the search for layers that keep it."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from fctl.calib.classes import ious_of, shortfall, weakest
from fctl.calib.search import Floor, Found, Loss, Point, Sensitivity, search
from fctl.calib.trials import Fp32Graphs, Names, Numbers, Trials
from fctl.runtime.bundle.parity import Parity
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.errors import InputError, ParityError
from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.metrics import Confusion
from fctl.runtime.evaluate.runs import plan_runs

from ..verify import Samples, Tolerance, fp32_reference, verify
from .int8_graphs import int8_bundle

log = logging.getLogger(__name__)

T = TypeVar("T")

LEAST = 0.1  # of the multiply-accumulates: with less of them in int8 there is no point
_MARGINS = (0.8, 0.5, 0.3)  # fractions of the budget spent on the patches that the search sees: others lose more
_NAMED = 5  # layers to name in an error


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What layers in int8 may cost.

    Attributes:
        name: The name of the loss, in reports.
        loss: Measures the loss of a set of layers, from 0 to 1.
        allowed: The largest loss.
        agreement: The fraction of the pixels that must keep their class in the parity gate.
        margins: Fractions of `allowed` to search with, each where the gate refused the result of the one before.
        floor: What every class must keep on the patches of the search and on those of the gate; None for nothing.
    """

    name: str
    loss: Loss
    allowed: float
    agreement: float
    margins: tuple[float, ...]
    floor: Floor | None = None


def agreement_budget(trials: Trials, numbers: Numbers, min_agreement: float, min_class_iou: float) -> Budget:
    """A budget of pixels that change their class.

    Args:
        trials: The patches that the loss is measured on.
        numbers: Ranges and biases of the layers.
        min_agreement: The fraction of the pixels that must keep their fp32 class.
        min_class_iou: The least IoU with fp32 that every class must keep, from 0 to 1.

    Returns:
        The budget.
    """
    confusion = _remembered(lambda names: trials.confusion(names, numbers))
    return Budget(
        name="pixels that change",
        loss=_logged(lambda names: 1 - confusion(names).accuracy(), trials.graphs),
        allowed=1 - min_agreement,
        agreement=min_agreement,
        margins=_MARGINS,
        floor=_floor(trials, confusion, min_class_iou),
    )


def miou_budget(
    trials: Trials,
    numbers: Numbers,
    dataset: Dataset,
    before: float,
    max_drop: float,
    min_class_iou: float,
    scratch: Path,
) -> Budget:
    """A budget of mIoU on labelled images.

    The labels say nothing of a class that they lack, so every class must keep its pixels on unlabelled patches too.

    Args:
        trials: The patches on which classes are compared with those of fp32.
        numbers: Ranges and biases of the layers.
        dataset: The labelled images.
        before: The fp32 graphs' mIoU on them, from 0 to 1.
        max_drop: How much of it may be lost.
        min_class_iou: The least IoU with fp32 that every class must keep, from 0 to 1.
        scratch: A folder for temporary files.

    Returns:
        The budget.
    """

    def loss(names: Names) -> float:
        """The mIoU that these layers lose in int8."""
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return before - _miou(int8_bundle(trials.graphs, names, numbers, Path(folder)), dataset, "int8", scratch)

    return Budget(
        name="mIoU lost",
        loss=_logged(_remembered(loss), trials.graphs),
        allowed=max_drop,
        agreement=0.0,
        margins=(1.0,) * len(_MARGINS),
        floor=_floor(trials, _remembered(lambda names: trials.confusion(names, numbers)), min_class_iou),
    )


def fp32_miou(bundle: Bundle, dataset: Dataset) -> float:
    """Measure the fp32 graphs on labelled images; masks, sizes and classes are checked on the way.

    Args:
        bundle: A bundle with fp32 graphs.
        dataset: The labelled images.

    Returns:
        The mIoU, from 0 to 1.

    Raises:
        InputError: The classes do not match, or no pixel of a class that counts is labelled.
        RasterError: An image or mask cannot be read, or does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="fctl-int8-") as scratch:
        before = _miou(bundle, dataset, "fp32", Path(scratch))
    if not math.isfinite(before):
        raise InputError(
            subject="`eval`",
            expected="labelled pixels of classes that are counted",
            found=f"none in {len(dataset.samples)} images",
        )
    log.info("mIoU in fp32: %.2f", 100 * before)
    return before


def within(
    graphs: Fp32Graphs,
    numbers: Numbers,
    order: Sequence[Sensitivity],
    budget: Budget,
    samples: Samples,
    scratch: Path,
) -> tuple[Found, Parity]:
    """Find layers within the budget that also pass the parity gate, on patches that the search has not seen.

    Args:
        graphs: The fp32 graphs of a bundle.
        numbers: Ranges and biases of the layers.
        order: The layers, most harmful first.
        budget: What they may cost.
        samples: The patches of the gate.
        scratch: A folder for temporary files.

    Returns:
        The layers with all points that were measured, and what the gate found.

    Raises:
        ParityError: The budget allows too few layers, or the gate refuses all that the search finds.
    """
    reference, points = fp32_reference(graphs.bundle), dict[float, Point]()
    for index, margin in enumerate(budget.margins):
        floor = budget.floor.tightened(_MARGINS[index]) if budget.floor else None
        found = search(graphs, order, budget.loss, margin * budget.allowed, floor)
        points |= {point.share: point for point in found.points}
        if found.best.share < LEAST:
            raise ParityError(
                f"int8 cannot keep the budget: {_hindrance(budget, margin, floor, found)}; {_most_harmful(order)}",
                remedy="allow more, or calibrate with images like your own; nothing was written",
            )
        try:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                made = int8_bundle(graphs, found.best.chosen, numbers, Path(folder))
                int8 = tuple(replace(graph, precision="fp32") for graph in made.manifest.graphs)
                simulated = Bundle(made.folder, replace(made.manifest, graphs=int8))  # Q/DQ is the same in fp32
                tolerance = Tolerance(error=math.inf, agreement=budget.agreement)
                parity = verify(simulated, reference, samples, "int8", tolerance)
            _check_classes(parity, budget.floor)
            return replace(found, points=tuple(points.values())), parity
        except ParityError as error:
            if index == len(budget.margins) - 1:
                share = f"{found.best.share:.0%} of the multiply-accumulates are int8"
                raise ParityError(f"{error}; {share}; {_most_harmful(order)}") from error
            log.info("other patches lose more: looking for fewer layers")
    raise AssertionError("there is at least one margin")


def _miou(bundle: Bundle, dataset: Dataset, precision: Literal["fp32", "int8"], scratch: Path) -> float:
    runs = plan_runs([bundle], backends=("onnxruntime",), precisions=(precision,))
    (result,) = evaluate(dataset, runs, scratch).results
    return result.confusion.miou(dataset.description.counted)


def _check_classes(parity: Parity, floor: Floor | None) -> None:
    """Raise ParityError where a class keeps too little on the patches of the gate."""
    one = weakest(parity.class_iou)
    if floor and one and one.iou < floor.iou:
        problem = f"the int8 graphs differ from {parity.reference}: {shortfall(one, floor.iou)}"
        raise ParityError(f"{problem}, see `min_class_iou`; nothing was written")


def _hindrance(budget: Budget, margin: float, floor: Floor | None, found: Found) -> str:
    """What keeps a search from more layers: a class that loses too much within the budget, or the budget itself."""
    spent, work = margin * budget.allowed, "of the multiply-accumulates in int8"
    if floor and budget.floor:
        lost = [point for point in found.points if point.loss <= spent and not floor.holds(point)]
        point = min(lost, key=lambda point: point.share, default=None)
        if point and point.weakest:
            problem = shortfall(point.weakest, budget.floor.iou, floor.iou)
            return f"{problem} with {point.share:.1%} {work}, see `min_class_iou`"
    return (
        f"{budget.name}: at most {budget.allowed:.2%} allowed, of which {spent:.2%} here, and that is spent with "
        f"{found.best.share:.1%} {work}"
    )


def _floor(trials: Trials, confusion: Callable[[Names], Confusion], iou: float) -> Floor:
    """The floor of all classes on the patches that layers are tried on."""
    names = trials.graphs.bundle.manifest.class_names
    return Floor(weakest=lambda chosen: weakest(ious_of(confusion(chosen), names)), iou=iou)


def _remembered(measure: Callable[[Names], T]) -> Callable[[Names], T]:
    """A measure that is taken once for each set of layers."""
    known: dict[frozenset[tuple[str, frozenset[str]]], T] = {}

    def found(names: Names) -> T:
        """The measure, taken where it is not known yet."""
        key = frozenset((role, frozenset(layers)) for role, layers in names.items())
        if key not in known:
            known[key] = measure(names)
        return known[key]

    return found


def _logged(loss: Loss, graphs: Fp32Graphs) -> Loss:
    """A loss that is logged, once for each set of layers."""

    def measured(names: Names) -> float:
        """The loss, which is logged."""
        found, count, share = loss(names), sum(map(len, names.values())), graphs.share(names)
        log.info("%d layers in int8, %.1f %% of MACs: loss %.3f %%", count, 100 * share, 100 * found)
        return found

    return _remembered(measured)


def _most_harmful(order: Sequence[Sensitivity]) -> str:
    layers = ", ".join(f"{one.role} {one.name} ({one.loss:.2%})" for one in order[:_NAMED])
    return f"the layers that cost most alone: {layers}"
