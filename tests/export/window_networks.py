"""Networks of others that take several windows: one like CASWiT, which is small, and graphs made by hand.

Beside them is how their windows are cut from an image, written for whole arrays.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fctl.calib.sample import shipped_images

from .foreign_networks import as_taken, parse

Array = NDArray[Any]
Cut = Callable[[Array, int, int], Array]  # an image, and where a tile begins, to what a network is shown of it

TILE = 64
_CELL, _WINDOW, _WIDE, _HEADS = 4, 4, 16, 2


class Attention(nn.Module):
    """Tokens (N, T, C) look at tokens (N, S, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.both, self.out = nn.Linear(_WIDE, _WIDE), nn.Linear(_WIDE, 2 * _WIDE), nn.Linear(_WIDE, _WIDE)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        heads = (_HEADS, _WIDE // _HEADS)
        query = self.query(tokens).unflatten(-1, heads).transpose(1, 2)
        key, value = self.both(others).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-2, -1) * heads[1] ** -0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention within windows of 4 x 4 cells, which may be shifted by half a window, and a small MLP."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift, self.attention = shift, Attention()
        self.first, self.second = nn.LayerNorm(_WIDE), nn.LayerNorm(_WIDE)
        self.mlp = nn.Sequential(nn.Linear(_WIDE, 2 * _WIDE), nn.GELU(), nn.Linear(2 * _WIDE, _WIDE))

    def forward(self, cells: Tensor) -> Tensor:
        side = cells.shape[1] // _WINDOW
        moved = self.first(cells).roll((-self.shift, -self.shift), (1, 2))
        split = moved.unflatten(2, (side, _WINDOW)).unflatten(1, (side, _WINDOW)).transpose(2, 3)
        tokens = split.flatten(0, 2).flatten(1, 2)
        seen = self.attention(tokens, tokens).unflatten(1, (_WINDOW, _WINDOW)).unflatten(0, (-1, side, side))
        joined = seen.transpose(2, 3).flatten(3, 4).flatten(1, 2).roll((self.shift, self.shift), (1, 2))
        cells = cells + joined
        return cells + self.mlp(self.second(cells))  # type: ignore[no-any-return]


class Branch(nn.Module):
    """An image (N, 3, S, S) as cells (N, S/4, S/4, C)."""

    def __init__(self, *shifts: int) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Conv2d(3, _WIDE, _CELL, _CELL), nn.Sequential(*map(Block, shifts))

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(self.embed(image).permute(0, 2, 3, 1))  # type: ignore[no-any-return]


class TwoSwins(nn.Module):
    """A patch and a neighbourhood twice as large, shrunk to its size: the cells of one look at those of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far, self.cross = Branch(0, _WINDOW // 2), Branch(0), Attention()
        self.score = nn.Conv2d(_WIDE, 3, 1)

    def forward(self, image: Tensor, context: Tensor) -> dict[str, Tensor]:
        near, far = self.near(image), self.far(context)
        seen = self.cross(near.flatten(1, 2), far.flatten(1, 2)).unflatten(1, near.shape[1:3])
        logits = self.score((near + 4 * seen).permute(0, 3, 1, 2))
        return {"out": F.interpolate(logits, scale_factor=_CELL, mode="bilinear"), "cells": near}


class TwoPixels(nn.Module):
    """Scores of red, green and blue: twice the pixel, and once the context's, which may be left black."""

    def forward(self, image: Tensor, context: Tensor, more: float = 0.0) -> Tensor:
        return 20 * image + 10 * context + more


class Ignorant(nn.Module):
    def forward(self, image: Tensor, context: Tensor) -> Tensor:
        return 20 * image


class Packed(nn.Module):
    def forward(self, *images: Tensor) -> Tensor:
        return images[0] + images[1]


def two_swins() -> nn.Module:
    """With logits of mean 0 and deviation 3 in every class, on parts of the shipped images."""
    torch.manual_seed(1)
    network = TwoSwins().eval().requires_grad_(False)
    with torch.no_grad():
        for branch in (network.near, network.far):
            branch.embed.weight *= 4
    images = [np.asarray(Image.open(path))[:256, :256] for path in shipped_images()]
    near, far = (np.stack([cut(image, 64, 96) for image in images]) for cut in (tile_of(), centred(128, TILE)))
    logits = torch.from_numpy(swin_logits(network, near, far))
    factor = 3 / logits.std((0, 2, 3))
    assert network.score.bias is not None
    network.score.weight *= factor.reshape(-1, 1, 1, 1)
    network.score.bias.copy_((network.score.bias - logits.mean((0, 2, 3))) * factor)
    return network


def swin_logits(network: nn.Module, near: Array, far: Array) -> Array:
    """Logits (N, 3, P, P) of raw tiles and their neighbourhoods (N, P, P, 3)."""
    with torch.inference_mode():
        return network(as_taken(near), as_taken(far))["out"].numpy()  # type: ignore[no-any-return]


def script_file(kind: type[nn.Module]) -> bytes:
    """TorchScript, with the names of its arguments."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(kind()), file)
    return file.getvalue()


# How windows are cut -------------------------------------------------------------------------------------------------


def tile_of(tile: int = TILE) -> Cut:
    return lambda image, y, x: image[y : y + tile, x : x + tile]


def centred(window: int, size: int, tile: int = TILE, kind: Image.Resampling = Image.Resampling.BOX) -> Cut:
    """The window around a tile, black beyond the image, shrunk."""
    edge = (window - tile) // 2

    def cut(image: Array, y: int, x: int) -> Array:
        padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)))
        return np.asarray(Image.fromarray(padded[y : y + window, x : x + window]).resize((size, size), kind))

    return cut


def whole(size: int) -> Cut:
    return lambda image, y, x: np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX))


def places(image: Array) -> Array:
    """Rows and columns (height, width, 2), of which an average of tiles can tell where these begin."""
    return np.stack(np.indices(image.shape[:2]), -1)


# Graphs made by hand -------------------------------------------------------------------------------------------------

MATRICES = {
    name: np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32)
    for seed, name in enumerate(("near", "around", "wide"))
}


def three(batch: str = "N", layout: str = "nchw", kind: str = "float", side: str = "64") -> onnx.ModelProto:
    """Scores of a pixel of three images: the patch, its surroundings and the mean of the whole, times matrices."""
    sides = {"image": side, "context": side, "overview": "24"}
    shape = "{batch},3,{side},{side}" if layout == "nchw" else "{batch},{side},{side},3"
    taken = ", ".join(f"{kind}[{shape.format(batch=batch, side=one)}] {name}" for name, one in sides.items())
    nodes = (
        "a = Cast<to=1>(image) b = Cast<to=1>(context) c = Cast<to=1>(overview)"
        " d = Sub(a, grey) e = Sub(b, grey) f = Sub(c, grey)"
        " near = Mul(d, factor) around = Mul(e, factor) all = Mul(f, factor)"
    )
    grey, factor = (110, 0.02) if kind == "uint8" else (0, 1)
    constants: dict[str, Array] = {"grey": np.float32([grey]), "factor": np.float32([factor])}
    if layout == "nchw":
        nodes += (
            " wide = GlobalAveragePool(all) x = Conv(near, m_near) y = Conv(around, m_around) z = Conv(wide, m_wide)"
        )
        constants |= {f"m_{name}": matrix.reshape(3, 3, 1, 1) for name, matrix in MATRICES.items()}
    else:
        nodes += (
            " wide = ReduceMean<axes=[1,2]>(all)"
            " x = MatMul(near, m_near) y = MatMul(around, m_around) z = MatMul(wide, m_wide)"
        )
        constants |= {f"m_{name}": np.ascontiguousarray(matrix.T) for name, matrix in MATRICES.items()}
    given = f"float[{shape.format(batch=batch, side=side)}] scores"
    return parse(f"{nodes} scores = Sum(x, y, z)", given, taken=taken, **constants)


def three_scores(images: Mapping[str, Array]) -> Array:
    """What `three` scores on scaled images (N, side, side, 3) that are called as its matrices: (N, 3, P, P)."""
    seen = {**images, "wide": images["wide"].mean((1, 2), keepdims=True)}
    return sum(np.einsum("nhwb,cb->nchw", seen[name], matrix) for name, matrix in MATRICES.items())


def middle(side: int, scored: int) -> onnx.ModelProto:
    """A network without padding, whose scores are the middle of its image and twice its context."""
    edge, pads = (side - scored) // 2, np.float32([1, 1, scored / 32, scored / 32])
    kernel = np.zeros((3, 3, side - scored + 1, side - scored + 1), np.float32)
    kernel[range(3), range(3), edge, edge] = 20
    return parse(
        "near = Conv(image, kernel) far = Resize<mode=\"nearest\">(context, , pads) more = Mul(far, ten)"
        " scores = Add(near, more)",
        f"float[N,3,{scored},{scored}] scores", taken=f"float[N,3,{side},{side}] image, float[N,3,32,32] context",
        kernel=kernel, pads=pads, ten=np.float32([10]),
    )  # fmt: skip
