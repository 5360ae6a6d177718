from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime.errors import InputError
from fctl.runtime.tiling.contexts import Cells, cell_positions, context_window, cut_context
from fctl.runtime.tiling.resampling import Resampling, resample
from fctl.runtime.tiling.sources import ArraySource, read_padded
from fctl.runtime.tiling.windows import Window

RESAMPLINGS: tuple[Resampling, ...] = ("box", "pillow-bilinear")
FILTERS = {"box": Image.Resampling.BOX, "pillow-bilinear": Image.Resampling.BILINEAR}


def ramp(height: int, width: int, bands: int, dtype: str) -> NDArray[np.generic]:
    """Every value is another one, none is 0."""
    return (np.arange(height * width * bands).reshape(height, width, bands) + 1).astype(dtype)


def test_a_context_is_centred_on_its_patch() -> None:
    source = ArraySource(ramp(40, 50, 1, "uint16"))
    window = context_window(3.0, size=24, resampling="box")
    context = cut_context(source, Window(16, 20, 8, 8), window)
    np.testing.assert_array_equal(context, source.pixels[8:32, 12:36])


def test_a_fractional_factor_keeps_the_centre() -> None:
    window = context_window(1.5, size=12, resampling="box")
    assert window.around(Window(10, 20, 8, 8), ArraySource(ramp(40, 50, 1, "uint16"))) == Window(8, 18, 12, 12)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 42), (32, 0), (32, 42), (-2, 20), (36, 46)])
def test_beyond_the_raster_is_black(y: int, x: int) -> None:
    source = ArraySource(ramp(40, 50, 3, "uint16"))
    padded = np.pad(source.pixels, ((40, 40), (50, 50), (0, 0)))
    context = cut_context(source, Window(y, x, 8, 8), context_window(2.0, size=16, resampling="box"))
    np.testing.assert_array_equal(context, padded[40 + y - 4 : 40 + y + 12, 50 + x - 4 : 50 + x + 12])
    assert (context == 0).any()


def test_a_window_that_misses_the_raster_is_refused() -> None:
    with pytest.raises(InputError, match="outside a raster of 40 x 50"):
        read_padded(ArraySource(ramp(40, 50, 1, "uint8")), Window(40, 0, 4, 4))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("factor", [2, 4])
def test_box_is_the_block_mean(rng: np.random.Generator, dtype: str, bands: int, factor: int) -> None:
    pixels = rng.integers(0, 256, (8 * factor, 8 * factor, bands)).astype(dtype)
    means = pixels.reshape(8, factor, 8, factor, bands).mean(axis=(1, 3))
    resampled = resample(pixels, 8, "box")
    assert resampled.dtype == pixels.dtype
    assert np.abs(resampled - means).max() <= (1 if dtype == "uint8" else 0.501)  # Pillow rounds bytes after each axis


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("size", [5, 16, 30])
def test_bilinear_of_bytes_is_that_of_pillow(rng: np.random.Generator, bands: int, size: int) -> None:
    pixels = rng.integers(0, 256, (24, 24, bands), np.uint8)
    resampled = resample(pixels, size, "pillow-bilinear")
    for band in range(bands):
        image = Image.fromarray(pixels[:, :, band])
        np.testing.assert_array_equal(resampled[:, :, band], image.resize((size, size), Image.Resampling.BILINEAR))


def test_bilinear_of_rgb_is_that_of_pillow(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (24, 36, 3), np.uint8)
    expected = Image.fromarray(pixels).resize((9, 9), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resample(pixels, 9, "pillow-bilinear"), expected)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize(("dtype", "low", "high"), [("uint16", 0, 65535), ("int16", -32768, 32767), ("float32", -5, 5)])
def test_other_dtypes_are_resampled_in_float_band_by_band(
    rng: np.random.Generator, resampling: Resampling, bands: int, dtype: str, low: int, high: int
) -> None:
    pixels = (rng.random((20, 28, bands)) * (high - low) + low).astype(dtype)
    resampled = resample(pixels, 8, resampling)
    assert resampled.dtype == pixels.dtype
    assert resampled.shape == (8, 8, bands)
    for band in range(bands):
        image = Image.fromarray(pixels[:, :, band].astype(np.float32))
        reference = np.asarray(image.resize((8, 8), FILTERS[resampling]))
        np.testing.assert_array_equal(
            resampled[:, :, band], reference if dtype == "float32" else np.round(reference).astype(dtype)
        )


@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_a_window_of_the_right_size_is_not_touched(rng: np.random.Generator, resampling: Resampling) -> None:
    pixels = rng.random((8, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(resample(pixels, 8, resampling), pixels)


def test_the_global_context_is_the_whole_image_wherever_the_patch_is(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (30, 44, 3), np.uint8)
    window = context_window("global", size=8, resampling="pillow-bilinear")
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR))
    assert window.moves
    for tile in (Window(0, 0, 16, 16), Window(14, 28, 16, 16)):
        np.testing.assert_array_equal(cut_context(ArraySource(pixels), tile, window), expected)


def test_cell_positions_by_hand() -> None:
    # Rows: the patch starts at 10 of 100 rows shown at 50, so pixels 1.5 and 5.5 of it (centres 12 and 16) fall on
    # 6 - 0.5 and 8 - 0.5, whose cells of 5 pixels from 2 are 0.7 and 1.1. Columns: the same from 40 of 200.
    tile, window = Window(10, 40, 8, 8), Window(0, 0, 100, 200)
    patch, context = Cells(stride=4, offset=1.5, count=2), Cells(stride=5, offset=2.0, count=10)
    positions = cell_positions(tile, window, patch, context, 50)
    assert positions.dtype == np.float32
    np.testing.assert_allclose(positions, [[0.7, 1.1], [1.6, 1.8]], rtol=1e-6)


def test_cell_positions_of_a_window_that_is_the_patch_itself_are_its_own_cells() -> None:
    tile, cells = Window(7, 9, 16, 16), Cells(stride=4, offset=1.5, count=4)
    np.testing.assert_allclose(cell_positions(tile, tile, cells, cells, 16), [[0, 1, 2, 3]] * 2, atol=1e-6)
