from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fctl.model.config import ContextConfig
from fctl.model.train.recipe import Recipe
from fctl.model.train.run import run_training
from fctl.model.train.sampling import Sampler, TrainingBatch
from fctl.model.train.scenes import Scene
from fctl.model.weights.checkpoints import read_checkpoint
from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.tiling.contexts import ContextWindow, context_window
from tests.model.helpers import build, small_config
from tests.runtime import labelled

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


class KilledError(Exception):
    pass


def killed_after(config: Path, name: str, steps: int) -> None:
    """A training that ends in the middle."""

    def progress(what: str, done: int, _: int) -> None:
        if (what, done) == (f"stage {name}", steps):
            raise KilledError

    with pytest.raises(KilledError):
        run_training(config, progress=progress)


STAGES = [
    stage(name="context", network="medium", epochs=1, changes={"balance": 0.0}),
    stage(name="rest", epochs=3, stem="s4", frozen=["context_encoders"], changes={"accumulate": 1, "batch": 3}),
]


RECIPE = Recipe(
    steps=3,
    batch=6,
    rate=3e-3,
    encoder_rate=1e-3,
    position_rate=1e-2,
    weight_decay=1e-4,
    gamma=2.0,
    balance=0.5,
    scale=1.0,
    colour=0.2,
    stem="s4",
    average=0.5,
    seed=0,
)


def windows(*contexts: ContextConfig) -> dict[str, ContextWindow]:
    return {c.name: context_window(c.factor, size=c.size, resampling="box") for c in contexts}


def sampler(scene: Scene, *contexts: ContextConfig, **changes: object) -> Sampler:
    network = build(small_config(stage="s8", contexts=contexts, ale=None))
    return Sampler([scene], network.config, windows(*contexts), replace(RECIPE, **changes))  # type: ignore[arg-type]


def batches(source: Sampler, count: int = 4) -> list[TrainingBatch]:
    return [source.batch(seed) for seed in range(count)]


def patterned(height: int = 230, width: int = 170) -> Scene:
    """Noise, with three classes in blocks."""
    random = np.random.default_rng(0)
    pixels = random.integers(1, 256, (height, width, 3), np.uint8)
    labels = (np.add.outer(np.arange(height) // 24, np.arange(width) // 24) % 3).astype(np.uint8)
    return Scene(name="patterned", pixels=pixels, labels=labels)


def ramp(axis: int) -> Scene:
    """Pixels and labels that both say where they lie along one axis."""
    shape = (240, 180)
    place = np.indices(shape)[axis].astype(np.uint8)
    return Scene(name="ramp", pixels=np.stack([place] * 3, axis=2), labels=place)


def coloured() -> Scene:
    """Three classes that their colours tell."""
    labels = patterned().labels
    return Scene(name="coloured", pixels=np.eye(3, dtype=np.uint8)[labels] * 200 + 20, labels=labels)
