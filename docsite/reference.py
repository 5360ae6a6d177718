"""Pages of the reference that are made of the program: its command lines, and its public Python names."""

from __future__ import annotations

import importlib
import re
from importlib.metadata import entry_points
from typing import get_origin

from typer.core import TyperArgument, TyperCommand, TyperOption
from typer.main import get_command
from typer.testing import CliRunner

GROUP = "fctl.commands"
"""The entry points of all commands, by the names that `fctl` knows."""

_GENERAL = "Options"  # the panel of options without one: --help and what shells complete


def command_pages() -> dict[str, str]:
    """A page for each command, by its program's name."""
    return {f"fctl-{entry.name}": _page(f"fctl-{entry.name}", entry.load()) for entry in entry_points(group=GROUP)}


def _page(program: str, app: object) -> str:
    command = get_command(app)  # type: ignore[arg-type]
    assert isinstance(command, TyperCommand)
    help_text = CliRunner().invoke(app, ["--help"], prog_name=program, env={"COLUMNS": "200"}).stdout  # type: ignore[arg-type]
    examples = [line.strip() for line in help_text.split(" Examples:\n")[1].splitlines() if line.strip()]
    lines = [f"# {program}", "", _escaped(command.help or ""), "", "```", *examples, "```"]
    for panel, parameters in _panels(command).items():
        lines += ["", f"## {panel}", ""]
        for parameter in parameters:
            lines += [_term(parameter), f":   {_escaped(_meaning(parameter))}", ""]
    return "\n".join(lines) + "\n"


def _panels(command: TyperCommand) -> dict[str, list[TyperArgument | TyperOption]]:
    panels: dict[str, list[TyperArgument | TyperOption]] = {}
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            panels.setdefault("Arguments", []).append(parameter)
        elif isinstance(parameter, TyperOption) and not parameter.hidden:
            panels.setdefault(str(parameter.rich_help_panel or _GENERAL), []).append(parameter)
    return panels


def _term(parameter: TyperArgument | TyperOption) -> str:
    """The names of a parameter and what its value looks like, and an anchor for an option."""
    if isinstance(parameter, TyperArgument):
        name = parameter.metavar or str(parameter.name).upper()
        return f"`{name}{' ...' if parameter.nargs == -1 else ''}`"
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    value = "" if parameter.is_flag else f" {parameter.metavar or _kind(parameter)}"
    return f"`{names}{value}` {{: #{parameter.opts[0].lstrip('-')} }}"


def _kind(parameter: TyperOption) -> str:
    annotation = parameter.type_descriptor.annotation
    inner = annotation if get_origin(annotation) is None else annotation.__args__[0]
    return {"int": "NUMBER", "float": "NUMBER", "Path": "PATH"}.get(getattr(inner, "__name__", ""), "TEXT")


def _meaning(parameter: TyperArgument | TyperOption) -> str:
    text = " ".join((parameter.help or "").split())
    if parameter.required:
        return f"{text} (required)"
    plain = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
    return (
        f"{text} Default: `{parameter.default}`."
        if plain and parameter.show_default and "Default" not in text
        else text
    )


def _escaped(text: str) -> str:
    """Help as Markdown: no tags, options as code, and pages as links."""
    text = text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    text = re.sub(r"docs/(\w[\w-]*\.md)", lambda page: f"[{page[1]}](../{page[1]})", text)
    return re.sub(r"(?<![\w`-])(--[a-z][\w-]*)", r"`\1`", text)


def python_page() -> str:
    """The page of all public names, which mkdocstrings fills from their docstrings."""
    lines = [
        "# Python",
        "",
        "What `fctl.runtime` offers to applications, and `fctl.runtime.evaluate` to whoever scores masks. "
        "[Embed in Python](../embedding.md) shows how the parts work together.",
    ]
    for package in ("fctl.runtime", "fctl.runtime.evaluate"):
        module = importlib.import_module(package)
        lines += ["", f"## From `{package}`", ""]
        for name in module.__all__:
            value = getattr(module, name)
            lines += [f"::: {getattr(value, '__module__', package)}.{getattr(value, '__qualname__', name)}", ""]
            lines += ["    options:", "      heading_level: 3", ""]
    return "\n".join(lines)
