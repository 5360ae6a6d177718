"""Clusters as users have them: a scheduler and workers that are started by themselves, and that end one day."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fctl.runtime import Segmenter
from fctl.runtime.cli.run import run_app
from tests.conftest import InProcess
from tests.runtime import tiny
from tests.runtime.segment.test_jobs import digests, paths_in

from .conftest import held, job, lead, order, until

pytest.importorskip("distributed", reason="needs distributed")
from fctl.runtime.spread.dask import Dask

Start = Callable[..., "subprocess.Popen[str]"]

FCTL_RUN = "from fctl.runtime.cli.run import run_app; run_app()"
RUN = "from distributed.cli import {0}; {0}.main()"
WITHOUT_FCTL = "import sys; sys.modules['fctl'] = None; " + RUN


@pytest.fixture
def start(tmp_path: Path, trouble: Path) -> Iterator[Start]:
    """Starts a part of a cluster, which ends with the test."""
    with ExitStack() as stack:

        def do(what: str, *arguments: object, code: str = RUN) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code.format(what), *map(str, arguments)],
                    cwd=tmp_path,
                    text=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield do


@pytest.fixture
def scheduler(start: Start, tmp_path: Path) -> tuple[str, subprocess.Popen[str]]:
    """A scheduler: its address, and its process."""
    file = tmp_path / "scheduler.json"
    process = start(
        "dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
        "--scheduler-file", file,
    )  # fmt: skip
    until(lambda: file.exists() and file.read_text().endswith("}"))
    return json.loads(file.read_text())["address"], process


def worker(start: Start, address: str, name: str, *arguments: object, code: str = RUN) -> subprocess.Popen[str]:
    """A worker that nobody starts again where it dies."""
    return start(
        "dask_worker", address, "--no-nanny", "--no-dashboard", "--nthreads", 1, "--name", name, "--host", "127.0.0.1",
        *arguments, code=code,
    )  # fmt: skip


def test_only_workers_with_a_gpu_work_where_there_are_any_and_a_death_is_made_up_for(
    scheduler: tuple[str, subprocess.Popen[str]], start: Start, image: Path, tmp_path: Path, trouble: Path,
    segmenter: Segmenter,
) -> None:  # fmt: skip
    address, _ = scheduler
    plain = worker(start, address, "plain")
    gpus = [worker(start, address, f"gpu{number}", "--resources", "GPU=1") for number in range(2)]
    crew = Dask(address)
    try:
        until(lambda: len(crew._client.scheduler_info(n_workers=-1)["workers"]) == 3)
        crew.close()
        crew = Dask(address)  # which knows of all
        assert crew.size == 2
        order(trouble, "die")
        lead(crew).segment_file(job(image, paths_in(tmp_path / "run")))
    finally:
        crew.close()
    assert sorted(process.poll() is None for process in gpus) == [False, True]  # one died, and was not started again
    makers = {int(line) for line in (trouble / "makers").read_text().split()}
    assert makers <= {process.pid for process in gpus}
    assert plain.poll() is None
    segmenter.segment_file(image, paths_in(tmp_path / "whole"))
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_a_scheduler_that_is_killed_ends_a_run_that_can_be_resumed(
    scheduler: tuple[str, subprocess.Popen[str]], start: Start, image: Path, tmp_path: Path, trouble: Path,
    in_process: InProcess,
) -> None:  # fmt: skip
    address, process = scheduler
    worker(start, address, "one")
    order(trouble, "later")
    soon = "import fctl.runtime.spread.dask as dask; dask._CONNECTING = 2.0; " + FCTL_RUN
    arguments = [str(image), "--bundle", str(tiny.TINY), "--backend", "onnxruntime"]
    run = [*arguments, "-o", str(tmp_path / "run"), "--log-level", "error"]
    command = [sys.executable, "-c", soon, *run, "--dask", address]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as leader:
        until(lambda: held(trouble))
        process.kill()
        _, told = leader.communicate(timeout=100)
    lines = [line for line in told.splitlines() if "patches/s" not in line]
    assert leader.returncode == 1
    assert len(lines) == 1, told
    assert re.fullmatch(rf"error: the scheduler {address} .*; go on with --resume once it is back", lines[0])
    resumed = in_process(run_app, *run, "--resume", "--json")
    assert resumed.returncode == 0
    assert in_process(run_app, *arguments, "-o", tmp_path / "whole").returncode == 0
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_a_worker_without_fctl_is_told_in_one_line(
    scheduler: tuple[str, subprocess.Popen[str]], start: Start, image: Path, tmp_path: Path
) -> None:
    address, _ = scheduler
    start("dask_worker", address, "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", code=WITHOUT_FCTL)
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    command = [
        sys.executable,
        "-c",
        "from fctl.runtime.cli.run import run_app; run_app()",
        str(image),
        "--dask",
        address,
    ]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out")], capture_output=True, check=False, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: a worker cannot do the work: ")
    assert done.stderr.endswith("; install the same version of fctl for scheduler and workers\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
