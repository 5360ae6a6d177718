"""The parity gate: what was exported must compute what the network computes, and use every context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.bundle import Bundle, ContextEffect, Parity
from fctl.runtime.engines import choose_engine
from fctl.runtime.errors import ParityError
from fctl.runtime.inference import StagedNetwork
from fctl.runtime.pipeline import Batch

log = logging.getLogger(__name__)

MAX_ERROR = 1e-3  # of max |logit|
MIN_AGREEMENT = 0.9999
WEAK_CONTEXT = 10 * MAX_ERROR

Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Real patches, one per batch, and where they come from."""

    batches: Sequence[Batch]
    source: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a bundle's graphs must compute: scores (N, classes, P, P) of a batch, and what computes them.

    original: the same before weights were rounded, or None.
    """

    name: str
    scores: Callable[[Batch], Scores]
    original: Callable[[Batch], Scores] | None


def verify(bundle: Bundle, reference: Reference, samples: Samples) -> Parity:
    """Compare a bundle's fp32 graphs in ONNX Runtime with their reference; the figures, if they pass.

    Raises ParityError when the largest difference exceeds 1e-3 of the largest score, when fewer than 99.99 % of the
    pixels have the same class, or when replacing a context's features by another patch's changes nothing.
    """
    staged = StagedNetwork(bundle, choose_engine("onnxruntime", "fp32"), len(samples.batches))
    inputs = _gather(staged, samples.batches)
    found = _segment(staged, inputs)
    expected = _concatenated(reference.scores, samples.batches)
    parity = Parity(
        precision="fp32",
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
    _judge(parity)
    return parity


@dataclass(frozen=True)
class _Inputs:
    patch: NDArray[Any]
    features: dict[str, NDArray[Any]]
    positions: dict[str, NDArray[np.float32]]


def _gather(staged: StagedNetwork, batches: Sequence[Batch]) -> _Inputs:
    """All patches as one batch, so that the symbolic batch is tried too."""
    features = {}
    for context in staged.manifest.contexts:
        windows = [batch.contexts[context.name] for batch in batches]
        if context.window.moves:
            features[context.name] = np.concatenate([staged.encode(context, window) for window in windows])
        else:
            features[context.name] = staged.encode(context, np.concatenate(windows))
    positions = {name: np.concatenate([batch.positions[name] for batch in batches]) for name in batches[0].positions}
    return _Inputs(np.concatenate([batch.patch for batch in batches]), features, positions)


def _segment(staged: StagedNetwork, inputs: _Inputs) -> Scores:
    """Scores of all patches; where the batch is fixed, in as many runs as that takes."""
    count = len(inputs.patch)
    if staged.batch == count:
        return staged.segment(inputs.patch, inputs.features, inputs.positions)
    padded = np.concatenate([inputs.patch, np.repeat(inputs.patch[-1:], -count % staged.batch, axis=0)])
    runs = [staged.segment(part, {}, {}) for part in np.split(padded, len(padded) // staged.batch)]
    return np.concatenate(runs)[:count]


def _effects(staged: StagedNetwork, inputs: _Inputs, scores: Scores) -> tuple[ContextEffect, ...]:
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


def _concatenated(scores: Callable[[Batch], Scores], batches: Sequence[Batch]) -> Scores:
    return np.concatenate([scores(batch) for batch in batches])


def _judge(parity: Parity) -> None:
    problems = []
    if not parity.max_error <= MAX_ERROR:  # also catches NaN
        problems.append(f"max |difference| / max |logit|: expected at most {MAX_ERROR:g}, found {parity.max_error:.2e}")
    if parity.agreement < MIN_AGREEMENT:
        problems.append(f"pixels of the same class: expected {MIN_AGREEMENT:.2%}, found {parity.agreement:.4%}")
    for effect in parity.contexts:
        if not effect.change > 0:
            problems.append(f"context {effect.name!r} is not wired in: another patch's changes no logit")
        elif effect.change < WEAK_CONTEXT:
            log.warning(
                "warning: context %s hardly matters: another patch's changes the logits by %.1e",
                effect.name,
                effect.change,
            )
    if problems:
        raise ParityError(f"the exported graphs differ from the network: {'; '.join(problems)}; nothing was written")


def _relative(difference: Scores, scores: Scores) -> float:
    return float(np.abs(difference).max() / np.abs(scores).max())


def _agreement(a: Scores, b: Scores) -> float:
    return float((a.argmax(1) == b.argmax(1)).mean())


def _predicted(bundle: Bundle, scores: Scores) -> tuple[str, ...]:
    return tuple(bundle.manifest.class_names[index] for index in np.unique(scores.argmax(1)))
