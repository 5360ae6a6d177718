"""How many multiplications shared contexts cost, counted on a network without values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fctl.model.backbones import backbone_class, stage_of
from fctl.model.build import build
from fctl.model.config import NetworkConfig
from fctl.model.interface import ContextNetwork
from fctl.model.presets import Preset, without_contexts
from fctl.model.serving.shared import pixels_to_encode, shared_encoder
from fctl.runtime.tiling.windows import TilePlan

_FRAMED = 104.05 / 153.9
"""What is left of a VGG16 on 508 pixels when the padding around them is not computed (docs/presets.md)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a network on a raster whose contexts are encoded once, in 10^9 multiplications.

    Attributes:
        patches: How many patches cover the raster.
        alone: A patch of the network without contexts.
        fusion: What contexts add to a patch once they are encoded.
        windows: How many windows contexts are encoded in; one that is black serves all rasters, and does not count.
        encoding: All of these windows.
        needed: What they would be if each pixel of the raster were encoded once, and nothing else.
    """

    patches: int
    alone: float
    fusion: float
    windows: int
    encoding: float
    needed: float

    def ratio(self, encoding: float) -> float:
        """The work with contexts that take so much to encode, over that without contexts."""
        return (self.patches * (self.alone + self.fusion) + encoding) / (self.patches * self.alone)


def shared_work(preset: Preset, side: int, *, fitted: bool) -> Work:
    """Count the work of a preset at full width.

    Args:
        preset: The preset.
        side: Side of the raster in pixels.
        fitted: Whether the windows of contexts are made for rasters of that side.

    Returns:
        The work. That of a global context is encoded once for each raster in both figures.
    """
    config = preset.network
    network = build(config).eval().to("meta")
    serving = replace(preset.serving, raster=side if fitted else None)
    starts = TilePlan(kind=serving.plan, overlap=serving.overlap).starts(side, config.patch)
    windows, encoding, needed = 0, 0.0, 0.0
    for context in config.contexts:
        sharing = shared_encoder(config, context, "encoder", serving=serving)
        if sharing is None:
            one = _multiplications(network.encode, context.name, _pixels(config, context.size)) * _frame(config)
            windows, encoding, needed = windows + 1, encoding + one, needed + one
            continue
        one = _multiplications(network.encode_once, context.name, _pixels(config, sharing.size))
        count = pixels_to_encode(config, context, sharing, starts, side) // sharing.size**2
        windows, encoding = windows + count, encoding + one * count
        needed += one * (side * context.size / context.window(config.patch) / sharing.size) ** 2
    alone = build(without_contexts(config)).eval().to("meta")
    whole, part = _segmenting(network, config), _segmenting(alone, alone.config)
    first = config.contexts[0].name  # its encoder is that of the patch
    saved = (1 - _frame(config)) * _multiplications(network.encode, first, _pixels(config, config.patch))
    return Work(
        patches=len(starts) ** 2, alone=part - saved, fusion=whole - part, windows=windows, encoding=encoding,
        needed=needed,
    )  # fmt: skip


def _segmenting(network: ContextNetwork, config: NetworkConfig) -> float:
    """The work of segmenting one patch whose contexts are encoded."""
    features = {
        context.name: network.encode(context.name, _pixels(config, context.size)) for context in config.contexts
    }
    cells = backbone_class(config.backbone).grid(config.patch, stage_of(config.backbone, config.stage))
    positions = {name: torch.zeros(1, 2, cells, device="meta") for name in config.placed}
    return _multiplications(network.segment, _pixels(config, config.patch), features, positions)


def _frame(config: NetworkConfig) -> float:
    return _FRAMED if config.backbone == "vgg16" else 1.0


def _pixels(config: NetworkConfig, side: int) -> Tensor:
    return torch.zeros(1, config.bands, side, side, dtype=torch.uint8, device="meta")


def _multiplications(step: Callable[..., Tensor], *arguments: object) -> float:
    """What a step multiplies, in 10^9."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step(*arguments)
    return float(counter.get_total_flops()) / 2e9
