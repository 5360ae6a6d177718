"""Part (c): threads that share one `Segmenter` segment images for minutes; memory must not grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fctl.runtime.engines.base import GpuEngine
from fctl.runtime.segment.segmenter import Segmenter
from fctl.runtime.tiling.resampling import Pixels

from .candidates import Candidate, Subject
from .findings import Findings, announce
from .machine import MB, Memory
from .networks import mosaic
from .producers import producer
from .records import Growth, Soak

HOST_LIMIT, GPU_LIMIT = int(64 * MB), int(32 * MB)
WARM_UP = 0.25  # of the time
_FEWEST = 12  # samples from which growth can be judged

_Mask = NDArray[np.uint8]
_Sample = tuple[float, int | None, int | None]  # seconds, bytes of host memory, bytes of GPU memory


def soak(
    findings: Findings,
    subject: Subject,
    candidate: Candidate,
    batch: int,
    minutes: float,
    images: Sequence[Path],
    memory: Memory,
) -> None:
    """Soak one engine. Growth beyond the limits is a problem, and so are masks that differ from time to time.

    Args:
        findings: Where the row is added.
        subject: The bundle.
        candidate: The engine.
        batch: Patches at once.
        minutes: How long to segment.
        images: The images from which pictures of several sizes are made.
        memory: Measures memory.

    Raises:
        Exception: Whatever a thread raised.
    """
    announce(f"soaking {subject.name}, {candidate.label}, for {minutes:g} minutes")
    manifest = subject.bundle.manifest
    tile = manifest.tile
    sizes = ((2 * tile, 3 * tile), (tile + 17, 2 * tile), (3 * tile, max(tile // 2, 1)))
    pictures = [mosaic(manifest, images, height, width) for height, width in sizes]
    with Segmenter(subject.bundle, backend=candidate.backend, precision=candidate.precision, batch=batch) as segmenter:
        workers = [_Worker(mask, pictures) for mask in _masks(segmenter)]
        samples = _watch(workers, minutes * 60, memory)
    row = Soak(
        bundle=subject.name, engine=candidate.label, minutes=minutes, threads=len(workers),
        images=sum(worker.done for worker in workers), wrong=sum(worker.wrong for worker in workers),
        samples=len(samples), host=_growth(samples, 1, HOST_LIMIT), gpu=_growth(samples, 2, GPU_LIMIT),
    )  # fmt: skip
    findings.soak.append(row)
    for worker in workers:
        if worker.error:
            raise worker.error
    _judge(findings, row)


@dataclass
class _Worker:
    """Segments images over and over, and compares each mask with the first of the same image."""

    mask: Callable[[Pixels], _Mask]
    images: Sequence[Pixels]
    done: int = 0
    wrong: int = 0
    error: Exception | None = None
    first: dict[int, _Mask] = field(default_factory=dict)

    def work(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                index = self.done % len(self.images)
                found = self.mask(self.images[index])
                self.wrong += not np.array_equal(self.first.setdefault(index, found), found)
                self.done += 1
        except Exception as error:  # raised again by `soak`
            self.error = error


def _masks(segmenter: Segmenter) -> list[Callable[[Pixels], _Mask]]:
    """What the threads call: two of them `segment`; on a GPU a third calls `segment_device`."""
    masks: list[Callable[[Pixels], _Mask]] = [lambda image: segmenter.segment(image).ids] * 2
    if isinstance(segmenter.engine, GpuEngine):
        library = producer(segmenter.engine.gpu)
        masks.append(lambda image: library.get(segmenter.segment_device(library.put(image)).ids))
    return masks


def _watch(workers: Sequence[_Worker], seconds: float, memory: Memory) -> list[_Sample]:
    """Run the workers for a time; samples of memory after the warm-up."""
    stop, samples = threading.Event(), list[_Sample]()
    threads = [threading.Thread(target=worker.work, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    started, pause = time.monotonic(), max(0.05, min(2.0, seconds / 100))
    try:
        while (now := time.monotonic() - started) < seconds and any(thread.is_alive() for thread in threads):
            if now > WARM_UP * seconds:
                samples.append((now, memory.host(), memory.gpu()))
            time.sleep(pause)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return samples


def _growth(samples: Sequence[_Sample], column: int, limit: int) -> Growth | None:
    """Compare the medians of the first and the last fifth: a moment's allocation is no growth."""
    found = [(sample[0], value) for sample in samples if (value := sample[column]) is not None]
    if len(found) < _FEWEST:
        return None
    times, values = (np.array(part, np.float64) for part in zip(*found, strict=True))
    fifth = max(len(values) // 5, 1)
    slope = float(np.polyfit(times, values, 1)[0]) * 3600
    return Growth(
        warm=int(np.median(values[:fifth])), end=int(np.median(values[-fifth:])), slope_per_hour=slope, limit=limit
    )


def _judge(findings: Findings, row: Soak) -> None:
    for what, growth in (("host", row.host), ("GPU", row.gpu)):
        if growth and growth.end - growth.warm > growth.limit:
            findings.problem(
                f"{row.bundle}, {row.engine}: expected {what} memory to grow by at most {growth.limit / MB:.0f} MB in "
                f"{row.minutes:g} minutes, found {(growth.end - growth.warm) / MB:.1f} MB"
            )
    if row.wrong:
        findings.problem(
            f"{row.bundle}, {row.engine}: expected the same mask of the same image every time, found {row.wrong} of "
            f"{row.images} that differ"
        )
