"""What the runtime does, done naively: the whole raster in memory, tile by tile, in doubles.

Tiles are 16 pixels and overlap by 4. Where a patch is turned, the raster is turned with it, and everything is measured
anew in the turned raster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime import Segmenter
from fctl.runtime.tiling.resampling import Pixels
from fctl.runtime.tiling.sources import ArraySource, HostSource
from fctl.runtime.tiling.windows import Window

from . import tiny

Array = NDArray[Any]
PAD = 64


@dataclass(frozen=True)
class Turning:
    """Mirrored left to right, or not, then turned counter-clockwise by some quarters: arrays (height, width, ...)."""

    mirrored: bool
    quarters: int

    def there(self, array: Array) -> Array:
        if self.mirrored:
            array = array[:, ::-1]
        for _ in range(self.quarters):
            array = array.swapaxes(0, 1)[::-1]
        return array

    def back(self, array: Array) -> Array:
        for _ in range(self.quarters):
            array = array[::-1].swapaxes(0, 1)
        return array[:, ::-1] if self.mirrored else array

    def place(self, height: int, width: int, y: int, x: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """First pixel (along rows, along columns) of a tile in a turned frame, and the frame's sides; by marking it."""
        canvas = np.zeros((height + 2 * PAD, width + 2 * PAD), np.bool_)
        canvas[PAD + y : PAD + y + 16, PAD + x : PAD + x + 16] = True
        turned = self.there(canvas)
        rows, columns = np.nonzero(turned)
        sides = (turned.shape[0] - 2 * PAD, turned.shape[1] - 2 * PAD)
        return (int(rows.min()) - PAD, int(columns.min()) - PAD), sides


UPRIGHT = Turning(False, 0)
TURNINGS = tuple(Turning(mirrored, quarters) for mirrored in (False, True) for quarters in range(4))


def image_of(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> Array:
    """Multiples of 4: the means of 2 x 2 pixels are whole."""
    return (np.random.default_rng(height * 100 + width).integers(0, 64, (height, width, bands)) * 4).astype(dtype)


def slope_of(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> Array:
    """`image_of`, brighter downwards, to the right, and to the left, band by band: it matters where one looks."""
    noise = image_of(height, width, bands, dtype) // 16 * 4
    down, right = np.linspace(0, 48, height)[:, None], np.linspace(0, 48, width)[None, :]
    ramps = [down + 0 * right, 0 * down + right, 48 - right + 0 * down, (down + 48 - right) // 2]
    return noise + (np.dstack(ramps[:bands]).astype(dtype) * 4).astype(dtype)


def stride_starts(side: int) -> list[int]:
    """Tiles of 16 that overlap by 4, the last one flush."""
    starts = [0]
    while starts[-1] + 16 < side:
        starts.append(min(starts[-1] + 12, side - 16))
    return starts


def even_starts(side: int) -> list[int]:
    """As few tiles of 16 as overlap by 4 or more, spread evenly."""
    count = 1 if side <= 16 else 1 + int(np.ceil((side - 16) / 12))
    return [int(start) for start in np.rint(np.linspace(0, max(side - 16, 0), count))]


def scene_starts(side: int, scene: int) -> list[int]:
    """As few scene blocks as overlap by a tile or more, spread evenly; one where the side is at most 1.5 of them."""
    count = 1 if side <= 1.5 * scene else 1 + int(np.ceil((side - scene) / (scene - 16)))
    return [int(start) for start in np.rint(np.linspace(0, max(side - scene, 0), count))]


def scene_of(y: int, side: int, scene: int | None) -> tuple[int, int]:
    """First pixel and length of the scene block whose middle is nearest to that of a tile."""
    if scene is None or side <= 1.5 * scene:
        return 0, side
    far = {abs(start + scene / 2 - (y + 8)): start for start in reversed(scene_starts(side, scene))}
    return far[min(far)], scene


def batched(pixels: Array) -> Array:
    return pixels.transpose(2, 0, 1)[None]


def around(image: Array, y: int, x: int, side: int) -> Array:
    """The window of `side` pixels centred on the tile at (y, x), black beyond the image."""
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
    top, left = PAD + y - (side - 16) // 2, PAD + x - (side - 16) // 2
    return padded[top : top + side, left : left + side]


def shrunk(pixels: Array, resampling: Image.Resampling) -> Array:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((8, 8), resampling))


def softmax(scores: Array) -> Array:
    """Over the first axis."""
    powers = np.exp(scores - scores.max(axis=0))
    return powers / powers.sum(axis=0)


class RecordingSource(HostSource):
    """An image that remembers its reads, and fails to read below a row."""

    def __init__(self, pixels: Array, broken_below: int | None = None) -> None:
        self._image, self._broken_below = ArraySource(pixels), broken_below
        self.height, self.width = pixels.shape[:2]
        self.windows: list[Window] = []
        self.threads: set[int] = set()

    def read(self, window: Window) -> Pixels:
        self.windows.append(window)
        self.threads.add(threading.get_ident())
        if self._broken_below is not None and window.bottom > self._broken_below:
            raise ZeroDivisionError("the disk is gone")
        return self._image.read(window)

    def valid(self, window: Window) -> None:
        self.threads.add(threading.get_ident())


class HoleSource(ArraySource):
    """An image whose first column has no data."""

    def valid(self, window: Window) -> NDArray[np.bool_]:
        valid = np.ones((window.height, window.width), np.bool_)
        valid[:, : max(1 - window.x, 0)] = False
        return valid


Tile = Callable[[Array, int, int, Turning, "int | None"], Array]
"""image, first row, first column, turning, scene -> scores (classes, 16, 16), still turned."""


def tiny_tile(image: Array, y: int, x: int, turning: Turning, scene: int | None) -> Array:
    medium = around(image, y, x, 32).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    large = shrunk(around(image, y, x, 64), Image.Resampling.BILINEAR)
    windows = (around(image, y, x, 16), medium, large)
    return tiny.tiny_logits(*(batched(turning.there(window)) for window in windows))[0]


def tiny_mixed_tile(image: Array, y: int, x: int, turning: Turning, scene: int | None) -> Array:
    """tiny.fctl with a large context that is global."""
    medium = around(image, y, x, 32).reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    large = shrunk(scene_block(image, y, x, scene)[0], Image.Resampling.BILINEAR)
    windows = (around(image, y, x, 16), medium, large)
    return tiny.tiny_logits(*(batched(turning.there(window)) for window in windows))[0]


def tiny_global_tile(image: Array, y: int, x: int, turning: Turning, scene: int | None) -> Array:
    block, top, left = scene_block(image, y, x, scene)
    starts, sides = turning.place(*block.shape[:2], y - top, x - left)
    centres = 4 * np.arange(4) + 1.5 + 0.5
    positions = [((start + centres) * 8 / side - 0.5 - 0.5) / 2 for start, side in zip(starts, sides, strict=True)]
    windows = (around(image, y, x, 16), shrunk(block, Image.Resampling.BOX))
    return tiny.tiny_global_logits(*(batched(turning.there(w)) for w in windows), np.array([positions]))[0]


def tiny_plain_tile(image: Array, y: int, x: int, turning: Turning, scene: int | None) -> Array:
    return tiny.tiny_plain_logits(batched(turning.there(around(image, y, x, 16))))[0]


def tiny_shares_tile(image: Array, y: int, x: int, turning: Turning, scene: int | None) -> Array:
    return softmax(tiny_plain_tile(image, y, x, turning, scene))


def scene_block(image: Array, y: int, x: int, scene: int | None) -> tuple[Array, int, int]:
    """The scene block of one tile, and its first row and column."""
    (top, height), (left, width) = scene_of(y, image.shape[0], scene), scene_of(x, image.shape[1], scene)
    return image[top : top + height, left : left + width], top, left


def whole_array_scores(
    tile: Tile,
    image: Array,
    rule: str,
    starts: Callable[[int], list[int]],
    turnings: Sequence[Turning] = (UPRIGHT,),
    scene: int | None = None,
) -> Array:
    """The same network and merge, tile by tile into whole arrays of doubles: (classes, height, width)."""
    height, width = image.shape[:2]
    line = np.ones(16) if rule == "uniform" else np.sin(np.pi * (np.arange(16) + 0.5) / 16) ** 2
    weight = np.outer(line, line)[:, :, None]
    classes = len(tile(image, 0, 0, UPRIGHT, scene))
    sums, total = (np.zeros((height + 16, width + 16, bands)) for bands in (classes, 1))
    for y in starts(height):
        for x in starts(width):
            scores = [turning.back(tile(image, y, x, turning, scene).transpose(1, 2, 0)) for turning in turnings]
            sums[y : y + 16, x : x + 16] += np.mean(scores, axis=0) * weight
            total[y : y + 16, x : x + 16] += weight
    return (sums[:height, :width] / total[:height, :width]).transpose(2, 0, 1)


def assert_segmented(bundle: Path, image: Array, shares: Array, **options: Any) -> None:
    """That a segmenter with these options gives these probabilities, and the ids that follow from them."""
    with Segmenter(bundle, backend="onnxruntime", **{"batch": 3, **options}) as segmenter:
        found = segmenter.segment(image, probabilities=True)
    np.testing.assert_allclose(found.probabilities, shares, rtol=1e-3, atol=1e-6)
    runner_up, best = np.partition(shares, -2, axis=0)[-2:]
    decided = best - runner_up > 1e-4  # closer than that is a tie in fp32
    np.testing.assert_array_equal(found.ids[decided], shares.argmax(axis=0)[decided])
    assert decided.mean() > 0.9
    assert found.ids.shape == image.shape[:2]
