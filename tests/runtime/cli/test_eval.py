from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fctl.runtime import Segmenter
from fctl.runtime.cli.eval import eval_app
from tests.conftest import InProcess
from tests.runtime import labelled, tiny
from tests.runtime.cli.test_run import assert_fine, assert_one_error, assert_usage, files_in

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

Result = subprocess.CompletedProcess[str]
Measure = Callable[..., Result]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, in_process: InProcess) -> Measure:
    """fctl-eval in a folder, in this process: loading rasterio for every call takes longer than all the rest."""

    def run(folder: Path, *args: object) -> Result:
        monkeypatch.chdir(folder)
        return in_process(eval_app, *args)

    return run


@pytest.fixture
def measure(call: Measure) -> Measure:
    """fctl-eval with tiny.fctl in a folder."""
    return lambda folder, *args: call(folder, tiny.TINY, "--backend", "onnxruntime", *args)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a data set of three images in data/."""
    labelled.write_folder(tmp_path / "data")
    return tmp_path


def test_scores_are_printed(folder: Path, measure: Measure) -> None:
    before = files_in(folder)
    result = measure(folder, "--data", "data")
    assert_fine(result)
    truths, masks = [], []
    with Segmenter(tiny.TINY, backend="onnxruntime") as segmenter:
        for index, (height, width) in enumerate([(37, 50), (20, 30), (16, 16)]):
            truths.append(labelled.truth_of(height, width, 3, index).ravel())
            pixels = np.asarray(Image.open(folder / "data" / "images" / f"{index}.png"))
            masks.append(segmenter.segment(pixels).ids.ravel())
    scores = labelled.naive_scores(np.concatenate(truths), np.concatenate(masks), (0, 1, 2))
    line = next(line for line in result.stdout.splitlines() if "tiny, onnxruntime fp32" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[1:4] == [f"{100 * scores[kind]:.1f}" for kind in ("miou", "f1", "accuracy")]
    assert "tiny: 3 images" in result.stdout
    assert files_in(folder) == before


@pytest.mark.once
@pytest.mark.parametrize(
    "compared",
    [("--compare-tta", "--show-contexts", "all,none,each"), ("--tta", "off,on", "--contexts", "all,none,each")],
    ids=["today", "as it was"],
)
def test_runs_side_by_side_into_a_report(folder: Path, measure: Measure, compared: tuple[str, ...]) -> None:
    result = measure(
        folder, "--data", "data", "-o", "out/report", *compared,
        "--split", "every=2:0", "--pictures", "1", "--show", "best",
    )  # fmt: skip
    assert_fine(result)
    assert result.stdout.splitlines()[-1] == "wrote out/report/report.md"
    written = files_in(folder / "out" / "report")
    assert written == [*(f"confusion_{run}.png" for run in range(1, 9)), written[8], "report.json", "report.md"]
    assert written[8].startswith("pictures/001_")
    document = json.loads((folder / "out" / "report" / "report.json").read_text("utf-8"))
    assert document["data"]["split"] == "every=2:0"
    assert [(run["tta"], len(run["black_contexts"])) for run in document["runs"]] == [
        (tta, black) for tta in (False, True) for black in (0, 2, 1, 1)
    ]
    assert files_in(folder / "out") == [f"report/{name}" for name in written]


def test_a_report_is_replaced_only_when_told(folder: Path, measure: Measure) -> None:
    arguments = ("--data", "data", "--out", "report", "--split", "1")
    assert_fine(measure(folder, *arguments))
    (folder / "report" / "report.md").write_text("old", encoding="utf-8")
    assert_one_error(measure(folder, *arguments), "report exists already", "--overwrite")
    assert (folder / "report" / "report.md").read_text("utf-8") == "old"
    assert_fine(measure(folder, *arguments, "--pictures", "0", "--overwrite"))
    assert files_in(folder / "report") == ["confusion_1.png", "report.json", "report.md"]


def test_what_is_no_report_is_not_replaced(folder: Path, measure: Measure) -> None:
    (folder / "report").mkdir()
    (folder / "report" / "notes.txt").write_text("precious", encoding="utf-8")
    result = measure(folder, "--data", "data", "--out", "report", "--overwrite")
    assert_one_error(result, "expected a report alone, found notes.txt")
    assert_one_error(measure(folder, "--data", "data", "--out", "data/dataset.json"), "found a file")
    assert_one_error(measure(folder, "--data", "data", "--out", "."), "found the current folder")
    assert files_in(folder / "report") == ["notes.txt"]


def test_nothing_is_left_of_a_report_that_fails(folder: Path, measure: Measure) -> None:
    colours = labelled.coloured(labelled.truth_of(16, 16, 3, 2), labelled.COLOURS)
    colours[0, 0] = (1, 2, 3)
    labelled.save(folder / "data" / "masks" / "2.png", colours)
    before = files_in(folder)
    result = measure(folder, "--data", "data", "--out", "report")
    assert_one_error(result, "masks/2.png", "1 pixels of others: (1, 2, 3) 1 x", "ignore")
    assert files_in(folder) == before
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--data", "gone"), ("--data", "found nothing at gone")),
        (("--data", "data", "--split", "rome*"), ("--split rome*", "3 images")),
        (("--data", "data", "--form", "inria"), ("form inria",)),
        (("--data", "data", "--description", "gone.json"), ("gone.json", "no such file")),
        (("--data", "data", "--precision", "fp32,fp16"), ("no fp16 graph",)),
        (("--data", "data", "--bands", "1,2"), ("expected 3 bands, found 2",)),
        (("--data", "data", "--out", "data/images/0.png/x"), ("cannot write",)),
    ],
)
def test_errors_are_one_line(folder: Path, args: tuple[str, ...], told: tuple[str, ...], measure: Measure) -> None:
    before = files_in(folder)
    assert_one_error(measure(folder, *args), *told)
    assert files_in(folder) == before


def test_a_missing_bundle_is_one_line(folder: Path, call: Measure) -> None:
    assert_one_error(call(folder, "gone.fctl", "--data", "data"), "gone.fctl", "found nothing")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), ("--data",)),
        (("--data", "data", "--form", "coco"), ("--form", "'coco'", "'deepglobe', 'inria'")),
        (("--data", "data", "--precision", "fp8"), ("--precision", "'fp8'")),
        (("--data", "data", "--precision", "fp32,"), ("--precision", "''")),
        (("--data", "data", "--backend", "tvm"), ("--backend", "'tvm'", "openvino or onnxruntime")),
        (("--data", "data", "--tta=yes"), ("--tta",)),
        (("--data", "data", "--show-contexts", "some"), ("--show-contexts", "'some'", "all or none or each")),
        (("--data", "data", "--contexts", "some"), ("--contexts", "'some'")),
        (("--data", "data", "--show", "all"), ("--show", "'all'")),
        (("--data", "data", "--bands", "x"), ("--bands", "'x'")),
        (("--data", "data", "--pictures", "-1"), ("--pictures",)),
    ],
)
def test_a_wrong_call_exits_with_two(
    folder: Path, args: tuple[str, ...], told: tuple[str, ...], measure: Measure
) -> None:
    assert_usage(measure(folder, *args), *told)


@pytest.mark.once
def test_without_matplotlib_scores_are_printed_and_reports_refused_at_once(folder: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from fctl.runtime.cli.eval import eval_app; eval_app()"
    arguments = [str(tiny.TINY), "--data", "data", "--split", "1", "--backend", "onnxruntime"]
    plain, refused = (
        subprocess.run(
            [sys.executable, "-c", code, *arguments, *more], cwd=folder, capture_output=True, text=True, check=False
        )
        for more in ((), ("--out", "report"))
    )
    assert plain.returncode == 0 and "mIoU" in plain.stdout, plain.stderr
    assert refused.returncode == 1 and refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: charts need matplotlib, which is not installed; pip install ") and "[report]" in line
    assert not (folder / "report").exists()
