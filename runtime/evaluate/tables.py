"""An evaluation in short: tables of cells as they are read, in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .. import remedies
from .description import Description
from .metrics import Confusion
from .results import Evaluation, RunResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of texts.

    Attributes:
        title: What it shows.
        header: The names of its columns.
        rows: Its rows.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """The tables of an evaluation: its runs, the scores of each class, and temperatures where they were fitted."""
    results, described = evaluation.results, evaluation.description
    classes = _classes(results[0], described) if len(results) == 1 else _ious(results, described)
    fitted = [result for result in results if result.fit is not None]
    return (_runs(evaluation), classes, *([_temperatures(fitted)] if fitted else []))


def summary(evaluation: Evaluation) -> str:
    """What was measured, in one sentence."""
    described, images = evaluation.description, evaluation.results[0].images
    mean = ", ".join(described.classes[index].name for index in described.counted)
    pixels = evaluation.results[0].confusion.pixels
    part = f" ({evaluation.split})" if evaluation.split else ""
    count = f"{len(images)} image{'s' if len(images) > 1 else ''}"
    return f"{described.name}{part}: {count}, {pixels / 1e6:.2f} million labelled pixels; means over {mean}"


def percent(share: float) -> str:
    """A share in percent; a dash where it has no meaning."""
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def score(confusion: Confusion, described: Description) -> str:
    """The score that counts, with its name: the mIoU, or the IoU of the only class that is counted."""
    kind = "mIoU" if len(described.counted) > 1 else f"IoU of {described.classes[described.counted[0]].name}"
    return f"{kind} {percent(confusion.miou(described.counted))}"


def _runs(evaluation: Evaluation) -> Table:
    """Means of each run."""
    described, results = evaluation.description, evaluation.results
    only = described.classes[described.counted[0]].name
    mean = ("mIoU", "F1") if len(described.counted) > 1 else (f"IoU of {only}", f"F1 of {only}")
    several = len(results) > 1
    rows = []
    for result in results:
        found = result.confusion
        scores = (found.miou(described.counted), found.mean_f1(described.counted), found.accuracy())
        same = (f"{100 * result.agreement:.2f}",) if several else ()
        error = () if result.calibration is None else (percent(result.calibration.error()),)
        rows.append((result.run.label, *map(percent, scores), *same, *error, f"{result.speed:.1f}"))
    measured = () if results[0].calibration is None else ("calibration error",)
    header = ("run", *mean, "accuracy", *(("same as the first",) if several else ()), *measured, "patches/s")
    return Table(title=summary(evaluation), header=header, rows=tuple(rows))


def _classes(result: RunResult, described: Description) -> Table:
    """All scores of each class in one run."""
    found = result.confusion
    labelled = found.counts.sum(1) / max(found.pixels, 1)
    columns = (labelled, found.iou(), found.f1(), found.precision(), found.recall())
    rows = [
        (name, *(percent(float(column[index])) for column in columns)) for index, name in enumerate(_names(described))
    ]
    header = ("class", "labelled", "IoU", "F1", "precision", "recall")
    return Table(title="Classes, in percent; in brackets those that no mean takes in", header=header, rows=tuple(rows))


def _ious(results: Sequence[RunResult], described: Description) -> Table:
    """The IoU of each class in each run."""
    rows = [(result.run.label, *map(percent, result.confusion.iou().tolist())) for result in results]
    title = "IoU by class, in percent; in brackets those that no mean takes in"
    return Table(title=title, header=("run", *_names(described)), rows=tuple(rows))


def _temperatures(results: Sequence[RunResult]) -> Table:
    """The temperature that fits the labels best in each run, and the mean negative log likelihood."""
    rows = []
    for result in results:
        if result.fit is not None:
            losses = (result.fit.before, result.fit.best()[1])
            numbers = (f"{result.temperature:.3f}", *(f"{loss:.4f}" for loss in losses), f"{result.fit.pixels:,}")
            rows.append((result.run.label, *numbers))
    kept = remedies.export("BUNDLE", temperature="NUMBER", out="NAME.fctl")
    title = f"The temperature that fits the labels best, and the mean negative log likelihood; {kept} keeps it"
    return Table(title=title, header=("run", "temperature", "loss now", "loss with it", "pixels"), rows=tuple(rows))


def _names(described: Description) -> tuple[str, ...]:
    """The names of the classes, in brackets where no mean takes them in."""
    return tuple(info.name if info.counted else f"({info.name})" for info in described.classes)
