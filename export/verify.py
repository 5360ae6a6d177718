"""The parity gate: what was exported must compute what the network computes, and use every context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle.manifest import ContextEffect, Parity, Precision
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import ParityError
from fctl.runtime.segment.batches import PatchBatch
from fctl.runtime.segment.host import HostNetwork

log = logging.getLogger(__name__)

MAX_ERROR = 1e-3  # of max |logit|
MIN_AGREEMENT = 0.9999
WEAK_CONTEXT = 10 * MAX_ERROR
_AT_ONCE = 2  # patches in a run: enough to try the symbolic batch, and a full VGG16 in 16 GB

Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What the gate lets pass: at most this difference, of max |logit|; the same class on this share of the pixels."""

    error: float
    agreement: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(error=MAX_ERROR, agreement=MIN_AGREEMENT),
    "fp16": Tolerance(error=1e-2, agreement=0.995),  # docs/precision.md
}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Real patches, one per batch, and where they come from."""

    batches: Sequence[PatchBatch]
    source: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a bundle's graphs must compute: scores (N, classes, P, P) of a batch, and what computes them.

    original: the same before weights were rounded, or None.
    """

    name: str
    scores: Callable[[PatchBatch], Scores]
    original: Callable[[PatchBatch], Scores] | None


def verify(
    bundle: Bundle,
    reference: Reference,
    samples: Samples,
    precision: Precision = "fp32",
    tolerance: Tolerance | None = None,
) -> Parity:
    """Compare a bundle's fp32 graphs in ONNX Runtime with their reference; the figures, if they pass.

    precision: what the graphs stand for, where they are simulations of others (`rounding.rounding_bundle`). tolerance:
    None for that of the precision in `TOLERANCES`.
    Raises ParityError when the largest difference exceeds the precision's tolerance (in fp32 1e-3 of the largest
    score), when too few pixels have the same class (99.99 %), or when replacing a context's features by another
    patch's changes nothing.
    """
    parity = compare(bundle, reference, samples, precision)
    _judge(parity, tolerance or TOLERANCES[precision])
    return parity


def compare(bundle: Bundle, reference: Reference, samples: Samples, precision: Precision = "fp32") -> Parity:
    """The figures that `verify` judges."""
    staged = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), min(_AT_ONCE, len(samples.batches)))
    inputs = _gather(staged, samples.batches)
    found = _segment(staged, inputs)
    expected = _concatenated(reference.scores, samples.batches)
    return Parity(
        precision=precision,
        reference=reference.name,
        patches=len(samples.batches),
        source=samples.source,
        classes=_predicted(bundle, found),
        max_error=_relative(found - expected, expected),
        agreement=_agreement(found, expected),
        original_agreement=(
            _agreement(found, _concatenated(reference.original, samples.batches)) if reference.original else None
        ),
        contexts=_effects(staged, inputs, found),
    )


def fp32_reference(bundle: Bundle) -> Reference:
    """A bundle's own fp32 graphs, for those of other precisions that were made from them."""
    staged = HostNetwork(bundle, choose_engine("onnxruntime", "fp32"), 1)

    def scores(batch: PatchBatch) -> Scores:
        return _segment(staged, _gather(staged, [batch]))

    return Reference(name="the fp32 graphs in ONNX Runtime", scores=scores, original=None)


@dataclass(frozen=True)
class _Inputs:
    patch: NDArray[Any]
    features: dict[str, NDArray[Any]]
    positions: dict[str, NDArray[np.float32]]


def _gather(staged: HostNetwork, batches: Sequence[PatchBatch]) -> _Inputs:
    """All patches, with features of their contexts."""
    features = {}
    for context in staged.manifest.contexts:
        windows, size = np.concatenate([batch.contexts[context.name] for batch in batches]), staged.batch_of(context)
        parts = [staged.encode(context, part) for part in _parts(windows, size)]
        features[context.name] = np.concatenate(parts)[: len(windows)]
    positions = {name: np.concatenate([batch.positions[name] for batch in batches]) for name in batches[0].positions}
    return _Inputs(np.concatenate([batch.patch for batch in batches]), features, positions)


def _segment(staged: HostNetwork, inputs: _Inputs) -> Scores:
    """Scores of all patches, in batches."""
    size = staged.batch
    features = {name: _parts(array, size) for name, array in inputs.features.items()}
    positions = {name: _parts(array, size) for name, array in inputs.positions.items()}
    runs = [
        staged.segment(
            patch,
            {name: parts[index] for name, parts in features.items()},
            {name: parts[index] for name, parts in positions.items()},
        )
        for index, patch in enumerate(_parts(inputs.patch, size))
    ]
    return np.concatenate(runs)[: len(inputs.patch)]


def _parts(array: NDArray[Any], size: int) -> list[NDArray[Any]]:
    """An array in batches of `size`; the last one is filled up with its last entry."""
    padded = np.concatenate([array, np.repeat(array[-1:], -len(array) % size, axis=0)])
    return np.split(padded, len(padded) // size)


def _effects(staged: HostNetwork, inputs: _Inputs, scores: Scores) -> tuple[ContextEffect, ...]:
    effects = []
    for context in staged.manifest.contexts:
        swapped = inputs.features | {context.name: _another(inputs.features[context.name])}
        changed = _segment(staged, replace(inputs, features=swapped))
        effects.append(ContextEffect(name=context.name, change=_relative(changed - scores, scores)))
    return tuple(effects)


def _another(features: NDArray[Any]) -> NDArray[Any]:
    """Every patch's features replaced by another patch's; a global context that all share is turned around instead."""
    rolled = np.roll(features, 1, axis=0)
    return np.ascontiguousarray(features[:, :, ::-1, ::-1]) if np.array_equal(rolled, features) else rolled


def _concatenated(scores: Callable[[PatchBatch], Scores], batches: Sequence[PatchBatch]) -> Scores:
    return np.concatenate([scores(batch) for batch in batches])


def _judge(parity: Parity, tolerance: Tolerance) -> None:
    problems = []
    if not parity.max_error <= tolerance.error:  # also catches NaN
        problems.append(
            f"max |difference| / max |logit|: expected at most {tolerance.error:g}, found {parity.max_error:.2e}"
        )
    if parity.agreement < tolerance.agreement:
        problems.append(f"pixels of the same class: expected {tolerance.agreement:.2%}, found {parity.agreement:.4%}")
    for effect in parity.contexts if np.isfinite(parity.max_error) else ():
        if not effect.change > 0:
            problems.append(f"context {effect.name!r} is not wired in: another patch's changes no logit")
        elif effect.change < WEAK_CONTEXT:
            log.warning(
                "warning: context %s hardly matters: another patch's changes the logits by %.1e",
                effect.name,
                effect.change,
            )
    if problems:
        graphs = "exported graphs differ from the network"
        if parity.precision != "fp32":
            graphs = f"{parity.precision} graphs differ from {parity.reference}"
        raise ParityError(f"the {graphs}: {'; '.join(problems)}; nothing was written")


def _relative(difference: Scores, scores: Scores) -> float:
    return float(np.abs(difference).max() / np.abs(scores).max())


def _agreement(a: Scores, b: Scores) -> float:
    return float((a.argmax(1) == b.argmax(1)).mean())


def _predicted(bundle: Bundle, scores: Scores) -> tuple[str, ...]:
    return tuple(bundle.manifest.class_names[index] for index in np.unique(scores.argmax(1)))
