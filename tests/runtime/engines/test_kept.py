"""What this machine keeps between runs: whole or not there, never another's, and never in anybody's way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fctl.runtime.engines import kept as module
from fctl.runtime.engines.kept import cache_root, keep, kept
from fctl.runtime.errors import EngineError

KIND, KEY = "things", {"graph": "abc", "version": "1.0", "batch": 4}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / KIND


def entry(folder: Path) -> Path:
    [path] = folder.iterdir()
    return path


def test_what_is_kept_is_found_again_whatever_the_order_of_the_key() -> None:
    assert kept(KIND, KEY) is None
    keep(KIND, KEY, b"content")
    assert kept(KIND, dict(reversed(KEY.items()))) == b"content"
    assert kept("others", KEY) is None
    keep(KIND, KEY, b"newer")
    assert kept(KIND, KEY) == b"newer"


@pytest.mark.parametrize("change", [{"version": "1.1"}, {"batch": 8}, {"processor": "another"}])
def test_an_entry_of_anything_else_is_not_found(change: dict[str, object]) -> None:
    keep(KIND, KEY, b"content")
    assert kept(KIND, {**KEY, **change}) is None


@pytest.mark.parametrize("damage", ["flipped", "cut short", "empty", "a folder", "another's"])
def test_what_is_damaged_is_not_there_and_is_replaced(folder: Path, damage: str) -> None:
    keep(KIND, {**KEY, "batch": 8}, b"other")
    other = entry(folder).read_bytes()
    entry(folder).unlink()
    keep(KIND, KEY, b"content")
    path = entry(folder)
    whole = path.read_bytes()
    damaged = {"flipped": whole[:-1] + b"T", "cut short": whole[:-3], "empty": b"", "another's": other}
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damaged[damage])
    assert kept(KIND, KEY) is None
    keep(KIND, KEY, b"content")
    assert kept(KIND, KEY) == (None if damage == "a folder" else b"content")


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_folder_into_which_others_may_write_is_left_alone(folder: Path) -> None:
    keep(KIND, KEY, b"content")
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    assert kept(KIND, KEY) is None
    before = entry(folder).read_bytes()
    keep(KIND, KEY, b"newer")
    assert entry(folder).read_bytes() == before


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "file"))
    keep(KIND, KEY, b"content")
    assert kept(KIND, KEY) is None
    assert (tmp_path / "file").read_text() == "in the way"


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")  # as pathlib does for a user without a home

    monkeypatch.delenv("FCTL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    keep(KIND, KEY, b"content")
    assert kept(KIND, KEY) is None
    with pytest.raises(EngineError, match=r"^there is no home folder .*; name a folder in .* FCTL_CACHE$"):
        cache_root()


def test_what_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 10)
    keep(KIND, KEY, bytes(11))
    assert kept(KIND, KEY) is None
    keep(KIND, KEY, bytes(10))
    assert kept(KIND, KEY) == bytes(10)


def test_those_that_were_used_last_are_kept_longest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3 * 132)
    for batch in range(3):
        keep(KIND, {"batch": batch}, bytes(100))
    for age, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, ns=(age, age))
    assert kept(KIND, {"batch": 0}) is not None  # which is now the last that was used
    keep(KIND, {"batch": 3}, bytes(100))
    assert [kept(KIND, {"batch": batch}) is not None for batch in range(4)] == [True, False, True, True]


_WRITER = """
import sys
from fctl.runtime.engines.kept import keep, kept
for turn in range(60):
    keep("things", {"batch": 1}, sys.argv[1].encode() * 100_000)
    found = kept("things", {"batch": 1})
    if found is None or len(set(found)) != 1 or len(found) != 100_000:
        sys.exit(f"turn {turn}: {found and len(found)}")
"""


def test_two_processes_may_write_the_same_at_once(folder: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, letter]) for letter in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert entry(folder).suffix == ".kept"
