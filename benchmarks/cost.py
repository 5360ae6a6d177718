"""What a run that is spread costs, and where it stops scaling: python -m benchmarks.cost [--measure] [--out scale.png].

`--measure` measures what the model is fed with (read, infer, merge and write a tile; assemble a megapixel; a shard's
line in the journal; a store's answers; start and end). `python -m benchmarks.scheduler` measures what a task costs, and
`python -m benchmarks.scale` the runs against which the model is checked. All figures are kept in docs/scale.json.

The model is then extended to 10^12 pixels: by figures measured here, but for those that are marked as assumed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from fctl.runtime.evaluate.plots import BLUE, GREEN, GREY, VERMILION, stacked
from fctl.runtime.tiling.windows import Grid

from .parts.cost_model import Cost, Rates, blocks, one_mask
from .parts.figures import Figures, Parameters
from .parts.nothing import write_bundle
from .parts.parameters import grid_of, manifest_of, measure
from .parts.ways import DEFAULT, ONE_CORE

_JSON = Path(__file__).parents[1] / "docs" / "scale.json"
_CORES = 2  # of the machine on which everything was measured
_SIDE = 1_000_000  # pixels: 10^12 in all
_BLOCK = 32_768  # side in pixels of a block that a job makes by itself: two panels
_WORKERS = (10, 100, 1000)
_CURVE = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10_000)
_GPU = 50.0  # assumed: megapixels a second of one GPU, reading and writing included
_BANDWIDTH = 200e6  # assumed: bytes a second that one process fetches from a store
_LATENCY = 0.03  # assumed: seconds until a store on the network answers
_HOUR = 3600.0


def main() -> None:
    """Measure if that is wanted, print Markdown tables, and draw the chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the parameters anew")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement")
    parser.add_argument("--json", type=Path, default=_JSON, help="where figures are kept")
    parser.add_argument("--out", type=Path, help="the chart, .png or .svg")
    arguments = parser.parse_args()
    figures = Figures.read(arguments.json)
    if arguments.measure:
        figures.parameters = measure(arguments.rounds)
        figures.write(arguments.json)
    if figures.parameters is None:
        raise SystemExit(f"{arguments.json} has no parameters: measure them with --measure")
    task = _task(figures)
    _print_parameters(figures.parameters, task)
    _print_check(figures, task)
    processor = _rates(figures.parameters, DEFAULT, task, far=True)
    grid = grid_of(manifest_of(DEFAULT), _SIDE)
    gpu = replace(processor, tile=_pixels(grid) / 1e6 / _GPU)
    speeds = {"a core as measured here": processor, f"a GPU, assumed: {_GPU:.0f} MPix/s": gpu}
    for name, rates in speeds.items():
        _print_scale(name, rates, grid, figures.parameters.image[DEFAULT])
    if arguments.out:
        _draw(speeds, grid, arguments.out)


def _rates(parameters: Parameters, network: str, task: float, *, far: bool = False) -> Rates:
    """What the parts of a run take; `far` where shards go through a store."""
    near = Rates(
        fixed=parameters.fixed[network][ONE_CORE], tile=parameters.tile[network],
        assemble=parameters.assemble[network], shard=parameters.note + parameters.part, task=task,
    )  # fmt: skip
    return replace(near, get=_LATENCY, bandwidth=_BANDWIDTH, kept=parameters.kept[network]) if far else near


def _task(figures: Figures) -> float:
    """Seconds that the scheduler takes for a task."""
    found = next(iter(figures.scheduler.values()), None)
    if found is None:
        raise SystemExit("nobody measured what a task costs: python -m benchmarks.scheduler --json docs/scale.json")
    return found["seconds"] / found["tasks"]


def _pixels(grid: Grid) -> float:
    """Pixels of a large raster for each of its tiles."""
    return grid.height * grid.width / len(grid)


def _print_parameters(found: Parameters, task: float) -> None:
    print(f"{found.processor}, {_CORES} cores\n\n| what | " + " | ".join(found.tile) + " |\n|---|---|---|")
    for what, values in {
        "a tile: read, infer, merge, write, one core, ms": {k: 1e3 * v for k, v in found.tile.items()},
        "the same with both cores in one process, ms": {k: 1e3 * v for k, v in found.tile_on_all.items()},
        "the mask of a megapixel, assembled, s": found.assemble,
        "a preview of full size, s": found.preview,
        "bytes of a shard for each pixel": found.kept,
        "start and end of one process, s": {k: v[ONE_CORE] for k, v in found.fixed.items()},
    }.items():
        print(f"| {what} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |")
    for what, value in {
        "a task in the scheduler, ms": task, "a line in the journal, ms": found.note,
        "opening a shard to assemble it, ms": found.part, "listing 1000 names, moto on this machine, ms": found.listing,
        "fetching a small file from there, ms": found.get,
    }.items():  # fmt: skip
        print(f"| {what} | {1e3 * value:.2f} | |")


def _print_check(figures: Figures, task: float) -> None:
    """What the model foresees of the runs that were measured."""
    parameters = figures.parameters
    assert parameters
    print("\n| network | way | seconds, measured | foreseen | error |\n|---|---|---|---|---|")
    for network, runs in figures.runs.items():
        with tempfile.TemporaryDirectory(prefix="fctl-cost-") as name:
            manifest = manifest_of(DEFAULT if network == DEFAULT else str(write_bundle(Path(name))))
        grid = grid_of(manifest, runs.side)
        for way, clock in runs.clock.items():
            workers, measured = runs.workers[way], statistics.median(clock)
            fixed = parameters.fixed[network][way] + parameters.preview[network]
            rates = replace(_rates(parameters, network, task), fixed=fixed)
            if workers == 1 and way != ONE_CORE:
                rates = replace(rates, tile=parameters.tile_on_all[network])
            found = one_mask(rates, grid, workers, _CORES).total
            error = 100 * (found / measured - 1)
            print(f"| {network} | {way} | {measured:.2f} | {found:.2f} | {error:+.0f} % |")


def _print_scale(name: str, rates: Rates, grid: Grid, image: float) -> None:
    """10^12 pixels on many workers."""
    speed = _pixels(grid) / 1e6 / rates.tile
    print(f"\n{name}: {speed:.2f} MPix/s a worker, {_SIDE} x {_SIDE} pixels; hours\n")
    print("| workers | shards | made in | scheduler | fetched in | assembled in | one mask | efficiency "
          f"| blocks of {_BLOCK} | efficiency | images read, GB/s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    alone = one_mask(rates, grid, 1).total
    for workers in _WORKERS:
        mask, apart = one_mask(rates, grid, workers), blocks(rates, grid, workers, _BLOCK)
        reads = image * grid.height * grid.width / mask.shards / 1e9
        columns = (mask.shards, mask.scheduler, mask.fetch, mask.assemble, mask.total)
        print(
            f"| {workers} | {mask.count} | " + " | ".join(f"{one / _HOUR:.2f}" for one in columns)
            + f" | {_share(alone, mask, workers)} | {apart.total / _HOUR:.2f} | {_share(alone, apart, workers)} "
            f"| {reads:.2f} |"
        )  # fmt: skip


def _share(alone: float, cost: Cost, workers: int) -> str:
    """The efficiency, to one worker."""
    return f"{100 * alone / cost.total / workers:.0f} %"


def _draw(speeds: dict[str, Rates], grid: Grid, path: Path) -> None:
    """Draw hours by workers, a panel for each speed."""
    chart, panels = stacked("10^12 pixels: hours by the number of workers", len(speeds), "workers")
    for panel, (name, rates) in zip(panels, speeds.items(), strict=True):
        masks = [one_mask(rates, grid, workers) for workers in _CURVE]
        apart = [blocks(rates, grid, workers, _BLOCK) for workers in _CURVE]
        ideal = masks[0].total
        for label, colour, style, seconds in (
            ("ideal", GREY, ":", [ideal / workers for workers in _CURVE]),
            ("one mask", VERMILION, "-", [one.total for one in masks]),
            ("of that assembling, in one process", VERMILION, "--", [one.assemble for one in masks]),
            ("a mask for each block, and a VRT", BLUE, "-", [one.total for one in apart]),
            ("scheduler", GREEN, "--", [one.scheduler for one in masks]),
        ):
            panel.loglog(_CURVE, [one / _HOUR for one in seconds], style, color=colour, label=label)
        panel.set_ylabel("hours")
        panel.set_title(name, loc="left", fontsize=10)
    panels[0].legend(loc="upper right", fontsize=8)
    chart.save(path)


if __name__ == "__main__":
    main()
