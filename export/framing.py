"""VGG16 without the work that its padding of 100 pixels makes: what sees only padding is a constant.

FCN-8s pads an image of 508 pixels to 708, and half of what the first layers compute is the same for every image. Here
each block of convolutions is computed only for the cells that depend on the image, in a frame of constant cells, and
stages that are handed out are framed to their full size. The result is that of the whole network up to rounding.

Both axes are alike, so cells are given along one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.backbones.vgg16 import Vgg16
from fctl.model.network import FCtL

_PADDING = 100


@dataclass(frozen=True, slots=True)
class Span:
    """Cells from `start` up to, not including, `stop`."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
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


def framed(network: FCtL) -> None:
    """Put VGG16 backbones that compute only what depends on the image in place of whole ones.

    Args:
        network: A frozen network, whose weights do not change any more; it is changed in place. Networks with other
            backbones stay as they are.
    """
    config = network.config
    own = {context.name: context.size for context in config.contexts}
    patch = (config.patch, *(own.values() if config.encoders == "shared" else ()))
    sizes = dict(zip(network.encoders(), (patch, *((own[name],) for name in network.context_encoders)), strict=True))
    for encoder, sides in sizes.items():
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
        self.channels, self.resume, self.inside = whole.channels, whole.resume, whole.inside
        layers = [layer for block in whole.blocks.values() for layer in cast(nn.Sequential, block)]
        blocks: list[list[nn.Conv2d]] = [[]]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                blocks[-1].append(layer)
            elif isinstance(layer, nn.MaxPool2d):
                blocks.append([])
        self.blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks[:-1])
        self.stages = dict(zip(range(2, len(self.blocks)), whole.blocks, strict=True))  # by the block that ends each
        self.plans, self.frames = dict[int, list[_Block]](), nn.ModuleDict()
        for size in dict.fromkeys(sizes):
            self.plans[size] = self._plan(size)
            self.frames[str(size)] = nn.ModuleDict(self._frames(size, self.plans[size]))

    def forward(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """Features by stage, see `Backbone`."""
        size, features = int(x.shape[-1]), dict[str, Tensor]()
        frames = cast(nn.ModuleDict, self.frames[str(size)])
        for index, (block, plan) in enumerate(zip(self._convolutions(), self.plans[size], strict=True)):
            if index == 0:  # the first convolution sees the image itself
                x = torch.relu(F.conv2d(x, block[0].weight, block[0].bias, padding=2))
            x = frames[f"block {index}"](x)
            for layer in block[index == 0 :]:
                x = torch.relu(F.conv2d(F.pad(x, plan.padding) if any(plan.padding) else x, layer.weight, layer.bias))
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            if index in self.stages:
                features[self.stages[index]] = frames[self.stages[index]](x)
                if self.stages[index] == last:
                    break
        return features

    def _convolutions(self) -> list[list[nn.Conv2d]]:
        return [[cast(nn.Conv2d, layer) for layer in cast(nn.ModuleList, block)] for block in self.blocks]

    def _plan(self, size: int) -> list[_Block]:
        """What is computed of each block, for images of a side in pixels."""
        side, given, plans = size + 2 * _PADDING - 2, Span(_PADDING - 2, _PADDING + size), list[_Block]()
        for index, block in enumerate(self._convolutions()):
            reach = len(block) - (index == 0)
            start, stop = given.start - 2 * reach, given.stop + 2 * reach
            start -= (start + reach) % 2  # so that pools begin at the cells where they do in the whole
            stop += (stop - reach) % 2
            taken = Span(start if start > 0 else 0, stop if stop < side else side)
            first = taken.start + reach if taken.start else 0
            end = taken.stop - reach if taken.stop < side else side
            plans.append(_Block(side=side, given=given, taken=taken, made=Span(first // 2, -(-end // 2))))
            side, given = -(-side // 2), plans[-1].made
        return plans

    def _frames(self, size: int, plans: list[_Block]) -> dict[str, _Frame]:
        """What surrounds the input of each block, and each stage: cells of an image of zeros."""
        first, found = self._convolutions()[0][0], dict[str, _Frame]()
        with torch.no_grad():
            x = torch.zeros(1, first.in_channels, size, size, dtype=first.weight.dtype)
            for index, (block, plan) in enumerate(zip(self._convolutions(), plans, strict=True)):
                if index == 0:
                    x = torch.relu(block[0](x))
                found[f"block {index}"] = _Frame(x, plan.given, plan.taken)
                for layer in block[index == 0 :]:
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
        rows, columns = slice(inner.start, inner.stop), slice(outer.start, outer.stop)
        before, after = slice(outer.start, inner.start), slice(inner.stop, outer.stop)
        strips = {
            "left": constant[:, :, rows, before], "right": constant[:, :, rows, after],
            "top": constant[:, :, before, columns], "bottom": constant[:, :, after, columns],
        }  # fmt: skip
        for name, strip in strips.items():
            self.register_buffer(name, strip.clone(), persistent=False)
        self.there = {name for name, strip in strips.items() if strip.numel()}

    def forward(self, cells: Tensor) -> Tensor:
        """The cells (N, C, h, w), with constant ones around them."""
        wide = self._between("left", cells, "right", 3)
        return self._between("top", wide, "bottom", 2)

    def _between(self, before: str, cells: Tensor, after: str, axis: int) -> Tensor:
        parts = [cells]
        if before in self.there:
            parts.insert(0, self._strip(before, cells))
        if after in self.there:
            parts.append(self._strip(after, cells))
        return torch.cat(parts, dim=axis) if len(parts) > 1 else cells

    def _strip(self, name: str, cells: Tensor) -> Tensor:
        return self.get_buffer(name).expand(cells.shape[0], -1, -1, -1)
