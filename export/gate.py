"""What a draft of a bundle goes through before it is one: the parity gate, in every engine that may run it here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import onnx

from fctl.calib.sample import shown
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.parity import Parity
from fctl.runtime.bundle.store import Bundle, write_manifest
from fctl.runtime.bundle.verdicts import EngineVerdict
from fctl.runtime.engines.base import Engine, GpuEngine
from fctl.runtime.engines.choose import engine_version, installed_engines
from fctl.runtime.errors import EngineError
from fctl.runtime.segment.batches import PatchBatch, joined
from fctl.runtime.segment.opening import load_network
from fctl.runtime.segment.selfcheck import check_batch, square_of, write_check

from .verify import AT_ONCE, Reference, Samples, Scores, Tolerance, relative, tolerance_of, verify

log = logging.getLogger(__name__)

_GATE = "onnxruntime"  # the engine of `verify`
_TIE, _HALF_TIE = 1e-5, 1e-3  # by which scores differ that are the same but for rounding, as parts of max |score|


def gated(bundle: Bundle, reference: Reference, samples: Samples) -> Manifest:
    """Verify a draft in every engine that "auto" could take here, and complete it.

    ONNX Runtime must pass. Another engine that does not is named in the manifest, so that "auto" never takes it.

    Args:
        bundle: The draft, whose fp32 graphs are written.
        reference: What they must compute.
        samples: The patches to compare on.

    Returns:
        The manifest, which is written: with the figures, a verdict for each engine, and a patch for those elsewhere.

    Raises:
        ParityError: The graphs do not compute what the network computes.
        EngineError: ONNX Runtime is missing, or refuses a graph.
    """
    kept = replace(reference, scores=_remembered(reference.scores))
    limits = tolerance_of(bundle, "fp32")
    parity = verify(bundle, kept, samples, tolerance=limits)
    verdicts = [_of_gate(parity)]
    for engine in installed_engines("fp32", bundle, AT_ONCE):
        if engine.name == _GATE:
            continue
        verdict = _verdict(bundle, engine, kept, samples, limits)
        if verdict.refusal and isinstance(engine, GpuEngine):  # memory or libraries of this machine, not the graph
            log.warning("%s was not at the parity gate: %s", engine.name, verdict.refusal)
            continue
        if not verdict.passed:
            log.warning("%s will not be taken by auto for this bundle: %s", engine.name, verdict.reason)
        verdicts.append(verdict)
    draft = bundle.manifest
    square = square_of(shown(draft, samples.batches[0]))
    scores = reference.scores(check_batch(draft, square, 1))[0]
    check = write_check(bundle.folder, square, scores)
    manifest = replace(draft, parity=(parity,), engines=tuple(verdicts), check=check)
    write_manifest(bundle.folder, manifest)
    return manifest


def _of_gate(parity: Parity) -> EngineVerdict:
    """ONNX Runtime's verdict, which passed."""
    return EngineVerdict(
        engine=_GATE, version=engine_version(_GATE), precision="fp32", passed=True, agreement=parity.agreement,
        max_error=parity.max_error, refusal=None,
    )  # fmt: skip


def _verdict(
    bundle: Bundle, engine: Engine, reference: Reference, samples: Samples, limits: Tolerance
) -> EngineVerdict:
    """How an engine does; it is closed."""
    failed = EngineVerdict(
        engine=engine.name, version=engine_version(engine.name), precision="fp32", passed=False, agreement=None,
        max_error=None, refusal=None,
    )  # fmt: skip
    try:
        found = _scores(bundle, engine, samples)
    except EngineError as error:
        return replace(failed, refusal=str(error).replace(f"{bundle.folder}/", ""))
    expected = np.concatenate([reference.scores(batch) for batch in samples.batches])
    tie = _HALF_TIE if _rounds_to_half(bundle) else _TIE
    close = float((np.abs(found - expected).max(1) <= limits.error * np.abs(expected).max()).mean())
    same, largest = _agreement(found, expected, tie), relative(found - expected, expected)
    passed = min(same, close) >= limits.agreement
    return replace(
        failed,
        passed=passed,
        agreement=same if passed else min(same, close),
        max_error=largest if np.isfinite(largest) else None,
    )


def _agreement(found: Scores, expected: Scores, tie: float) -> float:
    """The share of pixels with the expected class, or with one that should score as much but for `tie` of max |score|.

    A pixel whose classes score the same has no class that an engine could miss.
    """
    chosen = np.take_along_axis(expected, found.argmax(1)[:, None], 1)[:, 0]
    return float((expected.max(1) - chosen <= tie * np.abs(expected).max()).mean())


def _rounds_to_half(bundle: Bundle) -> bool:
    """Whether a graph computes in fp16 somewhere, whose rounding engines place as they like."""
    graphs = [onnx.load(bundle.folder / graph.file).graph for graph in bundle.manifest.graphs]
    casts = [node for graph in graphs for node in graph.node if node.op_type == "Cast"]
    return any(attribute.i == onnx.TensorProto.FLOAT16 for node in casts for attribute in node.attribute)


def _scores(bundle: Bundle, engine: Engine, samples: Samples) -> Scores:
    """Scores (patches, classes, P, P) of all patches in an engine, which is closed."""
    try:
        network = load_network(bundle, engine, min(AT_ONCE, len(samples.batches)))
    except BaseException:
        engine.close()
        raise
    with closing(network):
        size, batches = network.batch, samples.batches
        runs = [
            network.on_host(network.run(joined(batches[start : start + size], size))).copy()
            for start in range(0, len(batches), size)
        ]
    return np.concatenate(runs)[: len(batches)]


def _remembered(scores: Callable[[PatchBatch], Scores]) -> Callable[[PatchBatch], Scores]:
    """The same function, which computes the scores of a batch once; batches must outlive it."""
    known: dict[int, Scores] = {}

    def remembered(batch: PatchBatch) -> Scores:
        if id(batch) not in known:
            known[id(batch)] = scores(batch)
        return known[id(batch)]

    return remembered
