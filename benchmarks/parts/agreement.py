"""Part (a): every engine against ONNX Runtime on the CPU in fp32, on real patches and on a whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.export.verify import TOLERANCES, Tolerance
from fctl.runtime.engines.base import GpuEngine, RunPrecision
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.network import Network
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.tiling.resampling import Pixels

from .candidates import Candidate, Subject
from .findings import Agreement, Findings, say
from .networks import ids_of, scores_of_all
from .producers import producer

REFERENCE = "onnxruntime fp32"

COARSE = Tolerance(error=0.5, agreement=0.9)
"""Where the parity gate has no limit: it only tells a coarse precision from a broken engine."""


@dataclass(frozen=True)
class Expected:
    """What ONNX Runtime gives on the CPU in fp32: scores of real patches, and the mask of an image."""

    patches: Sequence[PatchBatch]
    scores: NDArray[np.float32]
    image: Pixels
    ids: NDArray[np.uint8]


def limit_of(subject: Subject, precision: RunPrecision) -> Tolerance:
    """The parity gate's limit. Random weights have near ties everywhere: only fp32 is held to it."""
    if subject.random and precision != "fp32":
        return COARSE
    return {"bf16": COARSE, "int8": COARSE, **TOLERANCES}[precision]


def expectation(subject: Subject, patches: Sequence[PatchBatch], image: Pixels) -> Expected:
    """The reference. Raises EngineError where ONNX Runtime is missing, BundleError without fp32 graphs."""
    network = HostNetwork(subject.bundle, choose_engine("onnxruntime", "fp32"), 1)
    return Expected(patches, scores_of_all(network, patches), image, ids_of(network, image))


def compare(
    findings: Findings, subject: Subject, candidate: Candidate, batches: Sequence[int], expected: Expected
) -> None:
    """One engine's row, in the largest batch that it loads; where it does not run, that is noted."""
    say(f"comparing {subject.name}, {candidate.label}")
    for batch in sorted(batches, reverse=True):
        load = partial(candidate.load, subject, batch)
        network = findings.loading(
            subject.name, candidate.label, load, part=f"batch {batch}", foreign=candidate.foreign
        )
        if network is not None:
            break
    else:
        return
    measure = partial(_measured, subject, candidate, network, expected)
    row = findings.running(subject.name, candidate.label, measure, part="agreement", foreign=candidate.foreign)
    if row is None:
        return
    findings.agreement.append(row)
    if not row.agrees and not candidate.foreign:
        findings.problem(_complaint(row))


@dataclass(frozen=True)
class _Masks:
    """Masks of the image; of `segment_device` too where the engine is on a GPU."""

    host: NDArray[np.uint8]
    device: NDArray[np.uint8] | None
    producer: str | None


def _measured(subject: Subject, candidate: Candidate, network: Network[Any, Any], expected: Expected) -> Agreement:
    device, batch = network.engine.device, network.batch
    try:
        scores = scores_of_all(network, expected.patches)
    finally:
        network.close()
    return _row(subject, candidate, device, expected, scores, _masks(subject, candidate, batch, expected))


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
