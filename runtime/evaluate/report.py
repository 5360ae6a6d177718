"""An evaluation as tables, Markdown, JSON and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from PIL import Image

from ..bundle.manifest import ClassInfo
from ..raster.source import open_raster, read_thumbnail
from .datasets import class_ids
from .description import Description
from .evaluation import mask_file
from .labels import open_mask
from .metrics import Confusion
from .pictures import Prediction, draw_comparison, draw_confusion, panel_size
from .results import Evaluation, ImageResult, RunResult

_NO_COLOUR = (150, 150, 150)  # of a class that the bundle does not have


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Cells as they are read."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(evaluation: Evaluation) -> tuple[Table, ...]:
    """What an evaluation says in short: runs, and scores of each class."""
    results, described = evaluation.results, evaluation.description
    shown = [_runs(evaluation)]
    if len(results) == 1:
        shown.append(_classes(results[0], described))
    else:
        shown.append(_ious(results, described))
    return tuple(shown)


def summary(evaluation: Evaluation) -> str:
    """What was measured, in one sentence."""
    described, images = evaluation.description, evaluation.results[0].images
    mean = ", ".join(described.classes[index].name for index in described.counted)
    pixels = evaluation.results[0].confusion.pixels
    part = f" ({evaluation.split})" if evaluation.split else ""
    count = f"{len(images)} image{'s' if len(images) > 1 else ''}"
    return f"{described.name}{part}: {count}, {pixels / 1e6:.2f} million labelled pixels; means over {mean}"


def write_report(evaluation: Evaluation, kept: Path, folder: Path, bands: Sequence[int] | None = None) -> None:
    """``report.md``, ``report.json``, a confusion matrix for each run, and a picture of each image that was picked.

    kept: where `evaluate` kept masks. folder: a new one.
    """
    folder.mkdir()
    names = evaluation.description.class_names
    for index, result in enumerate(evaluation.results):
        title = f"{result.run.label}: {_score(result.confusion, evaluation.description)}"
        draw_confusion(title, result.confusion, names).save(folder / _confusion_file(index))
    if evaluation.pictured:
        (folder / "pictures").mkdir()
    for index in evaluation.pictured:
        _picture(evaluation, kept, index, bands).save(folder / _picture_file(evaluation, index))
    text = json.dumps(document(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(_markdown(evaluation), encoding="utf-8")


def document(evaluation: Evaluation) -> dict[str, Any]:
    """All that was measured, for JSON: shares from 0 to 1, null where a score has no meaning."""
    described = evaluation.description
    labelled = evaluation.results[0].confusion.counts.sum(1)
    classes = [
        {"name": info.name, "counted": info.counted, "pixels": int(count)}
        for info, count in zip(described.classes, labelled, strict=True)
    ]
    return {
        "created": date.today().isoformat(),
        "data": {
            "name": described.name,
            "form": evaluation.dataset.form,
            "folder": str(evaluation.dataset.root),
            "split": evaluation.split,
            "images": len(evaluation.dataset.samples),
            "classes": classes,
        },
        "runs": [_run(result, described) for result in evaluation.results],
    }


def percent(share: float) -> str:
    """A share in percent; a dash where it has no meaning."""
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _runs(evaluation: Evaluation) -> Table:
    described, results = evaluation.description, evaluation.results
    only = described.classes[described.counted[0]].name
    mean = ("mIoU", "F1") if len(described.counted) > 1 else (f"IoU of {only}", f"F1 of {only}")
    several = len(results) > 1
    rows = []
    for result in results:
        found = result.confusion
        scores = (found.miou(described.counted), found.mean_f1(described.counted), found.accuracy())
        same = (f"{100 * result.agreement:.2f}",) if several else ()
        rows.append((result.run.label, *map(percent, scores), *same, f"{result.speed:.1f}"))
    header = ("run", *mean, "accuracy", *(("same as the first",) if several else ()), "patches/s")
    return Table(title=summary(evaluation), header=header, rows=tuple(rows))


def _classes(result: RunResult, described: Description) -> Table:
    found = result.confusion
    labelled = found.counts.sum(1) / max(found.pixels, 1)
    columns = (labelled, found.iou(), found.f1(), found.precision(), found.recall())
    rows = [
        (info.name if info.counted else f"({info.name})", *(percent(float(column[index])) for column in columns))
        for index, info in enumerate(described.classes)
    ]
    header = ("class", "labelled", "IoU", "F1", "precision", "recall")
    return Table(title="Classes, in percent; in brackets those that no mean takes in", header=header, rows=tuple(rows))


def _ious(results: Sequence[RunResult], described: Description) -> Table:
    rows = [(result.run.label, *map(percent, result.confusion.iou().tolist())) for result in results]
    names = tuple(info.name if info.counted else f"({info.name})" for info in described.classes)
    title = "IoU by class, in percent; in brackets those that no mean takes in"
    return Table(title=title, header=("run", *names), rows=tuple(rows))


def _markdown(evaluation: Evaluation) -> str:
    shown = tables(evaluation)
    parts = [f"# {evaluation.description.name}", f"{shown[0].title}. Scores are in percent, pooled over all images."]
    for table in shown:
        parts += [f"## {'Runs' if table is shown[0] else 'Classes'}", _markdown_table(table)]
        if table is not shown[0]:
            parts.append(f"{table.title}.")
    notes = [f"- {result.run.label}: {_told(result)}" for result in evaluation.results]
    parts += ["## What ran", "\n".join(notes), "## Confusion matrices"]
    parts += [f"![{_escaped(r.run.label)}]({_confusion_file(i)})" for i, r in enumerate(evaluation.results)]
    if evaluation.pictured:
        parts.append("## Images")
    for index in evaluation.pictured:
        sample = evaluation.dataset.samples[index]
        parts.append(f"![{_escaped(sample.name)}]({_picture_file(evaluation, index)})")
    return "\n\n".join(parts) + "\n"


def _told(result: RunResult) -> str:
    run, nodata = result.run, sum(image.nodata for image in result.images)
    origin = run.bundle.manifest.provenance.checkpoint_sha256[:12]
    without = f"; {nodata} labelled pixels have no data in their images" if nodata else ""
    return (
        f"bundle {run.bundle.manifest.name} (checkpoint {origin}...), {result.engine} {run.precision} on "
        f"{result.device}, batch {run.batch}, {result.seconds:.1f} s{without}"
    )


def _markdown_table(table: Table) -> str:
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _run(result: RunResult, described: Description) -> dict[str, Any]:
    run, found = result.run, result.confusion
    scores = {"iou": found.iou(), "f1": found.f1(), "precision": found.precision(), "recall": found.recall()}
    return {
        "label": run.label,
        "bundle": run.bundle.manifest.name,
        "checkpoint_sha256": run.bundle.manifest.provenance.checkpoint_sha256,
        "engine": result.engine,
        "device": result.device,
        "precision": run.precision,
        "tta": run.tta,
        "black_contexts": list(run.black),
        "batch": run.batch,
        "seconds": result.seconds,
        "patches_per_second": result.speed,
        "miou": _number(found.miou(described.counted)),
        "f1": _number(found.mean_f1(described.counted)),
        "accuracy": _number(found.accuracy()),
        "same_as_first": _number(result.agreement),
        "classes": {
            name: {kind: _number(float(values[index])) for kind, values in scores.items()}
            for index, name in enumerate(described.class_names)
        },
        "confusion": found.counts.tolist(),
        "images": [_image(image, described) for image in result.images],
    }


def _image(image: ImageResult, described: Description) -> dict[str, Any]:
    return {
        "name": image.name,
        "height": image.height,
        "width": image.width,
        "miou": _number(image.confusion.miou(described.counted)),
        "f1": _number(image.confusion.mean_f1(described.counted)),
        "accuracy": _number(image.confusion.accuracy()),
        "same_as_first": _number(image.same / image.compared if image.compared else math.nan),
        "pixels_without_data": image.nodata,
        "confusion": image.confusion.counts.tolist(),
    }


def _score(confusion: Confusion, described: Description) -> str:
    """The score that counts, in words."""
    kind = "mIoU" if len(described.counted) > 1 else f"IoU of {described.classes[described.counted[0]].name}"
    return f"{kind} {percent(confusion.miou(described.counted))}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _picture(evaluation: Evaluation, kept: Path, index: int, bands: Sequence[int] | None) -> Image.Image:
    sample, described, results = evaluation.dataset.samples[index], evaluation.description, evaluation.results
    first = results[0].images[index]
    size = panel_size(first.height, first.width)
    with open_raster(sample.image, results[0].run.bundle.manifest.input, bands, 0) as source:
        image = source.thumbnail(*size)
    with open_mask(sample.mask, described.labels) as mask:
        truth = mask.thumbnail(*size)
    predictions = []
    for number, result in enumerate(results):
        score = _score(result.images[index].confusion, described)
        title = f"prediction, {score}" if len(results) == 1 else f"{score}, {result.run.label}"
        predictions.append(Prediction(title=title, ids=read_thumbnail(mask_file(kept, number, index), *size)))
    caption = f"{sample.name}: {first.height} x {first.width}, accuracy {percent(first.confusion.accuracy())} %"
    return draw_comparison(caption, image, truth, predictions, _coloured(evaluation), described.counted)


def _coloured(evaluation: Evaluation) -> tuple[ClassInfo, ...]:
    """The data set's classes in the colours of the first bundle."""
    bundle, names = evaluation.results[0].run.bundle, evaluation.description.class_names
    ids = class_ids(evaluation.dataset, bundle)[: len(bundle.manifest.classes)].tolist()
    colours = dict(zip(ids, (info.colour for info in bundle.manifest.classes), strict=True))
    return tuple(ClassInfo(name=name, colour=colours.get(index, _NO_COLOUR)) for index, name in enumerate(names))


def _confusion_file(run: int) -> str:
    return f"confusion_{run + 1}.png"


def _picture_file(evaluation: Evaluation, index: int) -> str:
    """Numbered, since names may hold anything."""
    place = evaluation.pictured.index(index) + 1
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in evaluation.dataset.samples[index].name)
    return f"pictures/{place:03d}_{name[:60]}.png"
