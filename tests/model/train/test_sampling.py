from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from torch.nn import functional as F

from fctl.model.backbones import stage_of
from fctl.model.geometry import crop_matrix
from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.tiling.windows import Window
from tests.model.helpers import LARGE, MEDIUM, PATCH, WHOLE, WIDE

from .helpers import batches, patterned, ramp, sampler


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
    shown = [source.read(Window(0, 0, source.height, source.width)) for source, _, _ in views]
    assert all(np.array_equal(pixels[:, :, 0], labels) for pixels, (_, labels, _) in zip(shown, views, strict=True))
    assert len({(labels.shape, labels.tobytes()) for _, labels, _ in sampler(patterned(), MEDIUM).views}) == 8


def test_coarse_masks_turn_with_their_scene() -> None:
    scene = patterned()
    for _, labels, coarse in sampler(replace(scene, coarse=scene.labels), MEDIUM).views:
        assert coarse is not None
        np.testing.assert_array_equal(coarse, labels)


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
