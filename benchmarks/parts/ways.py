"""Ways to run one image: one process, several, workers of Dask; each run is a process of its own, which is timed."""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fctl.runtime.bench.pixels import write_mosaic

from .nothing import program, write_bundle
from .rasters import write_raster

CHEAP, DEFAULT = "cheap", "default"
ONE_CORE, ONE = "one process on one core", "one process"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How an image is run.

    Attributes:
        name: What a table calls it.
        options: Those of `fctl-run`.
        workers: How many of them share the cores.
        cores: Numbers of the cores that may be used; None for all.
    """

    name: str
    options: tuple[str, ...] = ()
    workers: int = 1
    cores: frozenset[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Took:
    """What runs in one way took, in the order of the rounds.

    Attributes:
        clock: Seconds by the clock, from the start of the process to its end.
        processor: Seconds of all cores, those of workers included.
    """

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The median of the seconds by the clock."""
        return statistics.median(self.clock)


def ways(counts: Sequence[int]) -> tuple[Way, ...]:
    """One process on one core and on all, and so many workers of either kind."""
    return (
        Way(name=ONE_CORE, cores=one_core()),
        Way(name=ONE),
        *(Way(name=f"`--workers {n}`", options=("--workers", str(n)), workers=n) for n in counts if n > 1),
        *(Way(name=f"`--dask local:{n}`", options=("--dask", f"local:{n}"), workers=n) for n in counts),
    )


def prepared(network: str, image: Path, side: int) -> str:
    """Write the raster for a network; returns its bundle."""
    if network == DEFAULT:
        write_mosaic(image, side, 3, "uint8")
        return DEFAULT
    write_raster(image, np.random.default_rng(0), side, side)
    return str(write_bundle(image.parent))


def one_core() -> frozenset[int]:
    """The first of the cores that this process may use."""
    return frozenset(sorted(os.sched_getaffinity(0))[:1])


def run_once(way: Way, image: Path, bundle: str, out: Path, took: Took | None = None) -> dict[str, str]:
    """Run an image once.

    Args:
        way: How.
        image: The image.
        bundle: The bundle.
        out: The folder of the outputs, which is removed.
        took: Where the seconds are noted.

    Returns:
        The digests of all outputs, by name.

    Raises:
        SystemExit: The run failed.
    """
    seconds, processor = run(image, bundle, out, way.options, way.cores)
    if took:
        took.clock.append(seconds)
        took.processor.append(processor)
    found = digests(out)
    shutil.rmtree(out)
    return found


def run(
    image: Path, bundle: str, out: Path, options: Sequence[str] = (), on: frozenset[int] | None = None
) -> tuple[float, float]:
    """Let `fctl-run` segment an image in ONNX Runtime.

    Args:
        image: The image.
        bundle: The bundle.
        out: The folder of the outputs.
        options: More options.
        on: Numbers of the cores that may be used; None for all.

    Returns:
        Seconds by the clock from the start of the process to its end, and those of all cores, workers included.

    Raises:
        SystemExit: The run failed.
    """
    asked = [program("fctl-run"), image, "--bundle", bundle, "--backend", "onnxruntime", "--out", out, "--quiet"]
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on or before)  # which the process inherits
    started = time.perf_counter()
    process = subprocess.Popen([*map(str, asked), *options], stderr=subprocess.PIPE, text=True)
    os.sched_setaffinity(0, before)
    assert process.stderr
    said = process.stderr.read()
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    seconds = time.perf_counter() - started
    process.stderr.close()
    if process.returncode:
        raise SystemExit(f"fctl-run {' '.join(options)} ended with {process.returncode}: {said}")
    return seconds, usage.ru_utime + usage.ru_stime


def digests(folder: Path) -> dict[str, str]:
    """Digests of all files under a folder, by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def check_same(name: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """See that outputs have the same bytes as those of the first run.

    Raises:
        SystemExit: They have not; it names the files.
    """
    differ = [file for file in {**found, **expected} if found.get(file) != expected.get(file)]
    if differ:
        raise SystemExit(f"{name}: other bytes than the first run in {', '.join(sorted(differ))}")
