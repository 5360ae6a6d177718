"""A small network that refines masks, and a checkpoint of it. Needs torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.backbones.resnet50 import Bottleneck
from fctl.model.build import build
from fctl.model.cascadepsp import CascadePsp
from fctl.model.config import NetworkConfig
from fctl.model.presets import narrow, preset
from fctl.model.weights.checkpoints import save_checkpoint

from .helpers import images, small_card

NAMES = ("red", "green", "blue")  # those of tests/data/tiny.fctl, whose masks it can refine
CLASSES, PATCH, OVERLAP = len(NAMES), 64, 16


def small_refiner(classes: int = CLASSES) -> NetworkConfig:
    """The preset, a sixteenth as wide and on 64-pixel patches."""
    network = narrow(preset("cascadepsp-r50", classes=classes).network, 1 / 16)
    return replace(network, patch=PATCH, contexts=tuple(replace(c, size=PATCH) for c in network.contexts))


def masked(batch: int, config: NetworkConfig, size: int) -> Tensor:
    """Random images, with the bands of random masks that have areas of all classes."""
    scores = F.interpolate(torch.rand(batch, config.classes, 6, 6), size=(size, size), mode="bicubic")
    bands = 255 * F.one_hot(scores.argmax(1), config.classes).movedim(-1, 1)
    return torch.cat([images(batch, config.bands, size), bands.to(torch.uint8)], dim=1)


def lively_refiner(config: NetworkConfig, seed: int = 0) -> CascadePsp:
    """A random network with measured batch statistics and scores that are sure in places.

    Its residual branches add little: through 50 random layers, three times over, the last bit of a pixel would decide.
    """
    torch.manual_seed(seed)
    network = build(config)
    assert isinstance(network, CascadePsp)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what it sees
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.expand.bn.weight, 0.2)
    with torch.no_grad():
        network.train().encode("scene", masked(4, config, config.patch))
        for score in (network.decoder.coarse.score, network.decoder.score_middle, network.decoder.score):
            assert isinstance(score, nn.Conv2d)
            score.weight.mul_(3)
    return network.eval()


def save_refiner(path: Path) -> CascadePsp:
    """Save a checkpoint of a small network, which is returned."""
    config = small_refiner()
    network = lively_refiner(config)
    serving = replace(preset("cascadepsp-r50", classes=CLASSES).serving, overlap=OVERLAP, scene=None)
    card = small_card(config)
    classes = tuple(replace(label, name=name) for label, name in zip(card.classes, NAMES, strict=True))
    save_checkpoint(path, replace(card, serving=serving, classes=classes), network.state_dict())
    return network
