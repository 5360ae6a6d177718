"""Cases in processes of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fctl.runtime import Segmenter
from fctl.runtime.bench.cases import Case, plan_cases
from fctl.runtime.bench.process import CaseProcess
from fctl.runtime.bench.rounds import Plan, compare
from fctl.runtime.bench.work import FileRun, Image, WarmUp
from fctl.runtime.errors import BundleError, EngineError, FctlError, RasterError
from tests.conftest import write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of

CASE = Case(bundle=str(tiny.TINY), backend="onnxruntime")


class Crash:
    """What an engine does whose graph makes it crash."""

    def __call__(self, segmenter: Segmenter) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Fail:
    """A bug."""

    def __call__(self, segmenter: Segmenter) -> None:
        raise KeyError("gone")


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(place=str(write_geotiff(tmp_path / "image.tif", slope_of(60, 50))))


def test_work_is_done_elsewhere(image: Image, tmp_path: Path) -> None:
    with CaseProcess(CASE) as process:
        assert (process.opened.engine, process.opened.contexts, process.opened.bands) == ("onnxruntime", "exact", 3)
        threads = process.ask(WarmUp(image=image, folder=tmp_path))
        measured = process.ask(FileRun(image=image, folder=tmp_path, engine_threads=threads))
    assert measured.pixels == 60 * 50
    assert [path.name for path in tmp_path.iterdir()] == ["image.tif"]


def test_errors_come_back_as_they_are(image: Image, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.fctl"):
        CaseProcess(Case(bundle=str(tmp_path / "gone.fctl")))
    with CaseProcess(CASE) as process:
        with pytest.raises(RasterError) as error:
            process.ask(WarmUp(image=Image(place=str(tmp_path / "gone.tif")), folder=tmp_path))
        assert isinstance(error.value, FctlError)
        with pytest.raises(RuntimeError, match="KeyError: 'gone'"):
            process.ask(Fail())
        assert process.ask(WarmUp(image=image, folder=tmp_path)) is not None  # it goes on


def test_a_crash_is_an_error_of_its_case() -> None:
    with CaseProcess(CASE) as process:
        with pytest.raises(EngineError, match="ended by signal 11"):
            process.ask(Crash())
        with pytest.raises(EngineError, match="ended by signal 11"):
            process.ask(Crash())


def test_a_case_that_fails_in_a_round_leaves_the_others(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = CaseProcess.ask

    def fails_with_batches_of_2(process: CaseProcess, work: object) -> object:
        if isinstance(work, FileRun) and process.opened.batch == 2:
            return ask(process, Crash())
        return ask(process, work)  # type: ignore[arg-type]

    monkeypatch.setattr(CaseProcess, "ask", fails_with_batches_of_2)
    cases = plan_cases([str(tiny.TINY)], backends=["onnxruntime"], batches=[1, 2, 4])
    found = compare(cases, Plan(image=image.place, rounds=2))
    assert [(result.case.batch, len(result.rounds)) for result in found.results] == [(1, 2), (4, 2)]
    assert [skipped.case.batch for skipped in found.skipped] == [2]
