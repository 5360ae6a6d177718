from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch.nn import functional as F

from fctl.model.train.losses import focal_loss, weighted_focal_loss
from fctl.runtime.evaluate.metrics import IGNORE


def test_class_weights_of_one_change_nothing_and_others_weigh() -> None:
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[0, 0] = IGNORE
    plain = focal_loss(logits, labels, gamma=2.0, ignore=IGNORE)
    torch.testing.assert_close(weighted_focal_loss(logits, labels, (1.0, 1.0, 1.0), gamma=2.0, ignore=IGNORE), plain)
    heavy = weighted_focal_loss(logits, labels, (0.0, 1.0, 3.0), gamma=2.0, ignore=IGNORE)
    ce = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    each = (1 - torch.exp(-ce)) ** 2 * ce
    weights = (labels == 1).float() + 3 * (labels == 2).float()
    torch.testing.assert_close(heavy, (weights * each).sum() / weights.sum())
    assert weighted_focal_loss(logits, torch.full_like(labels, IGNORE), (1.0,) * 3, gamma=2.0, ignore=IGNORE) == 0


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
