"""``fctl-train``."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fctl.runtime import remedies
from fctl.runtime.cli.console import command, echo, refuse_one, usage
from fctl.runtime.cli.tables import print_table, progress_bars
from fctl.runtime.errors import EngineError

if TYPE_CHECKING:
    from .run import Outcome


_NEW = "A config to start from"
_SET = "A field that differs from the config's, as network.overrides.ale=null; may be repeated."


def train(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="What to train, as JSON: see docs/training.md.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel="Training",
            help="Go on where the config's folder stands; start anew where it holds nothing.",
        ),
    ] = False,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", rich_help_panel="Training", help=_SET)
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET", rich_help_panel=_NEW, help="Print a config for a preset and --data, and train nothing."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(rich_help_panel=_NEW, help="The folder of a labelled data set, as in fctl-eval.")
    ] = None,
    description: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_NEW, help="The data set's description, where it is not dataset.json in its folder."
        ),
    ] = None,
) -> None:
    """Train a network on labelled images of yours; best.pt in the config's folder is ready for fctl-export."""
    if (config is None) == (init is None):
        raise usage("name either a CONFIG to train, or --init PRESET and --data FOLDER to print one")
    if importlib.util.find_spec("torch") is None:
        raise EngineError("training needs torch", remedy=remedies.install("train"))
    # Threads that spin while they wait make steps ten times as long where others want the cores too.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # heeded if torch is not loaded yet
    if init is not None:
        if data is None:
            raise usage("--init needs --data FOLDER")
        refuse_one("resume", "training")
        _print_config(init, data, description, changes or [])
        return
    assert config is not None
    for option in ("data", "description"):
        refuse_one(option, "--init")
    from .run import run_training

    with progress_bars() as progress:
        outcome = run_training(config, changes=changes or [], resume=resume, progress=progress)
    _show(outcome)


def _print_config(preset: str, data: Path, description: Path | None, changes: list[str]) -> None:
    """Print a config to start from; plain ASCII, so that it arrives whole wherever it is sent."""
    from .initial import initial_config

    typer.echo(json.dumps(initial_config(preset, data, description, changes), indent=2))


def _show(outcome: Outcome) -> None:
    """Print the scores of the best epoch."""
    best = outcome.best
    rows = [(name, f"{100 * value:.1f}") for name, value in zip(outcome.class_names, best.iou, strict=True)]
    title = f"Validation in epoch {best.epoch} of stage {best.stage}: mIoU {100 * best.miou:.1f}"
    print_table(title, rows, ("class", "IoU %"))
    echo(f"wrote {outcome.out / 'best.pt'}")


train_app = command(train, examples=("--init fctl-lite0 --data labelled/ > config.json", "config.json --resume"))
