"""What the process of a case is asked to do. Each kind of work is sent to it, and its result is sent back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..raster.source import open_raster
from ..segment.results import Paths
from ..segment.segmenter import Segmenter
from ..segment.where import Where
from ..stopwatch import Stage, Stopwatch, Times
from ..tiling.windows import Window
from .machine import other_threads, peak_memory, thread_seconds

_FRAMES = 16  # that differ
ENGINE: tuple[Stage, ...] = ("encode", "segment")
"""Stages in which the engine works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What is segmented.

    Attributes:
        place: The image, as GDAL names it.
        bands: Numbers of the bands to use, from 1; None for all but alpha.
    """

    place: str
    bands: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run over a file took.

    Attributes:
        pixels: Pixels of the image.
        patches: Patches that were inferred.
        seconds: By the clock, from the image to its finished outputs.
        processor: Seconds of processor time of the whole process.
        outside: Those that the engine did not take; None where the system does not tell.
        times: What each stage took.
        peak: The most bytes of memory that the process ever took, its engine included; None likewise.
    """

    pixels: int
    patches: int
    seconds: float
    processor: float
    outside: float | None
    times: Times
    peak: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """Run everything once; gives the threads of the engine.

    Attributes:
        image: The image.
        folder: Where outputs lie for a while.
    """

    image: Image
    folder: Path

    def __call__(self, segmenter: Segmenter) -> frozenset[int]:
        """Segment black in memory, which starts no thread but the engine's, then a corner of the image into files."""
        manifest = segmenter.manifest
        side = manifest.tile  # one batch
        segmenter.segment(np.zeros((side, side, manifest.input.bands), manifest.input.dtype))
        threads = other_threads()
        with TemporaryDirectory(dir=self.folder) as out:
            segmenter.segment_file(
                self.image.place, _outputs(out), bands=self.image.bands, where=Where(window=(0, 0, side, side))
            )
        return threads


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRun:
    """Segment a file as ``fctl-run`` does, into a mask and a preview; gives what that took.

    Attributes:
        image: The image.
        folder: Where outputs lie for a while.
        engine_threads: What `WarmUp` gave.
    """

    image: Image
    folder: Path
    engine_threads: frozenset[int]

    def __call__(self, segmenter: Segmenter) -> Measured:
        """Segment the file."""
        with TemporaryDirectory(dir=self.folder) as out:
            watch, before = Stopwatch(), thread_seconds(self.engine_threads)
            processor, clock = time.process_time(), time.perf_counter()
            report = segmenter.segment_file(self.image.place, _outputs(out), bands=self.image.bands, stopwatch=watch)
            seconds, processor = time.perf_counter() - clock, time.process_time() - processor
            after = thread_seconds(self.engine_threads)
        times, others = watch.times(), None if before is None or after is None else after - before
        return Measured(
            pixels=report.height * report.width, patches=report.computed or 0, seconds=seconds, processor=processor,
            outside=None if others is None else max(processor - times.of(*ENGINE).processor - others, 0),
            times=times, peak=peak_memory(),
        )  # fmt: skip


def _outputs(folder: str) -> Paths:
    return Paths(mask=Path(folder) / "mask.tif", preview=Path(folder) / "preview.jpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Segment small images one after the other; gives how many seconds each took.

    Attributes:
        image: The image that they are cut from.
        side: Their height and width in pixels, as far as the image is as large.
        count: How many.
    """

    image: Image
    side: int
    count: int

    def __call__(self, segmenter: Segmenter) -> tuple[float, ...]:
        """Segment the frames, from arrays in memory to arrays in memory."""
        with open_raster(self.image.place, segmenter.manifest.input, self.image.bands) as source:
            height, width = min(self.side, source.height), min(self.side, source.width)
            places = [
                Window(i * (source.height - height) // _FRAMES, i * (source.width - width) // _FRAMES, height, width)
                for i in range(min(_FRAMES, self.count))
            ]
            frames = [source.read(place) for place in places]
        seconds = []
        for number in range(self.count):
            started = time.perf_counter()
            segmenter.segment(frames[number % len(frames)])
            seconds.append(time.perf_counter() - started)
        return tuple(seconds)
