"""Windows put together from blocks that are shrunk once have the bytes of windows that are shrunk one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fctl.runtime.tiling.resampling import Pixels
from fctl.runtime.tiling.shrunken import SIDE, Shrunken, divides
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window

HEIGHT, WIDTH = 410, 530


class Counted(ArraySource):
    """An array that counts how often each of its pixels is read."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels)
        self.reads = np.zeros(pixels.shape[:2], np.int64)

    def read(self, window: Window) -> Pixels:
        self.reads[window.y : window.bottom, window.x : window.right] += 1
        return super().read(window)


def pixels_of(dtype: str, bands: int) -> Pixels:
    values = np.random.default_rng(5).integers(0, 256, (HEIGHT, WIDTH, bands))
    return (values * 37.3 - 900).astype(dtype) if dtype == "float32" else values.astype(dtype)


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(("dtype", "bands"), [("uint8", 3), ("uint8", 4), ("uint16", 1), ("float32", 2)])
def test_windows_have_the_bytes_of_windows_shrunk_one_by_one(dtype: str, bands: int, factor: int, side: int) -> None:
    source, span = ArraySource(pixels_of(dtype, bands)), side * factor
    shrunken, random = Shrunken(source), np.random.default_rng(factor)
    for y in range(-span + 1, HEIGHT, 60):  # top to bottom, out of step with the blocks
        windows = [Window(y, int(x), span, span) for x in random.integers(-span + 1, WIDTH - 1, 4)]
        assert all(divides(window, side, "box") for window in windows)
        assert np.array_equal(shrunken.stack(windows, side, 5), source.stack(windows, side, "box", 5))


def test_what_lies_beyond_the_raster_is_black() -> None:
    source = ArraySource(pixels_of("uint8", 3))
    assert not Shrunken(source).stack([Window(HEIGHT + 5, WIDTH + 5, 32, 32)], 16, 1).any()


def test_each_pixel_is_read_once_for_windows_in_step_and_nothing_is_kept_for_good() -> None:
    source = Counted(pixels_of("uint8", 3))
    shrunken, most = Shrunken(source), 0
    for y in range(-48, HEIGHT - 48, 48):
        for x in range(-48, WIDTH - 48, 48):
            shrunken.stack([Window(y, x, 192, 192)], 96, 1)
            most = max(most, len(shrunken._blocks))
    corner = source.reads[0, 0]  # which tells what a pixel is like where nothing can be read
    assert Counter(source.reads.reshape(-1).tolist()).keys() <= {1, corner}
    assert most <= (192 // (2 * SIDE) + 2) * (WIDTH // (2 * SIDE) + 3)
    shrunken.forget()
    assert not shrunken._blocks


@pytest.mark.parametrize(
    ("window", "side", "resampling"),
    [
        (Window(0, 0, 60, 60), 16, "box"),
        (Window(0, 0, 64, 64), 16, "pillow-bilinear"),
        (Window(0, 0, 16, 16), 16, "box"),
    ],
)
def test_other_windows_are_not_put_together(window: Window, side: int, resampling: str) -> None:
    assert not divides(window, side, resampling)  # type: ignore[arg-type]
