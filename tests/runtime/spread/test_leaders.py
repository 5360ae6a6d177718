"""A leader that is killed or interrupted while workers work: nobody is left, and the run goes on with `--resume`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fctl.runtime.cli.run import run_app
from tests.conftest import InProcess
from tests.runtime import tiny

from .conftest import held, living, order, release, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes and signals as Linux has them")

BY = [
    ("--workers", "2"),
    pytest.param(
        ("--dask", "local:2"),
        marks=pytest.mark.skipif(not find_spec("distributed"), reason="needs distributed"),
    ),
]
OTHERS = {"--workers": ("--workers", "3"), "--dask": ()}  # who goes on
ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime", "--stats", "csv")


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """``fctl-run``, with its workers a group of processes as of a terminal."""
    code = "from fctl.runtime.cli.run import run_app; run_app()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments), *map(str, ON_TINY)], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: InProcess) -> dict[str, bytes]:
    """The outputs of one process."""
    monkeypatch.chdir(tmp_path)
    assert in_process(run_app, "image.tif", "-o", "whole", *ON_TINY).returncode == 0
    return files(tmp_path / "whole")


@pytest.mark.skipif(not find_spec("distributed"), reason="needs distributed")
def test_a_cluster_here_ends_though_a_worker_was_stopped(
    whole: dict[str, bytes], tmp_path: Path, trouble: Path
) -> None:
    order(trouble, "hold")
    with started(tmp_path, "image.tif", "-o", "run", "--log-level", "error", "--dask", "local:2") as leader:
        until(lambda: held(trouble))
        os.kill(held(trouble)[0], signal.SIGSTOP)
        try:
            _, told = leader.communicate(timeout=60)
        finally:
            leader.kill()  # if it has not ended
    assert (leader.returncode, told.count("\n")) == (0, told.count(" patches/s\n")), told
    assert files(tmp_path / "run") == whole
    until(lambda: not living(trouble))


@pytest.mark.once
@pytest.mark.parametrize("by", BY, ids=lambda by: by[0][2:])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_leader_that_ends_in_the_middle(
    by: tuple[str, ...], number: signal.Signals, whole: dict[str, bytes], tmp_path: Path, trouble: Path,
    in_process: InProcess,
) -> None:  # fmt: skip
    """Killed alone; or interrupted by Ctrl-C, which a terminal sends to all of its processes."""
    journal = tmp_path / "run" / "image_mask.fctl-run" / "journal"
    order(trouble, "hold")
    with started(tmp_path, "image.tif", "-o", "run", "--log-level", "error", *by) as leader:
        until(lambda: held(trouble) and journal.read_bytes().count(b"\n") > 1)  # a line of a shard
        assert living(trouble)
        if number == signal.SIGINT:
            os.killpg(leader.pid, number)
        else:
            leader.kill()
        _, told = leader.communicate(timeout=60)
    until(lambda: not living(trouble))  # workers end with their leader, in the middle of whatever they do
    assert leader.returncode == (130 if number == signal.SIGINT else -number), told
    assert told == ("error: interrupted\n" if number == signal.SIGINT else "")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"image_mask.fctl-run"}
    release(trouble)
    resumed = in_process(run_app, "image.tif", "-o", "run", "--resume", *OTHERS[by[0]], *ON_TINY)
    assert resumed.returncode == 0, resumed.stderr
    assert files(tmp_path / "run") == whole
