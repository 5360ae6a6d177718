"""`fctl-train --init`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("torch")

from fctl.model.presets import PRESETS
from fctl.model.train.config import read_config
from fctl.model.train.run import run_training
from fctl.model.train.settings import TrainingConfig
from tests.conftest import write_geotiff
from tests.runtime import labelled

from .helpers import Train, write_data

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SMALL = {
    "epoch": 1, "stages[0].epochs": 1, "stages[1].epochs": 1, "stages[2].epochs": 1, "optimisation.batch": 2,
    "network.weights": None, "network.overrides": {
        "width": 0.25, "patch": 64, "channels": 16, "decoder_channels": 16, "lcf": {"key_channels": 8},
        "contexts": [{"name": "medium", "factor": 2, "size": 64}, {"name": "large", "factor": 4, "size": 64}],
    },
    "network.serving": {"overlap": 16}, "device": "cpu",
}  # fmt: skip


def sets(changes: dict[str, Any]) -> list[str]:
    return [word for path, value in changes.items() for word in ("--set", f"{path}={json.dumps(value)}")]


def proposed(call: Train, folder: Path, preset: str, data: Path, *more: str) -> tuple[TrainingConfig, dict[str, Any]]:
    """What a command proposes, read from a file, and the document."""
    done = call("--init", preset, "--data", data, "--quiet", *more)
    assert (done.returncode, done.stderr) == (0, "")
    path = folder / "config.json"
    path.write_text(done.stdout, encoding="utf-8")
    return read_config(path), json.loads(done.stdout)


def without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_comments(item) for key, item in value.items() if not key.startswith("//")}
    return [without_comments(item) for item in value] if isinstance(value, list) else value


def uncommented(value: Any, place: str = "") -> list[str]:
    """Paths of fields that no comment stands before, but for those of overrides and of later items of a list."""
    if not isinstance(value, dict):
        return uncommented(value[0], f"{place}[0]") if isinstance(value, list) and value else []
    keys = list(value)
    found = []
    for before, key in zip(["", *keys], keys, strict=False):
        if not key.startswith("//"):
            meant = before == f"// {key}" and len(cast(str, value[before])) > 5
            found += [] if meant else [f"{place}.{key}"]
            found += [] if key in ("overrides", "serving", "changes") else uncommented(value[key], f"{place}.{key}")
    return found


def test_it_trains_as_it_is_with_every_field_explained(folder: Path, call: Train) -> None:
    config, document = proposed(call, folder, "fctl-lite0", folder / "data", *sets(SMALL))
    assert uncommented(document) == []
    assert document["network"]["// weights"].endswith("or null for random ones.")
    assert document["// device"] == "'auto', 'cpu', 'cuda' or 'cuda:N'."
    assert [stage.name for stage in config.stages] == ["medium", "large", "all"]
    assert config.stages[-1].frozen == ("context_encoders",)
    outcome = run_training(folder / "config.json")
    assert outcome.out == folder / "runs" / "fctl-lite0" and (outcome.out / "best.pt").is_file()
    assert (outcome.out / "medium.pt").is_file()


@pytest.mark.parametrize("preset", ["fctl-lite0", "fctl-vgg16", "fcn8s-vgg16", "release-deepglobe"])
def test_what_is_printed_is_complete(folder: Path, call: Train, preset: str) -> None:
    config, document = proposed(call, folder, preset, folder / "data")
    named = ("out", "seed", "network", "data", "optimisation", "augmentation", "stages", "finish", "contexts")
    assert set(named) <= document.keys()
    separate = PRESETS[preset].network.encoders == "separate"
    assert [stage.network for stage in config.stages] == (["medium", "large"] if separate else []) + ["whole"]
    assert config.network.weights == ("imagenet" if preset == "fctl-lite0" else None)
    assert config.optimisation.statistics == (preset != "fctl-lite0")
    vgg16 = PRESETS[preset].network.backbone == "vgg16"
    assert ("mean" in config.network.overrides) == vgg16  # pixels must be centred without weights
    assert config.data.root == str((folder / "data").resolve()) and config.data.form == "folder"
    assert config.data.scale_range is None and config.ground_sample_distance is None
    assert without_comments(document)["stages"][-1]["name"] == "all"


def test_it_looks_at_the_images(tmp_path: Path, call: Train) -> None:
    """Four bands of 12 bits at 0.5 m, in two lists."""
    root = tmp_path / "data"
    labelled.write_description(root / "dataset.json", images="images/*.tif")
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    for name in "abc":
        pixels = rng.integers(200, 3000, (70, 80, 5), np.uint16)
        write_geotiff(root / "images" / f"{name}.tif", pixels)
        truth = labelled.truth_of(70, 80, 3)
        labelled.save(root / "masks" / f"{name}.png", labelled.coloured(truth, labelled.COLOURS))
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    config, _ = proposed(call, tmp_path, "fctl-lite0", root)
    low, high = map(float, (config.data.scale_range or "").split(","))
    assert 200 < low < 300 and 2900 < high < 3000
    assert config.ground_sample_distance == pytest.approx(0.5, rel=0.01)
    assert config.network.overrides == {"bands": 5, "mean": [127.0] * 5, "std": [128.0] * 5}
    assert config.network.weights is None and config.optimisation.statistics
    assert (config.data.training, config.data.validation) == (str(root / "train.txt"), str(root / "val.txt"))


def test_the_branches_of_glnet_are_trained_in_turn(folder: Path, call: Train) -> None:
    config, _ = proposed(call, folder, "glnet-r50", folder / "data")
    assert [stage.network for stage in config.stages] == ["scene", "patch", "whole"]
    assert {stage.frozen for stage in config.stages} == {()}


def test_inria_is_validated_on_the_first_five_of_each_city(tmp_path: Path, call: Train) -> None:
    for name in ("austin1", "austin11", "austin6", "tyrol-w5", "tyrol-w15"):
        labelled.save_tif(tmp_path / "data" / "images" / f"{name}.tif", labelled.image_of(20, 20))
        labelled.save_tif(tmp_path / "data" / "gt" / f"{name}.tif", np.zeros((20, 20, 1), np.uint8))
    done = call("--init", "unet", "--data", tmp_path / "data")
    assert done.returncode == 0
    assert "3 images to train on, 2 to validate with; classes: background, building" in done.stderr
    assert "weights start at random" in done.stderr
    assert json.loads(done.stdout)["data"]["form"] == "inria"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--init", "fctl-lite0", "--data", "nowhere"), "--data: expected a folder, found nothing at nowhere"),
        (
            ("--init", "fctl-lite0", "--data", "."),
            "choose a folder of a known form, or describe it in dataset.json or with --description",
        ),
        (("--init", "linknet", "--data", "data"), "--init: unknown architecture 'linknet'; known: "),
        (("--init", "unet", "--data", "data", "--set", "seed=a"), "--set: seed: expected a whole number, found 'a'"),
        (("--init", "unet", "--data", "data", "--set", "data.validation=x"), "data.validation x: expected a file"),
        (("--init", "unet", "--data", "data", "--set", "network.overrides.patch=70"), "overlap: expected 0 to 69"),
        (("--init", "unet", "--data", "data", "--description", "no.json"), "no.json: expected"),
        (
            ("--init", "unet", "--data", "data", "--set", 'stages.0.frozen=["neck"]'),
            "stages[0].frozen: expected encoder",
        ),
        (
            ("--init", "cascadepsp-r50", "--data", "data", "--set", "data.coarse=no"),
            "/no: expected the mask",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    folder: Path, call: Train, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    done = call(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name either a CONFIG"),
        (("a.json", "--init", "unet"), "name either a CONFIG"),
        (("--init", "unet"), "--init needs --data"),
        (("--init", "unet", "--data", "d", "--resume"), "--resume is for training"),
        (("a.json", "--data", "d"), "--data is for --init"),
    ],
)
def test_a_wrong_call_is_told(call: Train, arguments: tuple[str, ...], message: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2 and message in " ".join(done.stderr.replace("│", " ").split()), done.stderr


def test_an_image_that_cannot_be_read_is_told(tmp_path: Path, call: Train) -> None:
    root = write_data(tmp_path / "data")
    (root / "images" / "1.png").write_bytes(b"nothing")
    done = call("--init", "unet", "--data", root)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "1.png" in done.stderr
