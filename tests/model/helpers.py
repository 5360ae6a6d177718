"""Small networks and inputs for the tests of the model and of the export. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.ale import GroupDepthConv
from fctl.model.backbones import lite0, mit, resnet50, stage_of
from fctl.model.build import build as build_any
from fctl.model.config import GLOBAL, AleConfig, ContextConfig, LcfConfig, NetworkConfig, ServingConfig
from fctl.model.geometry import cells_of_patch
from fctl.model.interface import ContextNetwork
from fctl.model.lcf import PositionTerm, WeightedFusion
from fctl.model.network import FCtL
from fctl.model.presets import narrow, preset
from fctl.model.serving.manifest import moving_cells
from fctl.model.weights.checkpoints import Card, ClassLabel, save_checkpoint
from fctl.model.whole import PIXELS

PATCH = 64
MEDIUM = ContextConfig(name="medium", factor=2.0, size=PATCH)
LARGE = ContextConfig(name="large", factor=4.0, size=PATCH)
WIDE = ContextConfig(name="wide", factor=1.5, size=96)
WHOLE = ContextConfig(name="whole", factor=GLOBAL, size=PATCH)
_RASTER = (200, 320)  # height and width of the raster that a global context shows

Inputs = tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]


def small_config(**changes: object) -> NetworkConfig:
    """The preset, narrow and on 64-pixel patches, with some settings changed."""
    base = preset("fctl-lite0", classes=3).network
    small = {
        "patch": PATCH,
        "contexts": (MEDIUM, LARGE),
        "channels": 16,
        "lcf": small_lcf(),
        "decoder_channels": 16,
    }
    return replace(base, **(small | changes))  # type: ignore[arg-type]


def small_preset(name: str, *, classes: int = 3) -> NetworkConfig:
    """A preset's network, an eighth as wide and on 64-pixel patches."""
    network = narrow(preset(name, classes=classes).network, 1 / 8)
    return replace(network, patch=PATCH, contexts=tuple(replace(c, size=PATCH) for c in network.contexts))


@contextmanager
def shallow_backbones() -> Iterator[None]:
    """Backbones with one block a stage, or two where the second one is computed otherwise than the first.

    Tracing takes seconds for every ten layers, however narrow they are. tests/model/train exports a network with all.
    """
    rows = tuple(replace(row, repeats=2 if index == 2 else 1) for index, row in enumerate(lite0._TABLE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lite0, "_TABLE", rows)  # the first kernel of 5 is where there are two: for a residual
        patch.setattr(resnet50, "_BLOCKS", (1, 2, 1, 2))  # ICNet parts the second stage; dilation needs a second block
        patch.setattr(mit.MitB0, "depths", (1, 1, 1, 1))
        yield


def small_lcf(**changes: object) -> LcfConfig:
    """The preset's LCF with 8 key channels and some settings changed."""
    base = preset("fctl-lite0", classes=3).network.lcf
    assert base is not None
    return replace(base, **({"key_channels": 8} | changes))  # type: ignore[arg-type]


def small_ale(structure: str, reference: str | None = None) -> AleConfig:
    """ALE of one structure with the paper's windows."""
    return AleConfig(structure=structure, reference=reference, windows=(1, 3, 5, 7))  # type: ignore[arg-type]


def build(config: NetworkConfig, seed: int = 0) -> FCtL:
    """A network with the initialisation of that seed, in evaluation mode."""
    torch.manual_seed(seed)
    return FCtL(config).eval()


def lively(config: NetworkConfig, seed: int = 0) -> ContextNetwork:
    """A random network in which everything matters, as in a trained one.

    Batch statistics are measured, else 50 layers fade to nothing; position terms, gates and fusion weights are drawn
    away from where they start, and ALE's maps and the value projections are large enough for contexts to be felt.
    """
    torch.manual_seed(seed)
    network = build_any(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over what it sees
        elif isinstance(module, PositionTerm):
            nn.init.normal_(module.weight, std=0.5)
            nn.init.uniform_(module.gate, -2, 2)
        elif isinstance(module, WeightedFusion):
            nn.init.normal_(module.logits)
        elif isinstance(module, GroupDepthConv):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(10)
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(parameter, 0.5, 1.0)
        elif config.backbone == "vgg16" and parameter.dim() == 4 and parameter.requires_grad:
            nn.init.kaiming_normal_(parameter)  # nothing else keeps signals up where there is no batch norm
        if name.endswith("value.weight"):
            nn.init.normal_(parameter, std=2 * parameter.shape[1] ** -0.5)
    with torch.no_grad():
        network.train()(*inputs(config, batch=8, seed=seed))
    return network.eval()


def inputs(config: NetworkConfig, *, batch: int = 2, seed: int = 0) -> Inputs:
    """Raw patches, contexts and, for those that move, positions of patches strewn over a raster."""
    torch.manual_seed(seed)
    contexts = {context.name: images(batch, config.bands, context.size) for context in config.contexts}
    positions = {
        context.name: _random_positions(config, context, batch)
        for context in config.contexts
        if context.factor == GLOBAL
    }
    return images(batch, config.bands, config.patch), contexts, positions


def images(batch: int, bands: int, size: int) -> Tensor:
    """Random uint8 images with coarse and fine structure, from torch's global generator."""
    coarse = F.interpolate(torch.rand(batch, bands, 6, 6), size=(size, size), mode="bicubic")
    return (255 * (0.8 * coarse + 0.2 * torch.rand(batch, bands, size, size))).clamp(0, 255).to(torch.uint8)


def _random_positions(config: NetworkConfig, context: ContextConfig, batch: int) -> Tensor:
    stage = stage_of(config.backbone, config.stage) if config.sees_patch else PIXELS
    count = moving_cells(config, context.size).patch.count
    return torch.stack(
        [
            torch.stack(
                [
                    cells_of_patch(
                        count,
                        stage,
                        start=int(torch.randint(side - config.patch, ())),
                        window=side,
                        size=context.size,
                    )
                    for side in _RASTER
                ]
            )
            for _ in range(batch)
        ]
    )


def small_card(config: NetworkConfig) -> Card:
    """A card for a network of `small_config`."""
    return Card(
        network=config,
        serving=ServingConfig(plan="stride", overlap=16, resampling="box", merge="cosine", scene=None),
        classes=tuple(ClassLabel(name=f"class {i}", colour=(50 * i, 100, 200)) for i in range(config.classes)),
        ground_sample_distance=0.5,
        licence="CC0-1.0",
        training={"data": "none", "steps": 0},
    )


def save_small(path: Path, network: ContextNetwork) -> Path:
    """Save a network of `small_config` as a checkpoint."""
    save_checkpoint(path, small_card(network.config), network.state_dict())
    return path
