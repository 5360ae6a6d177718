"""What the command lines share: how a command is made of a function, and how it speaks to its user."""

from __future__ import annotations

import inspect
import logging
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ..choices import LogLevel
from ..errors import FctlError, printable, worded
from ..warned import PROGRAM
from .faults import ordinary, printable_usage, shortened
from .groups import OptionGroup, flattened, packed
from .spellings import Spellings

HELP = {"help_option_names": ["-h", "--help"]}
"""Settings of every command's context."""

_OF_TYPER = (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError)  # what typer ends a command with
_GENERAL = "General"
_LEVELS = ", ".join(get_args(LogLevel))


@dataclass(frozen=True, kw_only=True)
class _Call:
    """The command that runs.

    Attributes:
        quiet: Whether it prints nothing but errors.
        debug: Whether it shows where errors come from.
        every: Seconds between two lines of progress where standard error is no terminal.
        options: By argument, as error messages name it in backticks, the option that sets it.
        given: Parameters that were given, rather than left at their defaults.
    """

    quiet: bool = False
    debug: bool = False
    every: float = 60
    options: Mapping[str, str] = field(default_factory=dict)
    given: frozenset[str] = frozenset()


_CALL = ContextVar[_Call]("call")
_NONE = _Call()  # where a function is called without a command line


# Making commands


def _print_version(wanted: bool) -> None:
    """Print the version and exit, where the option was given."""
    if wanted:
        typer.echo(f"{PROGRAM} {version(PROGRAM)}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, rich_help_panel=_GENERAL, help="Show the version."
    ),
]
_Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", rich_help_panel=_GENERAL, help="Print errors alone: no log, progress or tables."),
]

_LogLevel = Annotated[
    LogLevel,
    typer.Option(metavar="LEVEL", rich_help_panel=_GENERAL, help=f"What is logged at least: {_LEVELS}."),
]

_Every = Annotated[
    float,
    typer.Option(
        min=0, metavar="SECONDS", rich_help_panel=_GENERAL,
        help="Between two lines of progress, where standard error is no terminal.",
    ),
]  # fmt: skip

_Debug = Annotated[
    bool,
    typer.Option("--debug", rich_help_panel=_GENERAL, help="Also show where in the program an error comes from."),
]


def command(
    function: Callable[..., None], *, examples: tuple[str, ...], spellings: Spellings | None = None
) -> typer.Typer:
    """A command line of one command, with help, version, quiet, debug and shell completion.

    While the command runs, log records go to standard error, and an error ends it as one line.

    Args:
        function: What runs. Its parameters are declared as typer declares them; one whose type is an `OptionGroup`
            stands for the options of that group.
        examples: Arguments that are worth showing, each without the name of the program.
        spellings: What older command lines wrote, where that differs.

    Returns:
        The application, for an entry point.
    """
    old = spellings or Spellings()

    def run(context: typer.Context, **values: object) -> None:
        del values["version"]
        quiet, debug, level = bool(values.pop("quiet")), bool(values.pop("debug")), str(values.pop("log_level"))
        every = float(str(values.pop("progress_every")))
        with _running(context, quiet=quiet, debug=debug, level=level, every=every, spellings=old):
            function(**packed(function, values))

    general = (
        ("quiet", _Quiet, False), ("log_level", _LogLevel, "info"), ("progress_every", _Every, 60.0),
        ("debug", _Debug, False), ("version", Version, False),
    )  # fmt: skip
    _declare(run, [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *flattened(function),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, kind, default in general
        ),
    ])  # fmt: skip

    class Command(TyperCommand):
        """The command, which knows older spellings and shows its examples."""

        def make_context(self, info_name: str | None, args: list[str], *parent: Any, **extra: Any) -> Any:
            with printable_usage():
                return super().make_context(info_name, old.translated(args), *parent, **extra)

        def invoke(self, ctx: Any) -> Any:
            with printable_usage():
                return super().invoke(ctx)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            print_help(self, ctx, examples)

    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)  # wrong calls end as plain text
    app.command(cls=Command, context_settings=HELP, help=inspect.getdoc(function))(run)
    return app


def _declare(function: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Give a function the signature that typer reads."""
    function.__dict__["__signature__"] = inspect.Signature(parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def print_help(command: TyperCommand | TyperGroup, context: Any, examples: Collection[str]) -> None:
    """Print the help of a command: its options in panels, what all commands share last, then examples to copy.

    Args:
        command: The command.
        context: typer's context of it.
        examples: Arguments that are worth showing, each without the name of the program.
    """
    from typer.rich_utils import rich_format_help

    for parameter in command.get_params(context):
        if isinstance(parameter, TyperOption):
            parameter.rich_help_panel = parameter.rich_help_panel or _GENERAL
            parameter.metavar = "" if parameter.is_flag else parameter.metavar  # a flag takes no value
    rich_format_help(obj=command, ctx=context, markup_mode="rich")
    typer.echo("\n".join(("", " Examples:", *(f"   {context.command_path} {example}" for example in examples))))


# While a command runs


@contextmanager
def _running(
    context: typer.Context, *, quiet: bool, debug: bool, level: str, every: float, spellings: Spellings
) -> Iterator[None]:
    """Show log records and errors as a command line does, in the words of its options."""
    options, given = dict[str, str](), set[str]()
    for parameter in context.command.params:
        if parameter.name is None or parameter.param_type_name != "option":
            continue
        options |= dict.fromkeys((_argument(name) for name in (parameter.name, *parameter.opts)), parameter.opts[0])
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name == "COMMANDLINE":
            given.add(parameter.name)
    options |= {_argument(old): new for old, new in spellings.options.items()}
    token = _CALL.set(_Call(quiet=quiet, debug=debug, every=every, options=options, given=frozenset(given)))
    try:
        with _shown_log(quiet, level, options):
            yield
    except _OF_TYPER:
        raise
    except KeyboardInterrupt as error:
        print("error: interrupted", file=sys.stderr)
        raise typer.Exit(getattr(error, "exit_code", 130)) from None
    except Exception as error:
        fail(error)
        raise typer.Exit(1) from None
    finally:
        _CALL.reset(token)


def _argument(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


class _Lines(logging.Formatter):
    """Log records as a command line prints them: what is more than information says so, arguments are options."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__("%(message)s")
        self._options = options

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        text = printable(" ".join(spoken(super().format(record), self._options).split()))
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


@contextmanager
def _shown_log(quiet: bool, wanted: str, options: Mapping[str, str]) -> Iterator[None]:
    """Send our log records to standard error; quiet, nowhere."""
    handler = logging.NullHandler() if quiet else logging.StreamHandler()
    handler.setFormatter(_Lines(options))
    logger = logging.getLogger(PROGRAM)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(wanted.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def as_options(text: str) -> str:
    """A message in the words of the command that runs, fit to be printed."""
    return printable(spoken(text, _CALL.get(_NONE).options))


def spoken(text: str, options: Mapping[str, str]) -> str:
    """A message as a command line says it: arguments as its options, or bare where it has no such option."""
    return re.sub(r"`(\w+)`", r"\1", worded(text, options))


def is_quiet() -> bool:
    """Whether the command that runs prints nothing but errors."""
    return _CALL.get(_NONE).quiet


def progress_every() -> float:
    """Seconds between two lines of progress of the command that runs, where nobody watches."""
    return _CALL.get(_NONE).every


def echo(line: str) -> None:
    """Print a line on standard output, unless the command is quiet."""
    if not is_quiet():
        typer.echo(printable(line))


def fail(error: Exception, subject: object = None) -> str:
    """Print an error as one line on standard error, with arguments named as the options of the command.

    Whatever fctl did not raise on purpose is called what it is: a bug, or too little memory.

    Args:
        error: The error.
        subject: What it is about, for errors that do not say so themselves.

    Returns:
        The line.
    """
    call = _CALL.get(_NONE)
    if call.debug:
        traceback.print_exception(error)
    if isinstance(error, FctlError):
        line = spoken(str(error), call.options)
    else:
        what = ordinary(error) or _bug(error)
        known = isinstance(error, UnicodeError) or isinstance(getattr(error, "filename", None), str)  # it names a file
        line = f"{subject}: {what}" if subject and not known else what
    line = shortened(printable(" ".join(line.split())))
    print(f"error: {line}", file=sys.stderr)
    return line


def _bug(error: Exception) -> str:
    """A bug in words."""
    text = f"this is a bug in {PROGRAM}: {type(error).__name__}: {error}"
    return text + ("" if _CALL.get(_NONE).debug else "; run it again with --debug for the traceback, and report it")


def usage(message: str) -> typer.BadParameter:
    """An error in how a command was called, to be raised: it ends with exit code 2."""
    return typer.BadParameter(printable(message))


def refuse(group: type[OptionGroup], whose: str, *, but: Collection[str] = ()) -> None:
    """Refuse options that mean nothing in this call, where one of them was given.

    Args:
        group: The group whose options are refused.
        whose: What they are for, in words.
        but: Names of those that are allowed all the same.

    Raises:
        typer.BadParameter: One of them was given.
    """
    for option in fields(group):
        if option.name not in but:
            refuse_one(option.name, whose)


def refuse_one(parameter: str, whose: str) -> None:
    """Refuse one option, by the name of its parameter, where it was given.

    Args:
        parameter: The parameter.
        whose: What it is for, in words.

    Raises:
        typer.BadParameter: It was given.
    """
    call = _CALL.get(_NONE)
    if parameter in call.given:
        raise usage(f"{call.options[parameter]} is for {whose}: leave it out")
