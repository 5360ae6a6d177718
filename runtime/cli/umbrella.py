"""``fctl``: every command under one name. It finds them as entry points, so it knows none of them."""

from __future__ import annotations

from collections import UserDict
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from .console import HELP, Version, print_help

COMMANDS = "fctl.commands"
"""The group of entry points: each is the typer application of one command, by the command's name."""

_EXAMPLES = ("run image.tif", "export checkpoint.pt -o city.fctl")


class _Commands(UserDict[str, Any]):
    """Commands by name, each loaded when it is asked for."""

    def __init__(self) -> None:
        super().__init__({entry.name: entry for entry in sorted(entry_points(group=COMMANDS))})

    def __getitem__(self, name: str) -> Any:
        loaded = typer.main.get_command(super().__getitem__(name).load())
        loaded.name = name
        return loaded


class _Group(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        print_help(self, ctx, _EXAMPLES)


def fctl(version: Version = False) -> None:
    """Deploy context-aware segmentation of ultra-high-resolution images: export networks to verified bundles, and run
    and score them without PyTorch. Each command is also a program of its own, as fctl-run."""


app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.callback(cls=_Group, context_settings=HELP)(fctl)
