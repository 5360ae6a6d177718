"""GLNet as its paper describes it, naively: one patch after the other, whole images in memory, plain loops.

The layers are those of a `GLNet`; where its maps lie, how they are cut and pasted, and what is concatenated is written
anew: cells are found by counting samples of pixels, and maps are cut by PyTorch's `grid_sample`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fctl.model.encoder import Encoder
from fctl.model.glnet import GLNet
from fctl.model.presets import narrow, preset
from fctl.model.weights.checkpoints import Card
from fctl.runtime.tiling.resampling import Pixels

from .helpers import PATCH, images, small_card

OVERLAP, SIZE = 16, 64
SAMPLES = 64  # of a pixel, along each axis: every border between cells lies between two of them


def small_glnet(name: str, seed: int = 0) -> GLNet:
    """A preset an eighth as wide, on patches and windows of 64 pixels, in which everything matters."""
    config = narrow(preset(name, classes=3).network, 1 / 8)
    contexts = tuple(replace(context, size=SIZE) for context in config.contexts)
    torch.manual_seed(seed)
    network = GLNet(replace(config, patch=PATCH, contexts=contexts))
    pixels = images(8, 3, PATCH)
    for encoder in network.encoders():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain mean over what it sees
        with torch.no_grad():
            encoder.train()(pixels)
    with torch.no_grad():
        for parameter in network.pyramids.parameters():
            if parameter.dim() == 4:
                nn.init.kaiming_normal_(parameter)
    return network.eval()


def glnet_card(network: GLNet, scene: int | None) -> Card:
    """How a small GLNet is run."""
    card = small_card(network.config)
    return replace(card, serving=replace(card.serving, overlap=OVERLAP, merge="uniform", scene=scene))


def starts(side: int) -> list[int]:
    """Patches at a fixed stride, the last one flush."""
    found = [0]
    while found[-1] + PATCH < side:
        found.append(min(found[-1] + PATCH - OVERLAP, side - PATCH))
    return found


def block_of(y: int, side: int, scene: int) -> tuple[int, int]:
    """First pixel and length of the scene block whose middle is nearest to that of a patch."""
    if side <= 1.5 * scene:
        return 0, side
    count = 1 + int(np.ceil((side - scene) / (scene - PATCH)))
    firsts = [int(first) for first in np.rint(np.linspace(0, side - scene, count))]
    holding = [first for first in firsts if first <= y and y + PATCH <= first + scene]
    return min(holding, key=lambda first: abs(first + scene / 2 - y - PATCH / 2)), scene


def patch_at(image: Pixels, y: int, x: int) -> Tensor:
    """A raw patch (1, bands, P, P), black beyond the image."""
    padded = np.pad(image, ((0, PATCH), (0, PATCH), (0, 0)))[y : y + PATCH, x : x + PATCH]
    return torch.from_numpy(padded.transpose(2, 0, 1)[None].copy())


def cut(maps: Tensor, y: int, x: int, block: tuple[int, int], level: int) -> Tensor:
    """A map of a block at the place of a patch, as large as the patch's own of that level."""
    stride, grids = 1 << level, []
    for start, side in ((y, block[0]), (x, block[1])):
        centres = start + stride * torch.arange(PATCH // stride, dtype=torch.float64) + 0.5
        cell = (centres * SIZE / side - 0.5) / stride
        grids.append(2 * cell / (SIZE // stride - 1) - 1)
    rows, columns = torch.meshgrid(*grids, indexing="ij")
    grid = torch.stack([columns, rows], dim=2)[None]
    return F.grid_sample(maps.double(), grid, padding_mode="border", align_corners=True).float()


def owners(side: int, count: int, stride: int, scale: float, start: int) -> NDArray[np.intp]:
    """The cell nearest to each sample of a side: of a patch that begins at `start`, or of a block that is scaled."""
    place = (np.arange(side * SAMPLES) + 0.5) / SAMPLES
    pixel = (place - start) * scale - 0.5
    return np.clip(np.floor(pixel / stride + 0.5), 0, count - 1).astype(int)


def counts(side: int, start: int, level: int) -> NDArray[np.float64]:
    """How many samples of a block each of its cells shares with each cell of a patch: (H, h)."""
    stride = 1 << level
    whole = owners(side, SIZE // stride, stride, SIZE / side, 0)
    own = owners(side, PATCH // stride, stride, 1, start)
    here = slice(start * SAMPLES, min(start + PATCH, side) * SAMPLES)
    found = np.zeros((SIZE // stride, PATCH // stride))
    np.add.at(found, (whole[here], own[here]), 1)
    return found


def pyramid(network: GLNet, name: str, stages: list[Tensor], other: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    """Smoothed maps of stages c2 to c5, and the last features."""
    layers, smoothed = cast(nn.Module, network.pyramids[name]), [torch.zeros(0)] * 4
    x = torch.zeros(())
    for index in (3, 2, 1, 0):
        level = str(index + 2)
        joined = torch.cat([stages[index], other[f"c{level}"]], 1) if other else stages[index]
        lateral = layers.lateral[level](joined)  # type: ignore[index, operator]
        if index < 3:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = lateral + x
        smoothed[index] = layers.smooth[level](x)  # type: ignore[index, operator]
    last = []
    for index, one in enumerate(smoothed):
        level = str(index + 2)
        joined = torch.cat([one, other[f"p{level}"]], 1) if other else one
        refined = layers.refine[level](joined)  # type: ignore[index, operator]
        last.append(F.interpolate(refined, scale_factor=1 << index, mode="bilinear"))
    return smoothed, torch.cat(last, 1)


def named(stages: list[Tensor], smoothed: list[Tensor]) -> dict[str, Tensor]:
    names = [f"{kind}{level}" for kind in "cp" for level in (2, 3, 4, 5)]
    return dict(zip(names, [*stages, *smoothed], strict=True))


def stages_of(encoder: nn.Module, raw: Tensor) -> list[Tensor]:
    return list(cast(Encoder, encoder)(raw).values())


def shrunk(image: Pixels) -> Pixels:
    found: Pixels = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((SIZE, SIZE), Image.Resampling.BOX))
    return found


Shrink = Callable[[Pixels], Pixels]


class Block:
    """One scene block: the three passes of the network over it."""

    def __init__(self, network: GLNet, image: Pixels, shrink: Shrink) -> None:
        self.network, self.image, self.sides = network, image, (image.shape[0], image.shape[1])
        self.window = torch.from_numpy(shrink(image).transpose(2, 0, 1)[None].copy())
        stages = stages_of(network.context_encoders["scene"], self.window)
        smoothed, self.last = pyramid(network, "scene", stages, {})
        self.plain = named(stages, smoothed) if network.merged else {}
        if network.merged:
            stages = stages_of(network.context_encoders["merged"], self.window)
            _, self.last = pyramid(network, "merged", stages, self.gathered())

    def local(self, y: int, x: int) -> tuple[dict[str, Tensor], Tensor]:
        """Maps and last features of a patch."""
        stages = stages_of(self.network.encoder, patch_at(self.image, y, x))
        handed = {name: cut(one, y, x, self.sides, int(name[1])) for name, one in self.plain.items()}
        smoothed, last = pyramid(self.network, "local", stages, handed)
        return named(stages, smoothed), last

    def gathered(self) -> dict[str, Tensor]:
        """Maps of all patches, pasted together."""
        sums, shares = dict[str, NDArray[np.float64]](), dict[str, NDArray[np.float64]]()
        for y in starts(self.sides[0]):
            for x in starts(self.sides[1]):
                for name, one in self.local(y, x)[0].items():
                    rows, columns = counts(self.sides[0], y, int(name[1])), counts(self.sides[1], x, int(name[1]))
                    part = np.einsum("Yy,cyx,Xx->cYX", rows, one[0].double().numpy(), columns)
                    share = np.outer(rows.sum(1), columns.sum(1))
                    sums[name], shares[name] = sums.get(name, 0) + part, shares.get(name, 0) + share
        return {name: torch.from_numpy(total / shares[name]).float()[None] for name, total in sums.items()}

    def scores(self, y: int, x: int) -> Tensor:
        """Logits (1, classes, P, P) of a patch."""
        joined = torch.cat([self.local(y, x)[1], cut(self.last, y, x, self.sides, 2)], 1)
        return F.interpolate(self.network.decoder.score(joined), scale_factor=4, mode="bilinear")


def scores_of(network: GLNet, image: Pixels, scene: int, shrink: Shrink = shrunk) -> NDArray[np.float64]:
    """Mean logits (classes, height, width) of an image, with a scene block around each patch where it is large."""
    height, width = image.shape[:2]
    blocks = dict[tuple[int, int, int, int], Block]()
    sums, seen = np.zeros((3, height + PATCH, width + PATCH)), np.zeros((height + PATCH, width + PATCH))
    with torch.no_grad():
        for y in starts(height):
            for x in starts(width):
                (top, rows), (left, columns) = block_of(y, height, scene), block_of(x, width, scene)
                key = (top, left, rows, columns)
                if key not in blocks:
                    blocks[key] = Block(network, image[top : top + rows, left : left + columns], shrink)
                sums[:, y : y + PATCH, x : x + PATCH] += blocks[key].scores(y - top, x - left)[0].double().numpy()
                seen[y : y + PATCH, x : x + PATCH] += 1
    found: NDArray[np.float64] = (sums / np.maximum(seen, 1))[:, :height, :width]
    return found
