"""Time and memory of runs by the size of the raster: python -m benchmarks.scaling BUNDLE [--megapixels 1,4,25,100,400].

Each size is a process of its own that segments a square raster once, from file to file. Where a run is linear, the
line of the time is straight; where memory is bounded, that of the peak levels off. Rasters lie in a temporary folder,
one at a time. A network that costs next to nothing shows what all else takes.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fctl.runtime.bench.cases import Case
from fctl.runtime.bench.machine import cores, load
from fctl.runtime.bench.pixels import write_mosaic
from fctl.runtime.bench.process import CaseProcess
from fctl.runtime.bench.work import FileRun, Image, WarmUp
from fctl.runtime.engines.processor import name as processor
from fctl.runtime.evaluate.plots import BLUE, VERMILION, stacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a raster of one size took.

    Attributes:
        side: Its height and width in pixels.
        seconds: By the clock.
        processor: Seconds of processor time.
        peak: The most bytes of memory that the process took, its engine included.
    """

    side: int
    seconds: float
    processor: float
    peak: int

    @property
    def megapixels(self) -> float:
        """Its size."""
        return self.side**2 / 1e6


def main() -> None:
    """Measure all sizes that are not in the file of figures yet, print a Markdown table, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--megapixels", default="1,4,25,100,400", help="with commas between them")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--json", type=Path, help="keeps the figures: sizes that it has already are not run again")
    parser.add_argument("--out", type=Path, help="the picture, .png or .svg")
    parser.add_argument("--folder", type=Path, help="where rasters and outputs go for a while")
    arguments = parser.parse_args()
    wanted = [round(math.sqrt(1e6 * float(size))) for size in arguments.megapixels.split(",")]
    known = _read(arguments.json)
    print(f"{processor()}, {cores()} cores, load {load()}\n")
    print("| raster | MPix | seconds | MPix/s | processor seconds | peak, MB |\n|---|---|---|---|---|---|")
    points = list[Point]()
    for side in wanted:
        point = known.get(side) or _measured(side, arguments)
        points.append(point)
        speed = point.megapixels / point.seconds
        print(
            f"| {side} x {side} | {point.megapixels:.0f} | {point.seconds:.1f} | {speed:.1f} | {point.processor:.1f} "
            f"| {point.peak / 1e6:.0f} |",
            flush=True,
        )
        if arguments.json:
            known[side] = point
            arguments.json.write_text(json.dumps([asdict(one) for one in known.values()], indent=2) + "\n")
    if arguments.out:
        _draw(points, arguments.out)


def _read(path: Path | None) -> dict[int, Point]:
    """Figures of an earlier call, by side."""
    if path is None or not path.exists():
        return {}
    return {one["side"]: Point(**one) for one in json.loads(path.read_text(encoding="utf-8"))}


def _measured(side: int, arguments: argparse.Namespace) -> Point:
    """Run one size."""
    case = Case(bundle=arguments.bundle, backend=arguments.backend)
    with (
        tempfile.TemporaryDirectory(prefix="fctl-scaling-", dir=arguments.folder) as name,
        CaseProcess(case) as process,
    ):
        folder = Path(name)
        path = folder / "image.tif"
        write_mosaic(path, side, process.opened.bands, process.opened.dtype)
        image = Image(place=str(path), bands=tuple(range(1, process.opened.bands + 1)))
        threads = process.ask(WarmUp(image=image, folder=folder))
        found = process.ask(FileRun(image=image, folder=folder, engine_threads=threads))
    return Point(side=side, seconds=found.seconds, processor=found.processor, peak=found.peak or 0)


def _draw(points: Sequence[Point], path: Path) -> None:
    """Draw time and memory by size."""
    chart, (upper, lower) = stacked("A run by the size of its raster", 2, "megapixels")
    sizes = [point.megapixels for point in points]
    for panel, label, values, colour in (
        (upper, "seconds", [point.seconds for point in points], BLUE),
        (lower, "peak of memory, MB", [point.peak / 1e6 for point in points], VERMILION),
    ):
        panel.plot(sizes, values, "o-", color=colour)
        panel.set_ylabel(label)
        panel.set_ylim(0, 1.15 * max(values))
    lower.set_xlim(left=0)
    chart.save(path)


if __name__ == "__main__":
    main()
