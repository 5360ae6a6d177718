"""Workers that are processes of this machine: what they do, and what happens when they are killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fctl.runtime import Segmenter
from fctl.runtime.engines import processor
from fctl.runtime.errors import EngineError, RasterError
from fctl.runtime.spread.processes import Processes, gpus
from tests.runtime.segment.test_jobs import digests, paths_in

from .conftest import job, lead, living, order, release, until


def double(number: int) -> int:
    return 2 * number


def dies(number: int, mark: Path, times: int) -> int:
    """Ends its process so many times, and doubles a number then."""
    with mark.open("a") as file:
        file.write(f"{number}\n")
    if mark.read_text().split().count(str(number)) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def fails(error: Exception) -> None:
    raise error


def meets(folder: Path, others: int) -> tuple[int, str | None]:
    """Waits until so many processes have come here; gives its own number, and its GPU."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < others:
        time.sleep(0.01)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_every_item_is_done_once_and_few_are_taken_ahead(processes: Processes) -> None:
    taken = list[int]()

    def items() -> Iterator[tuple[int]]:
        for number in range(30):
            taken.append(number)
            yield (number,)

    found = list[int]()
    for result in processes.each(double, items()):
        found.append(result)
        assert len(taken) - len(found) < 2 * 2 + 1  # the list of all shards of a large raster is never in memory
    assert sorted(found) == [2 * number for number in range(30)]
    assert list(processes.each(double, [])) == []


@pytest.mark.once
def test_work_that_dies_with_its_process_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crew = Processes(1)
    try:
        items = [(number, tmp_path / "mark", number == 3) for number in range(5)]
        assert sorted(crew.each(dies, items)) == [0, 2, 4, 6, 8]
        assert (tmp_path / "mark").read_text().split() == ["0", "1", "2", "3", "3", "4"]  # what was done is kept
        assert caplog.messages == ["a worker process ended in the middle of its work: it begins anew"]
        with pytest.raises(EngineError, match=r"^worker processes ended 3 times in the middle of the same work"):
            list(crew.each(dies, [(9, tmp_path / "mark", 1000)]))
        assert (tmp_path / "mark").read_text().split().count("9") == 3
    finally:
        crew.close()


def test_a_pool_that_broke_before_it_was_given_work(processes: Processes) -> None:
    first = processes.each(double, [(number,) for number in range(9)])
    found = [next(first)]
    for process in list(processes._pool._processes.values()):
        process.kill()
        process.join()
    found += list(first)
    assert sorted(found) == list(range(0, 18, 2))


def test_errors_come_back_as_they_were(processes: Processes) -> None:
    with pytest.raises(RasterError, match=r"^bad block$"):
        processes.any(fails, RasterError("bad block"))
    with pytest.raises(EngineError, match=r"^ValueError: a bug$"):
        processes.any(fails, ValueError("a bug"))
    assert processes.any(double, 4) == 8


def test_processes_share_the_cores(processes: Processes) -> None:
    assert processes.all(processor.cores) == {"": max(1, processor.cores() // 2)}


@pytest.mark.once
def test_processes_take_gpus_in_turn(tmp_path: Path) -> None:
    crew = Processes(3, ("4", "GPU-7"))
    try:
        found = dict(crew.each(meets, [(tmp_path, 3)] * 3))
    finally:
        crew.close()
    assert sorted(found.values()) == ["4", "4", "GPU-7"]


@pytest.mark.parametrize(
    ("named", "expected"), [("0,2", ("0", "2")), (" 1 , GPU-3", ("1", "GPU-3")), ("1", ()), ("", ()), ("-1", ())]
)
def test_gpus_are_those_that_may_be_used(
    named: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert gpus() == expected


def test_workers_that_are_killed_change_no_byte(
    processes: Processes, image: Path, tmp_path: Path, trouble: Path, segmenter: Segmenter
) -> None:
    segmenter.segment_file(image, paths_in(tmp_path / "whole"))
    order(trouble, "die", "die")
    lead(processes).segment_file(job(image, paths_in(tmp_path / "run")))
    assert list(trouble.glob("die-*")) == []
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


@pytest.mark.once
def test_workers_that_are_killed_again_and_again_end_a_run_that_can_be_resumed(
    processes: Processes, image: Path, tmp_path: Path, trouble: Path, segmenter: Segmenter
) -> None:
    segmenter.segment_file(image, paths_in(tmp_path / "whole"))
    leader, out, told = lead(processes), paths_in(tmp_path / "run"), list[int]()

    def progress(done: int, total: int) -> None:
        if not told:
            order(trouble, *["die"] * 20)
        told.append(total)

    with pytest.raises(EngineError, match="worker processes ended 3 times in the middle of the same work"):
        leader.segment_file(job(image, out, progress=progress))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"m.fctl-run"}
    assert list((tmp_path / "run" / "m.fctl-run").glob("shard-*.npz"))
    release(trouble)
    crew = Processes(3)
    try:
        report = lead(crew).segment_file(job(image, out, resume=True))
    finally:
        crew.close()
    assert report.computed < told[0]
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")


def test_nobody_is_left(image: Path, tmp_path: Path, trouble: Path) -> None:
    crew = Processes(2)
    lead(crew, isolate=True).segment_file(job(image, paths_in(tmp_path)))
    assert any("spawn_main" in line for line in living(trouble))
    before = len(living(trouble))
    crew.close()
    until(lambda: len(living(trouble)) < before - 1)  # workers and the children in which their engines run
