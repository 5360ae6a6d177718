"""The budget of an int8 export: what layers in int8 may cost, and the search for layers that keep it."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fctl.calib.search import Found, Loss, Point, Sensitivity, search
from fctl.calib.trials import Fp32Graphs, Names, Numbers, Trials
from fctl.runtime.bundle.manifest import Parity
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.errors import InputError, ParityError
from fctl.runtime.evaluate.datasets import Dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import plan_runs

from ..verify import Samples, Tolerance, fp32_reference, verify
from .int8_graphs import int8_bundle

log = logging.getLogger(__name__)

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
    """

    name: str
    loss: Loss
    allowed: float
    agreement: float
    margins: tuple[float, ...]


def agreement_budget(trials: Trials, numbers: Numbers, min_agreement: float) -> Budget:
    """A budget of pixels that change their class.

    Args:
        trials: The patches that the loss is measured on.
        numbers: Ranges and biases of the layers.
        min_agreement: The fraction of the pixels that must keep their fp32 class.

    Returns:
        The budget.
    """
    return Budget(
        name="pixels that change",
        loss=_remembered(lambda names: 1 - trials.agreement(names, numbers), trials.graphs),
        allowed=1 - min_agreement,
        agreement=min_agreement,
        margins=_MARGINS,
    )


def miou_budget(
    graphs: Fp32Graphs, numbers: Numbers, dataset: Dataset, before: float, max_drop: float, scratch: Path
) -> Budget:
    """A budget of mIoU on labelled images.

    Args:
        graphs: The fp32 graphs of a bundle.
        numbers: Ranges and biases of the layers.
        dataset: The labelled images.
        before: The fp32 graphs' mIoU on them, from 0 to 1.
        max_drop: How much of it may be lost.
        scratch: A folder for temporary files.

    Returns:
        The budget.
    """

    def loss(names: Names) -> float:
        """The mIoU that these layers lose in int8."""
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            return before - _miou(int8_bundle(graphs, names, numbers, Path(folder)), dataset, "int8", scratch)

    return Budget(name="mIoU lost", loss=_remembered(loss, graphs), allowed=max_drop, agreement=0.0, margins=(1.0,))


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
    for margin in budget.margins:
        found = search(graphs, order, budget.loss, margin * budget.allowed)
        points |= {point.share: point for point in found.points}
        if found.best.share < LEAST:
            raise ParityError(
                f"int8 cannot keep the budget: {budget.name}: at most {budget.allowed:.2%} allowed, of which "
                f"{margin * budget.allowed:.2%} here, and that is spent with {found.best.share:.1%} of the "
                f"multiply-accumulates in int8; {_most_harmful(order)}",
                remedy="allow more, or calibrate with images like your own; nothing was written",
            )
        try:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                made = int8_bundle(graphs, found.best.chosen, numbers, Path(folder))
                int8 = tuple(replace(graph, precision="fp32") for graph in made.manifest.graphs)
                simulated = Bundle(made.folder, replace(made.manifest, graphs=int8))  # Q/DQ is the same in fp32
                tolerance = Tolerance(error=math.inf, agreement=budget.agreement)
                parity = verify(simulated, reference, samples, "int8", tolerance)
            return replace(found, points=tuple(points.values())), parity
        except ParityError as error:
            if margin == budget.margins[-1]:
                share = f"{found.best.share:.0%} of the multiply-accumulates are int8"
                raise ParityError(f"{error}; {share}; {_most_harmful(order)}") from error
            log.info("other patches lose more: looking for fewer layers")
    raise AssertionError("there is at least one margin")


def _miou(bundle: Bundle, dataset: Dataset, precision: Literal["fp32", "int8"], scratch: Path) -> float:
    runs = plan_runs([bundle], backends=("onnxruntime",), precisions=(precision,))
    (result,) = evaluate(dataset, runs, scratch).results
    return result.confusion.miou(dataset.description.counted)


def _remembered(loss: Callable[[Names], float], graphs: Fp32Graphs) -> Loss:
    """A loss that is measured and logged once for each set of layers."""
    known: dict[frozenset[tuple[str, frozenset[str]]], float] = {}

    def found(names: Names) -> float:
        """The loss, measured where it is not known yet."""
        key = frozenset((role, frozenset(layers)) for role, layers in names.items())
        if key not in known:
            known[key] = loss(names)
            count, share = sum(map(len, names.values())), graphs.share(names)
            log.info("%d layers in int8, %.1f %% of MACs: loss %.3f %%", count, 100 * share, 100 * known[key])
        return known[key]

    return found


def _most_harmful(order: Sequence[Sensitivity]) -> str:
    layers = ", ".join(f"{one.role} {one.name} ({one.loss:.2%})" for one in order[:_NAMED])
    return f"the layers that cost most alone: {layers}"
