"""The pipeline around the network, alone and beside GeoDeep: python -m benchmarks.pipeline [--geodeep COMMAND].

The network gives its three bands back as scores, so that what remains is reading, tiling, merging and writing. fctl and
GeoDeep get the same raster, the same graph, tiles of 256 pixels and an overlap of 25. Each run is a process of its own,
whose start counts; rounds alternate; medians are printed. `--stages` shows where the processor's time goes instead.

GeoDeep is installed into an environment of its own: pip install geodeep==0.9.13 scipy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper

from fctl.runtime import Paths, Segmenter
from fctl.runtime.engines.base import Session
from fctl.runtime.raster import cog
from fctl.runtime.raster.source import RasterSource
from fctl.runtime.raster.writer import RasterWriter
from fctl.runtime.segment.picture import PictureScale
from fctl.runtime.segment.shards.parts import Part, PartWriter
from fctl.runtime.segment.sinks import preview
from fctl.runtime.tiling.merge import Merger, Strip
from fctl.runtime.tiling.sources import HostSource

from .parts.nothing import graph, program, write_bundle
from .parts.rasters import write_raster

_METADATA = {
    "model_type": "Segmentor", "class_names": {"0": "a", "1": "b", "2": "c"}, "resolution": 50, "seg_thresh": 0,
    "tiles_overlap": 10, "seg_small_segment": 11,
}  # fmt: skip
_FILE = """
import sys, time
from pathlib import Path
from fctl.runtime import Paths, Segmenter
with Segmenter(sys.argv[2], backend="onnxruntime") as segmenter:
    started = time.perf_counter()
    segmenter.segment_file(sys.argv[1], Paths(mask=Path(sys.argv[3])), overwrite=True)
    print(time.perf_counter() - started)
"""
_STAGES: tuple[tuple[object, str, str], ...] = (
    (RasterSource, "_read", "reading"), (HostSource, "stack", "cutting patches"), (Session, "run", "engine"),
    (Merger, "_add", "merging"), (Merger, "_strip", "merging"), (Merger, "_drop", "merging"), (Strip, "ids", "classes"),
    (PictureScale, "part", "picture of the preview"), (PartWriter, "add", "writing shards"),
    (PartWriter, "finish", "writing shards"), (Part, "_array", "reading shards"),
    (RasterWriter, "write", "writing the plain mask"), (cog, "_copy", "COG with overviews"),
    (preview, "draw_preview", "drawing the preview"),
)  # fmt: skip


class Cost(NamedTuple):
    """What a process took: seconds by the clock, seconds of all cores, and the peak of its memory in MB."""

    seconds: float
    processor: float
    memory: float


def main() -> None:
    """Measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=6000, help="of the raster in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--geodeep", metavar="COMMAND", help="the command of GeoDeep, where it is installed")
    parser.add_argument("--stages", action="store_true", help="where the processor's time goes, without GeoDeep")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fctl-") as name:
        folder = Path(name)
        image = folder / "image.tif"
        write_raster(image, np.random.default_rng(0), arguments.side, arguments.side)
        bundle = write_bundle(folder)
        if arguments.stages:
            _print_stages(image, bundle, folder)
        else:
            _compare(image, bundle, folder, arguments.rounds, arguments.geodeep)


def _compare(image: Path, bundle: Path, folder: Path, rounds: int, geodeep: str | None) -> None:
    """Run everything in turn, and print what it took."""
    mask = folder / "mask.tif"
    run = (program("fctl-run"), image, "--bundle", bundle, "--backend", "onnxruntime", "--out", folder, "--overwrite",
           "--quiet")  # fmt: skip
    ways: dict[str, Sequence[str | Path]] = {
        "`fctl-run`, mask and preview": run,
        "`fctl-run --no-preview`": (*run, "--no-preview"),
        "`Segmenter.segment_file` alone, mask": (sys.executable, "-c", _FILE, image, bundle, mask),
    }
    if geodeep:
        model = graph(1)
        helper.set_model_props(model, {name: json.dumps(value) for name, value in _METADATA.items()})
        onnx.save(model, folder / "geodeep.onnx")
        threads = str(os.cpu_count())
        ways["GeoDeep"] = (geodeep, image, folder / "geodeep.onnx", "-t", "mask", "-o", mask, "--max-threads", threads)
    costs = defaultdict[str, list[Cost]](list)
    for _ in range(rounds):
        for way, command in ways.items():
            costs[way].append(_cost(command))
    print(f"| | seconds | processor seconds | peak MB |{' of GeoDeep |' if geodeep else ''}")
    print(f"|{'---|' * (5 if geodeep else 4)}")
    for way, found in costs.items():
        middle = Cost(*(statistics.median(values) for values in zip(*found, strict=True)))
        row = f"| {way} | {middle.seconds:.2f} | {middle.processor:.2f} | {middle.memory:.0f} |"
        if geodeep:
            ratios = [one.seconds / other.seconds for one, other in zip(found, costs["GeoDeep"], strict=True)]
            row += f" {statistics.median(ratios):.2f} |"
        print(row)


def _cost(command: Sequence[str | Path]) -> Cost:
    """Run a command, which may print how many seconds count."""
    started = time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    status, ended, peak = Path(f"/proc/{process.pid}/status"), 0, 0.0
    while not ended:  # what the system tells at the end counts this process in, from before the command began
        peak = max(peak, *(int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line), 0)
        time.sleep(0.005)
        ended, code, usage = os.wait4(process.pid, os.WNOHANG)
    seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(code)
    with process:
        told = process.stdout.read().decode(errors="replace") if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return Cost(float(told) if command[1] == "-c" else seconds, usage.ru_utime + usage.ru_stime, peak * 1024 / 1e6)


def _print_stages(image: Path, bundle: Path, folder: Path) -> None:
    """Run in this process, and print the seconds of each stage, without those that it waited for another one."""
    taken, stack = defaultdict[str, float](float), threading.local()
    for owner, name, stage in _STAGES:
        setattr(owner, name, _timed(getattr(owner, name), stage, taken, stack))
    with Segmenter(bundle, backend="onnxruntime") as segmenter:
        started, processor = time.perf_counter(), time.process_time()
        segmenter.segment_file(image, Paths(mask=folder / "m.tif", preview=folder / "v.jpg"))
        seconds, total = time.perf_counter() - started, time.process_time() - processor
    print("| stage | processor seconds |\n|---|---|")
    for stage in dict.fromkeys(stage for _, _, stage in _STAGES):
        print(f"| {stage} | {taken[stage]:.2f} |")
    print(f"| everything | {total:.2f} |\n\n{seconds:.2f} seconds by the clock")


def _timed(
    function: Callable[..., object], stage: str, taken: dict[str, float], stack: threading.local
) -> Callable[..., object]:
    """A function whose processor time is added to its stage; GDAL's and the engine's threads count where it waits."""
    clock = time.process_time if stage == "COG with overviews" else time.thread_time

    def timed(*arguments: object, **options: object) -> object:
        inner, stack.inner = getattr(stack, "inner", 0.0), 0.0
        started = clock()
        try:
            return function(*arguments, **options)
        finally:
            spent = clock() - started
            taken[stage] += spent - stack.inner
            stack.inner = inner + spent

    return timed


if __name__ == "__main__":
    main()
