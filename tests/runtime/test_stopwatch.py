"""The time of stages: what nests is not counted twice, and a run adds up."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from fctl.runtime import Paths, Segmenter
from fctl.runtime.stopwatch import STOPPED, Stage, Stopwatch, Taken
from tests.conftest import write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of


class Clock:
    """A clock that each look moves on by a second."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def __call__(self) -> Taken:
        second = float(next(self._seconds))
        return Taken(clock=second, processor=2 * second)


def clocks(taken: Mapping[Stage, Taken]) -> dict[Stage, float]:
    return {stage: time.clock for stage, time in taken.items()}


def test_an_outer_stage_stands_still_while_an_inner_one_runs() -> None:
    watch = Stopwatch(Clock())
    with watch.stage("other"):  # 0
        with watch.stage("merge"), watch.stage("segment"):  # 1, 2
            pass  # 3, 4
        with watch.stage("write"):  # 5
            pass  # 6
    found = watch.times().foreground  # 7
    assert clocks(found) == {"other": 1 + 1 + 1, "merge": 1 + 1, "segment": 1, "write": 1}
    assert found["merge"].processor == 4


def test_an_error_ends_its_stages() -> None:
    watch = Stopwatch(Clock())
    with watch.stage("other"):
        with pytest.raises(ValueError, match="gone"), watch.stage("read"), watch.stage("merge"):
            raise ValueError("gone")
        with watch.stage("write"):
            pass
    assert clocks(watch.times().foreground) == {"other": 3, "read": 2, "merge": 1, "write": 1}


def test_only_what_makes_items_is_counted() -> None:
    watch = Stopwatch(Clock())
    with watch.stage("other"):
        found = []
        for item in watch.each("merge", iter("ab")):
            with watch.stage("write"):
                found.append(item)
    assert found == ["a", "b"]
    assert clocks(watch.times().foreground)["merge"] == 3  # two items, and the end
    assert clocks(watch.times().foreground)["write"] == 2


def test_threads_that_run_at_the_same_time_do_not_mix() -> None:
    watch, inside, going = Stopwatch(), threading.Event(), threading.Event()

    def read() -> None:
        with watch.stage("read"):
            inside.set()
            going.wait()

    readers = [threading.Thread(target=read) for _ in range(2)]
    with watch.stage("wait"):
        for reader in readers:
            reader.start()
        inside.wait()
        with watch.stage("write"):
            going.set()
        for reader in readers:
            reader.join()
    found = watch.times()
    assert set(found.foreground) == {"wait", "write"}
    assert set(found.background) == {"read"}


def test_nobody_asked() -> None:
    with STOPPED.stage("read"):
        assert list(STOPPED.each("merge", iter("ab"))) == ["a", "b"]
    assert STOPPED.times().foreground == STOPPED.times().background == {}


@pytest.mark.parametrize("contexts", ["exact", "shared"])
def test_the_stages_of_a_run_add_up_and_change_no_byte(tmp_path: Path, contexts: str) -> None:
    image = write_geotiff(tmp_path / "image.tif", slope_of(150, 130))
    with Segmenter(tiny.TINY_ONCE, backend="onnxruntime", contexts=contexts) as segmenter:
        watch, started = Stopwatch(), time.perf_counter()
        segmenter.segment_file(image, Paths(mask=tmp_path / "timed.tif"), stopwatch=watch)
        seconds = time.perf_counter() - started
        found = watch.times()
        segmenter.segment_file(image, Paths(mask=tmp_path / "plain.tif"))
    assert watch.times() == found  # the second run was not asked to be timed
    assert seconds / 2 < sum(taken.clock for taken in found.foreground.values()) <= seconds
    assert set(found.foreground) == {"other", "wait", "merge", "write"}
    assert set(found.background) == {"read", "shrink", "gather", "encode", "segment", "write"}
    assert (tmp_path / "timed.tif").read_bytes() == (tmp_path / "plain.tif").read_bytes()
