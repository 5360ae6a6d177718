from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from PIL import Image

from fctl.export.card import ExportOptions
from fctl.export.pipeline import export_bundle
from fctl.model.train.run import run_training
from fctl.model.train.validation import validate
from fctl.model.weights.checkpoints import load_network, read_checkpoint
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.evaluate.selection import select
from tests.runtime import labelled

from .helpers import CONFIG, STAGES, Train, assert_same, changed, rows, stage, state_of, write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_a_training_leaves_its_log_its_curve_and_its_checkpoints(trained: Path) -> None:
    names = {path.name for path in (trained / "run").iterdir()}
    assert names == {"log.csv", "validation.csv", "curve.png", "best.pt", "last.pt", "context.pt", "state.pt"}
    log = rows(trained / "run" / "log.csv")
    assert log[0] == ["step", "stage", "epoch", "loss", "rate", "seconds"]
    assert [row[:3] for row in log[1:]] == [
        *([str(step), "context", "1"] for step in range(1, 7)),
        *([str(step), "rest", str((step - 1) // 6)] for step in range(7, 25)),
    ]
    assert [float(row[4]) for row in log[1:3]] == pytest.approx([3e-3, 3e-3 * (5 / 6) ** 0.9], rel=1e-5)
    assert Image.open(trained / "run" / "curve.png").size == (1000, 560)


def test_the_loss_falls(trained: Path) -> None:
    losses = [float(row[3]) for row in rows(trained / "run" / "log.csv")[1:] if row[1] == "rest"]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_every_epoch_is_validated(trained: Path) -> None:
    scores = rows(trained / "run" / "validation.csv")
    assert scores[0] == ["step", "stage", "epoch", "miou", "accuracy", "iou red", "iou green", "iou blue"]
    assert [row[:3] for row in scores[1:]] == [
        ["6", "context", "1"], ["12", "rest", "1"], ["18", "rest", "2"], ["24", "rest", "3"],
    ]  # fmt: skip


def test_checkpoints_hold_their_config_and_classes(trained: Path) -> None:
    card = read_checkpoint(trained / "run" / "last.pt").card
    assert card is not None
    left_out: dict[str, object] = {"contexts": "exact", "data": {"scale_range": None, "coarse": None}}
    left_out["augmentation"] = {"perturb": 1.0}  # the checkpoint's config is complete
    assert card.training["config"] == changed(CONFIG, {"stages": STAGES, "epoch": 6} | left_out)
    assert (card.training["stage"], card.training["epoch"], card.training["step"]) == ("rest", 3, 18)
    assert [(label.name, label.colour) for label in card.classes] == list(
        zip(("red", "green", "blue"), labelled.COLOURS, strict=True)
    )
    assert (card.licence, card.ground_sample_distance, card.serving.overlap) == ("CC0-1.0", 0.5, 16)


def test_the_best_checkpoint_is_that_of_the_best_validation(trained: Path) -> None:
    card = read_checkpoint(trained / "run" / "best.pt").card
    scores = {int(row[2]): float(row[3]) for row in rows(trained / "run" / "validation.csv")[1:] if row[1] == "rest"}
    assert card is not None
    assert card.training["epoch"] == max(scores, key=lambda epoch: scores[epoch])
    assert card.training["validation_miou"] == pytest.approx(max(scores.values()), abs=1e-6)


def test_a_context_keeps_the_encoder_of_its_stage(trained: Path) -> None:
    alone, whole = (state_of(trained / "run" / f"{name}.pt") for name in ("context", "last"))
    start = "context_encoders.medium."
    kept = {key.removeprefix(start): value for key, value in whole.items() if key.startswith(start)}
    assert_same(kept, {key: alone[f"encoder.{key}"] for key in kept})
    assert not torch.equal(alone["encoder.backbone.stem.conv.weight"], whole["encoder.backbone.stem.conv.weight"])


@pytest.mark.parametrize("name", ["best", "last", "context"])
def test_checkpoints_are_whole_and_score_what_validation_said(trained: Path, name: str) -> None:
    read = read_checkpoint(trained / "run" / f"{name}.pt")
    assert read.card is not None
    network = load_network(read.card.network, read.state, name)
    confusion = validate(network, read.card, select(open_dataset(trained / "data"), "2"))
    assert confusion.miou() == read.card.training["validation_miou"]


def assert_exports_and_scores(folder: Path, tmp_path: Path) -> None:
    """The best checkpoint, as its validation said."""
    export_bundle(folder / "run" / "best.pt", tmp_path / "tiny.fctl", ExportOptions())
    dataset = select(open_dataset(folder / "data"), "2")
    (result,) = evaluate(
        dataset, plan_runs([read_bundle(tmp_path / "tiny.fctl")], backends=("onnxruntime",)), tmp_path
    ).results
    card = read_checkpoint(folder / "run" / "best.pt").card
    assert card is not None
    assert result.confusion.pixels == 100 * 140 - 5 * 7
    assert result.confusion.miou() == pytest.approx(card.training["validation_miou"], abs=1e-3)


def test_the_best_exports_and_scores_what_validation_said(trained: Path, tmp_path: Path) -> None:
    assert_exports_and_scores(trained, tmp_path)


@pytest.mark.usefixtures("shallow")
def test_a_global_context_is_trained_validated_and_exported(folder: Path, tmp_path: Path) -> None:
    """First its encoder, as in the release, then all, on blocks of images that are larger than a scene."""
    contexts = [{"name": "medium", "factor": 2.0, "size": 64}, {"name": "large", "factor": "global", "size": 64}]
    network = {"overrides": {"contexts": contexts, "ale": {"structure": "d", "reference": None, "windows": [1, 3]}}}
    stages = [stage(name="context", network="large", epochs=1), stage(epochs=2, frozen=["context_encoders"])]
    run_training(write_config(folder, {"network": network | {"serving": {"scene": 90}}, "stages": stages, "epoch": 3}))
    assert_exports_and_scores(folder, tmp_path)
    manifest = read_bundle(tmp_path / "tiny.fctl").manifest
    assert [(context.factor, context.scene) for context in manifest.contexts] == [(2.0, None), ("global", 90)]
    assert [context.cells is not None for context in manifest.contexts] == [False, True]


def test_the_command_trains_and_tells_the_best(folder: Path, call: Train) -> None:
    config = write_config(folder, {"stages": [stage(epochs=1)], "epoch": 1, "precision": "bf16"})
    result = call(config)
    assert result.returncode == 0, result.stderr
    assert "mIoU" in result.stdout and "wrote" in result.stdout and "best.pt" in result.stdout
    assert "stage all, epoch 1 of 1: loss" in result.stderr


def test_an_error_is_one_line(folder: Path, call: Train) -> None:
    (folder / "data" / "masks" / "1.png").unlink()
    result = call(write_config(folder))
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert line.startswith("error: ") and "expected its mask" in line and "data.training" in line


def test_without_matplotlib_nothing_is_begun(folder: Path, call: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call(write_config(folder))
    assert result.returncode == 1
    assert "error: charts need matplotlib, which is not installed; pip install " in result.stderr
    assert not (folder / "run").exists()


@pytest.mark.usefixtures("shallow")
def test_a_local_context_larger_than_the_patch_is_trained_and_exported(folder: Path, tmp_path: Path) -> None:
    """The last rows of Table 5: U has a third window in place of the patch itself, and there is no ALE."""
    sizes = {"small": 1.5, "medium": 2.0, "large": 3.0}
    contexts = [{"name": name, "factor": factor, "size": 64} for name, factor in sizes.items()]
    network = {"overrides": {"contexts": contexts, "lcf": {"self_attention": False}}}
    stages = [stage(name="context", network="small", epochs=1), stage(epochs=1, frozen=["context_encoders"])]
    run_training(write_config(folder, {"network": network, "stages": stages, "epoch": 3}))
    assert_exports_and_scores(folder, tmp_path)
    manifest = read_bundle(tmp_path / "tiny.fctl").manifest
    assert {context.name: context.factor for context in manifest.contexts} == sizes
    lcf = {name.split(".")[2] for name in state_of(folder / "run" / "best.pt") if name.startswith("lcf.attention.")}
    assert lcf == set(sizes)
