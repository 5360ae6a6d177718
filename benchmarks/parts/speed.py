"""Part (b): patches a second, latency and memory of all engines in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from fctl.calib.sample import sample_patches
from fctl.runtime.segment.batches import PatchBatch, joined
from fctl.runtime.segment.network import Network

from .candidates import Candidate, Subject
from .findings import Findings, announce
from .machine import Memory
from .networks import Loaded
from .plan import Guarded, Plan
from .records import Speed
from .timing import in_turn

_MOST = 100  # batches in one burst
_WARM_UPS = 3


@dataclass(kw_only=True)
class _Timed:
    """A loaded network that is being timed.

    Attributes:
        candidate: The engine.
        loaded: The network.
        host: Bytes by which loading and warming up grew this process, where that is known.
        gpu: The same of the GPU's memory.
        count: How many batches make a burst.
        latencies: Seconds of every batch whose scores were waited for.
    """

    candidate: Candidate
    loaded: Loaded
    host: int | None
    gpu: int | None
    count: int
    latencies: list[float] = field(default_factory=list)

    def burst(self, batch: PatchBatch) -> None:
        """Run batch after batch, and wait for the last one only."""
        network = self.loaded.network
        for _ in range(self.count):
            scores = network.run(batch)
        network.on_host(scores)

    def waiting(self, batch: PatchBatch) -> None:
        """Run as many batches, and wait for the scores of each; notes how long each took."""
        for _ in range(self.count):
            self.latencies.append(_seconds_of(self.loaded.network, batch))


def time_patches(
    findings: Findings, subject: Subject, candidates: Sequence[Candidate], batch: int, plan: Plan, memory: Memory
) -> None:
    """Time all engines at one batch size, all of them loaded at once.

    Args:
        findings: Where the rows are added.
        subject: The bundle.
        candidates: The engines.
        batch: Patches at once.
        plan: How to time.
        memory: Measures memory.
    """
    announce(f"timing patches of {subject.name}, batch {batch}")
    sample = joined(sample_patches(subject.bundle.manifest, plan.images, batch, seed=1))
    with ExitStack() as stack:
        opened = {one.label: _opened(stack, findings, subject, one, sample, plan, memory) for one in candidates}
        timed = {label: one for label, one in opened.items() if one is not None}
        _time_bursts(findings, subject, sample, timed, plan)


def _opened(
    stack: ExitStack, findings: Findings, subject: Subject, candidate: Candidate, sample: PatchBatch, plan: Plan,
    memory: Memory,
) -> _Timed | None:  # fmt: skip
    """A network that is loaded and warm, and closed with the stack; None where it is skipped."""
    batch, name, label, foreign = len(sample.patch), subject.name, candidate.label, candidate.foreign
    part, before = f"batch {batch}", (memory.host(), memory.gpu())
    loaded = findings.loading(name, label, partial(candidate.load, subject, batch), part=part, foreign=foreign)
    if loaded is None:
        return None
    stack.callback(loaded.network.close)
    warm_up = partial(_warm_up, loaded.network, sample)
    seconds = findings.running(name, label, warm_up, part=part, foreign=foreign)
    if seconds is None:
        return None
    if refusal := plan.refusal(2 * seconds * (plan.rounds + 1)):
        findings.skip(name, label, refusal, part)
        return None
    count = min(max(int(plan.burst / max(seconds, 1e-9)), 1), _MOST)
    host, gpu = _grown(before[0], memory.host()), _grown(before[1], memory.gpu())
    return _Timed(candidate=candidate, loaded=loaded, host=host, gpu=gpu, count=count)


def _warm_up(network: Network, sample: PatchBatch) -> float:
    """Run a batch until it runs at its usual speed; the seconds of the last run."""
    return [_seconds_of(network, sample) for _ in range(_WARM_UPS)][-1]


def _seconds_of(network: Network, batch: PatchBatch) -> float:
    """The seconds of one batch, from arrays on the host to scores on the host."""
    started = time.perf_counter()
    network.on_host(network.run(batch))
    return time.perf_counter() - started


def _time_bursts(
    findings: Findings, subject: Subject, sample: PatchBatch, timed: Mapping[str, _Timed], plan: Plan
) -> None:
    """Time speed, then latency; a row for every engine that did not fail."""
    batch = len(sample.patch)

    def guarded(one: _Timed, step: Callable[[PatchBatch], None]) -> Guarded:
        return Guarded(findings, subject, one.candidate, f"batch {batch}", partial(step, sample))

    bursts = {label: guarded(one, one.burst) for label, one in timed.items()}
    waits = {label: guarded(one, one.waiting) for label, one in timed.items()}
    seconds = in_turn(bursts, plan.rounds)
    in_turn(waits, plan.rounds)
    complete = {label: one for label, one in timed.items() if bursts[label].works and waits[label].works}
    speeds = {label: [batch * one.count / taken for taken in seconds[label]] for label, one in complete.items()}
    base = plan.baseline_of(list(complete))
    for label, one in complete.items():
        middle, latencies = statistics.median(speeds[label]), one.latencies[one.count :]  # the first burst warms up
        p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(latencies, (50, 90, 99)))
        findings.speed.append(
            Speed(
                bundle=subject.name, engine=label, device=one.loaded.device, batch=batch, patches=middle,
                lowest=min(speeds[label]), highest=max(speeds[label]), ratio=middle / statistics.median(speeds[base]),
                baseline=base, p50=p50, p90=p90, p99=p99, samples=len(latencies), host_memory=one.host,
                gpu_memory=one.gpu,
            )
        )  # fmt: skip


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
