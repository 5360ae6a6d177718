"""Tables and progress bars of the command lines; a quiet command shows neither."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import printable
from ..progress import StageProgress
from .console import is_quiet, progress_every

_PIPED_WIDTH = 120  # of tables that go to a file or another program


def print_table(title: str, rows: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> None:
    """Print a table on standard output; wide cells fold rather than being cut.

    Args:
        title: The line above it.
        rows: Its cells, row by row.
        header: Names of the columns.
    """
    if is_quiet():
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for name in header:
        table.add_column(printable(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # as it is: brackets in a name are no markup
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    console.print(printable(title), style="bold", highlight=False, markup=False)
    console.print(table)


class _Lines:
    """Progress where nobody watches, as in a log file: a line every so many seconds, and one at the end."""

    def __init__(self, unit: str | None, every: float) -> None:
        self._unit, self._every = unit, every
        self._begun: dict[str, tuple[float, int]] = {}
        self._told = time.monotonic()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Take the progress of something."""
        now = time.monotonic()
        started, first = self._begun.setdefault(name, (now, done))
        if done < total and now - self._told < self._every:
            return
        self._told = now
        speed = (done - first) / max(now - started, 1e-9)
        told = f", {speed:.1f} {self._unit}/s" if self._unit and done > first else ""
        left = f", about {(total - done) / speed / 60:.0f} minutes left" if done < total and speed > 0 else ""
        print(printable(f"{name}: {done} of {total}{told}{left}"), file=sys.stderr, flush=True)


@contextmanager
def progress_bars(unit: str | None = None) -> Iterator[StageProgress]:
    """Show bars on standard error while the block runs.

    Args:
        unit: What is counted, to show how many are done in a second; None shows no speed.

    Yields:
        What to call with a name, what is done and the total; every name gets a bar of its own.
    """
    if is_quiet():
        yield lambda name, done, total: None
        return
    if not sys.stderr.isatty():
        yield _Lines(unit, progress_every())
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """How much is done in a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f} {unit}/s" if unit and task.speed else "")

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    bars = Progress(*columns, *([Speed()] if unit else []), TimeRemainingColumn(), console=Console(stderr=True))
    tasks = dict[str, TaskID]()

    def advance(name: str, done: int, total: int) -> None:
        if not tasks:  # not before: bars that never move would leave an empty line
            bars.start()
        if name not in tasks:
            tasks[name] = bars.add_task(printable(name), total=total)
        bars.update(tasks[name], completed=done, total=total)

    try:
        yield advance
    finally:
        if tasks:
            bars.stop()
