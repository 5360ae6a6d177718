"""Wall-clock and efficiency of one run that is spread: python -m benchmarks.scale [--side 6000] [--rounds 3].

One image is run by one process on one core, by one process on all of them, by `--workers N` and by `--dask local:N`,
with a network that costs next to nothing, so that overhead shows, and with the default one. Each run is a process of
its own, whose start counts. Ways take turns, for a machine's speed drifts; medians are printed. The outputs of each run
must have the bytes of the first one's, or the benchmark ends.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fctl.runtime.bench.machine import cores, load
from fctl.runtime.engines.processor import name as processor

from .parts.figures import Figures, Runs
from .parts.ways import CHEAP, DEFAULT, ONE, ONE_CORE, Took, Way, check_same, prepared, run_once, ways


def main() -> None:
    """Run, and print a Markdown table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=[CHEAP, DEFAULT], metavar="|".join((CHEAP, DEFAULT)))
    parser.add_argument("--side", type=int, default=6000, help="of the raster of the cheap network, in pixels")
    parser.add_argument("--default-side", type=int, default=3000, help="of that of the default bundle")
    parser.add_argument("--counts", default="1,2,4", help="of workers, with commas between them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="keeps the figures for benchmarks.cost")
    arguments = parser.parse_args()
    figures = Figures.read(arguments.json)
    print(f"{processor()}, {cores()} cores, load {load()}")
    for network in arguments.networks:
        with tempfile.TemporaryDirectory(prefix="fctl-scale-") as name:
            folder = Path(name)
            image, side = folder / "image.tif", arguments.side if network == CHEAP else arguments.default_side
            bundle = prepared(network, image, side)
            compared = ways([int(count) for count in arguments.counts.split(",")])
            took = _compared(compared, image, bundle, folder / "out", arguments.rounds)
        _print(network, side, took)
        figures.runs[network] = Runs(
            side=side, clock={way.name: one.clock for way, one in took.items()},
            workers={way.name: way.workers for way in took},
        )  # fmt: skip
        figures.write(arguments.json)


def _compared(compared: tuple[Way, ...], image: Path, bundle: str, out: Path, rounds: int) -> dict[Way, Took]:
    """Run in all ways in turn, after one run that warms up and tells what the outputs must be."""
    expected = run_once(Way(name=ONE), image, bundle, out)
    took = {way: Took() for way in compared}
    for _ in range(rounds):
        for way, taken in took.items():
            check_same(way.name, run_once(way, image, bundle, out, taken), expected)
    return took


def _print(network: str, side: int, took: Mapping[Way, Took]) -> None:
    """One table. Efficiency is the time of one process with the same cores, over that of a way."""
    of = {way.name: taken.median for way, taken in took.items()}
    print(f"\n{network} network, {side} x {side} pixels; all outputs have the same bytes\n")
    print("| | seconds (lowest - highest) | processor seconds | speed-up over one core | efficiency |")
    print("|---|---|---|---|---|")
    for way, taken in took.items():
        spread = f"{taken.median:.2f} ({min(taken.clock):.2f} - {max(taken.clock):.2f})"
        best = of[ONE] if way.name != ONE_CORE else taken.median
        print(
            f"| {way.name} | {spread} | {np.median(taken.processor):.2f} | {of[ONE_CORE] / taken.median:.2f} "
            f"| {100 * best / taken.median:.0f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
