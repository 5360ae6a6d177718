"""``fctl-train``."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fctl.runtime.console import command, one_line_errors, print_table, show_log
from fctl.runtime.errors import EngineError

if TYPE_CHECKING:
    from fctl.runtime.evaluation import Progress

    from .training import Outcome


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to train, as JSON: see docs/training.md.")],
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where the config's folder stands; start anew where it holds nothing."),
    ] = False,
) -> None:
    """Train a network on labelled images of yours; best.pt in the config's folder is ready for fctl-export."""
    show_log()
    with one_line_errors():
        if importlib.util.find_spec("torch") is None:
            raise EngineError("training needs torch: pip install 'fctl[train]'")
        # Threads that spin while they wait make steps ten times as long where others want the cores too.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # heeded if torch is not loaded yet
        from .training import run_training

        with _progress() as progress:
            outcome = run_training(config, resume=resume, progress=progress)
    _show(outcome)


def _show(outcome: Outcome) -> None:
    best = outcome.best
    rows = [(name, f"{100 * value:.1f}") for name, value in zip(outcome.class_names, best.iou, strict=True)]
    title = f"Validation in epoch {best.epoch} of stage {best.stage}: mIoU {100 * best.miou:.1f}"
    print_table(title, rows, ("class", "IoU %"))
    typer.echo(f"wrote {outcome.out / 'best.pt'}")


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar for each stage, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield advance


train_app = command(train)
