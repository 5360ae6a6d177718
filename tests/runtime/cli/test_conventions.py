"""What all commands have in common, those of export and training among them; and what the documentation shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from typer.main import get_command

from fctl.runtime.cli.umbrella import COMMANDS, app
from tests.conftest import InProcess

ROOT = Path(__file__).parents[3]
NAMES = ("run", "info", "eval", "bench", "view", "export", "train", "explain")
APPS = {entry.name: entry.load() for entry in entry_points(group=COMMANDS)}


def test_all_commands_are_installed() -> None:
    assert set(APPS) == set(NAMES)  # else install fctl again: its entry points are older than the checkout


def words(line: str) -> list[str]:
    """What a shell makes of a line: without a comment, and without the file that its output goes to."""
    found = shlex.split(line, comments=True)
    return found[: found.index(">")] if ">" in found else found


def shown(name: str, in_process: InProcess, monkeypatch: pytest.MonkeyPatch, columns: int, flag: str = "--help") -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    done = in_process(APPS[name], flag)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_help_fits_and_ends_with_two_examples(
    name: str, columns: int, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(name, in_process, monkeypatch, columns)
    panels, examples = text.split(" Examples:\n")
    assert max(map(len, panels.splitlines())) <= columns
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert len(lines) == 2
    for option in ("--help", "--version", "--quiet", "--install-completion", "--show-completion"):
        assert option in panels
    for line in lines:  # shown with the name that it was called by
        program, *arguments = words(line)
        assert program == "fctl"
        get_command(APPS[name]).make_context(program, arguments).close()


@pytest.mark.parametrize("name", NAMES)
def test_h_is_help(name: str, in_process: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(name, in_process, monkeypatch, 80, "-h") == shown(name, in_process, monkeypatch, 80)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_shown_with_what_it_means(
    name: str, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(name, in_process, monkeypatch, 120)
    for parameter in get_command(APPS[name]).params:
        assert getattr(parameter, "help", None), parameter.name
        assert parameter.param_type_name == "argument" or all(option in text for option in parameter.opts)


@pytest.mark.parametrize("name", NAMES)
def test_version(name: str, in_process: InProcess) -> None:
    done = in_process(APPS[name], "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"fctl \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_o_is_short_for_out(name: str) -> None:
    options = [parameter.opts for parameter in get_command(APPS[name]).params]
    assert not [names for names in options if ("--out" in names) != ("-o" in names)]


def test_an_option_takes_the_same_kind_of_value_everywhere() -> None:
    kinds: dict[str, set[bool]] = {}
    for name in NAMES:
        for parameter in get_command(APPS[name]).params:
            for option in parameter.opts:
                kinds.setdefault(option, set()).add(bool(getattr(parameter, "is_flag", False)))
    of_view = {"--probabilities", "--confidence"}  # files of what fctl-run makes of the flags
    assert {option for option, found in kinds.items() if len(found) > 1} == of_view


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys
from fctl.runtime.cli.umbrella import app
for name in [None, *sys.argv[1:]]:
    try:
        app([name, "--help"] if name else ["--help"])
    except SystemExit as end:
        assert end.code == 0
    heavy = {"rasterio", "numpy", "PIL", "onnxruntime", "openvino", "torch", "onnx", "starlette"} & set(sys.modules)
    assert not heavy, (name, heavy)
"""
    command = [sys.executable, "-c", code, *NAMES]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# fctl


def test_the_umbrella_names_every_command(in_process: InProcess) -> None:
    done = in_process(app, "-h")
    assert done.returncode == 0
    listed = re.findall(r"^│ (\w+) ", done.stdout.split("Commands")[1], re.MULTILINE)
    assert set(listed) == set(NAMES)


def test_the_umbrella_is_the_command_itself(in_process: InProcess) -> None:
    done = in_process(app, "info", "gone.fctl")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == in_process(APPS["info"], "gone.fctl").stderr


def test_a_command_that_is_mistyped_is_guessed(in_process: InProcess) -> None:
    done = in_process(app, "exprot")
    assert done.returncode == 2
    assert "No such command 'exprot'. Did you mean 'export'?" in done.stderr


def completed(line: str, monkeypatch: pytest.MonkeyPatch, in_process: InProcess) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("_FCTL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    return in_process(app).stdout.split()


def test_shells_complete_commands_options_and_choices(monkeypatch: pytest.MonkeyPatch, in_process: InProcess) -> None:
    assert completed("fctl e", monkeypatch, in_process) == ["eval", "explain", "export"]
    assert completed("fctl export --fmt t", monkeypatch, in_process) == ["trt", "triton"]
    assert "--scene-size" in completed("fctl run --s", monkeypatch, in_process)


# What the documentation shows


def documented() -> Iterator[tuple[str, str]]:
    """Command lines in the documentation's shell blocks, and where they are."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                for command in line.split("&&"):
                    if re.match(r"\s*fctl[ -]", command):
                        yield path.name, command.strip()


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the source tree")
def test_command_lines_of_the_documentation_are_accepted() -> None:
    refused, seen = [], set()
    for where, line in documented():
        program, *arguments = words(line)
        name = arguments.pop(0) if program == "fctl" else program.removeprefix("fctl-")
        seen.add(name)
        try:
            get_command(APPS[name]).make_context(program, arguments).close()
        except Exception as error:  # click's usage errors, whichever click typer brings
            refused.append(f"{where}: {line}: {error}")
    assert refused == []
    assert seen == set(NAMES)
