from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from PIL import Image

from fctl.export.pipeline import ExportOptions, export_bundle
from fctl.model.serving.manifest import input_spec
from fctl.model.train.cli import train_app
from fctl.model.train.config import network_of, part_of, read_config
from fctl.model.train.curve import draw_curve
from fctl.model.train.data import class_labels, decode_scenes, open_images, plan_scenes
from fctl.model.train.losses import focal_loss
from fctl.model.train.optimise import Recipe, Training, TrainingBatch, _weighted_loss
from fctl.model.train.run import _class_weights, _device, run_training
from fctl.model.train.start import handed_over, network_of_stage, start_network
from fctl.model.train.validation import validate
from fctl.model.weights.checkpoints import load_network, read_checkpoint
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import CheckpointError, FctlError, InputError, OutputError
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.evaluation import evaluate
from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.evaluate.runs import plan_runs
from fctl.runtime.evaluate.selection import select
from tests.conftest import InProcess
from tests.model.helpers import LARGE, MEDIUM, WIDE, build, save_small, small_config
from tests.runtime import labelled

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

ROOT = Path(__file__).parents[3]
NETWORK: dict[str, Any] = {
    "preset": "fctl-lite0",
    "overrides": {
        "width": 0.25, "patch": 64, "channels": 16, "stage": "s8", "decoder_channels": 16,
        "contexts": [{"name": "medium", "factor": 2.0, "size": 64}], "lcf": {"key_channels": 8},
        "ale": None,
    },
    "serving": {"overlap": 16},
    "weights": None,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "out": "run",
    "seed": 3,
    "device": "cpu",
    "precision": "fp32",
    "workers": 1,
    "epoch": 6,
    "network": NETWORK,
    "data": {
        "root": "data", "form": "auto", "description": None, "training": None, "validation": "2", "bands": None,
        "mosaic": None,
    },
    "optimisation": {
        "optimiser": "adam", "rate": 3e-3, "encoder_rate": 3e-3, "position_rate": 3e-3, "weight_decay": 5e-4,
        "power": 0.9, "batch": 2, "accumulate": 2, "average": 0.5, "gamma": 2.0, "class_weights": None,
        "statistics": True,
    },
    "augmentation": {"turns": True, "colour": 0.2, "scale": 1.3, "balance": 0.5, "context_dropout": 0.1},
    "stages": [{"name": "all", "network": "whole", "epochs": 2, "stem": None, "frozen": [], "changes": {}}],
    "finish": {"recalibrate": False, "class_offsets": False},
    "licence": "CC0-1.0",
    "ground_sample_distance": 0.5,
}  # fmt: skip
Train = Callable[..., "subprocess.CompletedProcess[str]"]


def changed(config: Any, changes: Any) -> Any:
    """A config with some fields, nested at will, that differ."""
    if not (isinstance(config, dict) and isinstance(changes, dict)):
        return changes
    return config | {key: changed(config.get(key), value) for key, value in changes.items()}


def write_config(folder: Path, changes: dict[str, Any] | None = None, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(changed(CONFIG, changes or {})), encoding="utf-8")
    return path


def stage(**changes: Any) -> dict[str, Any]:
    return changed(CONFIG["stages"][0], changes)  # type: ignore[no-any-return]


def write_data(root: Path, sizes: tuple[tuple[int, int], ...] = ((150, 130), (96, 160), (100, 140))) -> Path:
    """Images whose colours tell the class, in large blocks."""
    labelled.write_description(root / "dataset.json")
    for index, (height, width) in enumerate(sizes):
        truth = np.random.default_rng(index).integers(0, 3, (5, 5)).repeat(40, 0).repeat(40, 1)[:height, :width]
        truth[:5, :7] = IGNORE
        noise = np.random.default_rng(index).integers(0, 60, (height, width, 3))
        pixels = labelled.coloured(truth, labelled.COLOURS) // 2 + noise
        labelled.save(root / "images" / f"{index}.png", pixels.astype(np.uint8))
        labelled.save(root / "masks" / f"{index}.png", labelled.coloured(truth, labelled.COLOURS))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a data set of three images in data/."""
    write_data(tmp_path / "data")
    return tmp_path


@pytest.fixture
def call(in_process: InProcess) -> Train:
    """fctl-train in this process."""
    return partial(in_process, train_app)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def curve(folder: Path) -> list[list[str]]:
    """The log without its seconds."""
    return [row[:-1] for row in rows(folder / "log.csv")]


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(path).state)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


# A whole training: two stages of the release's kind, then all of it.

STAGES = [
    stage(name="context", network="medium", epochs=1, changes={"balance": 0.0}),
    stage(name="rest", epochs=3, stem="s4", frozen=["context_encoders"], changes={"accumulate": 1, "batch": 3}),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training with its config and data."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data")
    run_training(write_config(folder, {"stages": STAGES, "epoch": 6}))
    return folder


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
    assert card.training["config"] == changed(CONFIG, {"stages": STAGES, "epoch": 6})
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


# Going on.


def test_a_training_that_was_killed_goes_on_to_the_same_curve(folder: Path) -> None:
    stages: dict[str, Any] = {"stages": [stage(name="one", network="patch", epochs=2), stage(epochs=3)], "epoch": 4}
    stages |= {"optimisation": {"accumulate": 1}}
    run_training(write_config(folder, {"out": "straight", **stages}, "straight.json"))
    config = write_config(folder, stages)
    code = (
        "import sys, torch; from pathlib import Path; from fctl.model.training import run_training; "
        "torch.set_num_threads(1); run_training(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(config)], cwd=ROOT)
    deadline = time.monotonic() + 60
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


class KilledError(Exception):
    pass


def killed_after(config: Path, name: str, steps: int) -> None:
    """A training that ends in the middle."""

    def progress(what: str, done: int, _: int) -> None:
        if (what, done) == (f"stage {name}", steps):
            raise KilledError

    with pytest.raises(KilledError):
        run_training(config, progress=progress)


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
    assert all(key.startswith("decoder.") for key in changed_keys)
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
    with pytest.raises(OutputError, match="holds a training already; go on with --resume"):
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


# The command.


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


# What does not fit.

DATA_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "no folder": ({"data": {"root": "nowhere"}}, r"data\.root: expected a folder, found nothing"),
    "empty validation": ({"data": {"validation": "x*"}}, r"data\.validation x\*: expected a file of names"),
    "empty training": ({"data": {"training": "x*"}}, r"data\.training x\*: expected a file of names"),
    "all validation": ({"data": {"validation": "*"}}, r"data\.validation: .* nothing is left to train on"),
    "in both": ({"data": {"training": "*"}}, r"data\.training: .* found 1 in both, as 2"),
    "unknown class": (
        {"optimisation": {"class_weights": {"pink": 2.0}}}, r"optimisation\.class_weights\.pink: unknown class",
    ),
    "bands": ({"data": {"bands": [1, 2]}}, "expected 3 bands, found 2"),
    "unknown preset": ({"network": {"preset": "unet"}}, "network: unknown architecture 'unet'; known: fctl-lite0"),
    "unknown override": ({"network": {"overrides": {"depth": 3}}}, r"network\.overrides\.depth: unknown key"),
    "override's type": ({"network": {"overrides": {"patch": "64"}}}, r"network\.overrides\.patch: expected a whole"),
    "classes": ({"network": {"overrides": {"classes": 3}}}, r"network\.overrides\.classes: the data set tells"),
    "patch": ({"network": {"overrides": {"patch": 70}}}, "network: efficientnet_lite0 needs sides divisible by 32"),
    "scene": (
        {
            "network": {
                "overrides": {"contexts": [{"name": "medium", "factor": "global", "size": 64}]},
                "serving": {"scene": 84},
            }
        },
        r"network\.serving\.scene: expected .* more than scale x patch = 84 pixels, found 84",
    ),
    "overlap": ({"network": {"serving": {"overlap": 64}}}, r"network\.serving\.overlap: expected 0 to 63, found 64"),
    "imagenet": (
        {"network": {"preset": "fcn8s-vgg16", "overrides": {"contexts": []}, "weights": "imagenet"}},
        r"network\.",
    ),
    "no weights": ({"network": {"weights": "no.pt"}}, "expected a checkpoint, found no such file"),
    "unknown part": (
        {"stages": [stage(name="one", network="large"), stage()]},
        r"stages\[0\]\.network: expected whole, patch, medium",
    ),
    "unknown frozen": ({"stages": [stage(frozen=["neck"])]}, r"stages\[0\]\.frozen: expected encoder.*found 'neck'"),
    "unknown stem": ({"stages": [stage(stem="s5")]}, r"stages\[0\]: .*has no stage 's5'"),
    "all frozen": (
        {"stages": [stage(frozen=["encoder", "context_encoders", "lcf", "decoder"])]},
        r"stages\[0\]: expected something to train",
    ),
    "device": ({"device": "tpu"}, "device: expected auto, cpu, cuda or cuda:N, found 'tpu'"),
    "fp16": ({"precision": "fp16"}, "precision: fp16 needs a GPU"),
    "mosaic": ({"data": {"mosaic": {"columns": 2, "first": 1}}}, r"data\.mosaic: .*a number from 1 on, found 0"),
    "uneven mosaic": ({"data": {"mosaic": {"columns": 2, "first": 0}}}, r"data\.mosaic: .*of one size"),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA_ERRORS)
def test_what_does_not_fit_names_the_field(folder: Path, name: str) -> None:
    changes, message = DATA_ERRORS[name]
    with pytest.raises(FctlError, match=message) as error:
        run_training(write_config(folder, changes))
    assert "\n" not in str(error.value)
    assert not (folder / "run").exists()


CONFIG_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"epochs": 3}, "epochs: unknown key"),
    "type": ({"optimisation": {"batch": 2.5}}, r"optimisation\.batch: expected a whole number, found 2\.5"),
    "rate": ({"optimisation": {"rate": 0}}, r"optimisation\.rate: expected a number above 0"),
    "batch": ({"optimisation": {"batch": 0}}, r"optimisation\.batch: expected 1 or more, found 0"),
    "average": ({"optimisation": {"average": 1.0}}, r"optimisation\.average: expected 0, or more and below 1"),
    "scale": ({"augmentation": {"scale": 0.5}}, r"augmentation\.scale: expected 1 to 4"),
    "weight": ({"optimisation": {"class_weights": {"red": -1}}}, r"optimisation\.class_weights\.red: expected 0"),
    "no stage": ({"stages": []}, "stages: expected at least one stage"),
    "epochs": ({"stages": [stage(epochs=0)]}, r"stages\[0\]\.epochs: expected 1 or more, found 0"),
    "same names": ({"stages": [stage(), stage()]}, r"stages\[0\]\.name: expected a name that no other stage has"),
    "last": ({"stages": [stage(network="patch")]}, r"stages\[0\]\.network: expected 'whole', found 'patch'"),
    "change": ({"stages": [stage(changes={"steps": 3})]}, r"stages\[0\]\.changes\.steps: unknown key"),
    "changed": ({"stages": [stage(changes={"gamma": "2"})]}, r"stages\[0\]\.changes\.gamma: expected a number"),
    "file name": ({"stages": [stage(name="a/b")]}, r"stages\[0\]\.name: expected letters"),
    "taken": ({"stages": [stage(name="best")]}, r"stages\[0\]\.name: expected letters"),
    "seed": ({"seed": -1}, "seed: expected 0 or more, found -1"),
    "form": ({"data": {"form": "coco"}}, r"data\.form: expected 'auto' or"),
}


@pytest.mark.parametrize("name", CONFIG_ERRORS)
def test_a_config_that_cannot_be_names_the_field(tmp_path: Path, name: str) -> None:
    changes, message = CONFIG_ERRORS[name]
    with pytest.raises(InputError, match=message) as error:
        read_config(write_config(tmp_path, changes))
    assert str(error.value).startswith(str(tmp_path / "config.json"))


def test_a_missing_field_and_a_missing_config_are_told(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in CONFIG.items() if key != "seed"}))
    with pytest.raises(InputError, match="seed: expected a value, found none"):
        read_config(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: Expecting"):
        read_config(path)
    with pytest.raises(InputError, match="found no such file"):
        read_config(tmp_path / "other.json")


def test_sizes_that_differ_are_told(folder: Path) -> None:
    labelled.save(folder / "data" / "masks" / "0.png", labelled.coloured(np.zeros((9, 9), int), labelled.COLOURS))
    with pytest.raises(InputError, match=r"0\.png: expected 150 x 130 pixels as .*0\.png, found 9 x 9"):
        run_training(write_config(folder))


def test_colours_that_are_not_described_are_told(folder: Path) -> None:
    mask = folder / "data" / "masks" / "2.png"
    pixels = np.asarray(Image.open(mask)).copy()
    pixels[50, 60:63] = (1, 2, 3)
    labelled.save(mask, pixels)
    with pytest.raises(InputError, match=r"2\.png: expected the ids or colours of tiny, found 3 pixels of others"):
        run_training(write_config(folder))


def test_nothing_labelled_is_told(folder: Path) -> None:
    for index, shape in enumerate(((150, 130), (96, 160))):
        grey = labelled.coloured(np.full(shape, IGNORE), labelled.COLOURS)
        labelled.save(folder / "data" / "masks" / f"{index}.png", grey)
    with pytest.raises(InputError, match=r"data\.training: expected labelled pixels, found none"):
        run_training(write_config(folder))


# Data sets of every form, as scenes.


def scenes_of(folder: Path, **changes: Any) -> list[Any]:
    config = read_config(write_config(folder, {"data": changes}))
    images = open_images(config.data, folder)
    spec = input_spec(small_config(), None)
    plans = plan_scenes(images.training, config.data.mosaic)
    return decode_scenes(images.training, plans, spec, config.data.bands, folder / "scenes", None)


@pytest.mark.parametrize("form", ["deepglobe", "inria", "release"])
def test_every_form_is_read(tmp_path: Path, form: str) -> None:
    root, image, truth = tmp_path / "data", labelled.image_of(20, 30), labelled.truth_of(20, 30, 2)
    for name in ("1", "2"):
        if form == "inria":
            labelled.save_tif(root / "images" / f"{name}.tif", image)
            labelled.save_tif(root / "gt" / f"{name}.tif", np.where(truth == 1, 255, 0).astype(np.uint8)[:, :, None])
        else:
            sat, gt = (root, root) if form == "deepglobe" else (root / "Sat", root / "Label")
            labelled.save(sat / f"{name}_sat.jpg", image)
            labelled.save(gt / f"{name}_mask.png", labelled.coloured(truth % 255, labelled.DEEPGLOBE))
    (scene,) = scenes_of(tmp_path)
    expected = (truth == 1).astype(int) if form == "inria" else truth % 255
    assert np.array_equal(scene.labels, expected)
    assert scene.pixels.shape == (20, 30, 3)
    assert form != "inria" or np.array_equal(scene.pixels, image)


def test_scenes_are_mapped_and_as_labelled(folder: Path) -> None:
    scenes = scenes_of(folder)
    assert [scene.name for scene in scenes] == ["0", "1"]
    for index, scene in enumerate(scenes):
        assert isinstance(scene.pixels, np.memmap)
        assert np.array_equal(scene.pixels, np.asarray(Image.open(folder / "data" / "images" / f"{index}.png")))
        assert (scene.labels[:5, :7] == IGNORE).all() and (scene.labels[5:] < 3).all()


def test_pixels_without_data_are_not_labelled(tmp_path: Path) -> None:
    pixels = labelled.image_of(20, 20)
    pixels[:4] = 0
    labelled.write_description(tmp_path / "data" / "dataset.json", images="images/*.tif")
    for name in ("1", "2"):
        path = tmp_path / "data" / "images" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        labelled.write_geotiff(path, pixels, nodata=0)
        labelled.save(
            tmp_path / "data" / "masks" / f"{name}.png", labelled.coloured(np.ones((20, 20), int), labelled.COLOURS)
        )
    (scene,) = scenes_of(tmp_path)
    assert (scene.labels[:4] == IGNORE).all() and (scene.labels[4:] == 1).all()


def test_parts_are_put_together(tmp_path: Path) -> None:
    labelled.write_description(tmp_path / "data" / "dataset.json", images="*/images/*.png", masks="*/masks/*.png")
    for number, shape in {1: (20, 31), 2: (21, 30), 4: (20, 30), 5: (20, 30)}.items():
        folder = tmp_path / "data" / "a"
        labelled.save(folder / "images" / f"part_{number:03}.png", np.full((*shape, 3), number, np.uint8))
        truth = np.full(shape, number % 3)
        labelled.save(folder / "masks" / f"part_{number:03}.png", labelled.coloured(truth, labelled.COLOURS))
    (scene,) = scenes_of(tmp_path, mosaic={"columns": 3, "first": 1}, validation="*005")
    assert scene.name == "a/part"
    assert scene.pixels.shape == (40, 60, 3)
    assert scene.pixels[10::20, 15::30, 0].tolist() == [[1, 2], [4, 0]]
    assert scene.labels[10::20, 15::30].tolist() == [[1, 2], [1, IGNORE]]


def test_classes_of_ids_have_colours_of_their_own(tmp_path: Path) -> None:
    labels = class_labels(open_inria(tmp_path).description)
    assert [label.name for label in labels] == ["background", "building"]
    assert labels[0].colour != labels[1].colour


def open_inria(root: Path) -> Any:
    labelled.save_tif(root / "images" / "1.tif", labelled.image_of(8, 8))
    return open_dataset(root)


# The pieces.

RECIPE = Recipe(
    steps=2, batch=2, rate=1e-3, encoder_rate=1e-3, position_rate=1e-3, weight_decay=0.0, gamma=2.0, balance=0.0,
    scale=1.0, colour=0.0, frozen=None, average=0.0, seed=0,
)  # fmt: skip


def test_class_weights_of_one_change_nothing_and_others_weigh() -> None:
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[0, 0] = IGNORE
    plain = focal_loss(logits, labels, gamma=2.0, ignore=IGNORE)
    torch.testing.assert_close(_weighted_loss(logits, labels, replace(RECIPE, class_weights=(1.0, 1.0, 1.0))), plain)
    heavy = _weighted_loss(logits, labels, replace(RECIPE, class_weights=(0.0, 1.0, 3.0)))
    ce = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    each = (1 - torch.exp(-ce)) ** 2 * ce
    weights = (labels == 1).float() + 3 * (labels == 2).float()
    torch.testing.assert_close(heavy, (weights * each).sum() / weights.sum())
    assert _weighted_loss(logits, torch.full_like(labels, IGNORE), replace(RECIPE, class_weights=(1.0,) * 3)) == 0


def test_balanced_weights_are_1_on_average_and_larger_for_rare_classes() -> None:
    weights = _class_weights("balanced", ("a", "b", "c"), (100, 400, 0))
    assert weights == pytest.approx((4 / 3, 2 / 3, 1.0))
    assert _class_weights({"b": 3.0}, ("a", "b"), (1, 1)) == (1.0, 3.0)


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    config = small_config(width=0.25, stage="s8", contexts=(), lcf=None, ale=None, encoders="shared")
    random = np.random.default_rng(0)
    batch = random.integers(0, 256, (4, 3, 64, 64), np.uint8), random.integers(0, 3, (4, 64, 64))

    def step(count: int) -> dict[str, torch.Tensor]:
        network = build(config)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.requires_grad_(False)  # statistics of a batch are what accumulation cannot reproduce
        training = Training(network, replace(RECIPE, accumulate=count))
        for group in training.optimizer.param_groups:
            group["lr"] = 1e-3
        size = 4 // count
        parts = [
            TrainingBatch(torch.from_numpy(batch[0][i : i + size]), {}, {}, torch.from_numpy(batch[1][i : i + size]))
            for i in range(0, 4, size)
        ]
        training._step(iter(parts))
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    one, two = step(1), step(2)
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-5)


def test_stages_train_parts_that_fit_the_whole() -> None:
    config = small_config(width=0.25, contexts=(MEDIUM, LARGE))
    whole = build(config).state_dict()
    for part in ("medium", "large", "patch", "whole"):
        network = network_of_stage(config, part, whole)
        assert part_of(config, part) == network.config
        state = {key: value + 1 for key, value in network.state_dict().items()}
        result = handed_over(whole, state, part)
        assert result.keys() == whole.keys()
        taken = {key.split(".")[0] for key in whole if not torch.equal(result[key], whole[key])}
        inner = {
            key.split(".")[1]
            for key in whole
            if key.startswith("context_") and not torch.equal(result[key], whole[key])
        }
        expected = {"patch": {"encoder", "decoder"}, "whole": {key.split(".")[0] for key in whole}}
        assert taken == expected.get(part, {"context_encoders"})
        assert inner == {"patch": set(), "whole": {"medium", "large"}}.get(part, {part})


def test_a_checkpoint_of_ours_is_a_start(folder: Path) -> None:
    config = read_config(write_config(folder))
    wanted = network_of(config, 3).network
    other = build(replace(wanted, classes=5), seed=7)
    save_small(folder / "other.pt", other)
    found, theirs = start_network(wanted, "other.pt", folder, 0).state_dict(), other.state_dict()
    assert {key for key in found if not torch.equal(found[key], theirs[key])} == {
        "decoder.score.weight", "decoder.score.bias",
    }  # fmt: skip
    alone = build(replace(wanted, contexts=(), encoders="shared", lcf=None, ale=None), seed=8)
    save_small(folder / "alone.pt", alone)
    found, theirs = start_network(wanted, "alone.pt", folder, 0).state_dict(), alone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in theirs.items())
    contexts = [key for key in found if key.startswith("context_encoders.")]
    assert contexts
    assert all(torch.equal(found[key], theirs[f"encoder.{key.split('.', 2)[2]}"]) for key in contexts)
    torch.save(build(small_config(contexts=(WIDE,))).encoder.backbone.state_dict(), folder / "bare.pt")
    with pytest.raises(CheckpointError, match=r"bare\.pt: expected a checkpoint of fctl or weights of efficientnet"):
        start_network(wanted, "bare.pt", folder, 0)


def test_the_device_is_what_there_is(folder: Path) -> None:
    assert _device(read_config(write_config(folder))).type == "cpu"
    if not torch.cuda.is_available():
        assert _device(read_config(write_config(folder, {"device": "auto"}))).type == "cpu"
        with pytest.raises(InputError, match="device: expected a GPU"):
            _device(read_config(write_config(folder, {"device": "cuda"})))


def test_a_curve_of_any_length_is_drawn() -> None:
    for count in (1, 2, 300):
        picture = draw_curve("tiny", [(i + 1, 1 / (i + 1)) for i in range(count)], [(count, 0.5)], [count])
        colours = {colour for _, colour in picture.getcolors(1 << 16) or []}
        assert {(33, 102, 235), (222, 45, 38)} <= colours


@pytest.mark.parametrize("name", ["dubai-alone.json", "dubai-contexts.json", "dubai-training.json"])
def test_the_example_is_a_config(name: str) -> None:
    config = read_config(ROOT / "docs" / name)
    assert config.data.mosaic is not None
