from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor

from fctl.model.train.finish import best_offsets, recalibrate
from fctl.model.train.recipe import Recipe
from fctl.runtime.evaluate.metrics import Confusion
from tests.model.helpers import MEDIUM, build, small_config

from .helpers import RECIPE, patterned, windows


def test_recalibration_sees_plain_patches_whatever_the_recipe() -> None:
    network = build(small_config(stage="s8", contexts=(MEDIUM,), ale=None))

    def mean_after(recipe: Recipe) -> Tensor:
        recalibrate(network, [patterned()], windows(MEDIUM), recipe, batches=2)
        return network.state_dict()["decoder.refine.s4.1.bn.running_mean"].clone()

    plain = mean_after(RECIPE)
    assert plain.abs().max() > 0
    assert torch.equal(mean_after(replace(RECIPE, balance=1.0, scale=2.0, colour=0.9)), plain)


def test_backbones_are_recalibrated_where_their_statistics_are_trained() -> None:
    network = build(small_config(stage="s8", contexts=(MEDIUM,), ale=None))
    norms = {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    encoders = {name for name in norms if not name.startswith("decoder.")}
    assert encoders and encoders < norms.keys()
    for recipe, measured in ((RECIPE, norms.keys() - encoders), (replace(RECIPE, statistics=True), norms.keys())):
        for norm in norms.values():
            norm.running_mean.fill_(7)
        recalibrate(network, [patterned()], windows(MEDIUM), recipe, batches=1)
        assert {name for name, norm in norms.items() if not (norm.running_mean == 7).all()} == set(measured)


def test_class_offsets_raise_the_miou_of_training_patches() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 5000)
    logits = np.eye(3, dtype=np.float32)[labels] * 2 + random.normal(0, 1, (5000, 3)).astype(np.float32)
    biased = logits + np.float32([1.5, 0, 0])
    offsets = best_offsets(biased, labels)
    before, after = (Confusion.of(labels, (biased + shift).argmax(1), 3).miou() for shift in (0, offsets))
    assert after > before + 0.05
    assert offsets[0] < min(offsets[1:])
    assert abs(offsets.mean()) < 1e-6
