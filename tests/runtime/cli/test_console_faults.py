"""Ordinary failures at the command lines: what may not be read, is no file, is too long or cannot be written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from fctl.runtime.cli.console import fail
from fctl.runtime.cli.eval import eval_app
from fctl.runtime.cli.info import info_app
from fctl.runtime.cli.run import run_app
from fctl.runtime.cli.tables import print_table
from fctl.runtime.errors import InputError, printable
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny

EVIL = "red\x1b[2J\x07\u202egpj.\ud800"
SHOWN = r"red\x1b[2J\x07\u202egpj.\ud800"


# Text that is no text


@pytest.mark.parametrize("text", ["", "plain", "Zürich", "日本", "a b", "a\u00a0b", "क्\u200dष", "\u3000"])
def test_text_of_any_script_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[31m", r"\x1b[31m"), ("a\nb\tc\x00", r"a\nb\tc\x00"), ("\x9b1m", r"\x9b1m"), ("\u2028", r"\u2028"),
     ("\u202e", r"\u202e"), ("\udc80", r"\udc80"), ("\U000e0001", r"\U000e0001")],
)  # fmt: skip
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode("utf-8")


def test_tables_show_names_of_strangers(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(EVIL, [(EVIL, "[red]1")], (EVIL, "number"))
    out = capsys.readouterr().out
    assert "\x1b" not in out and out.count(SHOWN) == 3 and "[red]1" in out


def test_a_network_of_a_stranger_is_shown(tmp_path: Path, in_process: InProcess) -> None:
    """The manifest's free fields are not looked into when a bundle is read."""
    folder = tiny.variant(tiny.TINY, tmp_path, lambda document: document.update(extensions={"a": "\x1b[2J\u202e"}))
    done = in_process(info_app, folder)
    assert done.returncode == 0 and r"\x1b[2J\u202e" in done.stdout and "\x1b" not in done.stdout


# Errors of the system


def line_of(error: Exception, capsys: pytest.CaptureFixture[str], subject: object = None) -> str:
    fail(error, subject)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            "/a/b: Permission denied; ask for the right to read",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "/a: Is a directory"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b"), "/a/b: Not a directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; make room there"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "nn"), "nn: File name too long; give a shorter name"),
        (MemoryError(), "there is not enough memory; try a smaller batch"),
        (InputError(f"no such class {EVIL}"), f"no such class {SHOWN}"),
        (InputError("a\n\nb\tc"), "a b c"),
    ],
)
def test_each_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = line_of(error, capsys)
    assert printed.startswith(f"error: {line}") and printed.count("\n") == 1 and "bug" not in printed


def test_a_name_that_cannot_be_written_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "a\udc80.tif".encode()
    line = line_of(caught.value, capsys, "image")
    assert line == "error: a\\udc80.tif: expected text that utf-8 can write; rename the file\n"


def test_no_line_is_longer_than_anybody_reads(capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(InputError("x" * 100_000, remedy="try a shorter one"), capsys)
    assert len(line) < 2000 and line.endswith("; try a shorter one\n")


# What a user without rights meets

UNPRIVILEGED = """
import json, os, sys
from fctl.runtime.cli.info import info_app
from fctl.runtime.cli.eval import eval_app
from fctl.runtime.cli.run import run_app
apps = {"info": info_app, "eval": eval_app, "run": run_app}

def run(name, *words):
    try:
        apps[name](list(words), prog_name="fctl")
    except SystemExit as end:
        return end.code

calls = json.load(sys.stdin)
for name, *words in calls["first"]:  # what is loaded on demand, may not be readable afterwards
    assert run(name, *words) == 0
print("=====", file=sys.stderr, flush=True)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for name, *words in calls["then"]:
    print(f"{run(name, *words)} <-", file=sys.stderr, flush=True)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that anybody may enter; those of pytest any other pytest that starts closes again, all at once."""
    if os.name != "posix" or os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    with TemporaryDirectory(prefix="fctl-public-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_what_may_not_be_read_is_one_line(public: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundles = {}
    for closed in ("manifest.json", "segmenter.onnx", "engines", "."):
        folder = tiny.variant(tiny.TINY, public / f"without {closed}", lambda document: None)
        folder.parent.chmod(0o755)
        (folder / "engines").mkdir()
        for path in folder.rglob("*"):
            path.chmod(0o755)
        folder.chmod(0o755)
        (folder / closed).chmod(0)
        bundles[closed] = str(folder)
    data = public / "data"
    data.mkdir()
    (data / "dataset.json").write_text("{}")
    (data / "dataset.json").chmod(0)
    image = write_geotiff(public / "image.tif", np.zeros((20, 20, 3), np.uint8))
    locked = write_geotiff(public / "locked.tif", np.zeros((20, 20, 3), np.uint8))
    locked.chmod(0)
    inside = public / "inside"
    inside.mkdir()
    inside.chmod(0)
    run = ["run", "--bundle", str(tiny.TINY), "--backend", "onnxruntime", "--quiet"]
    then = {
        "manifest": (["info", bundles["manifest.json"]], "manifest.json: expected JSON, found Permission denied"),
        "graph": (["info", bundles["segmenter.onnx"]], "expected an ONNX graph, found Permission denied"),
        "engines": (["info", bundles["engines"]], "engines: expected a folder of engines, found Permission denied"),
        "folder": (["info", bundles["."]], "Permission denied"),
        "bundle's parent": (["info", str(inside / "a.fctl")], "a.fctl: expected a bundle folder"),
        "description": (["eval", str(tiny.TINY), "--data", str(data)], "dataset.json: "),
        "image": ([*run, str(locked), "--out", str(public / "a.tif")], "locked.tif: "),
        "image's parent": ([*run, str(inside / "a.tif"), "--out", str(public / "a.tif")], "a.tif: "),
        "out": ([*run, str(image), "--out", str(inside / "a.tif")], "a.tif: "),
    }
    first = [["info", str(tiny.TINY)], [*run, str(image), "--out", str(public / "first.tif"), "--overwrite"]]
    before = set(public.rglob("*")) | {public / "first.tif"}
    calls = json.dumps({"first": first, "then": [words for words, _ in then.values()]})
    done = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED], input=calls, capture_output=True, text=True, timeout=100, check=False
    )
    printed = done.stderr.partition("=====\n")[2]
    assert done.returncode == 0 and "Traceback" not in done.stderr and "bug" not in printed, done.stderr
    endings = printed.split("1 <-\n")
    assert len(endings) == len(then) + 1 and endings[-1] == ""
    for (name, (_, expected)), ending in zip(then.items(), endings, strict=False):
        lines = [line for line in ending.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and expected in lines[0], name
    assert {path for path in set(public.rglob("*")) - before if "first" not in path.name} == set()


@pytest.mark.parametrize("name", ["n" * 300, "\udc80", "no\nline", "\x1b[2J"])
def test_names_of_no_file_are_one_line(name: str, tmp_path: Path, in_process: InProcess) -> None:
    for app, words in (
        (info_app, [tmp_path / name]),
        (eval_app, [tiny.TINY, "--data", tmp_path / name]),
        (run_app, [tmp_path / name, "--out", tmp_path / "mask.tif", "--bundle", tiny.TINY]),
    ):
        done = in_process(app, *words)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 1 and len(lines) == 1 and "bug" not in lines[0]
        assert printable(lines[0]) == lines[0]
