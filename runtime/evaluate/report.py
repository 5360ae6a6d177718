"""The report of an evaluation: a folder with Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..bundle.manifest import ClassInfo
from ..raster.source import open_raster, read_thumbnail
from .datasets import class_ids
from .document import document
from .evaluation import mask_file
from .pairs import open_labels
from .pictures import Prediction, draw_comparison, panel_size
from .plots import draw_confusion, draw_reliability
from .results import Evaluation, RunResult
from .tables import Table, percent, score, tables

_NO_COLOUR = (150, 150, 150)  # of a class that the bundle does not have


def write_report(
    evaluation: Evaluation,
    mask_folder: Path,
    folder: Path,
    bands: Sequence[int] | None = None,
    scale_range: str | None = None,
) -> None:
    """Write ``report.md``, ``report.json``, a confusion matrix for each run, and a picture of each image to draw.

    Runs whose calibration was measured have a reliability diagram too.

    Args:
        evaluation: The evaluation.
        mask_folder: Where `evaluate` wrote masks.
        folder: The report's folder, which must not exist.
        bands: Numbers of the bands to show, from 1; None for all but alpha.
        scale_range: Which values become the lowest and the highest of the bundles', as `evaluate` was given it.

    Raises:
        RasterError: An image, a label or a mask cannot be read.
        OSError: The report cannot be written.
    """
    folder.mkdir()
    names = evaluation.description.class_names
    for index, result in enumerate(evaluation.results):
        title = f"{result.run.label}: {score(result.confusion, evaluation.description)}"
        draw_confusion(title, result.confusion, names).save(folder / _confusion_file(index))
        if result.calibration is not None:
            draw_reliability(result.run.label, result.calibration).save(folder / _reliability_file(index))
    if evaluation.pictured:
        (folder / "pictures").mkdir()
    for index in evaluation.pictured:
        _picture(evaluation, mask_folder, index, bands, scale_range).save(folder / _picture_file(evaluation, index))
    text = json.dumps(document(evaluation), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.md").write_text(_markdown(evaluation), encoding="utf-8")


def _markdown(evaluation: Evaluation) -> str:
    """What ``report.md`` holds."""
    shown = tables(evaluation)
    parts = [f"# {evaluation.description.name}", f"{shown[0].title}. Scores are in percent, pooled over all images."]
    for heading, table in zip(("Runs", "Classes", "Temperature"), shown, strict=False):
        parts += [f"## {heading}", _markdown_table(table)]
        if table is not shown[0]:
            parts.append(f"{table.title}.")
    parts += ["## What ran", "\n".join(map(_what_ran, evaluation.results)), "## Confusion matrices"]
    parts += [f"![{_escaped(r.run.label)}]({_confusion_file(i)})" for i, r in enumerate(evaluation.results)]
    for index, result in enumerate(evaluation.results):
        if result.calibration is not None:
            parts += ["## Calibration"] if index == 0 else []
            parts.append(f"![{_escaped(result.run.label)}]({_reliability_file(index)})")
    if evaluation.pictured:
        parts.append("## Images")
    for index in evaluation.pictured:
        sample = evaluation.dataset.samples[index]
        parts.append(f"![{_escaped(sample.name)}]({_picture_file(evaluation, index)})")
    return "\n\n".join(parts) + "\n"


def _what_ran(result: RunResult) -> str:
    """What ran in one run, as an item of a list that holds an item for each note of the engine."""
    run, nodata = result.run, sum(image.nodata for image in result.images)
    origin = run.bundle.manifest.provenance.checkpoint_sha256[:12]
    without = f"; {nodata} labelled pixels have no data in their images" if nodata else ""
    line = (
        f"- {run.label}: bundle {run.bundle.manifest.name} (checkpoint {origin}...), {result.engine} {run.precision} "
        f"on {result.device}, batch {run.batch}, {result.seconds:.1f} s{without}"
    )
    return "\n".join([line, *(f"  - {note}" for note in result.notes)])


def _markdown_table(table: Table) -> str:
    lines = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _picture(
    evaluation: Evaluation, mask_folder: Path, index: int, bands: Sequence[int] | None, scale_range: str | None
) -> Image.Image:
    """The picture of a sample: the image, its label, and what each run made of it."""
    sample, described, results = evaluation.dataset.samples[index], evaluation.description, evaluation.results
    first = results[0].images[index]
    size = panel_size(first.height, first.width)
    spec = results[0].run.bundle.manifest.input
    with open_raster(sample.image, spec, bands, 0, scale_range=scale_range) as source:
        image = source.thumbnail(*size)
    with open_labels(sample, described.labels) as mask:
        truth = mask.thumbnail(*size)
    predictions = []
    for number, result in enumerate(results):
        scored = score(result.images[index].confusion, described)
        title = f"prediction, {scored}" if len(results) == 1 else f"{scored}, {result.run.label}"
        predictions.append(Prediction(title=title, ids=read_thumbnail(mask_file(mask_folder, number, index), *size)))
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


def _reliability_file(run: int) -> str:
    return f"reliability_{run + 1}.png"


def _picture_file(evaluation: Evaluation, index: int) -> str:
    """The name of a sample's picture: numbered, since names of samples may hold anything."""
    place = evaluation.pictured.index(index) + 1
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in evaluation.dataset.samples[index].name)
    return f"pictures/{place:03d}_{name[:60]}.png"
