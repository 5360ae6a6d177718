"""Runs fctl over every raster of a folder, each in a process of its own, and prints a table for docs/rasters.md.

python -m benchmarks.rasters_table FOLDER --bundle tests/data/tiny_wide.fctl
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

_ROWS = 1024  # that are compared at a time


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run.

    Attributes:
        code: What the process ended with.
        told: The last line that is an error or a warning, or nothing.
        seconds: Time that it took.
        memory: Most bytes of memory that it took.
    """

    code: int
    told: str
    seconds: float
    memory: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--most", type=int, default=10**8, help="Larger rasters, in pixels, are estimated and not run.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    print("| raster | pixels | result | size, CRS, transform | no data | time | memory |")
    print("|---|---|---|---|---|---|---|")
    for image in sorted(arguments.folder.glob("*.tif")):
        print(_row(image, arguments.bundle, arguments.most), flush=True)


def _row(image: Path, bundle: str, most: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        mask = Path(folder) / "mask.tif"
        options = ["--bundle", bundle, "--no-preview", "--out", str(mask), "--backend", "onnxruntime"]
        with rasterio.open(image) as source:
            pixels, is_large = f"{source.height} x {source.width}, {source.count} {source.dtypes[0]}", False
            if source.height * source.width > most:
                options, is_large = [*options, "--dry-run"], True
        asked: list[str] = []
        run = _run([str(image), *options])
        for wanted in (["--scale-range", "percentile:2,98"], ["--bands", "3,2,1"]):
            if run.code and f"{wanted[0]}" in run.told:
                asked += wanted
                run = _run([str(image), *options, *asked])
        seconds, memory = f"{run.seconds:.1f} s", f"{run.memory / 1e6:.0f} MB"
        with rasterio.open(image) as source:
            if is_large and not run.code:
                return f"| {image.name} | {pixels} | estimated (`--dry-run`) | | | {seconds} | {memory} |"
            if run.code:
                told = run.told.replace(f"{image}: ", "").removeprefix("error: ")
                return f"| {image.name} | {pixels} | refused: {told} | | | {seconds} | {memory} |"
            with rasterio.open(mask) as dataset:
                kept, missing = _kept(source, dataset), _missing(source, dataset)
        result = "mask" + (f" with `{' '.join(asked)}`" if asked else "")
        return f"| {image.name} | {pixels} | {result} | {kept} | {missing} | {seconds} | {memory} |"


def _run(arguments: Sequence[str]) -> Run:
    """Run ``fctl-run``, and measure it."""
    started = time.monotonic()
    command = [sys.executable, "-c", "from fctl.runtime.cli.run import run_app; run_app()", *arguments]
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        lines = [line for line in told.read().splitlines() if line.startswith(("error", "warning"))]
    return Run(process.returncode, lines[-1] if lines else "", time.monotonic() - started, usage.ru_maxrss * 1024)


def _kept(source: DatasetReader, mask: DatasetReader) -> str:
    """What of the image's place is not in the mask; "kept" where all is."""
    lost = [
        name
        for name, same in (
            ("size", source.shape == mask.shape),
            ("CRS", source.crs == mask.crs),
            ("transform", source.transform == mask.transform),
            ("control points", len(source.gcps[0]) == len(mask.gcps[0])),
            ("RPCs", source.rpcs == mask.rpcs),
        )
        if not same
    ]
    if lost:
        return f"**lost: {', '.join(lost)}**"
    if source.gcps[0]:
        return "kept, control points"
    return "kept" if source.crs else "kept, no CRS" if not source.transform.is_identity else "none to keep"


def _missing(source: DatasetReader, mask: DatasetReader) -> str:
    """How many pixels have no data, and whether GDAL says the same of the image."""
    ours = theirs = differing = 0
    for y in range(0, source.height, _ROWS):
        window = ((y, min(y + _ROWS, source.height)), (0, source.width))
        lacks = mask.read(1, window=window) == 255
        try:
            declared = source.dataset_mask(window=window) == 0
        except RasterioError:
            return "unreadable"
        ours, theirs = ours + int(np.count_nonzero(lacks)), theirs + int(np.count_nonzero(declared))
        differing += int(np.count_nonzero(lacks != declared))
    share = f"{ours / (source.height * source.width):.1%}"
    return f"{share}, kept" if not differing else f"{share}, GDAL {theirs / (source.height * source.width):.1%}"


if __name__ == "__main__":
    main()
