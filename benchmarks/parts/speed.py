"""Part (b): patches a second, latency, memory and whole images, all engines in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fctl.calib.sample import sample_patches
from fctl.runtime.engines.base import GpuEngine
from fctl.runtime.segment.batches import PatchBatch, grid_of
from fctl.runtime.segment.network import Network
from fctl.runtime.tiling.resampling import Pixels

from .candidates import Candidate, Subject
from .findings import Findings, ImageSpeed, Speed, say
from .machine import Memory
from .networks import picture, scores_of, stacked
from .producers import producer
from .timing import in_turn

_MOST = 100  # batches in one burst
_WARM_UPS = 3
_IMAGE_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to time. burst: seconds that one engine runs at a time; patience: seconds that one engine may take at most
    for one row; baseline: the engine that ratios are to, None for the first of the usual ones."""

    images: Sequence[Path]
    rounds: int
    burst: float
    patience: float
    baseline: str | None


@dataclass
class _Running:
    """A loaded network, and how many batches make a burst."""

    candidate: Candidate
    network: Network[Any, Any]
    host: int | None
    gpu: int | None
    count: int
    latencies: list[float]

    def through(self, batch: PatchBatch) -> None:
        """A burst without waiting for each batch."""
        for _ in range(self.count):
            scores = scores_of(self.network, batch)
        self.network.on_host(scores)

    def waiting(self, batch: PatchBatch) -> None:
        """A burst in which every batch's scores are fetched; notes how long each took."""
        for _ in range(self.count):
            started = time.perf_counter()
            self.network.on_host(scores_of(self.network, batch))
            self.latencies.append(time.perf_counter() - started)


class _Guarded:
    """A step that is left out once it has failed, so that the other engines' rounds go on."""

    def __init__(
        self, findings: Findings, subject: Subject, way: Candidate, part: str, step: Callable[[], object]
    ) -> None:
        self._tell = partial(findings.running, subject.name, way.label, part=part, foreign=way.foreign)
        self._step, self.works = step, True

    def __call__(self) -> None:
        if self.works:
            self.works = self._tell(lambda: (self._step(), True)[1]) is not None


def time_patches(
    findings: Findings, subject: Subject, ways: Sequence[Candidate], batch: int, plan: Plan, memory: Memory
) -> None:
    """Rows of all engines at one batch size."""
    say(f"timing patches of {subject.name}, batch {batch}")
    part, sample = f"batch {batch}", stacked(sample_patches(subject.bundle.manifest, plan.images, batch, seed=1))
    with ExitStack() as stack:
        running = {}
        for way in ways:
            before = memory.host(), memory.gpu()
            load = partial(way.load, subject, batch)
            network = findings.loading(subject.name, way.label, load, part=part, foreign=way.foreign)
            if network is None:
                continue
            stack.callback(network.close)
            warm_up = partial(_warm_up, network, sample)
            seconds = findings.running(subject.name, way.label, warm_up, part=part, foreign=way.foreign)
            if seconds is None:
                continue
            total = 2 * seconds * (plan.rounds + 1)
            if total > plan.patience:
                findings.skip(subject.name, way.label, _impatient(total, plan), part)
                continue
            host, gpu = _grown(before[0], memory.host()), _grown(before[1], memory.gpu())
            count = min(max(int(plan.burst / max(seconds, 1e-9)), 1), _MOST)
            running[way.label] = _Running(way, network, host, gpu, count, [])
        _time_bursts(findings, subject, batch, sample, running, plan)


def time_images(findings: Findings, subject: Subject, ways: Sequence[Candidate], side: int, plan: Plan) -> None:
    """Rows of all engines at one image size, each in the batch size in which it was fastest."""
    say(f"timing images of {subject.name}, {side} x {side}")
    manifest, part = subject.bundle.manifest, f"{side} x {side}"
    image = picture(manifest, plan.images, side, side)
    tiles, rounds = len(grid_of(manifest, side, side)), min(plan.rounds, _IMAGE_ROUNDS)
    rows = sorted((row for row in findings.speed if row.bundle == subject.name), key=lambda row: row.patches)
    fastest = {row.engine: row for row in rows}
    with ExitStack() as stack:
        steps, batches = dict[str, _Guarded](), dict[str, int]()
        for way in (way for way in ways if way.label in fastest):
            row = fastest[way.label]
            seconds = tiles / row.patches * (rounds + 1)
            if seconds > plan.patience:
                findings.skip(subject.name, way.label, _impatient(seconds, plan), part)
                continue
            load = partial(_image_steps, stack, subject, way, row.batch, image)
            found = findings.loading(subject.name, way.label, load, part=part, foreign=way.foreign) or {}
            steps |= {name: _Guarded(findings, subject, way, part, step) for name, step in found.items()}
            batches |= dict.fromkeys(found, row.batch)
        timed = in_turn(steps, rounds)
    _image_rows(
        findings, subject, side, tiles, batches, {name: timed[name] for name in steps if steps[name].works}, plan
    )


def _warm_up(network: Network[Any, Any], sample: PatchBatch) -> float:
    """Seconds of a batch."""
    seconds = 0.0
    for _ in range(_WARM_UPS):
        started = time.perf_counter()
        network.on_host(scores_of(network, sample))
        seconds = time.perf_counter() - started
    return seconds


def _time_bursts(
    findings: Findings, subject: Subject, batch: int, sample: PatchBatch, running: dict[str, _Running], plan: Plan
) -> None:
    def guarded(one: _Running, burst: Callable[[PatchBatch], None]) -> _Guarded:
        return _Guarded(findings, subject, one.candidate, f"batch {batch}", partial(burst, sample))

    through = {name: guarded(one, one.through) for name, one in running.items()}
    waiting = {name: guarded(one, one.waiting) for name, one in running.items()}
    seconds = in_turn(through, plan.rounds)
    in_turn(waiting, plan.rounds)
    whole = {name: one for name, one in running.items() if through[name].works and waiting[name].works}
    speeds = {name: [batch * one.count / taken for taken in seconds[name]] for name, one in whole.items()}
    base = _baseline(list(whole), plan)
    for name, one in whole.items():
        middle, latencies = statistics.median(speeds[name]), one.latencies[one.count :]  # the first burst warms up
        p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(latencies, (50, 90, 99)))
        findings.speed.append(
            Speed(
                bundle=subject.name, engine=name, device=one.network.engine.device, batch=batch, patches=middle,
                lowest=min(speeds[name]), highest=max(speeds[name]), ratio=middle / statistics.median(speeds[base]),
                baseline=base, p50=p50, p90=p90, p99=p99, samples=len(latencies), host_memory=one.host,
                gpu_memory=one.gpu,
            )
        )  # fmt: skip


def _image_rows(
    findings: Findings, subject: Subject, side: int, tiles: int, batches: dict[str, int],
    seconds: dict[str, list[float]], plan: Plan,
) -> None:  # fmt: skip
    base = _baseline(list(seconds), plan)
    for name, times in seconds.items():
        middle = statistics.median(times)
        findings.images.append(
            ImageSpeed(
                bundle=subject.name, engine=name, side=side, tiles=tiles, batch=batches[name], images=1 / middle,
                lowest=1 / max(times), highest=1 / min(times), ratio=statistics.median(seconds[base]) / middle,
                baseline=base,
            )
        )  # fmt: skip


def _image_steps(
    stack: ExitStack, subject: Subject, way: Candidate, batch: int, image: Pixels
) -> dict[str, Callable[[], object]]:
    """`segment`, and for engines on a GPU `segment_device` of the image there."""
    segment, segmenter = stack.enter_context(way.segmenting(subject, batch))
    steps: dict[str, Callable[[], object]] = {way.label: lambda: segment(image)}
    if segmenter is not None and isinstance(segmenter.engine, GpuEngine):
        there = producer(segmenter.engine.gpu).put(image)
        steps[f"{way.label}, segment_device"] = lambda: segmenter.segment_device(there)
    return steps


def _baseline(names: Sequence[str], plan: Plan) -> str:
    usual = [plan.baseline, "pytorch fp32", "onnxruntime fp32"]
    return next((name for name in usual if name in names), next(iter(names), ""))


def _impatient(seconds: float, plan: Plan) -> str:
    return f"would take about {seconds:.0f} s (--patience {plan.patience:.0f})"


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
