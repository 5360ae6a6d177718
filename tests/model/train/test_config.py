from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from fctl.model.train.checks import choose_device
from fctl.model.train.config import read_config
from fctl.model.train.run import run_training
from fctl.runtime.bundle.records import encode
from fctl.runtime.errors import FctlError, InputError

from .helpers import CONFIG, ROOT, Train, stage, write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

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
    "unknown preset": ({"network": {"preset": "linknet"}}, "network: unknown architecture 'linknet'; known"),
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
    "raster": ({"network": {"serving": {"raster": 0}}}, r"network\.serving\.raster: expected null, or .*, found 0"),
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
    "scaling": ({"data": {"scale_range": "bright"}}, r"json: data\.scale_range: expected MIN,MAX .*found 'bright'"),
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
    path.write_text(json.dumps({key: value for key, value in CONFIG.items() if key != "out"}))
    with pytest.raises(InputError, match="out: expected a value, found none"):
        read_config(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: expected JSON, found a mistake in line 1, column"):
        read_config(path)
    with pytest.raises(InputError, match="found no such file"):
        read_config(tmp_path / "other.json")


def test_all_that_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    config = CONFIG | {"sead": 3, "epochs": 5, "seed": "3", "stages": [{"name": "all", "network": 1}]}
    config["optimisation"] = {key: value for key, value in CONFIG["optimisation"].items() if key != "rate"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError) as error:
        read_config(path)
    found = str(error.value)
    assert found.startswith(f"{path}: 5 fields do not fit: (1) sead, epochs: unknown keys; expected only out, seed, ")
    assert (
        "(2) seed: expected a whole number, found '3'; (3) optimisation.rate: expected a value, found none; " in found
    )
    assert "(4) stages[0].epochs: expected a value, found none; (5) stages[0].network: expected text, found 1" in found


def test_all_that_is_out_of_range_is_told_at_once(tmp_path: Path) -> None:
    changes = {
        "seed": -1, "data": {"scale_range": "bright"}, "optimisation": {"rate": 0, "batch": 0},
        "stages": [
            stage(name="best", epochs=0), stage(changes={"gamma": -1, "steps": 2}), stage(name="b", network="c"),
        ],
    }  # fmt: skip
    with pytest.raises(InputError) as error:
        read_config(write_config(tmp_path, changes))
    places = re.findall(r"\(\d\) ([^:]+): ", str(error.value))
    assert places == [
        "seed", "data.scale_range", "optimisation.rate", "optimisation.batch", "stages[0].name", "stages[0].epochs",
        "stages[1].changes.steps", "stages[2].network",
    ]  # fmt: skip


def test_what_has_a_natural_default_may_be_left_out(tmp_path: Path) -> None:
    optimisation = {"optimiser", "rate", "encoder_rate", "weight_decay", "batch", "gamma", "statistics"}
    least = {
        "out": "run",
        "network": {"preset": "fctl-lite0"},
        "data": {"root": "data", "validation": "2"},
        "optimisation": {key: CONFIG["optimisation"][key] for key in optimisation},
        "stages": [{"name": "all", "epochs": 2}],
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(least))
    config = read_config(path)
    assert (config.stages[0].network, config.data.form, config.augmentation.turns) == ("whole", "auto", True)
    path.write_text(json.dumps(encode(config, complete=True)))
    assert read_config(path) == config
    for key in least:
        path.write_text(json.dumps({name: value for name, value in least.items() if name != key}))
        with pytest.raises(InputError, match=rf"json: {key}: expected a value, found none$"):
            read_config(path)


def test_comments_are_passed_over_and_comment_fields_out(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"// out": "a folder", "data": {"//": {"any": [1]}, "// root": "where"}})
    assert read_config(path) == read_config(write_config(tmp_path, name="plain.json"))
    document = json.loads(path.read_text())
    document["//seed"] = document.pop("seed")
    path.write_text(json.dumps(document))
    assert (CONFIG["seed"], read_config(path).seed) == (3, 0)
    with pytest.raises(InputError, match="/ out: unknown key"):
        read_config(write_config(tmp_path, {"/ out": "a folder"}))


def test_changes_are_as_if_they_were_in_the_file(tmp_path: Path) -> None:
    plain = write_config(tmp_path)
    sets = ["out=runs/b=c", "network.overrides.lcf.fusion=average", "stages[0].epochs=7", 'data.mosaic={"columns":2}']
    changes = {
        "out": "runs/b=c", "network": {"overrides": {"lcf": {"fusion": "average"}}}, "stages": [stage(epochs=7)],
        "data": {"mosaic": {"columns": 2, "first": 0}},
    }  # fmt: skip
    expected = read_config(write_config(tmp_path, changes, "changed.json"))
    assert read_config(plain, [*sets, "data.mosaic.first=0"]) == expected
    with pytest.raises(InputError, match=r"data\.mosaic\.first: expected a value, found none"):
        read_config(plain, sets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed", "expected FIELD=VALUE, found 'seed'"),
        ("=3", "expected FIELD=VALUE, found '=3'"),
        ("seed.a=3", "seed.a: expected an object or a list that has a, found 3"),
        ("stages[1].epochs=3", r"stages\[1\].epochs: expected an object or a list that has 1"),
        ("sead=3", "sead: unknown key"),
    ],
)
def test_a_change_that_does_not_fit_is_told(tmp_path: Path, call: Train, change: str, message: str) -> None:
    done = call(write_config(tmp_path), "--set", change)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize(
    "name", ["dubai-alone.json", "dubai-contexts.json", "dubai-dropout.json", "dubai-training.json"]
)
def test_the_example_is_a_config(name: str) -> None:
    config = read_config(ROOT / "docs" / name)
    assert config.data.mosaic is not None


def test_the_device_is_what_there_is(folder: Path) -> None:
    assert choose_device(read_config(write_config(folder))).type == "cpu"
    if not torch.cuda.is_available():
        assert choose_device(read_config(write_config(folder, {"device": "auto"}))).type == "cpu"
        with pytest.raises(InputError, match="device: expected a GPU"):
            choose_device(read_config(write_config(folder, {"device": "cuda"})))
