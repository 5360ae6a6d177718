"""The scenes of the Dubai data set, put together from their parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime.evaluate.metrics import IGNORE
from fctl.runtime.tiling.windows import Window

SCENES, PARTS = tuple(range(1, 9)), tuple(range(1, 9))
HELD_OUT = 7  # the part of every scene that networks are not trained on

_COLUMNS = 3  # parts side by side
_COLOURS = ((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41))  # as in docs/dubai.json

Image8 = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All parts of a scene in their places.

    Attributes:
        pixels: Pixels (height, width, 3).
        labels: Class ids (height, width), 255 where unlabelled.
        held: The part that networks are not trained on, in pixels of the scene.
    """

    pixels: Image8
    labels: Image8
    held: Window


def read_scene(data: Path, number: int) -> Scene:
    """Put a scene together.

    Rows and columns of parts differ by a pixel or two; all are cut to the smallest.

    Args:
        data: The folder of the data set.
        number: One of `SCENES`.

    Returns:
        The scene.
    """
    parts = {place: _read_part(data, number, place) for place in PARTS}
    height, width = (min(pixels.shape[axis] for pixels, _ in parts.values()) for axis in (0, 1))
    pixels = np.zeros((_COLUMNS * height, _COLUMNS * width, 3), np.uint8)
    labels = np.full(pixels.shape[:2], IGNORE, np.uint8)
    windows = {place: _window(place, height, width) for place in parts}
    for place, (image, ids) in parts.items():
        pixels[at(windows[place])], labels[at(windows[place])] = image[:height, :width], ids[:height, :width]
    return Scene(pixels=pixels, labels=labels, held=windows[HELD_OUT])


def at(window: Window) -> tuple[slice, slice]:
    """The index of a window in an array (height, width, ...) that it lies in."""
    return slice(window.y, window.bottom), slice(window.x, window.right)


def _window(place: int, height: int, width: int) -> Window:
    """Where a part lies in its scene."""
    row, column = divmod(place - 1, _COLUMNS)
    return Window(row * height, column * width, height, width)


def _read_part(data: Path, scene: int, place: int) -> tuple[Image8, Image8]:
    """Pixels (height, width, 3) and class ids (height, width) of one part."""
    folder, name = data / f"tile{scene}", f"image_part_{place:03d}"
    pixels, mask = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (folder / "images" / f"{name}.jpg", folder / "masks" / f"{name}.png")
    )
    ids = np.full(mask.shape[:2], IGNORE, np.uint8)
    for index, colour in enumerate(_COLOURS):
        ids[(mask == colour).all(axis=2)] = index
    return pixels, ids
