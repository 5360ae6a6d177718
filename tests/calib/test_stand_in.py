"""Masks that stand in for coarse ones."""

from __future__ import annotations

import numpy as np

from fctl.calib.stand_in import StandIn
from fctl.runtime.tiling.coarse import CoarseSource
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window


def test_a_mask_is_the_same_however_it_is_cut(rng: np.random.Generator) -> None:
    image = ArraySource(rng.integers(0, 256, (9, 7, 3), np.uint8).repeat(12, 0).repeat(12, 1)[:101, :83])
    mask = StandIn(image, 3)
    whole = mask.read(Window(0, 0, 101, 83))
    assert set(np.unique(whole).tolist()) == {0, 1, 2}
    for window in (Window(5, 9, 40, 31), Window(90, 70, 11, 13), Window(16, 32, 16, 16)):
        np.testing.assert_array_equal(mask.read(window), whole[window.inside(Window(0, 0, 101, 83))])
    assert (whole[:16, :16] == whole[0, 0]).all()  # in blocks


def test_a_source_has_a_band_for_each_class(rng: np.random.Generator) -> None:
    image = ArraySource(rng.integers(0, 256, (50, 40, 3), np.uint8))
    source = CoarseSource(image, StandIn(image, 4), 4)
    pixels = source.read(Window(0, 0, 50, 40))
    assert pixels.shape == (50, 40, 7)
    np.testing.assert_array_equal(pixels[:, :, :3], image.pixels)
    np.testing.assert_array_equal(pixels[:, :, 3:].sum(axis=2), 255)
