"""``fctl-eval``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ..choices import Backend, ContextEncoding, ContextMode, Form, Order, RunPrecision
from ..errors import OutputError
from .console import command, echo
from .groups import OptionGroup
from .options import Bands, Batch, BuildEngines, Overwrite, ScaleRange, band_numbers, listed, one_of
from .spellings import Spellings
from .tables import print_table, progress_bars

if TYPE_CHECKING:
    from ..evaluate.datasets import Dataset
    from ..evaluate.results import Pick
    from ..evaluate.runs import Run


@dataclass(frozen=True, kw_only=True)
class Labelled(OptionGroup):
    """The labelled images."""

    panel = "Labelled images"

    data: Annotated[Path, typer.Option(help="The folder of a labelled data set.")]
    form: Annotated[
        Form,
        typer.Option(
            metavar="FORM",
            help=f"How the folder is laid out: {one_of(Form)}. folder: it has a description. auto: told by its files.",
        ),
    ] = "auto"
    description: Annotated[
        Path | None, typer.Option(help="A data set's description, where it is not dataset.json in its folder.")
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT", help="Which images: a file with a name a line, every=N:K, or names, as 'austin*'."
        ),
    ] = None
    bands: Bands = None
    scale_range: ScaleRange = None


@dataclass(frozen=True, kw_only=True)
class Runs(OptionGroup):
    """What is compared."""

    panel = "Runs, one for every combination"

    backend: Annotated[str, typer.Option(metavar="LIST", help="Engines, as in fctl-run, with commas between them.")] = (
        "auto"
    )
    precision: Annotated[
        str,
        typer.Option(metavar="LIST", help=f"{one_of(RunPrecision)}, as in fctl-run, with commas between them."),
    ] = "fp32"
    tta: Annotated[bool, typer.Option("--tta", help="Segment every patch in all 8 turns and average.")] = False
    compare_tta: Annotated[bool, typer.Option("--compare-tta", help="A run without --tta, and one with it.")] = False
    show_contexts: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Contexts that the network sees, with commas between them. all; none: all are black; each: one run "
            "for each context, which is black.",
        ),
    ] = "all"
    contexts: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="How contexts are encoded, as in fctl-run, with commas between them: exact,shared compares both.",
        ),
    ] = "auto"
    batch: Batch = 4
    build_engines: BuildEngines = False

    @property
    def turned(self) -> tuple[bool, ...]:
        """Whether a run has test-time augmentation, for each run that differs in this."""
        return (False, True) if self.compare_tta else (self.tta,)


@dataclass(frozen=True, kw_only=True)
class Report(OptionGroup):
    """The report."""

    panel = "Report"

    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A new folder for report.md, report.json and pictures.")
    ] = None
    pictures: Annotated[int, typer.Option(min=0, help="Images to draw beside truth, prediction and errors.")] = 8
    show: Annotated[Order, typer.Option(help="Which of them, by mIoU in the first run.")] = "worst"
    calibration: Annotated[
        bool,
        typer.Option("--calibration", help="Also measure how far probabilities can be trusted (reliability diagram)."),
    ] = False
    fit_temperature: Annotated[
        bool,
        typer.Option("--fit-temperature", help="Also fit the one temperature with which probabilities fit the labels."),
    ] = False
    overwrite: Overwrite = False


def evaluate(
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE", help="Bundle folders, or 'default' for the one shipped with fctl."),
    ],
    labelled: Labelled,
    compared: Runs,
    report: Report,
) -> None:
    """Measure what bundles score on labelled images: confusion matrices, IoU, F1, accuracy, and how far runs agree."""
    band_numbers(labelled.bands)  # raises before anything is read
    backends = listed("--backend", compared.backend, get_args(Backend))
    precisions = listed("--precision", compared.precision, get_args(RunPrecision))
    contexts = listed("--show-contexts", compared.show_contexts, get_args(ContextMode))
    encodings = listed("--contexts", compared.contexts, get_args(ContextEncoding))

    from ..bundle.store import read_bundle
    from ..evaluate.datasets import open_dataset
    from ..evaluate.plots import check_matplotlib
    from ..evaluate.results import Pick
    from ..evaluate.runs import plan_runs
    from ..evaluate.selection import select
    from ..segment.opening import warn_of_sharing

    out = report.out
    if out:
        check_matplotlib()
    pick = Pick(count=report.pictures, order=report.show) if out and report.pictures else None
    dataset = open_dataset(labelled.data, form=labelled.form, description=labelled.description)
    dataset = select(dataset, labelled.split)
    runs = plan_runs(
        [read_bundle(bundle) for bundle in bundles],
        backends=backends,
        precisions=precisions,
        tta=compared.turned,
        contexts=contexts,
        encodings=encodings,
        batch=compared.batch,
        build_engines=compared.build_engines,
    )
    for shared in {run.bundle.folder: run.bundle for run in runs if run.once}.values():
        warn_of_sharing(shared)
    with _report_folder(out, report.overwrite) as folder:
        _evaluate(dataset, runs, folder, labelled, report, pick=pick)
    if out:
        echo(f"wrote {out / 'report.md'}")


def _evaluate(
    dataset: Dataset,
    runs: Sequence[Run],
    folder: Path | None,
    labelled: Labelled,
    report: Report,
    *,
    pick: Pick | None,
) -> None:
    """Evaluate, print scores, and write the report into a folder."""
    from ..evaluate.evaluation import evaluate
    from ..evaluate.report import write_report
    from ..evaluate.tables import tables

    bands, scale_range = band_numbers(labelled.bands), labelled.scale_range
    with tempfile.TemporaryDirectory(prefix="fctl-eval-") as kept:
        with progress_bars() as progress:
            evaluation = evaluate(
                dataset, runs, Path(kept), split=labelled.split, bands=bands, scale_range=scale_range, pick=pick,
                calibration=report.calibration, fit_temperature=report.fit_temperature, progress=progress,
            )  # fmt: skip
        for table in tables(evaluation):
            print_table(table.title, table.rows, table.header)
        if folder:
            write_report(evaluation, Path(kept), folder, bands, scale_range)


@contextmanager
def _report_folder(out: Path | None, overwrite: bool) -> Iterator[Path | None]:
    """A name for the report's folder while it is made; it appears whole, in place of an older report."""
    if out is None:
        yield None
        return
    from ..atomic import atomic_write

    _check_folder(out, overwrite)
    with atomic_write(out.resolve()) as folder:  # "../a/.." has no name to put a temporary one beside
        yield folder
        _check_folder(out, overwrite)  # again: much time has passed
        if out.exists():
            shutil.rmtree(out)


def _check_folder(out: Path, overwrite: bool) -> None:
    """Raise OutputError unless `out` is new, empty, or a report that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir() or out.resolve() == Path.cwd():
        found = "the current folder" if out.is_dir() else "a file"
        raise OutputError(
            subject=out, expected="a new folder for the report", found=found, remedy="choose another --out"
        )
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()]
    foreign = [name for name in files if not _is_of_report(name)]
    if foreign:
        raise OutputError(
            subject=out, expected="a report alone", found=f"{foreign[0]} beside it", remedy="choose another --out"
        )
    if files and not overwrite:
        raise OutputError(f"{out} exists already", remedy="use --overwrite to replace it")


def _is_of_report(name: str) -> bool:
    """Whether a report has files of that name."""
    return name in ("report.md", "report.json") or (
        name.endswith(".png") and name.startswith(("confusion_", "reliability_", "pictures/"))
    )


eval_app = command(
    evaluate,
    examples=(
        "city.fctl --data deepglobe/train --split val.txt",
        "a.fctl b.fctl --data tiles/ --compare-tta --show-contexts all,none -o report/",
    ),
    spellings=Spellings(
        values={
            "--contexts": {
                ",".join(modes): ("--show-contexts", ",".join(modes))
                for count in (1, 2, 3)
                for modes in permutations(get_args(ContextMode), count)
            },
            "--tta": {"off": (), "on": ("--tta",), "off,on": ("--compare-tta",), "on,off": ("--compare-tta",)},
        },
    ),
)
