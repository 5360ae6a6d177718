"""An evaluation as a document for programs: what ``report.json`` holds."""

from __future__ import annotations

import math
from datetime import date

from .calibration import Calibration
from .description import Description
from .results import Evaluation, ImageResult, RunResult


def document(evaluation: Evaluation) -> dict[str, object]:
    """All that was measured, as JSON takes it: shares from 0 to 1, and null where a score has no meaning."""
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


def _run(result: RunResult, described: Description) -> dict[str, object]:
    """One run."""
    run, found = result.run, result.confusion
    scores = {"iou": found.iou(), "f1": found.f1(), "precision": found.precision(), "recall": found.recall()}
    return {
        "label": run.label,
        "bundle": run.bundle.manifest.name,
        "checkpoint_sha256": run.bundle.manifest.provenance.checkpoint_sha256,
        "engine": result.engine,
        "device": result.device,
        "precision": run.precision,
        "notes": list(result.notes),
        "tta": run.tta,
        "black_contexts": list(run.black),
        "batch": run.batch,
        "seconds": result.seconds,
        "patches_per_second": result.speed,
        "miou": _number(found.miou(described.counted)),
        "f1": _number(found.mean_f1(described.counted)),
        "accuracy": _number(found.accuracy()),
        "same_as_first": _number(result.agreement),
        "calibration": _calibration(result.calibration),
        "temperature": _temperature(result),
        "classes": {
            name: {kind: _number(float(values[index])) for kind, values in scores.items()}
            for index, name in enumerate(described.class_names)
        },
        "confusion": found.counts.tolist(),
        "images": [_image(image, described) for image in result.images],
    }


def _calibration(found: Calibration | None) -> dict[str, object] | None:
    """The expected calibration error and what it is made of; None where it was not measured."""
    if found is None:
        return None
    confidence, right, pixels = found.bins()
    bins = zip(map(_number, confidence.tolist()), map(_number, right.tolist()), pixels.tolist(), strict=True)
    return {
        "expected_error": _number(found.error()),
        "bins": [{"confidence": mean, "right": share, "pixels": count} for mean, share, count in bins],
    }


def _temperature(result: RunResult) -> dict[str, object] | None:
    """The temperature that fits best, and the mean loss without and with it; None where it was not fitted."""
    if result.fit is None:
        return None
    return {
        "bundle": result.run.bundle.manifest.temperature,
        "best": _number(result.temperature),
        "loss": _number(result.fit.before),
        "best_loss": _number(result.fit.best()[1]),
        "pixels": result.fit.pixels,
    }


def _image(image: ImageResult, described: Description) -> dict[str, object]:
    """One image of a run."""
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


def _number(value: float) -> float | None:
    """A number, or None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value
