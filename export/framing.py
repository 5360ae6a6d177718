"""VGG16 without the work that its padding of 100 pixels makes: what sees only padding is a constant.

FCN-8s pads an image of 508 pixels to 708, and half of what the first layers compute is the same for every image. Here
each block of convolutions is computed only for the cells that depend on the image. Around them lie constant cells. Far
from the border of the padding they are alike, one value for each channel: that value is subtracted, so that a
convolution's own padding of zeros stands for them. Elsewhere the cells are added. The result is that of the whole
network up to rounding.

Both axes are alike, so cells are given along one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.backbones.vgg16 import PADDING, Vgg16
from fctl.model.encoder import Encoder
from fctl.model.interface import ContextNetwork
from fctl.model.network import FCtL
from fctl.model.whole import WholeImage

_ALIKE = 1e-5  # how far cells of one channel may differ, relative to the largest, to count as one value: rounding


@dataclass(frozen=True, slots=True)
class Span:
    """Cells from `start` up to, not including, `stop`."""

    start: int
    stop: int

    def around(self, inner: Span) -> tuple[int, int, int, int]:
        """How many of the cells lie before and after some of them, as `torch.nn.functional.pad` takes it."""
        before, after = inner.start - self.start, self.stop - inner.stop
        return before, after, before, after


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What is computed of one block, which ends with a pool of two by two cells.

    Attributes:
        side: Cells of its input in all.
        given: The cells of its input that depend on the image.
        taken: The cells of its input that are needed to compute what depends on the image.
        made: The cells of its output that are computed.
    """

    side: int
    given: Span
    taken: Span
    made: Span

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """What a convolution pads, as `torch.nn.functional.pad` takes it: only at the border of the whole input."""
        before, after = int(self.taken.start == 0), int(self.taken.stop == self.side)
        return before, after, before, after


def framed(network: ContextNetwork) -> None:
    """Put VGG16 backbones that compute only what depends on the image in place of whole ones.

    Args:
        network: A frozen network, whose weights do not change any more; it is changed in place. Networks with other
            backbones stay as they are.
    """
    if isinstance(network, WholeImage):
        _frame(network.encoder, [context.size for context in network.config.contexts])
    if not isinstance(network, FCtL):
        return
    config = network.config
    own = {context.name: context.size for context in config.contexts}
    patch = (config.patch, *(own.values() if config.encoders == "shared" else ()))
    sizes = dict(zip(network.encoders(), (patch, *((own[name],) for name in network.context_encoders)), strict=True))
    for encoder, sides in sizes.items():
        _frame(encoder, sides)


def _frame(encoder: Encoder, sides: Iterable[int]) -> None:
    if isinstance(encoder.backbone, Vgg16):
        encoder.register_module("backbone", FramedVgg16(encoder.backbone, sides))


class FramedVgg16(nn.Module):
    """A `Vgg16` that computes only what depends on the image.

    Args:
        whole: The network, whose weights do not change any more.
        sizes: Sides in pixels of the images that it takes.
    """

    def __init__(self, whole: Vgg16, sizes: Iterable[int]) -> None:
        super().__init__()
        self.whole, self.channels, self.resume, self.inside = whole, whole.channels, whole.resume, whole.inside
        self.stages = dict(zip(range(2, 2 + len(whole.blocks)), whole.blocks, strict=True))  # by the block that ends it
        self.plans, self.frames = dict[int, list[Block]](), nn.ModuleDict()
        for size in dict.fromkeys(sizes):
            self.plans[size] = self._plan(size)
            self.frames[str(size)] = nn.ModuleDict(self._frames(size, self.plans[size]))

    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Features by stage, see `Backbone`."""
        size, features = int(x.shape[-1]), dict[str, Tensor]()
        frames = cast(nn.ModuleDict, self.frames[str(size)])
        first, blocks = self._convolutions()
        x = torch.relu(F.conv2d(x, first.weight, first.bias, padding=2))  # all cells that see the image
        for index, (block, plan) in enumerate(zip(blocks, self.plans[size], strict=True)):
            x = torch.relu(frames[f"block {index}"](x))
            for layer in block[1:]:
                x = torch.relu(_convolved(x, layer, plan.padding))
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            if index in self.stages:
                features[self.stages[index]] = frames[self.stages[index]](x)
                if self.stages[index] == last:
                    break
        return features

    def _convolutions(self) -> tuple[nn.Conv2d, list[list[nn.Conv2d]]]:
        """The convolution that sees the image itself, and the others between two pools each."""
        blocks: list[list[nn.Conv2d]] = [[]]
        for layer in (layer for block in self.whole.blocks.values() for layer in cast(nn.Sequential, block)):
            if isinstance(layer, nn.Conv2d):
                blocks[-1].append(layer)
            elif isinstance(layer, nn.MaxPool2d):
                blocks.append([])
        (first, *others), *blocks = blocks[:-1]
        return first, [others, *blocks]

    def _plan(self, size: int) -> list[Block]:
        """What is computed of each block, for images of a side in pixels."""
        side, given, plans = size + 2 * PADDING - 2, Span(PADDING - 2, PADDING + size), list[Block]()
        for block in self._convolutions()[1]:
            reach = len(block)
            start, stop = given.start - 2 * reach, given.stop + 2 * reach
            start -= (start + reach) % 2  # so that pools begin at the cells where they do in the whole
            stop += (stop - reach) % 2
            taken = Span(start if start > 0 else 0, stop if stop < side else side)
            first = taken.start + reach if taken.start else 0
            end = taken.stop - reach if taken.stop < side else side
            plans.append(Block(side=side, given=given, taken=taken, made=Span(first // 2, -(-end // 2))))
            side, given = -(-side // 2), plans[-1].made
        return plans

    def _frames(self, size: int, plans: list[Block]) -> dict[str, nn.Module]:
        """The first convolution of each block in its frame, and what surrounds each stage; from an image of zeros."""
        (first, blocks), found = self._convolutions(), dict[str, nn.Module]()
        with torch.no_grad():
            x = torch.relu(first(torch.zeros(1, first.in_channels, size, size, dtype=first.weight.dtype)))
            for index, (block, plan) in enumerate(zip(blocks, plans, strict=True)):
                found[f"block {index}"] = _framed(block[0], x, plan)
                for layer in block:
                    x = torch.relu(layer(x))
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
                if index in self.stages:
                    found[self.stages[index]] = _Frame(x, plan.made, Span(0, x.shape[-1]))
        return found


class _Frame(nn.Module):
    """Surrounds cells by constant ones.

    Args:
        constant: All cells (1, C, H, W), of an image of zeros.
        inner: The cells that will be given, along both axes.
        outer: The cells that are wanted, of which those given are a part.
    """

    def __init__(self, constant: Tensor, inner: Span, outer: Span) -> None:
        super().__init__()
        self.padding = outer.around(inner)
        cells = constant[:, :, outer.start : outer.stop, outer.start : outer.stop].clone()
        before, after = self.padding[:2]
        cells[:, :, before : cells.shape[2] - after, before : cells.shape[3] - after] = 0
        self.cells: Tensor
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The cells (N, C, h, w), with constant ones around them."""
        return F.pad(x, self.padding) + self.cells if any(self.padding) else x


class _InFrame(nn.Module):
    """A convolution of cells in a frame.

    Args:
        layer: The convolution.
        frame: The frame.
        padding: What the convolution pads at the border of the whole input.
    """

    def __init__(self, layer: nn.Conv2d, frame: _Frame, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.layer, self.frame, self.padding = layer, frame, padding

    def forward(self, x: Tensor) -> Tensor:
        """The convolution (N, C', h', w') of cells (N, C, h, w)."""
        return _convolved(self.frame(x), self.layer, self.padding)


class _AmidOneValue(nn.Module):
    """A convolution of cells that are surrounded by one value for each channel.

    Less this value, they are surrounded by zeros, with which convolutions pad by themselves. What the value would have
    added is part of the bias.

    Args:
        layer: The convolution.
        value: The values (C,).
        padding: How many surrounding cells there are, as `torch.nn.functional.pad` takes it.
    """

    def __init__(self, layer: nn.Conv2d, value: Tensor, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        assert layer.bias is not None
        self.padding, self.weight = padding, layer.weight
        bias = layer.bias.double() + layer.weight.double().sum(dim=(2, 3)) @ value.double()
        self.value: Tensor
        self.register_buffer("value", value.reshape(1, -1, 1, 1), persistent=False)
        self.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution (N, C', h', w') of cells (N, C, h, w)."""
        return F.conv2d(F.pad(x - self.value, self.padding), self.weight, self.bias)


def _framed(layer: nn.Conv2d, constant: Tensor, plan: Block) -> nn.Module:
    """The first convolution of a block, for the cells that depend on the image.

    Args:
        layer: The convolution.
        constant: All cells (1, C, H, W) of its input, of an image of zeros.
        plan: What is computed of the block.
    """
    around = constant[0, :, plan.taken.start : plan.taken.stop, plan.taken.start : plan.taken.stop].clone()
    before, after = plan.taken.around(plan.given)[:2]
    value = around[:, 0, 0]
    around[:, before : around.shape[1] - after, before : around.shape[2] - after] = value[:, None, None]
    differ = (around - value[:, None, None]).abs().max() > _ALIKE * around.abs().max()
    if differ or any(plan.padding):
        return _InFrame(layer, _Frame(constant, plan.given, plan.taken), plan.padding)
    return _AmidOneValue(layer, value, plan.taken.around(plan.given))


def _convolved(x: Tensor, layer: nn.Conv2d, padding: tuple[int, int, int, int]) -> Tensor:
    return F.conv2d(F.pad(x, padding) if any(padding) else x, layer.weight, layer.bias)
