"""Windows that are cut from a source together."""

from __future__ import annotations

import numpy as np
import pytest

from fctl.runtime.tiling.resampling import Pixels, resample
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.windows import Window

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)

ROW = [Window(4, x, 16, 16) for x in (0, 12, 28)]  # neighbours overlap, or touch
WINDOWS = {
    "one row": ROW,
    "apart": [Window(0, 0, 16, 16), Window(0, 17, 16, 16)],
    "two rows": [*ROW, Window(20, 0, 16, 16), Window(20, 12, 16, 16)],
    "beyond the raster": [Window(-8, x, 32, 32) for x in (-8, 8, 24, 64)],
    "of other heights": [Window(0, 0, 16, 16), Window(0, 8, 20, 20)],
    "from right to left": ROW[::-1],
}


class Counted(ArraySource):
    """Counts how often it is read from."""

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels)
        self.reads = 0

    def read(self, window: Window) -> Pixels:
        """A window of the array."""
        self.reads += 1
        return super().read(window)


@pytest.mark.parametrize("windows", WINDOWS.values(), ids=list(WINDOWS))
def test_windows_that_are_cut_together_hold_the_pixels_of_each(windows: list[Window]) -> None:
    found = ArraySource(IMAGE).stack(windows, 8, "box", len(windows) + 1)
    alone = [resample(read_padded(ArraySource(IMAGE), window), 8, "box").transpose(2, 0, 1) for window in windows]
    np.testing.assert_array_equal(found, np.stack([*alone, np.zeros_like(alone[0])]))


@pytest.mark.parametrize(("name", "reads"), [("one row", 1), ("apart", 2), ("two rows", 2), ("of other heights", 2)])
def test_what_lies_side_by_side_is_read_once(name: str, reads: int) -> None:
    source = Counted(IMAGE)
    source.stack(WINDOWS[name], 8, "box", len(WINDOWS[name]))
    assert source.reads == reads
