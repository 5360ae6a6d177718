"""``fctl-bench``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ..choices import Backend, ContextEncoding, PrecisionChoice
from ..errors import OutputError
from .console import command, echo, usage
from .groups import OptionGroup
from .interrupts import ending_at_once
from .options import BuildEngines, Overwrite, batch_size, listed, one_of
from .tables import print_table, progress_bars

if TYPE_CHECKING:
    from ..bench.results import Comparison

_PICTURES = (".png", ".svg")


@dataclass(frozen=True, kw_only=True)
class Combinations(OptionGroup):
    """What is compared."""

    panel = "Cases, one for every combination"

    backend: Annotated[str, typer.Option(metavar="LIST", help="Engines, as in fctl-run, with commas between them.")] = (
        "auto"
    )
    precision: Annotated[
        str, typer.Option(metavar="LIST", help=f"{one_of(PrecisionChoice)}, as in fctl-run, with commas between them.")
    ] = "fp32"
    contexts: Annotated[
        str,
        typer.Option(metavar="LIST", help="How contexts are encoded, as in fctl-run: exact,shared compares both."),
    ] = "auto"
    batch: Annotated[str, typer.Option(metavar="LIST", help="Tiles per run of the engine, as 1,4,8, or auto.")] = "4"
    build_engines: BuildEngines = False


@dataclass(frozen=True, kw_only=True)
class Measurement(OptionGroup):
    """What is measured."""

    panel = "Measurement"

    rounds: Annotated[int, typer.Option(min=1, help="How often each case runs; cases take turns.")] = 3
    size: Annotated[
        int, typer.Option(min=1, max=100_000, help="Without an image: side in pixels of a mosaic of fctl's own pixels.")
    ] = 2000
    frames: Annotated[
        int, typer.Option(min=0, help="Small images that each case also segments in a round, for their latency.")
    ] = 0
    frame_size: Annotated[int, typer.Option(min=1, help="Side of these in pixels.")] = 512


@dataclass(frozen=True, kw_only=True)
class Report(OptionGroup):
    """What is told."""

    panel = "Report"

    json: Annotated[
        bool,
        typer.Option("--json", help="Print all figures, of every round too, as JSON on standard output, no tables."),
    ] = False
    chart: Annotated[Path | None, typer.Option(metavar="FILE", help="Seconds by stage as a picture: .png or .svg.")] = (
        None
    )
    overwrite: Overwrite = False


def bench(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE... [IMAGE]",
            help="Bundle folders, or 'default' for the one shipped with fctl; then the image to segment.",
        ),
    ],
    compared: Combinations,
    measurement: Measurement,
    report: Report,
) -> None:
    """Time bundles on an image as fctl-run segments it: by stage, side by side in one run.

    Every case has a process of its own, and cases take turns. Docs: docs/benchmarks.md.
    """
    folders, image = _arguments(bundles)
    backends = listed("--backend", compared.backend, get_args(Backend))
    precisions = listed("--precision", compared.precision, get_args(PrecisionChoice))
    encodings = listed("--contexts", compared.contexts, get_args(ContextEncoding))
    batches = tuple(dict.fromkeys(batch_size(part) for part in compared.batch.split(",")))
    _check_chart(report)

    from ..bench.cases import plan_cases
    from ..bench.rounds import Plan, compare
    from ..raster.places import check_place, placed

    if image is not None:
        check_place(placed(image))
    cases = plan_cases(
        folders, backends=backends, precisions=precisions, contexts=encodings, batches=batches,
        build_engines=compared.build_engines,
    )  # fmt: skip
    plan = Plan(
        image=image, side=measurement.size, rounds=measurement.rounds, frames=measurement.frames,
        frame=measurement.frame_size,
    )  # fmt: skip
    with ending_at_once(), _written(report.chart) as chart:
        with progress_bars("runs") as progress:
            comparison = compare(cases, plan, progress)
        if chart:
            _draw(comparison, chart)
    _print(comparison, as_json=report.json)
    if report.chart and not report.json:
        echo(f"wrote {report.chart}")


def _arguments(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The bundles, and the image where there is one."""
    bundles = [name for name in arguments if _is_bundle(name)]
    images = [name for name in arguments if not _is_bundle(name)]
    if not bundles:
        raise usage(f"expected a bundle folder or 'default', found {images[0]!r}")
    if len(images) > 1:
        raise usage(f"expected one image, found {len(images)}: {' and '.join(images)}")
    return bundles, images[0] if images else None


def _is_bundle(name: str) -> bool:
    """Whether an argument is a bundle and not an image: a folder, or what is called like one."""
    return name == "default" or name.endswith(".fctl") or Path(name).is_dir()


def _check_chart(report: Report) -> None:
    """Refuse a chart that could not be drawn or written, before anything is measured."""
    path = report.chart
    if path is None:
        return
    if path.suffix.lower() not in _PICTURES:
        raise usage(f"--chart: expected a name that ends in {' or '.join(_PICTURES)}, found {str(path)!r}")
    from ..atomic import refuse_existing
    from ..evaluate.plots import check_matplotlib

    check_matplotlib()
    if path.is_dir():
        raise OutputError(subject=path, expected="a file to write", found="a folder", remedy="choose another --chart")
    if not report.overwrite:
        refuse_existing(path, remedy="use --overwrite to replace it")


@contextmanager
def _written(path: Path | None) -> Iterator[Path | None]:
    """A name for the chart while it is made; it appears whole. None where it is not wanted."""
    if path is None:
        yield None
        return
    from ..atomic import atomic_write

    with atomic_write(path, "chart") as place:
        yield place


def _draw(comparison: Comparison, place: Path) -> None:
    from ..bench.chart import draw

    draw(comparison).save(place)


def _print(comparison: Comparison, *, as_json: bool) -> None:
    from ..bench.document import document
    from ..bench.tables import tables

    if as_json:
        typer.echo(json.dumps(document(comparison)))
        return
    for table in tables(comparison):
        print_table(table.title, table.rows, table.header)


bench_app = command(
    bench,
    examples=(
        "default image.tif --backend onnxruntime,openvino --contexts exact,shared",
        "city.fctl small.fctl --size 5000 --frames 100 --chart bench.png",
    ),
)
