"""Modules that return more than one tensor, or less than a batch, and modules of TorchScript."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Brightest(nn.Module):
    """Scores of red, green and blue: 20 times the pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, 3, 1, bias=False)
        self.score.weight.data = 20 * torch.eye(3).reshape(3, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.score(image)  # type: ignore[no-any-return]


class Both(NamedTuple):
    aux: Tensor
    logits: Tensor


class Listed(Brightest):
    def forward(self, image: Tensor) -> list[Tensor]:  # type: ignore[override]
        scores = self.score(image)
        return [scores.roll(1, 1), scores]


class Named(Brightest):
    def forward(self, image: Tensor) -> Both:  # type: ignore[override]
        scores = self.score(image)
        return Both(scores.roll(1, 1), scores)


class Nested(Brightest):
    def forward(self, image: Tensor) -> dict[str, object]:  # type: ignore[override]
        scores = self.score(image)
        return {"side": (scores.roll(1, 1), scores.roll(2, 1)), "main": scores}


class Alone(Brightest):
    def forward(self, image: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        return (self.score(image),)


class Squeezed(Brightest):
    def forward(self, image: Tensor) -> Tensor:
        return self.score(image).squeeze()  # type: ignore[no-any-return]


class Halving(Brightest):
    """Needs sides that are multiples of 32."""

    def forward(self, image: Tensor) -> Tensor:
        small = nn.functional.max_pool2d(image, 32)
        return self.score(image) + 0 * nn.functional.interpolate(small, scale_factor=32.0)  # type: ignore[no-any-return]


class Pair(Brightest):
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        scores = self.score(image)
        return scores.roll(1, 1), scores


class Wrapped(nn.Module):
    """A module of TorchScript in one that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = scripted()

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image)  # type: ignore[no-any-return]


def script(kind: type[nn.Module]) -> io.BytesIO:
    """A file of TorchScript."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(kind()), file)
    file.seek(0)
    return file


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(script(Brightest))  # type: ignore[no-any-return]


def scripted_pair() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(script(Pair))  # type: ignore[no-any-return]
