from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fctl.model.backbones import stage_of
from fctl.model.config import ContextConfig
from fctl.model.geometry import crop_matrix
from fctl.model.network import FCtL
from fctl.model.train.losses import focal_loss
from fctl.model.train.optimise import (
    Recipe,
    Sampler,
    Scene,
    Training,
    TrainingBatch,
    _best_offsets,
    _jitter,
    recalibrate,
)
from fctl.runtime.evaluate.metrics import IGNORE, Confusion
from fctl.runtime.tiling.contexts import ContextWindow
from fctl.runtime.tiling.windows import Window
from tests.model.helpers import LARGE, MEDIUM, PATCH, WHOLE, WIDE, build, small_config, small_lcf

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
    frozen="s4",
    average=0.5,
    seed=0,
)
Pixels = NDArray[np.uint8]


def windows(*contexts: ContextConfig) -> dict[str, ContextWindow]:
    return {c.name: ContextWindow(factor=c.factor, size=c.size, resampling="box") for c in contexts}


def sampler(scene: Scene, *contexts: ContextConfig, **changes: object) -> Sampler:
    network = build(small_config(stage="s8", contexts=contexts, ale=None))
    return Sampler([scene], network, windows(*contexts), replace(RECIPE, **changes))  # type: ignore[arg-type]


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


def test_batches_of_one_seed_are_the_same() -> None:
    one, other = (sampler(patterned(), MEDIUM, scale=1.5).batch(7) for _ in range(2))
    assert torch.equal(one.patch, other.patch)
    assert torch.equal(one.contexts["medium"], other.contexts["medium"])
    assert torch.equal(one.labels, other.labels)


def test_batches_of_different_seeds_differ() -> None:
    source = sampler(patterned(), MEDIUM)
    assert not torch.equal(source.batch(0).patch, source.batch(1).patch)
    assert not torch.equal(source.batch(0).patch, sampler(patterned(), MEDIUM, seed=1).batch(0).patch)


def test_batches_have_the_shapes_of_the_network() -> None:
    batch = sampler(patterned(), WIDE, MEDIUM).batch(0)
    assert (batch.patch.shape, batch.patch.dtype) == ((6, 3, PATCH, PATCH), torch.uint8)
    assert {name: window.shape for name, window in batch.contexts.items()} == {
        "wide": (6, 3, 96, 96),
        "medium": (6, 3, 64, 64),
    }
    assert (batch.labels.shape, batch.labels.dtype) == ((6, PATCH, PATCH), torch.int64)


def test_contexts_are_centred_on_the_patch() -> None:
    for batch in batches(sampler(patterned(), MEDIUM, LARGE)):
        patch = batch.patch.float()
        medium, large = batch.contexts["medium"][:, :, 16:48, 16:48], batch.contexts["large"][:, :, 24:40, 24:40]
        assert (F.avg_pool2d(patch, 2) - medium).abs().max() <= 1  # the filter rounds, per axis
        assert (F.avg_pool2d(patch, 4) - large).abs().max() <= 1


def test_a_context_of_the_same_scale_shows_the_patch_in_its_middle() -> None:
    for batch in batches(sampler(patterned(), WIDE)):
        assert torch.equal(batch.contexts["wide"][:, :, 16:80, 16:80], batch.patch)


def test_contexts_are_black_beyond_the_scene() -> None:
    batch = sampler(patterned(PATCH, PATCH), LARGE).batch(0)
    window = batch.contexts["large"]
    assert (window[:, :, 24:40, 24:40] > 0).all()
    assert not window[:, :, :24].any()
    assert not window[:, :, :, 40:].any()


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_labels_and_pixels_stay_aligned(axis: int, scale: float) -> None:
    for batch in batches(sampler(ramp(axis), MEDIUM, scale=scale), 6):
        assert (batch.labels - batch.patch[:, 0].long()).abs().max() <= (0 if scale == 1 else 1)


@pytest.mark.parametrize("axis", [0, 1])
def test_all_eight_turns_are_views_of_the_scene(axis: int) -> None:
    views = sampler(ramp(axis), MEDIUM).views
    shown = [source.read(Window(0, 0, source.height, source.width)) for source, _ in views]
    assert all(np.array_equal(pixels[:, :, 0], labels) for pixels, (_, labels) in zip(shown, views, strict=True))
    assert len({(labels.shape, labels.tobytes()) for _, labels in sampler(patterned(), MEDIUM).views}) == 8


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_contexts_are_dropped_one_by_one_and_patches_never(share: float) -> None:
    found = batches(sampler(patterned(), MEDIUM, LARGE, context_dropout=share), count=16)
    black = np.array(
        [
            [not window.any() for window in batch.contexts[context.name]]
            for batch in found
            for context in (MEDIUM, LARGE)
        ]
    ).reshape(16, 2, -1)
    assert abs(black.mean() - share) < 0.2
    assert all(batch.patch.flatten(1).any(1).all() for batch in found)
    assert (black[:, 0] != black[:, 1]).any() == (share == 0.5)


def test_labels_are_ignored_beyond_a_small_scene() -> None:
    scene = patterned(40, 50)
    batch = sampler(scene, MEDIUM).batch(0)
    known = batch.labels != IGNORE
    assert known.sum(dim=(1, 2)).tolist() == [40 * 50] * 6
    assert not batch.patch.permute(0, 2, 3, 1)[~known].any()


def test_rare_classes_are_seen() -> None:
    scene = patterned(600, 600)
    scene.labels[:] = 0
    scene.labels[8:24, 8:24] = 2
    seen = [bool((labels == 2).any()) for batch in batches(sampler(scene, MEDIUM), 8) for labels in batch.labels]
    assert np.mean(seen) > 0.05  # half of them aim at one class of three: a sixth; anywhere, it would be 1 in 500


def test_factors_that_are_not_whole_train_at_any_scale() -> None:
    for batch in batches(sampler(patterned(), WIDE, scale=1.5)):
        assert batch.contexts["wide"].shape == (6, 3, 96, 96)


@pytest.mark.parametrize("scene", [None, 110])
@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_positions_tell_where_a_patch_lies_in_the_whole_scene(axis: int, scale: float, scene: int | None) -> None:
    """The whole, or the scene block, shows at the places of the patch's cells what the patch shows there."""
    stage, source = stage_of("efficientnet_lite0", "s8"), sampler(ramp(axis), WHOLE, MEDIUM, scale=scale)
    source.windows["whole"] = replace(source.windows["whole"], scene=scene)
    own = crop_matrix(stage.stride * torch.arange(PATCH // stage.stride).float() + stage.offset, PATCH)
    for batch in batches(source, 6):
        assert batch.positions.keys() == {"whole"}
        places = crop_matrix(stage.stride * batch.positions["whole"] + stage.offset, PATCH)
        for patch, whole, (rows, columns) in zip(batch.patch, batch.contexts["whole"], places, strict=True):
            assert ((rows @ whole[0].float() @ columns.T) - (own @ patch[0].float() @ own.T)).abs().max() < 3


def test_a_global_context_of_large_scenes_is_a_block_around_the_patch() -> None:
    source = sampler(ramp(0), WHOLE, turns=False)
    source.windows["whole"] = replace(source.windows["whole"], scene=100)
    for batch in batches(source):
        rows = batch.contexts["whole"][:, 0, :, 0].float()
        assert (rows[:, -1] - rows[:, 0] < 100).all()
        assert (rows[:, 0] <= batch.patch[:, 0, 0, 0] + 1).all() and (rows[:, -1] >= batch.patch[:, 0, -1, 0] - 1).all()


def test_padding_stays_black_under_jitter() -> None:
    torch.manual_seed(0)
    image = torch.randint(1, 256, (4, 3, 16, 16), dtype=torch.uint8)
    image[:, :, :5] = 0
    image[:, 0, 8] = 0  # no padding: the other bands show something
    (jittered,) = _jitter([image], 0.9)
    assert not jittered[:, :, :5].any()
    assert jittered[:, 1:, 8].any()
    assert not torch.equal(jittered, image.float())


def test_patch_and_contexts_are_jittered_alike() -> None:
    torch.manual_seed(0)
    image = torch.randint(1, 256, (4, 3, 16, 16), dtype=torch.uint8)
    one, other = _jitter([image, image.clone()], 0.3)
    assert torch.equal(one, other)
    assert not torch.allclose(one[0] - image[0].float(), one[1] - image[1].float())


def test_jitter_of_no_strength_changes_nothing() -> None:
    image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(_jitter([image], 0.0)[0], image.float(), rtol=0, atol=1e-4)


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
    held = Sampler([coloured()], network, windows(MEDIUM), replace(RECIPE, seed=99)).batch(0)

    def loss(candidate: FCtL) -> float:
        with torch.no_grad():
            return F.cross_entropy(candidate(held.patch, held.contexts), held.labels, ignore_index=IGNORE).item()

    recipe = replace(RECIPE, steps=12, batch=2)
    training, scenes = Training(network, recipe), [coloured()]
    losses = list(training.steps(Sampler(scenes, network, windows(MEDIUM), recipe)))
    assert len(losses) == training.done == 12
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


def test_focal_loss_with_gamma_0_is_cross_entropy() -> None:
    logits, target = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    target[:, 2:4] = IGNORE
    expected = F.cross_entropy(logits, target, ignore_index=IGNORE)
    torch.testing.assert_close(focal_loss(logits, target, gamma=0, ignore=IGNORE), expected)


def test_focal_loss_weighs_by_the_probability_missed() -> None:
    logits, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 2], [1, IGNORE]]])
    probabilities = torch.softmax(logits[0], dim=0)
    hits = torch.stack([probabilities[0, 0, 0], probabilities[2, 0, 1], probabilities[1, 1, 0]])
    expected = (-((1 - hits) ** 3) * hits.log()).mean()
    torch.testing.assert_close(focal_loss(logits, target, gamma=3, ignore=IGNORE), expected)


def test_focal_loss_ignores_what_is_not_labelled() -> None:
    logits, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    target[0, 0] = IGNORE
    other = logits.clone()
    other[:, :, 0] = 100 * torch.randn(1, 3, 4)
    one, same = (focal_loss(x, target, gamma=2, ignore=IGNORE) for x in (logits, other))
    torch.testing.assert_close(one, same)


def test_focal_loss_of_nothing_labelled_is_zero() -> None:
    target = torch.full((1, 4, 4), IGNORE)
    assert focal_loss(torch.randn(1, 3, 4, 4), target, gamma=2, ignore=IGNORE) == 0


def test_recalibration_sees_plain_patches_whatever_the_recipe() -> None:
    network = build(small_config(stage="s8", contexts=(MEDIUM,), ale=None))

    def mean_after(recipe: Recipe) -> Tensor:
        recalibrate(network, [patterned()], windows(MEDIUM), recipe, batches=2)
        return network.state_dict()["decoder.refine.s4.1.bn.running_mean"].clone()

    plain = mean_after(RECIPE)
    assert plain.abs().max() > 0
    assert torch.equal(mean_after(replace(RECIPE, balance=1.0, scale=2.0, colour=0.9)), plain)


def test_class_offsets_raise_the_miou_of_training_patches() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 5000)
    logits = np.eye(3, dtype=np.float32)[labels] * 2 + random.normal(0, 1, (5000, 3)).astype(np.float32)
    biased = logits + np.float32([1.5, 0, 0])
    offsets = _best_offsets(biased, labels)
    before, after = (Confusion.of(labels, (biased + shift).argmax(1), 3).miou() for shift in (0, offsets))
    assert after > before + 0.05
    assert offsets[0] < min(offsets[1:])
    assert abs(offsets.mean()) < 1e-6
