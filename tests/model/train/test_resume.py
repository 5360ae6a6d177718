from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from fctl.model.train.run import run_training
from fctl.model.weights.checkpoints import read_checkpoint
from fctl.runtime.errors import InputError, OutputError

from .helpers import ROOT, STAGES, assert_same, curve, killed_after, rows, stage, state_of, write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_a_training_that_was_killed_goes_on_to_the_same_curve(folder: Path) -> None:
    stages: dict[str, Any] = {"stages": [stage(name="one", network="patch", epochs=2), stage(epochs=3)], "epoch": 4}
    stages |= {"optimisation": {"accumulate": 1}}
    run_training(write_config(folder, {"out": "straight", **stages}, "straight.json"))
    config = write_config(folder, stages)
    code = (
        "import sys, torch; from pathlib import Path; from fctl.model.train.run import run_training; "
        "torch.set_num_threads(1); run_training(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(config)], cwd=ROOT)
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        log = folder / "run" / "log.csv"
        if log.is_file() and log.read_text().count("\n") > 14:  # in the second epoch of the second stage
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL
    assert (folder / "run" / "state.pt").is_file()
    run_training(config, resume=True)
    assert len(curve(folder / "run")) == 1 + 20
    assert curve(folder / "run") == curve(folder / "straight")
    assert rows(folder / "run" / "validation.csv") == rows(folder / "straight" / "validation.csv")
    for name in ("one", "best", "last"):
        assert_same(state_of(folder / "run" / f"{name}.pt"), state_of(folder / "straight" / f"{name}.pt"))


@pytest.mark.parametrize("steps", [1, 3])
def test_a_training_goes_on_with_its_averages_and_its_optimizer(folder: Path, steps: int) -> None:
    changes = {"epoch": 2, "augmentation": {"colour": 0.5}, "workers": 2}
    run_training(write_config(folder, {"out": "straight", **changes}, "straight.json"))
    config = write_config(folder, changes)
    killed_after(config, "all", steps)
    run_training(config, resume=True)
    assert curve(folder / "run") == curve(folder / "straight")
    assert_same(state_of(folder / "run" / "last.pt"), state_of(folder / "straight" / "last.pt"))


def test_a_finished_training_resumes_to_its_outcome(trained: Path) -> None:
    before = curve(trained / "run")
    outcome = run_training(trained / "config.json", resume=True)
    assert curve(trained / "run") == before
    card = read_checkpoint(trained / "run" / "best.pt").card
    assert card is not None
    assert (outcome.best.epoch, outcome.best.miou) == (card.training["epoch"], card.training["validation_miou"])


def test_a_training_is_finished_once_however_often_it_is_resumed(folder: Path) -> None:
    finish = {"finish": {"recalibrate": True, "class_offsets": True}}
    run_training(write_config(folder, {"out": "plain"}, "plain.json"))
    config = write_config(folder, finish)
    run_training(config)
    plain, first = state_of(folder / "plain" / "last.pt"), state_of(folder / "run" / "last.pt")
    changed_keys = {key for key in plain if not torch.equal(plain[key], first[key])}
    assert "decoder.score.bias" in changed_keys
    assert all(key == "decoder.score.bias" or ".bn." in key for key in changed_keys)
    assert any(not key.startswith("decoder.") for key in changed_keys)  # `statistics` trains those of backbones
    assert [row[1] for row in rows(folder / "run" / "validation.csv")[1:]] == ["all", "all", "finish"]
    before = rows(folder / "run" / "validation.csv")
    run_training(config, resume=True)
    assert rows(folder / "run" / "validation.csv") == before
    assert_same(state_of(folder / "run" / "last.pt"), first)


def test_a_changed_config_is_refused(trained: Path, tmp_path: Path) -> None:
    changes = {"stages": STAGES, "epoch": 6, "optimisation": {"gamma": 3.0}, "out": str(trained / "run")}
    with pytest.raises(InputError, match="out is not what it was trained with"):
        run_training(write_config(tmp_path, changes), resume=True)
    changes["out"] = "run"
    with pytest.raises(InputError, match=r"optimisation\.gamma is not what it was trained with; change it back"):
        run_training(write_config(trained, changes, "changed.json"), resume=True)


def test_a_training_is_not_overwritten(trained: Path, folder: Path) -> None:
    with pytest.raises(OutputError, match="holds a training already; go on with `resume`"):
        run_training(trained / "config.json")
    (folder / "run").mkdir()
    (folder / "run" / "mine.txt").write_text("dear")
    with pytest.raises(OutputError, match="expected a new folder"):
        run_training(write_config(folder))


def test_a_training_that_was_killed_before_its_first_epoch_starts_anew(folder: Path) -> None:
    config = write_config(folder, {"stages": [stage(epochs=1)], "epoch": 2})
    killed_after(config, "all", 1)
    assert len(rows(folder / "run" / "log.csv")) == 2
    run_training(config)
    assert [row[0] for row in rows(folder / "run" / "log.csv")[1:]] == ["1", "2"]


def test_a_damaged_state_is_refused(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "state.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"state\.pt: expected the state of a training"):
        run_training(write_config(folder), resume=True)
