"""``fctl-train``."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fctl.runtime import remedies
from fctl.runtime.cli.console import command, echo
from fctl.runtime.cli.tables import print_table, progress_bars
from fctl.runtime.errors import EngineError

if TYPE_CHECKING:
    from .run import Outcome


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to train, as JSON: see docs/training.md.")],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel="Training",
            help="Go on where the config's folder stands; start anew where it holds nothing.",
        ),
    ] = False,
) -> None:
    """Train a network on labelled images of yours; best.pt in the config's folder is ready for fctl-export."""
    if importlib.util.find_spec("torch") is None:
        raise EngineError("training needs torch", remedy=remedies.install("train"))
    # Threads that spin while they wait make steps ten times as long where others want the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # heeded if torch is not loaded yet
    from .run import run_training

    with progress_bars() as progress:
        outcome = run_training(config, resume=resume, progress=progress)
    _show(outcome)


def _show(outcome: Outcome) -> None:
    """Print the scores of the best epoch."""
    best = outcome.best
    rows = [(name, f"{100 * value:.1f}") for name, value in zip(outcome.class_names, best.iou, strict=True)]
    title = f"Validation in epoch {best.epoch} of stage {best.stage}: mIoU {100 * best.miou:.1f}"
    print_table(title, rows, ("class", "IoU %"))
    echo(f"wrote {outcome.out / 'best.pt'}")


train_app = command(train, examples=("config.json", "config.json --resume"))
