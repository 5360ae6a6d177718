"""Files of strangers, damaged at random, at the command lines: each is fine, or one line that does nothing else.

`python -m benchmarks.fuzz` tries many more of them, and damaged graphs in the engines.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.parts.documents import DESCRIPTION, RECORD, damaged
from fctl.runtime.bundle.store import read_bundle, sha256
from fctl.runtime.cli.eval import eval_app
from fctl.runtime.cli.info import info_app
from fctl.runtime.cli.run import run_app
from fctl.runtime.engines.tensorrt.plans import read_record
from fctl.runtime.errors import EngineError, InputError, printable
from fctl.runtime.evaluate.description import read_description
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny

SEEDS = st.integers(0, 1 << 40)
bounded = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with a plan and its record."""
    folder = shutil.copytree(tiny.TINY, tmp_path / "city.fctl")
    (folder / "engines").mkdir()
    (folder / "engines" / "segmenter-fp32-tensorrt-sm87-b1-0.engine").write_bytes(b"plan")
    record_of(folder).write_text(json.dumps(RECORD), "utf-8")
    return folder


def record_of(folder: Path) -> Path:
    return folder / "engines" / "segmenter-fp32-tensorrt-sm87-b1-0.json"


def fine_or_one_line(done: subprocess.CompletedProcess[str], images: int = 1) -> bool:
    """Whether a command line went well; otherwise it ended with one line of its own, or one for each image."""
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed and "this is a bug" not in printed
    assert all(printable(line) == line for line in printed.split("\n"))
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "Error: "))]
    assert done.returncode in (0, 1, 2) and (done.returncode != 0) <= len(errors) <= images * (done.returncode != 0)
    assert done.returncode == 2 or len("".join(errors)) < 2000
    return done.returncode == 0


def files_under(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_the_documents_are_fine_as_they_are(bundle: Path, tmp_path: Path, in_process: InProcess) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(DESCRIPTION), "utf-8")
    assert read_description(tmp_path / "dataset.json").class_names == ("land", "water")
    assert read_record(record_of(bundle)).profiles == (1, 4)
    assert fine_or_one_line(in_process(info_app, bundle))


@bounded
@given(seed=SEEDS, name=st.sampled_from(["tiny", "tiny_global", "tiny_fixed", "tiny_shares"]))
def test_manifests(bundle: Path, in_process: InProcess, seed: int, name: str) -> None:
    shutil.copytree(tiny.DATA / f"{name}.fctl", bundle, dirs_exist_ok=True)
    document = json.loads((tiny.DATA / f"{name}.fctl" / "manifest.json").read_text("utf-8"))
    (bundle / "manifest.json").write_bytes(damaged(document, random.Random(seed)))
    before = files_under(bundle.parent)
    fine_or_one_line(in_process(info_app, bundle))
    assert files_under(bundle.parent) == before


@pytest.mark.once
@bounded
@given(seed=SEEDS)
def test_records_of_plans(bundle: Path, in_process: InProcess, seed: int) -> None:
    record_of(bundle).write_bytes(damaged(RECORD, random.Random(seed)))
    fine_or_one_line(in_process(info_app, bundle))
    try:
        read_record(record_of(bundle))
    except EngineError as error:
        assert "\n" not in str(error)


@bounded
@given(seed=SEEDS)
def test_descriptions_of_data_sets(tmp_path: Path, in_process: InProcess, seed: int) -> None:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    (data / "dataset.json").write_bytes(damaged(DESCRIPTION, random.Random(seed)))
    before = files_under(tmp_path)
    assert not fine_or_one_line(in_process(eval_app, tiny.TINY, "--data", data))  # there is no image
    assert files_under(tmp_path) == before
    try:
        read_description(data / "dataset.json")
    except InputError as error:
        assert "\n" not in str(error)


@bounded
@given(seed=SEEDS)
def test_configs_of_trainings(tmp_path: Path, seed: int) -> None:
    config = pytest.importorskip("fctl.model.train.config", exc_type=ImportError)
    document = json.loads((Path(__file__).parents[3] / "docs" / "dubai-training.json").read_text("utf-8"))
    path = tmp_path / "config.json"
    path.write_bytes(damaged(document, random.Random(seed)))
    try:
        config.read_config(path)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), float("-inf")])
def test_a_rate_is_a_number(tmp_path: Path, value: float) -> None:
    config = pytest.importorskip("fctl.model.train.config", exc_type=ImportError)
    document = json.loads((Path(__file__).parents[3] / "docs" / "dubai-training.json").read_text("utf-8"))
    document["optimisation"]["rate"] = value
    (tmp_path / "config.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(InputError, match=r"optimisation.rate: expected a number above 0, found (inf|nan|-inf)"):
        config.read_config(tmp_path / "config.json")


@pytest.mark.once
@bounded
@given(seed=SEEDS)
def test_bundles_at_work(bundle: Path, tmp_path: Path, in_process: InProcess, seed: int) -> None:
    """A manifest that is believed may still be nonsense: what it asks for is done within bounds, or refused."""
    pytest.importorskip("onnxruntime")
    image, out = tmp_path / "image.tif", tmp_path / "out"
    if not image.exists():
        write_geotiff(image, np.zeros((20, 20, 3), np.uint8))
    document = json.loads((tiny.TINY / "manifest.json").read_text("utf-8"))
    (bundle / "manifest.json").write_bytes(damaged(document, random.Random(seed)))
    before = files_under(tmp_path)
    options = ["--bundle", bundle, "--backend", "onnxruntime", "--overwrite"]
    fine_or_one_line(in_process(run_app, image, "--out", out / "mask.tif", *options))
    assert all(path.is_relative_to(out) for path in files_under(tmp_path) - before)


ODD = st.one_of(
    st.sampled_from(
        ["", "-", "--", ".", "..", "/", "/dev/null", "default", "a\udc80", "n" * 300, "\x1b[2J", "%s", "~"]
    ),
    st.text(st.characters(blacklist_characters="\0"), max_size=12),
    st.integers().map(str),
)
WORDS: dict[str, tuple[Callable[..., object], list[str]]] = {
    "info": (info_app, ["--quiet", "--version"]),
    "run": (run_app, ["--out", "--bundle", "--backend", "--precision", "--batch", "--bands", "--tta", "--preview"]),
    "eval": (eval_app, ["--data", "--split", "--bands", "--classes", "--batch", "--backend", "--form", "--max"]),
}


@pytest.mark.once
@pytest.mark.parametrize("name", WORDS)
@settings(bounded, max_examples=25)
@given(data=st.data())
def test_command_lines(
    tmp_path: Path, in_process: InProcess, monkeypatch: pytest.MonkeyPatch, name: str, data: st.DataObject
) -> None:
    """Nothing that they are given makes them write anything, since no image is there."""
    monkeypatch.chdir(tmp_path)
    app, options = WORDS[name]
    words = data.draw(st.lists(st.one_of(ODD, st.sampled_from(options)), max_size=5))
    first = ["--bundle", tiny.TINY] if name == "run" else []  # which is soon loaded
    fine_or_one_line(in_process(app, *first, *words), images=max(1, len(words)))
    assert files_under(tmp_path) == set()


@pytest.mark.once
def test_a_bundle_of_a_damaged_graph_is_one_line(bundle: Path, in_process: InProcess) -> None:
    document = json.loads((bundle / "manifest.json").read_text("utf-8"))
    content = (bundle / "segmenter.onnx").read_bytes()
    for seed in range(60):
        luck = random.Random(seed)
        place = luck.randrange(len(content))
        (bundle / "segmenter.onnx").write_bytes(content[:place] + luck.randbytes(3) + content[place + 3 :])
        document["graphs"][2]["sha256"] = sha256(bundle / "segmenter.onnx")
        (bundle / "manifest.json").write_text(json.dumps(document), "utf-8")
        fine_or_one_line(in_process(info_app, bundle))
    (bundle / "segmenter.onnx").write_bytes(content)
    assert read_bundle(tiny.TINY).graph("segmenter", "fp32")[1].sha256 == sha256(bundle / "segmenter.onnx")
