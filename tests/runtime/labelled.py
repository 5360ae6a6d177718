"""Tiny labelled data sets of every form, and what masks score, naively."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import write_geotiff

Array = NDArray[Any]
Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = ((250, 10, 10), (10, 250, 10), (10, 10, 250))  # in masks, of red, green, blue
GREY: Colour = (155, 155, 155)
DEEPGLOBE: tuple[Colour, ...] = (
    (0, 0, 0), (0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255),
)  # fmt: skip


def save(path: Path, pixels: Array) -> Path:
    """A PNG or JPEG of (height, width) or (height, width, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def save_palette(path: Path, ids: Array, colours: Sequence[Colour]) -> Path:
    """A palette PNG of ids (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8), mode="P")
    image.putpalette([part for colour in colours for part in colour])
    image.save(path)
    return path


def save_tif(path: Path, pixels: Array) -> Path:
    """A GeoTIFF of (height, width, bands)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_geotiff(path, pixels)


def coloured(ids: Array, colours: Sequence[Colour]) -> Array:
    """Ids (height, width) as colours; 255 as grey."""
    table = np.full((256, 3), GREY, np.uint8)
    table[: len(colours)] = colours
    return table[ids]


def description(**changes: Any) -> dict[str, Any]:
    """The general form's description of red, green and blue in colours."""
    classes = [
        {"name": name, "values": [list(colour)], "counted": True}
        for name, colour in zip(("red", "green", "blue"), COLOURS, strict=True)
    ]
    return {
        "name": "tiny", "images": "images/*.png", "masks": "masks/*.png", "classes": classes, "ignore": [list(GREY)],
        "threshold": None,
    } | changes  # fmt: skip


def write_description(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(description(**changes)), encoding="utf-8")
    return path


def truth_of(height: int, width: int, classes: int, seed: int = 0) -> Array:
    """Blocks of random classes, a few of them 255: (height, width) uint8."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, classes + 1, (height // 4 + 1, width // 4 + 1))
    ids = blocks.repeat(4, 0).repeat(4, 1)[:height, :width]
    return np.where(ids == classes, 255, ids).astype(np.uint8)


def image_of(height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), np.uint8)


def write_folder(root: Path, sizes: Sequence[tuple[int, int]] = ((37, 50), (20, 30), (16, 16))) -> list[Array]:
    """The general form with images 0, 1, 2...; their truth."""
    write_description(root / "dataset.json")
    truths = []
    for index, (height, width) in enumerate(sizes):
        truths.append(truth_of(height, width, 3, index))
        save(root / "images" / f"{index}.png", image_of(height, width, index))
        save(root / "masks" / f"{index}.png", coloured(truths[-1], COLOURS))
    return truths


def naive_scores(truth: Array, predicted: Array, counted: Sequence[int]) -> dict[str, float]:
    """mIoU, mean F1 and accuracy of flat arrays, class by class."""
    known = (truth != 255) & (predicted != 255)
    truth, predicted = truth[known], predicted[known]
    ious, f1s = [], []
    for index in counted:
        hits = float(np.sum((truth == index) & (predicted == index)))
        false = float(np.sum((truth != index) & (predicted == index)))
        missed = float(np.sum((truth == index) & (predicted != index)))
        if hits + false + missed:
            ious.append(hits / (hits + false + missed))
            f1s.append(2 * hits / (2 * hits + false + missed))
    return {"miou": float(np.mean(ious)), "f1": float(np.mean(f1s)), "accuracy": float(np.mean(truth == predicted))}
