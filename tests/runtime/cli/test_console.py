"""What the command lines share, on a command of its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import typer

from fctl.runtime.cli.console import command, echo, refuse
from fctl.runtime.cli.groups import OptionGroup
from fctl.runtime.cli.spellings import Spellings
from fctl.runtime.cli.tables import print_table, progress_bars
from fctl.runtime.errors import InputError
from tests.conftest import InProcess

log = logging.getLogger("fctl.test")


@dataclass(frozen=True, kw_only=True)
class Paint(OptionGroup):
    panel = "Paint"

    scene_size: Annotated[int, typer.Option(min=1, help="Side.")] = 7
    evaluation: Annotated[str | None, typer.Option("--eval", help="Labels.")] = None
    tone: Annotated[Literal["dark", "light"], typer.Option(help="Tone.")] = "dark"


@dataclass(frozen=True, kw_only=True)
class Frame(OptionGroup):
    panel = "Frame"

    wide: Annotated[bool, typer.Option("--wide", help="Width.")] = False


def draw(what: Annotated[str, typer.Argument(help="What to draw.")], paint: Paint, frame: Frame) -> None:
    """Draw something."""
    if paint.tone == "dark":
        refuse(Frame, "--tone light")
    log.debug("not for users")
    log.info("drawing %s", what)
    log.warning("cut by `scene_size`, unlike `other`")
    with progress_bars() as progress:
        progress("strokes", 1, 2)
    print_table("Strokes", [("long", "2")], ("kind", "number"))
    echo(f"{what} {paint} {frame}")
    if what == "chaos":
        raise KeyError("order")
    if what == "nothing":
        raise InputError(
            subject="`scene_size`", expected="more", found=paint.scene_size, remedy="see `eval` or `other`"
        )


app = command(
    draw,
    examples=("house", "tree --wide"),
    spellings=Spellings(options={"--side": "--scene-size"}, values={"--tone": {"bright": ("--tone", "light")}}),
)


def test_options_arrive_in_their_groups(in_process: InProcess) -> None:
    done = in_process(app, "house", "--scene-size", "3", "--tone", "light", "--wide", "--eval", "x")
    paint = Paint(scene_size=3, evaluation="x", tone="light")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"house {paint} {Frame(wide=True)}")
    assert in_process(app, "tree").stdout.splitlines()[-1] == f"tree {Paint()} {Frame()}"


def test_log_records_say_their_level_and_speak_of_options(in_process: InProcess) -> None:
    lines = in_process(app, "house").stderr.splitlines()
    assert lines[:2] == ["drawing house", "warning: cut by --scene-size, unlike other"]


def test_nothing_of_the_log_outlives_the_command(in_process: InProcess) -> None:
    logger = logging.getLogger("fctl")
    before = (list(logger.handlers), logger.level)
    in_process(app, "house")
    in_process(app, "nothing")
    assert (logger.handlers, logger.level) == before


def test_an_error_is_one_line_that_speaks_of_options(in_process: InProcess) -> None:
    done = in_process(app, "nothing")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: --scene-size: expected more, found 7; see --eval or other"


def test_a_bug_is_one_line_and_its_traceback_comes_when_asked_for(in_process: InProcess) -> None:
    line = "error: this is a bug in fctl: KeyError: 'order'"
    done = in_process(app, "chaos")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{line}; run it again with --debug")
    assert "Traceback" not in done.stderr
    done = in_process(app, "chaos", "--debug")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, line)
    assert "Traceback" in done.stderr
    assert "Traceback" in in_process(app, "nothing", "--debug").stderr


@pytest.mark.parametrize("flag", ["-q", "--quiet"])
def test_quiet_prints_errors_alone(flag: str, in_process: InProcess) -> None:
    done = in_process(app, "house", flag)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = in_process(app, "nothing", flag)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: --scene-size: ")


def test_options_of_a_group_are_refused_where_they_were_given(in_process: InProcess) -> None:
    done = in_process(app, "house", "--wide")
    assert done.returncode == 2
    assert "--wide is for --tone light: leave it out" in done.stderr
    assert in_process(app, "house", "--wide", "--tone", "light").returncode == 0


def test_a_wrong_choice_lists_the_choices(in_process: InProcess) -> None:
    done = in_process(app, "house", "--tone", "red")
    assert done.returncode == 2
    assert "'red' is not one of 'dark', 'light'" in done.stderr


def test_help_has_a_panel_for_each_group(in_process: InProcess) -> None:
    lines = in_process(app, "-h").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("╭─")] == ["Arguments", "Paint", "Frame", "General"]
    assert lines[-3:] == ["   fctl house", "   fctl tree --wide", ""]


def test_older_spellings_go_on_to_work(in_process: InProcess) -> None:
    done = in_process(app, "house", "--side", "4", "--tone", "bright")
    assert done.stdout.splitlines()[-1] == f"house {Paint(scene_size=4, tone='light')} {Frame()}"
    assert "--side" not in in_process(app, "--help").stdout


TTA = Spellings(
    options={"--contexts": "--show-contexts"},
    values={"--tta": {"off": (), "on": ("--tta",), "off,on": ("--compare-tta",)}},
)


@pytest.mark.parametrize(
    ("written", "today"),
    [
        ("a --tta off,on b", "a --compare-tta b"),
        ("a --tta=off,on b", "a --compare-tta b"),
        ("--tta on", "--tta"),
        ("--tta off a", "a"),
        ("--tta a", "--tta a"),
        ("a --tta", "a --tta"),
        ("--tta --data on", "--tta --data on"),
        ("--tta=yes", "--tta=yes"),
        ("--contexts all,none", "--show-contexts all,none"),
        ("--contexts=all", "--show-contexts=all"),
        ("--tta on -- --tta off --contexts", "--tta -- --tta off --contexts"),
        ("", ""),
    ],
)
def test_translation(written: str, today: str) -> None:
    assert TTA.translated(written.split()) == today.split()
