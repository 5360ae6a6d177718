from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fctl.model.network import FCtL
from fctl.model.train.finish import recalibrate
from fctl.model.train.optimise import Training, jitter
from fctl.model.train.recipe import Recipe
from fctl.model.train.sampling import Sampler, TrainingBatch
from fctl.runtime.evaluate.metrics import IGNORE
from tests.model.helpers import MEDIUM, build, small_config, small_lcf

from .helpers import RECIPE, coloured, windows

PLAIN = Recipe(
    steps=2, batch=2, rate=1e-3, encoder_rate=1e-3, position_rate=1e-3, weight_decay=0.0, gamma=2.0, balance=0.0,
    scale=1.0, colour=0.0, stem=None, average=0.0, seed=0,
)  # fmt: skip


def test_padding_stays_black_underjitter() -> None:
    torch.manual_seed(0)
    image = torch.randint(1, 256, (4, 3, 16, 16), dtype=torch.uint8)
    image[:, :, :5] = 0
    image[:, 0, 8] = 0  # no padding: the other bands show something
    (jittered,) = jitter([image], 0.9)
    assert not jittered[:, :, :5].any()
    assert jittered[:, 1:, 8].any()
    assert not torch.equal(jittered, image.float())


def test_patch_and_contexts_are_jittered_alike() -> None:
    torch.manual_seed(0)
    image = torch.randint(1, 256, (4, 3, 16, 16), dtype=torch.uint8)
    one, other = jitter([image, image.clone()], 0.3)
    assert torch.equal(one, other)
    assert not torch.allclose(one[0] - image[0].float(), one[1] - image[1].float())


def test_jitter_of_no_strength_changes_nothing() -> None:
    image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(jitter([image], 0.0)[0], image.float(), rtol=0, atol=1e-4)


@dataclass(frozen=True)
class Trained:
    start: dict[str, Tensor]
    network: FCtL
    loss: Callable[[FCtL], float]


@pytest.fixture(scope="module")
def trained() -> Trained:
    config = small_config(stage="s8", contexts=(MEDIUM,))
    network = build(config)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    held = Sampler([coloured()], network.config, windows(MEDIUM), replace(RECIPE, seed=99)).batch(0)

    def loss(candidate: FCtL) -> float:
        with torch.no_grad():
            return F.cross_entropy(candidate(held.patch, held.contexts), held.labels, ignore_index=IGNORE).item()

    recipe = replace(RECIPE, steps=24, batch=2)
    training, scenes = Training(network, recipe), [coloured()]
    losses = list(training.steps(Sampler(scenes, network.config, windows(MEDIUM), recipe)))
    assert len(losses) == training.done == 24
    recalibrate(training.averaged, scenes, windows(MEDIUM), recipe, batches=20)
    return Trained(start, training.averaged.eval(), loss)


def test_training_lowers_the_loss(trained: Trained) -> None:
    before = build(trained.network.config)
    before.load_state_dict(trained.start)
    assert trained.loss(trained.network) < 0.9 * trained.loss(before)


def test_frozen_blocks_and_batch_statistics_of_backbones_keep_their_values(trained: Trained) -> None:
    state = trained.network.state_dict()
    frozen = [name for name in state if ".stem." in name or any(f".blocks.{i}." in name for i in range(3))]
    statistics = [name for name in state if "backbone" in name and "running" in name]
    assert frozen
    assert all(torch.equal(state[name], trained.start[name]) for name in frozen + statistics)


def test_everything_else_is_trained(trained: Trained) -> None:
    state = trained.network.state_dict()
    learned = [name for name, p in trained.network.named_parameters() if p.requires_grad]
    assert any(".blocks.3." in name for name in learned)
    assert [name for name in learned if torch.equal(state[name], trained.start[name])] == []


def test_every_kind_of_parameter_has_its_rate() -> None:
    network = build(small_config(stage="s8", contexts=(MEDIUM,), lcf=small_lcf(position="ground")))
    training = Training(network, RECIPE)
    rates = {id(p): group["initial_lr"] for group in training.optimizer.param_groups for p in group["params"]}
    trained = {name: rates[id(p)] for name, p in network.named_parameters() if p.requires_grad}
    assert len(rates) == len(trained)
    for name, rate in trained.items():
        kind = "position_rate" if ".position." in name else "encoder_rate" if "backbone" in name else "rate"
        assert rate == getattr(RECIPE, kind), name
    assert sum(".position." in name for name in trained) == 4  # W_r and z, for the patch and its context


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    config = small_config(width=0.25, stage="s8", contexts=(), lcf=None, ale=None, encoders="shared")
    random = np.random.default_rng(0)
    batch = random.integers(0, 256, (4, 3, 64, 64), np.uint8), random.integers(0, 3, (4, 64, 64))

    def step(count: int) -> dict[str, torch.Tensor]:
        network = build(config)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.requires_grad_(False)  # statistics of a batch are what accumulation cannot reproduce
        training = Training(network, replace(PLAIN, accumulate=count))
        for group in training.optimizer.param_groups:
            group["lr"] = 1e-3
        size = 4 // count
        parts = [
            TrainingBatch(torch.from_numpy(batch[0][i : i + size]), {}, {}, torch.from_numpy(batch[1][i : i + size]))
            for i in range(0, 4, size)
        ]
        training.step(iter(parts))
        return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    one, two = step(1), step(2)
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-5)
