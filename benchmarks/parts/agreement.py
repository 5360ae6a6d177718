"""Part (a): every engine against ONNX Runtime on the CPU in fp32, on real patches and on a whole image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fctl.export.verify import TOLERANCES, Tolerance
from fctl.runtime.engines.base import GpuEngine, RunPrecision
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.tiling.resampling import Pixels

from .candidates import Candidate, Subject
from .findings import Findings, announce
from .networks import Loaded, load_engine, mask_of, scores_of
from .producers import producer
from .records import Agreement

REFERENCE = "onnxruntime fp32"

COARSE = Tolerance(error=0.5, agreement=0.9)
"""The limit where the parity gate has none: it only tells a coarse precision from a broken engine."""

LIMITS: Mapping[RunPrecision, Tolerance] = {
    "fp32": TOLERANCES["fp32"], "fp16": TOLERANCES["fp16"], "bf16": COARSE, "int8": COARSE,
}  # fmt: skip
"""How far from fp32 trained networks may be."""


@dataclass(frozen=True)
class Expected:
    """What ONNX Runtime computes on the CPU in fp32.

    Attributes:
        patches: Real patches, each as a batch of its own.
        scores: Their scores (patches, classes, P, P).
        image: An image (height, width, bands).
        ids: Its class ids (height, width).
    """

    patches: Sequence[PatchBatch]
    scores: NDArray[np.float32]
    image: Pixels
    ids: NDArray[np.uint8]


def limit_of(subject: Subject, precision: RunPrecision) -> Tolerance:
    """How far a precision may be from fp32: the limit of the parity gate.

    Random weights have near ties everywhere, so that only fp32 is held to it.
    """
    if subject.random and precision != "fp32":
        return COARSE
    return LIMITS[precision]


def expectation(subject: Subject, patches: Sequence[PatchBatch], image: Pixels) -> Expected:
    """Run the reference.

    Args:
        subject: The bundle.
        patches: Real patches, each as a batch of its own.
        image: An image (height, width, bands).

    Returns:
        What the engines are compared with.

    Raises:
        EngineError: ONNX Runtime is missing.
        BundleError: The bundle has no fp32 graphs.
    """
    network = load_engine(subject.bundle, "onnxruntime", "fp32", 1)
    return Expected(patches, scores_of(network, patches), image, mask_of(network, image))


def compare(
    findings: Findings, subject: Subject, candidate: Candidate, batches: Sequence[int], expected: Expected
) -> None:
    """Compare one engine with the reference, in the largest batch that it loads.

    Args:
        findings: Where the row is added; where the engine does not run, that is noted.
        subject: The bundle.
        candidate: The engine.
        batches: The batch sizes to try.
        expected: The reference.
    """
    announce(f"comparing {subject.name}, {candidate.label}")
    for batch in sorted(batches, reverse=True):
        load = partial(candidate.load, subject, batch)
        loaded = findings.loading(subject.name, candidate.label, load, part=f"batch {batch}", foreign=candidate.foreign)
        if loaded is not None:
            break
    else:
        return
    measure = partial(_measured, subject, candidate, loaded, expected)
    row = findings.running(subject.name, candidate.label, measure, part="agreement", foreign=candidate.foreign)
    if row is None:
        return
    findings.agreement.append(row)
    if not row.agrees and not candidate.foreign:
        findings.problem(_complaint(row))


@dataclass(frozen=True)
class _Masks:
    """Class ids of the image: by `segment`, and where the engine is on a GPU also by `segment_device`."""

    host: NDArray[np.uint8]
    device: NDArray[np.uint8] | None
    producer: str | None


def _measured(subject: Subject, candidate: Candidate, loaded: Loaded, expected: Expected) -> Agreement:
    network = loaded.network
    try:
        scores = scores_of(network, expected.patches)
    finally:
        network.close()
    masks = _masks(subject, candidate, network.batch, expected)
    return _row(subject, candidate, loaded.device, expected, scores, masks)


def _masks(subject: Subject, candidate: Candidate, batch: int, expected: Expected) -> _Masks:
    with candidate.segmenting(subject, batch) as (segment, segmenter):
        host = segment(expected.image)
        if segmenter is None or not isinstance(segmenter.engine, GpuEngine):
            return _Masks(host, None, None)
        return _on_device(segmenter, segmenter.engine, host, expected.image)


def _on_device(segmenter: Segmenter, engine: GpuEngine, host: NDArray[np.uint8], image: Pixels) -> _Masks:
    library = producer(engine.gpu)
    found = segmenter.segment_device(library.put(image))
    return _Masks(host, library.get(found.ids), library.name)


def _row(
    subject: Subject, candidate: Candidate, device: str, expected: Expected, scores: NDArray[np.float32], masks: _Masks
) -> Agreement:
    limit = limit_of(subject, candidate.precision)
    error = float(np.abs(scores - expected.scores).max() / np.abs(expected.scores).max())
    pixels = float((scores.argmax(1) == expected.scores.argmax(1)).mean())
    mask = float((masks.host == expected.ids).mean())
    same = None if masks.device is None else float((masks.device == masks.host).mean())
    agrees = error <= limit.error and min(pixels, mask) >= limit.agreement  # a NaN is not <=
    return Agreement(
        bundle=subject.name, engine=candidate.label, device_name=device, patches=len(expected.patches),
        error=error if np.isfinite(error) else None, pixels=pixels, mask=mask, device=same, producer=masks.producer,
        limit_error=limit.error, limit_pixels=limit.agreement,
        agrees=agrees and (same is None or same >= TOLERANCES["fp32"].agreement),
    )  # fmt: skip


def _complaint(row: Agreement) -> str:
    device = "" if row.device is None else f", segment_device equals segment on {row.device:.4%}"
    hint = ""
    if row.engine.endswith("fp32") and row.device_name != "CPU":
        hint = "; fp32 may have been computed in TF32: run again with NVIDIA_TF32_OVERRIDE=0 to know"
    return (
        f"{row.bundle}, {row.engine}: expected an error of at most {row.limit_error:g} and the same class on "
        f"{row.limit_pixels:.2%}, found {'not a number' if row.error is None else f'{row.error:.1e}'}, "
        f"{row.pixels:.4%} of patches and {row.mask:.4%} of the image{device}{hint}"
    )
