"""The parts of the QGIS plugin that know nothing of QGIS. integrations/qgis/test.sh tests the plugin in a real one."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.main import get_command

from fctl.export.cli.command import app as export_app
from fctl.runtime import choices
from fctl.runtime.cli.eval import eval_app
from fctl.runtime.cli.run import run_app
from integrations.qgis.fctl_qgis import calls, pages
from integrations.qgis.fctl_qgis.calls import CallError, CancelledError, Progress, call, program_in
from integrations.qgis.fctl_qgis.options import EVALUATE, EXPORT, SEGMENT, Option, words_of
from tests.conftest import write_geotiff

PLUGIN = Path(calls.__file__).parent
TABLES = {"run": (SEGMENT, run_app), "export": (EXPORT, export_app), "eval": (EVALUATE, eval_app)}


def _parameters(name: str) -> dict[str, object]:
    """The parameters of a command by each of their options."""
    found = get_command(TABLES[name][1]).params
    return {option: parameter for parameter in found for option in (*parameter.opts, *parameter.secondary_opts)}


def _something(option: Option) -> object:
    """A value that is not the default."""
    if option.kind == "choice":
        return next(choice for choice in option.choices if choice != option.default)
    if option.kind == "choices":
        return list(option.choices)
    values: dict[str, object] = {"flag": not option.off, "number": 2.5, "count": 3, "extent": "1.0,2.0,3.0,4.5"}
    return values.get(option.kind, {"BATCH": "auto", "SCALE": "2"}.get(option.name, "words"))


# The tables


@pytest.mark.parametrize("name", TABLES)
def test_every_option_is_one_of_the_program(name: str) -> None:
    table, app = TABLES[name]
    values = {option.name: _something(option) for option in table if option.kind != "extra"}
    words = words_of(table, values)
    flags = {option.flag for option in table if option.flag}
    assert flags <= set(_parameters(name))
    given = {word for word in words if word.startswith("--")}
    assert given == {option.off or option.flag for option in table if option.flag}
    if name == "export":
        words.remove("words")  # one network is enough
    get_command(app).make_context("fctl", words).close()


@pytest.mark.parametrize("name", TABLES)
def test_defaults_and_choices_are_those_of_the_program(name: str) -> None:
    parameters = _parameters(name)
    for option in TABLES[name][0]:
        if not option.flag or option.kind == "flag":
            continue
        parameter = parameters[option.flag]
        default = getattr(parameter, "default", None)
        told = ",".join(option.default) if isinstance(option.default, tuple) else option.default
        if not option.is_output:
            assert told == (default if default is None or isinstance(told, (int, float)) else str(default)), option
        if option.kind == "choice":
            allowed = getattr(getattr(parameter, "type", None), "choices", None)
            assert allowed is None or set(option.choices) == set(allowed), option


@pytest.mark.parametrize(
    ("table", "name", "choice"),
    [
        (SEGMENT, "BACKEND", choices.Backend), (SEGMENT, "PRECISION", choices.PrecisionChoice),
        (SEGMENT, "CONTEXTS", choices.ContextEncoding), (EXPORT, "PRECISION", choices.Precision),
        (EVALUATE, "BACKEND", choices.Backend), (EVALUATE, "PRECISION", choices.RunPrecision),
        (EVALUATE, "CONTEXTS", choices.ContextEncoding), (EVALUATE, "SHOW_CONTEXTS", choices.ContextMode),
        (EVALUATE, "FORM", choices.Form), (EVALUATE, "SHOW", choices.Order),
    ],
)  # fmt: skip
def test_choices_are_those_of_fctl(table: tuple[Option, ...], name: str, choice: object) -> None:
    assert next(option.choices for option in table if option.name == name) == get_args(choice)


@pytest.mark.parametrize("name", TABLES)
def test_a_dialog_has_room_for_every_line(name: str) -> None:
    assert [option.text for option in TABLES[name][0] if len(option.text) > 65] == []
    assert len({option.name for option in TABLES[name][0]}) == len(TABLES[name][0])


def test_what_is_left_alone_is_not_said() -> None:
    values = {option.name: option.default for option in SEGMENT} | {"INPUT": "a b.tif", "MASK": "m.tif", "VECTOR": ""}
    assert words_of(SEGMENT, values) == ["a b.tif", "--no-preview", "--overwrite", "--out", "m.tif"]
    assert words_of(EVALUATE, {"DATA": "d"}) == ["default", "--data", "d"]


def test_further_options_are_words_of_a_shell() -> None:
    values = {"INPUT": "a.tif", "MASK": "m.tif", "PREVIEW": True, "EXTRA": "--co 'A B=1'  --debug", "MIN_AREA": 20.0}
    assert words_of(SEGMENT, values) == [
        "a.tif", "--min-area", "20", "--preview", "--co", "A B=1", "--debug", "--out", "m.tif"
    ]  # fmt: skip


# Calls


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("dubai.tif: 40 of 121, 39.8 patches/s, about 0 minutes left", ("dubai.tif", 40, 121)),
        ("reading masks: 1 of 1", ("reading masks", 1, 1)),
        ("odd: 1 of 2: 3 of 4", ("odd: 1 of 2", 3, 4)),
        ("bundle default runs on openvino, CPU, fp32", None),
        ("warning: a.tif: of its 3 layers, polygons are taken of the first: b", None),
    ],
)
def test_lines_of_progress_are_told_from_others(line: str, progress: tuple[str, int, int] | None) -> None:
    assert calls.progress_in(line) == (Progress(*progress, line) if progress else None)


def test_faults_are_said_in_the_words_of_fctl() -> None:
    assert calls.fault_in("fctl-run", 1, ["warning: b", "error: a.tif: gone", ""]) == "a.tif: gone"
    assert calls.fault_in("fctl-run", 2, ["Usage: fctl-run", "", "Error: No such option: --x"]) == "No such option: --x"
    assert calls.fault_in("fctl-run", -9, ["runs"]) == "fctl-run ended with exit code -9: runs"
    assert calls.fault_in("fctl-run", 1, []) == "fctl-run ended with exit code 1: nothing was printed"


def test_what_qgis_sets_for_itself_does_not_reach_the_program() -> None:
    shell = {"PATH": "/bin", "PYTHONPATH": "/mine", "PROJ_LIB": "/qgis/proj", "GDAL_DATA": "/qgis/gdal"}
    assert calls.environment(shell) == {"PATH": "/bin", "PYTHONPATH": "/mine", "PYTHONUTF8": "1"}
    assert calls.environment(shell | {"PYTHONHOME": "/qgis"}) == {"PATH": "/bin", "PYTHONUTF8": "1"}


def test_the_environment_overrules_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(calls.FOLDER_VARIABLE, raising=False)
    assert (calls.folder_of("/set"), calls.folder_of(None)) == ("/set", "")
    monkeypatch.setenv(calls.FOLDER_VARIABLE, "/told")
    assert calls.folder_of("/set") == "/told"


def test_programs_are_found_in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "bin" / "fctl-run"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    with pytest.raises(CallError, match=r"bin has no fctl-run: name the folder"):
        program_in("~/bin", "fctl-run")  # nobody may run it
    program.chmod(0o755)
    assert program_in("~/bin", "fctl-run") == str(program)
    monkeypatch.setenv("PATH", str(program.parent))
    assert program_in("", "fctl-run") == str(program)


class Told:
    """What a call tells."""

    def __init__(self, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        self.progress, self.messages, self.lines = list[Progress](), list[str](), list[str]()
        self._is_cancelled = is_cancelled

    def run(self, *command: str) -> list[str]:
        return call(
            list(command), on_progress=self.progress.append, on_message=self.messages.append,
            on_line=self.lines.append, is_cancelled=self._is_cancelled,
        )  # fmt: skip


def _noise(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def _fctl_run(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "from fctl.runtime.cli.run import run_app; run_app()", *arguments)


TINY = Path(__file__).parents[1] / "data" / "tiny.fctl"


def test_a_run_is_followed_to_its_answer(tmp_path: Path) -> None:
    image = write_geotiff(tmp_path / "ä.tif", _noise(300))
    values = {"INPUT": str(image), "BUNDLE": str(TINY), "MASK": str(tmp_path / "mask.tif"), "BACKEND": "onnxruntime"}
    told = Told()
    lines = told.run(*_fctl_run(*words_of(SEGMENT, values), "--json", "--progress-every", "0"))
    answer = calls.answer_in(lines)
    assert answer["outputs"] == {"mask": str(tmp_path / "mask.tif")}
    assert told.lines == lines and len(lines) == 1
    assert len(told.progress) > 2
    assert {progress.name for progress in told.progress} == {"ä.tif"}
    assert told.progress[-1].percent == 100
    assert told.messages[0].startswith("bundle tiny runs on onnxruntime")


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    told = Told()
    with pytest.raises(CallError, match=r"^gone\.tif: expected an image, found no such file$"):
        told.run(*_fctl_run("gone.tif", "--json", "--out", str(tmp_path)))
    assert told.messages == []


def test_a_program_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"^cannot run .*fctl-run: "):
        Told().run(str(tmp_path / "fctl-run"))


def test_a_run_that_is_cancelled_ends_and_leaves_no_mask(tmp_path: Path) -> None:
    image = write_geotiff(tmp_path / "a.tif", _noise(2500))
    told = Told(lambda: bool(told.progress))
    with pytest.raises(CancelledError):
        told.run(*_fctl_run(str(image), "--bundle", str(TINY), "-o", str(tmp_path), "--progress-every", "0"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert "a_mask.tif" not in left


def test_a_program_that_heeds_nothing_is_ended_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_PATIENCE", (0.1, 0.1))
    deaf = "import signal, sys, os, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\n"
    told = Told(lambda: bool(told.lines))
    with pytest.raises(CancelledError):
        told.run(sys.executable, "-c", deaf + "print(os.getpid(), flush=True)\ntime.sleep(60)")
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.lines[0]), 0)


# Pages and files


def test_scores_and_pictures_of_a_report(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"runs": [{"miou": 0.5}, {"miou": None}]}))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "001 a.png").touch()
    assert pages.miou_in(tmp_path) == 50
    page = pages.page_of(["a <b>", "c"], tmp_path)
    assert "a &lt;b&gt;\nc" in page
    assert f'src="{tmp_path.as_uri()}/pictures/001%20a.png"' in page
    (tmp_path / "report.json").write_text(json.dumps({"runs": [{"miou": None}]}))
    assert pages.miou_in(tmp_path) is None


@pytest.mark.parametrize("path", sorted(PLUGIN.glob("*.py")), ids=lambda path: path.name)
def test_the_oldest_python_of_qgis_reads_the_plugin(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_the_plugin_says_what_it_is() -> None:
    metadata = (PLUGIN / "metadata.txt").read_text(encoding="utf-8")
    for line in ("hasProcessingProvider=yes", "qgisMinimumVersion=3.22", "icon=icon.svg"):
        assert line in metadata.splitlines()
    project = (PLUGIN.parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r"^version=(.+)$", metadata, re.M) == re.findall(r'^version = "(.+)"$', project, re.M)
