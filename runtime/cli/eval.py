"""``fctl-eval``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OutputError
from .console import command, one_line_errors, parse_bands, print_table, progress_bars, show_log, usage

if TYPE_CHECKING:
    from ..evaluate.datasets import Dataset
    from ..evaluate.results import Pick
    from ..evaluate.runs import Run

_FORMS = ("auto", "deepglobe", "inria", "release", "folder")
_PRECISIONS = ("fp32", "bf16", "fp16", "int8")
_TTA = {"off": False, "on": True}
_CONTEXTS = ("all", "none", "each")
_ORDERS = ("worst", "best", "first")


def evaluate(
    bundles: Annotated[
        list[str],
        typer.Argument(metavar="BUNDLE...", help="Bundle folders, or 'default' for the one shipped with fctl."),
    ],
    data: Annotated[Path, typer.Option(help="The folder of a labelled data set.")],
    form: Annotated[
        str,
        typer.Option(help="deepglobe, inria, release, or folder (one with a description); auto: told by its files."),
    ] = "auto",
    description: Annotated[
        Path | None, typer.Option(help="A data set's description, where it is not dataset.json in its folder.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Which images: a file with a name a line, every=N:K, or names, as 'austin*'."),
    ] = None,
    backend: Annotated[str, typer.Option(help="As in fctl-run; several with commas: each is a run.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16, int8, as in fctl-run; several with commas: each is a run.")
    ] = "fp32",
    tta: Annotated[str, typer.Option(help="Test-time augmentation: off, on, or off,on for a run each.")] = "off",
    contexts: Annotated[
        str,
        typer.Option(help="all as they are; none: all black; each: one run for each context, which is black. Commas."),
    ] = "all",
    build_engines: Annotated[
        bool,
        typer.Option("--build-engines", help="tensorrt, tensorrt-rtx: build engines that are missing; takes minutes."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Tiles per run of the engine.")] = 4,
    bands: Annotated[
        str | None, typer.Option(help="Bands to use, from 1, in the bundle's order, as 3,2,1. Default: all but alpha.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for report.md, report.json and pictures.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Images to draw beside truth, prediction and errors.")] = 8,
    show: Annotated[
        str, typer.Option(help="Which of them: worst, best (by mIoU in the first run) or first.")
    ] = "worst",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that exists.")] = False,
) -> None:
    """Measure what bundles score on labelled images: confusion matrices, IoU, F1, accuracy, and how far runs agree."""
    chosen = parse_bands(bands)
    options: dict[str, Any] = {
        "backends": _listed("--backend", backend, None),
        "precisions": _listed("--precision", precision, _PRECISIONS),
        "tta": [_TTA[word] for word in _listed("--tta", tta, tuple(_TTA))],
        "contexts": _listed("--contexts", contexts, _CONTEXTS),
        "batch": batch,
        "build_engines": build_engines,
    }
    _listed("--form", form, _FORMS)
    _listed("--show", show, _ORDERS)
    show_log()
    with one_line_errors():
        from ..bundle.store import read_bundle
        from ..evaluate.datasets import open_dataset
        from ..evaluate.results import Pick
        from ..evaluate.runs import plan_runs
        from ..evaluate.selection import select

        pick = Pick(count=pictures, order=show) if out and pictures else None  # type: ignore[arg-type]
        dataset = select(open_dataset(data, form=form, description=description), split)
        runs = plan_runs([read_bundle(bundle) for bundle in bundles], **options)
        with _report_folder(out, overwrite) as folder:
            _evaluate(dataset, runs, folder, split=split, bands=chosen, pick=pick)
    if out:
        typer.echo(f"wrote {out / 'report.md'}")


def _evaluate(
    dataset: Dataset,
    runs: Sequence[Run],
    folder: Path | None,
    *,
    split: str | None,
    bands: Sequence[int] | None,
    pick: Pick | None,
) -> None:
    """Evaluate, print scores, and write the report into a folder."""
    from ..evaluate.evaluation import evaluate
    from ..evaluate.report import tables, write_report

    with tempfile.TemporaryDirectory(prefix="fctl-eval-") as kept:
        with progress_bars() as progress:
            evaluation = evaluate(dataset, runs, Path(kept), split=split, bands=bands, pick=pick, progress=progress)
        for table in tables(evaluation):
            print_table(table.title, table.rows, table.header)
        if folder:
            write_report(evaluation, Path(kept), folder, bands)


def _listed(option: str, text: str, known: tuple[str, ...] | None) -> list[str]:
    """Words between commas. known: all there are."""
    words = list(dict.fromkeys(text.split(",")))
    if strange := [word for word in words if not word or (known and word not in known)]:
        raise usage(f"{option}: expected {' or '.join(known or ('names',))}, found {strange[0]!r}")
    return words


@contextmanager
def _report_folder(out: Path | None, overwrite: bool) -> Iterator[Path | None]:
    """A name for the report's folder while it is made; it appears whole, in place of an older report."""
    if out is None:
        yield None
        return
    from ..raster.atomic import atomic_write

    _refuse(out, overwrite)
    with atomic_write(out.resolve()) as folder:  # "../a/.." has no name to put a temporary one beside
        yield folder
        _refuse(out, overwrite)  # again: much time has passed
        if out.exists():
            shutil.rmtree(out)


def _refuse(out: Path, overwrite: bool) -> None:
    """Raise OutputError unless `out` is new, empty, or a report that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir() or out.resolve() == Path.cwd():
        found = "the current folder" if out.is_dir() else "a file"
        raise OutputError(f"{out}: expected a new folder for the report, found {found}; choose another --out")
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()]
    foreign = [name for name in files if not _ours(name)]
    if foreign:
        raise OutputError(f"{out}: expected a report alone, found {foreign[0]} beside it; choose another --out")
    if files and not overwrite:
        raise OutputError(f"{out} exists already; use --overwrite to replace it")


def _ours(name: str) -> bool:
    """Whether a report has files of that name."""
    return name in ("report.md", "report.json") or (
        name.endswith(".png") and name.startswith(("confusion_", "pictures/"))
    )


eval_app = command(evaluate)
