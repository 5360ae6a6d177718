"""An image with the bands of a coarse mask, and pixels that nobody looks at."""

from __future__ import annotations

import numpy as np

from fctl.runtime.tiling.coarse import CoarseArray, CoarseSource, certain, covered_by, normalised
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window


def source_of(ids: np.ndarray, image: np.ndarray | None = None) -> CoarseSource:
    pixels = np.zeros((*ids.shape, 2), np.uint8) if image is None else image
    return CoarseSource(ArraySource(pixels), CoarseArray(ids), 3)


def test_a_shrunken_band_holds_the_share_of_its_class() -> None:
    ids = np.zeros((8, 8), np.uint8)
    ids[:, 6:] = 2
    ids[:4, :4] = 255
    found = source_of(ids).stack([Window(0, 0, 8, 8)], 2, "box", 1)[0, 2:]
    np.testing.assert_array_equal(found[0], [[0, 128], [255, 128]])
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(found[2], [[0, 128], [0, 128]])


def test_a_pixel_without_a_class_has_no_data() -> None:
    ids = np.array([[0, 255, 2]], np.uint8)
    image = np.array([[[1.0], [1.0], [np.nan]]], np.float32)
    assert source_of(ids, image).valid(Window(0, 0, 1, 3)).tolist() == [[True, False, False]]  # type: ignore[union-attr]
    assert source_of(ids).valid(Window(0, 0, 1, 3)).tolist() == [[True, False, True]]  # type: ignore[union-attr]
    assert source_of(ids).valid(Window(0, 2, 1, 1)) is None


def test_a_border_lies_between_classes_alone() -> None:
    ids = np.zeros((20, 20), np.uint8)
    ids[:5], ids[15:, 15:] = 255, 1
    source = source_of(ids)
    assert not source.has_border(Window(0, 0, 5, 20))
    assert not source.has_border(Window(0, 0, 12, 12))
    assert source.has_border(Window(10, 10, 20, 20))  # reaches beyond
    assert not source.has_border(Window(16, 16, 20, 20))


def test_pixels_that_tiles_cover() -> None:
    tiles = [Window(0, 0, 4, 4), Window(2, 3, 4, 4), Window(50, 50, 4, 4)]
    expected = np.zeros((7, 8), np.bool_)
    expected[:4, :4] = expected[2:6, 3:7] = True
    np.testing.assert_array_equal(covered_by(tiles, Window(1, 2, 6, 6)), expected[1:, 2:])


def test_probabilities_of_some_tiles_and_of_none() -> None:
    sums = np.array([[0.2, 0.0], [0.3, 0.0]], np.float32)[:, None]
    found = normalised(sums)
    np.testing.assert_allclose(found[:, 0, 0], [0.4, 0.6], rtol=1e-6)
    assert np.isnan(found[:, 0, 1]).all()
    kept = certain(np.array([[1, 255]], np.uint8), 2)
    np.testing.assert_array_equal(kept[:, 0, 0], [0, 1])
    assert np.isnan(kept[:, 0, 1]).all()
