"""The peak memory of runs over large rasters, and what the estimate foresaw: python -m benchmarks.memory [CASE ...].

Each run is a process of its own with all outputs: mask, probabilities and preview. The peak is the process's, Python,
engine and GDAL's cache included. Cases: see `CASES`; by default those that take minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .parts.rasters import write_raster, write_sparse

_ESTIMATE = """
import json, sys
from pathlib import Path
from fctl.runtime import Paths, Segmenter
out = Path(sys.argv[3])
paths = Paths(mask=out / "m.tif", probabilities=out / "p.tif", preview=out / "v.png")
with Segmenter(sys.argv[2], backend="onnxruntime") as segmenter:
    found = segmenter.estimate(sys.argv[1], paths, trial=True)
print(json.dumps([found.process, found.seconds, found.tiles]))
"""
_RUN = """
import sys
from pathlib import Path
from fctl.runtime import Paths, Segmenter
out = Path(sys.argv[3])
paths = Paths(mask=out / "m.tif", probabilities=out / "p.tif", preview=out / "v.png")
with Segmenter(sys.argv[2], backend="onnxruntime") as segmenter:
    segmenter.segment_file(sys.argv[1], paths)
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Case:
    """A raster to run.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        sparse: Whether no block of it is in the file, so that all of it is nodata.
        profile: What differs from blocks of 256 pixels, as rasterio has it.
    """

    height: int
    width: int
    sparse: bool = False
    profile: Mapping[str, object] | None = None


CASES = {
    "wide": Case(3000, 100_000),
    "wide strips": Case(3000, 100_000, profile={"tiled": False, "blockxsize": 100_000, "blockysize": 1}),
    "tall": Case(60_000, 4000),
    "one block": Case(20_000, 20_000, profile={"blockxsize": 20_000, "blockysize": 20_000, "interleave": "pixel"}),
    "quarter": Case(25_000, 100_000, sparse=True),
    "huge": Case(100_000, 100_000, sparse=True),
}


def _measure(code: str, *arguments: object) -> tuple[float, str]:
    """Run some Python in a process: seconds, and what it printed."""
    started = time.monotonic()
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.monotonic() - started, process.stdout


def main() -> None:
    """Run the cases and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=["wide", "wide strips", "tall", "one block"])
    parser.add_argument("--bundle", default=str(Path(__file__).parents[1] / "tests" / "data" / "tiny_wide.fctl"))
    parser.add_argument(
        "--folder", type=Path, help="where rasters and outputs go for a while; default: a temporary one"
    )
    arguments = parser.parse_args()
    print("| raster | tiles | peak | foreseen | seconds | foreseen |\n|---|---|---|---|---|---|")
    for name in arguments.cases:
        case = CASES[name]
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            image, out = Path(folder) / "image.tif", Path(folder) / "out"
            if case.sparse:
                write_sparse(image, case.height, case.width)
            else:
                write_raster(image, np.random.default_rng(0), case.height, case.width, case.profile)
            _, printed = _measure(_ESTIMATE, image, arguments.bundle, out)
            memory, foreseen, tiles = json.loads(printed)
            seconds, printed = _measure(_RUN, image, arguments.bundle, out)
            peak = int(printed) * 1024  # told by the process: what the system tells of a child counts its parent too
            print(
                f"| {name}: {case.height} x {case.width} | {tiles} | {peak / 1e6:.0f} MB | {memory / 1e6:.0f} MB "
                f"| {seconds:.0f} | {foreseen:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
