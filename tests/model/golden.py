"""Weights and images of the golden files in tests/data/golden, which any machine draws again from names and shapes.

The files hold what the public implementation made of them. `tests.data.make_golden` writes them; nothing here needs it.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CLASSES = 5
WIDTHS = {"segformer-b0": 1.0, "segformer-b2": 0.25}  # of our presets; the deeper one is narrow, for time and space
OBLONG = (64, 96)  # height and width of the image behind the features: taking rows for columns shows
SQUARE = (96, 96)  # of the image behind the logits

_KEPT = 8  # one channel in so many is kept: every later number depends on the others
_QUIET = 0.01
_TO_A_NORM = re.compile(
    r".*patch_embeddings\.\d\.(proj|layer_norm)\.\w+"
    r"|.*attention\.(self\.sr|output\.dense)\.\w+"
    r"|.*mlp\.dense2\.\w+"
    r"|decode_head\.linear_c\.\d\.proj\.\w+"
    r"|decode_head\.batch_norm\.running_mean"
)
_NORM_WEIGHT = re.compile(r".*(layer_norm[_.\d]*|batch_norm)\.weight")


@dataclass(frozen=True, kw_only=True)
class Golden:
    """One golden file.

    shapes: of every published tensor, by key, in the published order. features: by stage, every `_KEPT`th channel of
    (C, h, w), for the oblong image. logits: (CLASSES, h, w) at a quarter of the square image's size.
    """

    shapes: dict[str, tuple[int, ...]]
    features: dict[str, Array]
    logits: Array


def save(name: str, golden: Golden) -> None:
    """Write the golden file of that name."""
    keys = [" ".join([key, *map(str, shape)]) for key, shape in golden.shapes.items()]
    GOLDEN.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN / f"{name}.npz", keys=np.array(keys), logits=golden.logits, **golden.features)


def read(name: str) -> Golden:
    """The golden file of that name."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        arrays = dict(stored)
    split = [line.split() for line in arrays.pop("keys").tolist()]
    shapes = {key: tuple(map(int, sides)) for key, *sides in split}
    return Golden(shapes=shapes, logits=arrays.pop("logits"), features=arrays)


def kept(features: Array) -> Array:
    """What a golden file holds of one stage: (1, C, h, w) -> (C / 8, h, w)."""
    return features[0, ::_KEPT]


def draw(key: str, shape: tuple[int, ...]) -> Array:
    """The tensor of that key: float32, or int64 for a counter.

    Everything matters: biases are not zero, norms not the identity. What goes into a norm is quiet, about 0.01, so that
    the epsilon of the norm shows.
    """
    if key.endswith("num_batches_tracked"):
        return np.array(7, np.int64)
    numbers = _random(key).uniform(-1, 1, shape)
    if key.endswith("running_var"):
        return (_QUIET**2 * (1.5 + numbers)).astype(np.float32)
    if _NORM_WEIGHT.fullmatch(key):
        numbers = 1 + 0.5 * numbers
    elif len(shape) > 1:
        numbers *= math.sqrt(3 / math.prod(shape[1:]))  # outputs vary as much as inputs
    else:
        numbers *= 0.5
    return (numbers * (_QUIET if _TO_A_NORM.fullmatch(key) else 1)).astype(np.float32)


def image(size: tuple[int, int]) -> Array:
    """A random image: (height, width, 3) uint8."""
    return (256 * _random(f"image {size}").random_sample((*size, 3))).astype(np.uint8)


def _random(name: str) -> np.random.RandomState:
    # The old generator: its numbers are promised to stay the same in every version, those of the new one are not.
    return np.random.RandomState(zlib.crc32(name.encode()))
