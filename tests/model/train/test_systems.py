"""The configs that are shipped, and the command of every row of the paper's tables in docs/systems.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from experiments.systems import EPOCHS, SYSTEMS, System, config_of
from fctl.model.build import build
from fctl.model.config import NetworkConfig
from fctl.model.presets import PRESETS
from fctl.model.train.config import checked, read_config
from fctl.model.train.networks import network_of, part_of
from fctl.model.train.settings import TrainingConfig
from fctl.runtime.evaluate.datasets import FORMS

from .helpers import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.json"))
TEXT = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`(fctl-train configs/[^`]+)`", TEXT)
PRESET = "network.preset="
CLASSES = {"deepglobe": 7, "inria": 2}
SPLITS = {"deepglobe": (454, 207, 142), "inria": (126, 27, 27)}


@cache
def built(config: NetworkConfig) -> int:
    """The number of a network's parameters, without memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters())


def parts(path: Path, config: TrainingConfig) -> Iterator[NetworkConfig]:
    """What the stages of a training train."""
    network = network_of(config, CLASSES[path.name.partition("-")[0]]).network
    for stage in config.stages:
        yield part_of(network, stage.network)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_the_papers(path: Path) -> None:
    config = read_config(path)
    *_, whole = parts(path, config)
    assert built(whole) > 10**7
    assert config.optimisation.batch * config.optimisation.accumulate == 6
    assert config.optimisation.rate == 5e-5 and config.optimisation.optimiser == "adam"
    assert [stage.epochs for stage in config.stages] == [50] * len(config.stages)
    if whole.contexts:
        factors = [context.factor for context in whole.contexts]
        assert factors == ([3.0, "global"] if "deepglobe" in path.name else [2.0, 3.0])
        assert [stage.network for stage in config.stages] == ["medium", "large", "whole"]
        assert config.stages[-1].frozen == ("context_encoders",)


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_those_of_the_paper(name: str) -> None:
    kinds = ("train", "validation", "test")
    lists = [(ROOT / "configs" / "splits" / f"{name}-{kind}.txt").read_text("utf-8").splitlines() for kind in kinds]
    names = [{line for line in lines if not line.startswith("#")} for lines in lists]
    assert tuple(map(len, names)) == SPLITS[name]
    assert len(set().union(*names)) == sum(SPLITS[name])
    for path in CONFIGS:
        if path.name.startswith(name):
            data = read_config(path).data
            assert (data.training, data.validation) == (f"splits/{name}-train.txt", f"splits/{name}-validation.txt")


def test_the_forms_have_the_classes() -> None:
    assert {name: len(FORMS[name][0].classes) for name in CLASSES} == CLASSES


def test_every_row_of_the_papers_tables_has_a_network() -> None:
    named, folders = set(), dict[str, list[str]]()
    for command in COMMANDS:
        program, path, *rest = shlex.split(command)
        changes = rest[1::2]
        assert program == "fctl-train" and rest[::2] == ["--set"] * len(changes)
        presets = [change.removeprefix(PRESET) for change in changes if change.startswith(PRESET)]
        named.update(presets)
        config = read_config(ROOT / path, changes)
        assert folders.setdefault(config.out, changes) == changes  # no two trainings share a folder
        assert all(map(built, parts(Path(path).relative_to("configs"), config)))
    assert len(COMMANDS) > 70 and {"unet-whole", "glnet-r50", "cascadepsp-r50", "lcc-vgg16"} <= named
    assert named <= PRESETS.keys()
    for name in re.findall(r"\| `([a-z0-9-]+)` \| `fctl-train", TEXT):
        assert name in PRESETS or name in named


@pytest.mark.parametrize("system", [one for one in SYSTEMS if one.preset in PRESETS], ids=lambda one: one.preset)
def test_every_system_of_the_small_table_is_a_network_of_small_patches(system: System) -> None:
    config = checked(config_of(system, Path("data"), 0, 5, "fp32"))
    network = network_of(config, classes=5).network
    assert sum(stage.epochs for stage in config.stages) == EPOCHS and len(config.stages) in (1, 3)
    assert all(built(part_of(network, stage.network)) for stage in config.stages)
    assert (network.patch, network.width) == (256, system.width)
    assert {context.size for context in network.contexts} <= {256}
    assert built(network) < 30e6
