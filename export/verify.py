"""The parity gate: exported graphs must compute what the network computes, and use every context."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from fctl.calib.classes import class_ious
from fctl.calib.watch import mirrored
from fctl.runtime.bundle.manifest import Precision
from fctl.runtime.bundle.parity import ContextEffect, Parity
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import ParityError
from fctl.runtime.segment.batches import PatchBatch, joined
from fctl.runtime.segment.network import EngineNetwork, Features, Network, parts_of
from fctl.runtime.segment.opening import load_network

from .onnx_graph import compares_features

log = logging.getLogger(__name__)

MAX_ERROR = 1e-3
"""The largest difference that fp32 graphs may have, as a part of max |logit|."""

MIN_AGREEMENT = 0.9999
"""The least share of pixels to which fp32 graphs must give the same class."""

WEAK_CONTEXT = 10 * MAX_ERROR
"""The least change of the logits, as a part of max |logit|, that a context should make."""

AT_ONCE = 2
"""Patches in a run: enough to try the symbolic batch, and a full VGG16 in 16 GB."""

Array = NDArray[np.generic]
Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What the gate lets pass.

    Attributes:
        error: The largest difference, as a part of max |logit|.
        agreement: The least share of pixels that have the same class.
    """

    error: float
    agreement: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(error=MAX_ERROR, agreement=MIN_AGREEMENT),
    "fp16": Tolerance(error=1e-2, agreement=0.995),
}
"""What the gate lets pass, by precision; see docs/precision.md."""

_JUMPING = Tolerance(error=0.25, agreement=0.995)  # where the last bit of a feature can change scores by much


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Real patches to compare on.

    Attributes:
        batches: Batches of one patch.
        source: Where they come from.
    """

    batches: Sequence[PatchBatch]
    source: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a bundle's graphs must compute.

    Attributes:
        name: What computes it.
        scores: A function from a batch of N patches to its scores (N, classes, P, P) float32.
        original: The same before weights were rounded; None where they were not.
    """

    name: str
    scores: Callable[[PatchBatch], Scores]
    original: Callable[[PatchBatch], Scores] | None


def tolerance_of(bundle: Bundle, precision: Precision) -> Tolerance:
    """What the gate lets pass of a bundle.

    Scores jump where a graph compares features with each other: SegNet moves a value by a whole cell where rounding
    decides which of four is the largest, and every engine rounds in its own way. In fp16, those of a refiner do too:
    its probabilities are steep across borders.

    Args:
        bundle: The bundle, with its fp32 graphs or with those that stand for others.
        precision: What they stand for.

    Returns:
        That of the precision, or a wide one where scores jump.
    """
    graphs = (bundle.folder / graph.file for graph in bundle.manifest.graphs if graph.precision == "fp32")
    steep = precision == "fp16" and bundle.manifest.refines
    return _JUMPING if steep or any(compares_features(onnx.load(path)) for path in graphs) else TOLERANCES[precision]


def verify(
    bundle: Bundle,
    reference: Reference,
    samples: Samples,
    precision: Precision = "fp32",
    tolerance: Tolerance | None = None,
) -> Parity:
    """Compare a bundle's fp32 graphs in ONNX Runtime with their reference, and judge the figures.

    Args:
        bundle: The bundle.
        reference: What its graphs must compute.
        samples: The patches to compare on.
        precision: What the graphs stand for, where they simulate others (`rounding.rounding_bundle`).
        tolerance: What is let pass; None for that of the bundle and the precision, as `tolerance_of` says.

    Returns:
        The figures.

    Raises:
        ParityError: The largest difference is beyond the tolerance (for fp32, 1e-3 of the largest score), too few
            pixels have the same class (99.99 %), or a context's features replaced by another patch's change nothing.
        EngineError: ONNX Runtime is missing, or refuses a graph.
    """
    parity = compare(bundle, reference, samples, precision)
    _judge(parity, tolerance or tolerance_of(bundle, precision))
    return parity


def compare(bundle: Bundle, reference: Reference, samples: Samples, precision: Precision = "fp32") -> Parity:
    """Compare a bundle's fp32 graphs in ONNX Runtime with their reference.

    Args:
        bundle: The bundle.
        reference: What its graphs must compute.
        samples: The patches to compare on.
        precision: What the graphs stand for, where they simulate others (`rounding.rounding_bundle`).

    Returns:
        The figures, which `verify` judges.

    Raises:
        EngineError: ONNX Runtime is missing, or refuses a graph.
    """
    count = len(samples.batches)
    engine = choose_engine("onnxruntime", "fp32", whole=True)  # else patches that mix in a batch would not be seen
    network = load_network(bundle, engine, min(AT_ONCE, count))
    gathered = _gather(network, samples.batches)
    found = _segment(network, gathered)
    expected = _concatenated(reference.scores, samples.batches)
    return Parity(
        precision=precision,
        reference=reference.name,
        patches=count,
        source=samples.source,
        classes=_predicted(bundle, found),
        max_error=relative(found - expected, expected),
        agreement=_agreement(found, expected),
        original_agreement=(
            _agreement(found, _concatenated(reference.original, samples.batches)) if reference.original else None
        ),
        contexts=_effects(network, gathered, found),
        class_iou=class_ious(expected.argmax(1), found.argmax(1), bundle.manifest.class_names),
    )


def verify_shared(bundle: Bundle, reference: Network, batch: PatchBatch) -> None:
    """Compare the graphs that encode contexts once a raster, in ONNX Runtime, with the network.

    Args:
        bundle: The bundle.
        reference: The network that encodes contexts so; its features are arrays once they are on the host.
        batch: A batch of one patch.

    Raises:
        ParityError: The largest difference is beyond 1e-3 of the largest feature.
        EngineError: ONNX Runtime is missing, or refuses a graph.
    """
    with closing(load_network(bundle, choose_engine("onnxruntime", "fp32"), 1, once=True)) as network:
        for context in bundle.manifest.contexts:
            if context.name not in network.lattices:
                continue
            window = mirrored(batch, context)
            found, expected = (one.on_host(one.encode_once(context, window)) for one in (network, reference))
            if not (error := relative(found - expected, expected)) <= MAX_ERROR:
                raise ParityError(
                    f"encoded once a raster, features of context {context.name} differ from the network's by "
                    f"{error:.1e} of the largest, more than {MAX_ERROR:g}; nothing was written"
                )


def fp32_reference(bundle: Bundle) -> Reference:
    """A bundle's fp32 graphs in ONNX Runtime, as the reference of graphs in other precisions made from them."""
    network = load_network(bundle, choose_engine("onnxruntime", "fp32"), 1)

    def scores(batch: PatchBatch) -> Scores:
        return network.on_host(network.run(joined([batch], network.batch)))[:1]

    return Reference(name="the fp32 graphs in ONNX Runtime", scores=scores, original=None)


@dataclass(frozen=True)
class _Gathered:
    """Patches with the features of their contexts.

    Attributes:
        batches: The patches, in batches; the last one is filled up.
        features: By context, features (patches, C, H, W) of each of its maps.
        patches: How many patches there are.
    """

    batches: tuple[PatchBatch, ...]
    features: dict[str, tuple[Array, ...]]
    patches: int


def _gather(network: EngineNetwork, patches: Sequence[PatchBatch]) -> _Gathered:
    """All patches in batches, with features of their contexts."""
    size = network.batch
    batches = tuple(joined(patches[start : start + size], size) for start in range(0, len(patches), size))
    encoded = [network.encode_contexts(batch) for batch in batches]
    features = {
        context.name: tuple(
            np.concatenate([np.asarray(part) for part in one])[: len(patches)]
            for one in zip(*(parts_of(context, found[context.name]) for found in encoded), strict=True)
        )
        for context in network.manifest.contexts
    }
    return _Gathered(batches, features, len(patches))


def _segment(network: EngineNetwork, gathered: _Gathered) -> Scores:
    """Scores (patches, classes, P, P) of all patches, from their features."""
    parts = {name: [_parts(one, network.batch) for one in maps] for name, maps in gathered.features.items()}
    several = {context.name for context in network.manifest.contexts if context.maps}

    def features(index: int) -> dict[str, Features]:
        found = {name: tuple(part[index] for part in maps) for name, maps in parts.items()}
        return {name: maps if name in several else maps[0] for name, maps in found.items()}

    runs = [
        network.on_host(network.segment(batch.patch, features(index), batch.positions))
        for index, batch in enumerate(gathered.batches)
    ]
    return np.concatenate(runs)[: gathered.patches]


def _parts(array: Array, size: int) -> list[Array]:
    """An array in parts of `size`; the last one is filled up with its last entry."""
    padded = np.concatenate([array, np.repeat(array[-1:], -len(array) % size, axis=0)])
    return np.split(padded, len(padded) // size)


def _effects(network: EngineNetwork, gathered: _Gathered, scores: Scores) -> tuple[ContextEffect, ...]:
    """How much the scores change when a context's features are replaced by another patch's."""
    effects = []
    for context in network.manifest.contexts:
        swapped = gathered.features | {context.name: tuple(map(_another, gathered.features[context.name]))}
        changed = _segment(network, replace(gathered, features=swapped))
        effects.append(ContextEffect(name=context.name, change=relative(changed - scores, scores)))
    return tuple(effects)


def _another(features: Array) -> Array:
    """Every patch's features replaced by another patch's; a global context that all share is turned around instead."""
    rolled = np.roll(features, 1, axis=0)
    return np.ascontiguousarray(features[:, :, ::-1, ::-1]) if np.array_equal(rolled, features) else rolled


def _concatenated(scores: Callable[[PatchBatch], Scores], batches: Sequence[PatchBatch]) -> Scores:
    """Scores (patches, classes, P, P) of all batches."""
    return np.concatenate([scores(batch) for batch in batches])


def _judge(parity: Parity, tolerance: Tolerance) -> None:
    """Raise ParityError for figures beyond the tolerance."""
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
                "context %s hardly matters: another patch's changes the logits by %.1e",
                effect.name,
                effect.change,
            )
    if problems:
        graphs = "exported graphs differ from the network"
        if parity.precision != "fp32":
            graphs = f"{parity.precision} graphs differ from {parity.reference}"
        raise ParityError(f"the {graphs}: {'; '.join(problems)}; nothing was written")


def relative(difference: Scores, scores: Scores) -> float:
    """The largest difference as a part of the largest score; both (N, classes, P, P)."""
    return float(np.abs(difference).max() / np.abs(scores).max())


def _agreement(a: Scores, b: Scores) -> float:
    """The share of pixels to which both give the same class."""
    return float((a.argmax(1) == b.argmax(1)).mean())


def _predicted(bundle: Bundle, scores: Scores) -> tuple[str, ...]:
    """The names of the classes that occur."""
    return tuple(bundle.manifest.class_names[index] for index in np.unique(scores.argmax(1)))
