"""What the command lines share: one line per error, exit codes, tables. Only command lines print and exit."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer

from ..errors import FctlError

_PIPED_WIDTH = 120  # of tables that go to a file or another program


def command(function: Callable[..., None]) -> typer.Typer:
    """A command line of one command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(function)
    return app


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of ours as one line and exit with 1."""
    try:
        yield
    except FctlError as error:
        fail(error)
        raise typer.Exit(1) from None


def fail(error: FctlError) -> None:
    """Print one error as one line."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)


def usage(message: str) -> typer.BadParameter:
    """An error in how a command was called: exit code 2."""
    return typer.BadParameter(message)


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """--bands, as 3,2,1."""
    if text is None:
        return None
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = (0,)
    if min(bands) < 1:
        raise usage(f"--bands: expected numbers from 1 as in 3,2,1, found {text!r}")
    return bands


def show_log(name: str = "fctl") -> None:
    """Send our log lines to the terminal, on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def print_table(title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """A table on standard output; wide cells fold rather than being cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as it is: brackets in a name are no markup
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    console.print(title, style="bold", highlight=False, markup=False)
    console.print(table)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error: call with a name, done and total; every name gets a bar of its own."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars, tasks = Progress(*columns, console=Console(stderr=True)), dict[str, TaskID]()

    def advance(name: str, done: int, total: int) -> None:
        if not tasks:  # not before: bars that never move would leave an empty line
            bars.start()
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=total)
        bars.update(tasks[name], completed=done)

    try:
        yield advance
    finally:
        if tasks:
            bars.stop()
