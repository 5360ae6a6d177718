"""Part (b): whole images a second of all engines in turn, from array to mask."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from fctl.runtime.engines.base import GpuEngine
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.tiling.resampling import Pixels

from .candidates import Candidate, Subject
from .findings import Findings, announce
from .networks import mosaic
from .plan import Guarded, Plan
from .producers import producer
from .records import ImageSpeed, Speed
from .timing import in_turn

_ROUNDS = 3  # at most

Steps = dict[str, Callable[[], object]]
"""What is timed, by its name in the report."""


def time_images(findings: Findings, subject: Subject, candidates: Sequence[Candidate], side: int, plan: Plan) -> None:
    """Time all engines at one image size, each in the batch size in which it was fastest.

    Args:
        findings: Where the rows are added, and where the speeds of patches are.
        subject: The bundle.
        candidates: The engines.
        side: Side of the square image in pixels.
        plan: How to time.
    """
    announce(f"timing images of {subject.name}, {side} x {side}")
    manifest, part = subject.bundle.manifest, f"{side} x {side}"
    image = mosaic(manifest, plan.images, side, side)
    tiles, rounds = len(grid_of(manifest, side, side)), min(plan.rounds, _ROUNDS)
    fastest = _fastest(findings, subject)
    with ExitStack() as stack:
        steps, batches = dict[str, Guarded](), dict[str, int]()
        for candidate in (one for one in candidates if one.label in fastest):
            row = fastest[candidate.label]
            if refusal := plan.refusal(tiles / row.patches * (rounds + 1)):
                findings.skip(subject.name, candidate.label, refusal, part)
                continue
            load = partial(_steps, stack, subject, candidate, row.batch, image)
            found = findings.loading(subject.name, candidate.label, load, part=part, foreign=candidate.foreign) or {}
            steps |= {name: Guarded(findings, subject, candidate, part, step) for name, step in found.items()}
            batches |= dict.fromkeys(found, row.batch)
        seconds = in_turn(steps, rounds)
    complete = {name: seconds[name] for name in steps if steps[name].works}
    base = plan.baseline_of(list(complete))
    for name, times in complete.items():
        middle = statistics.median(times)
        findings.images.append(
            ImageSpeed(
                bundle=subject.name, engine=name, side=side, tiles=tiles, batch=batches[name], images=1 / middle,
                lowest=1 / max(times), highest=1 / min(times), ratio=statistics.median(complete[base]) / middle,
                baseline=base,
            )
        )  # fmt: skip


def _fastest(findings: Findings, subject: Subject) -> Mapping[str, Speed]:
    """By label, the row of the batch size in which an engine ran most patches a second."""
    rows = sorted((row for row in findings.speed if row.bundle == subject.name), key=lambda row: row.patches)
    return {row.engine: row for row in rows}


def _steps(stack: ExitStack, subject: Subject, candidate: Candidate, batch: int, image: Pixels) -> Steps:
    """`segment`, and for engines on a GPU also `segment_device` of the image there; closed with the stack."""
    segment, segmenter = stack.enter_context(candidate.segmenting(subject, batch))
    steps: Steps = {candidate.label: lambda: segment(image)}
    if segmenter is not None and isinstance(segmenter.engine, GpuEngine):
        on_gpu = producer(segmenter.engine.gpu).put(image)
        steps[f"{candidate.label}, segment_device"] = lambda: segmenter.segment_device(on_gpu)
    return steps
