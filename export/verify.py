"""The parity gate: what was exported must compute what the network computes, and use every context."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fctl.model.network import FCtL
from fctl.runtime.bundle import Bundle, ContextEffect, Parity
from fctl.runtime.engines import choose_engine
from fctl.runtime.errors import ParityError
from fctl.runtime.inference import StagedNetwork
from fctl.runtime.pipeline import Batch

log = logging.getLogger(__name__)

MAX_ERROR = 1e-3  # of max |logit|
MIN_AGREEMENT = 0.9999
WEAK_CONTEXT = 10 * MAX_ERROR

Logits = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Real patches, one per batch, and where they come from."""

    batches: Sequence[Batch]
    source: str


def verify(bundle: Bundle, reference: FCtL, original: FCtL | None, samples: Samples) -> Parity:
    """Compare a bundle's fp32 graphs in ONNX Runtime with `reference` in PyTorch; the figures, if they pass.

    original: the network before its weights were rounded, or None. Raises ParityError when the largest difference
    exceeds 1e-3 of the largest logit, when fewer than 99.99 % of the pixels have the same class, or when replacing a
    context's features by another patch's changes nothing.
    """
    staged = StagedNetwork(bundle, choose_engine("onnxruntime", "fp32"), len(samples.batches))
    inputs = _gather(staged, samples.batches)
    found = staged.segment(inputs.patch, inputs.features, inputs.positions)
    expected = _in_torch(reference, samples.batches)
    parity = Parity(
        precision="fp32",
        reference=f"PyTorch {torch.__version__} fp32" + (", weights rounded to fp16" if original else ""),
        patches=len(samples.batches),
        source=samples.source,
        classes=_predicted(bundle, found),
        max_error=_relative(found - expected, expected),
        agreement=_agreement(found, expected),
        original_agreement=_agreement(found, _in_torch(original, samples.batches)) if original else None,
        contexts=_effects(staged, inputs, found),
    )
    _judge(parity)
    return parity


@dataclass(frozen=True)
class _Inputs:
    patch: NDArray[np.generic]
    features: dict[str, NDArray[np.float32]]
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


def _effects(staged: StagedNetwork, inputs: _Inputs, logits: Logits) -> tuple[ContextEffect, ...]:
    effects = []
    for context in staged.manifest.contexts:
        swapped = inputs.features | {context.name: _another(inputs.features[context.name])}
        changed = staged.segment(inputs.patch, swapped, inputs.positions)
        effects.append(ContextEffect(name=context.name, change=_relative(changed - logits, logits)))
    return tuple(effects)


def _another(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every patch's features replaced by another patch's; a global context that all share is turned around instead."""
    rolled = np.roll(features, 1, axis=0)
    return np.ascontiguousarray(features[:, :, ::-1, ::-1]) if np.array_equal(rolled, features) else rolled


def _in_torch(network: FCtL, batches: Sequence[Batch]) -> Logits:
    with torch.inference_mode():
        logits = [
            network(
                torch.from_numpy(batch.patch),
                {name: torch.from_numpy(window) for name, window in batch.contexts.items()},
                {name: torch.from_numpy(positions) for name, positions in batch.positions.items()},
            ).numpy()
            for batch in batches
        ]
    return np.concatenate(logits)


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


def _relative(difference: Logits, logits: Logits) -> float:
    return float(np.abs(difference).max() / np.abs(logits).max())


def _agreement(a: Logits, b: Logits) -> float:
    return float((a.argmax(1) == b.argmax(1)).mean())


def _predicted(bundle: Bundle, logits: Logits) -> tuple[str, ...]:
    return tuple(bundle.manifest.class_names[index] for index in np.unique(logits.argmax(1)))
