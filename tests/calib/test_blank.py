"""Which patches show something, in rasters of every range of values. Places are judged by their own raster."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.calib import blank, choose
from fctl.calib.blank import Sight
from fctl.calib.sample import sample_patches, shipped_images
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import InputError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime import tiny

TILE = 16
Array = NDArray[Any]

SCENE = np.random.default_rng(8).random((64, 64, 3))  # which shows something everywhere
SCALES = {
    "reflectance": (np.float32, 1.0),
    "dark": (np.float32, 1e-3),
    "scaled": (np.int16, 1e4),
    "bytes": (np.uint8, 255),
}


def manifest_of(dtype: Any) -> Manifest:
    manifest = read_bundle(tiny.TINY).manifest
    return replace(manifest, input=replace(manifest.input, dtype=np.dtype(dtype).name))


def shown(pixels: Array, tile: Window) -> bool:
    return Sight(ArraySource(pixels), TILE).look(ArraySource(pixels), tile).shows


def beside(left: Array, right: Array) -> Array:
    return np.concatenate([left, right.astype(left.dtype)], axis=1)


LEFT, RIGHT = Window(8, 8, TILE, TILE), Window(8, 90, TILE, TILE)


# What is blank


@pytest.mark.parametrize("scale", SCALES)
def test_what_shows_something_does_not_depend_on_the_range_of_values(scale: str) -> None:
    dtype, factor = SCALES[scale]
    scene = (factor * SCENE).astype(dtype)
    assert shown(scene, LEFT)
    both = beside(scene, np.full(scene.shape, scene[3, 3]))
    assert (shown(both, LEFT), shown(both, RIGHT)) == (True, False)
    nothing = np.zeros_like(scene)
    assert (shown(beside(scene, nothing), RIGHT), shown(nothing, LEFT)) == (False, False)


def test_one_colour_is_blank_though_its_bands_differ() -> None:
    both = beside((255 * SCENE).astype(np.uint8), np.tile(np.array([10, 90, 200], np.uint8), (64, 64, 1)))
    assert (shown(both, LEFT), shown(both, RIGHT)) == (True, False)


def test_the_noise_of_jpeg_in_a_black_margin_is_blank() -> None:
    margin = np.random.default_rng(1).random((64, 64, 3)) < 0.1
    both = beside((255 * SCENE).astype(np.uint8), margin)
    assert (shown(both, LEFT), shown(both, RIGHT)) == (True, False)


def test_rounding_is_blank_even_where_nothing_else_is_there() -> None:
    flat = np.float32(0.3) * (1 + np.random.default_rng(1).integers(0, 2, (64, 64, 3)) * np.float32(6e-8))
    assert len(np.unique(flat)) == 2
    assert not shown(flat, LEFT)


def test_an_image_of_little_contrast_shows_something() -> None:
    """Its own is what counts: bytes between 100 and 101."""
    assert shown((100 + (SCENE > 0.8)).astype(np.uint8), LEFT)


def test_one_band_that_varies_is_enough() -> None:
    pixels = np.zeros((64, 128, 3), np.float32)
    pixels[:, :, 2] = np.tile(SCENE[:, :, 0], (1, 2))
    assert shown(pixels, LEFT)


def test_an_undeclared_value_beyond_all_others_does_not_decide() -> None:
    """Where a corner of an image holds -9999, the rest still shows something, and the corner does not."""
    pixels = SCENE.astype(np.float32).repeat(2, 1)
    pixels[:20, :20] = -9999
    assert (shown(pixels, Window(40, 90, TILE, TILE)), shown(pixels, Window(1, 1, TILE, TILE))) == (True, False)


def test_only_pixels_with_data_count() -> None:
    """Half of a patch has no data, and the other half is flat; both together would vary."""
    pixels = SCENE.astype(np.float32).repeat(2, 1)
    pixels[:, 60:] = 0.7
    pixels[:, 90:] = np.nan
    edge = Window(8, 82, TILE, TILE)
    assert not shown(pixels, edge)
    assert not shown(pixels, Window(8, 100, TILE, TILE))
    assert shown(pixels, LEFT)


@pytest.mark.parametrize("tile", [64, 256])
def test_shipped_images_are_judged_as_by_a_threshold_of_one(tile: int) -> None:
    """As it was for bytes: the patches of the parity gate stay what they were."""
    manifest = read_bundle("default").manifest
    random = np.random.default_rng(0)
    for path in shipped_images():
        with open_raster(path, manifest.input, None, tile) as source:
            sight = Sight(source, tile)
            for _ in range(30):
                y, x = (int(random.integers(side - tile + 1)) for side in (source.height, source.width))
                window = Window(y, x, tile, tile)
                assert sight.look(source, window).shows == (source.read(window).std() > 1)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (16, 16), (40, 17), (100, 64)])
def test_tiles_cover_a_raster_and_overlap_by_half(height: int, width: int) -> None:
    tiles = list(blank.tiles_of(ArraySource(np.zeros((height, width, 1), np.uint8)), TILE))
    covered = np.zeros((height, width), int)
    for tile in tiles:
        inside = tile.within(height, width)
        assert inside is not None
        covered[inside.y : inside.bottom, inside.x : inside.right] += 1
    assert covered.all()
    assert {tile.y % 8 for tile in tiles} <= {0, (height - TILE) % 8}
    assert len(set(tiles)) == len(tiles)


# Patches


def sparse(folder: Path, side: int, place: int) -> Path:
    """Reflectance in a corner of a raster that has no data elsewhere: no place is likely to be drawn there."""
    pixels = np.full((400, 400, 3), -9999, np.float32)
    pixels[place : place + side, place : place + side] = SCENE[:side, :side]
    return write_geotiff(folder / "sparse.tif", pixels, nodata=-9999)


@pytest.mark.parametrize("scale", SCALES)
def test_patches_are_never_blank_in_any_range_of_values(scale: str, tmp_path: Path) -> None:
    dtype, factor = SCALES[scale]
    pixels = np.zeros((300, 300, 3), dtype)
    pixels[100:164, 100:164] = (factor * (0.1 + 0.9 * SCENE)).astype(dtype)
    image = write_geotiff(tmp_path / "a.tif", pixels, nodata=0)
    batches = sample_patches(manifest_of(dtype), [image], 12, seed=0)
    assert len(batches) == 12
    assert all((batch.patch != 0).any(axis=1).mean() > 0.5 and batch.patch.std() > 0 for batch in batches)
    assert len({batch.tiles for batch in batches}) > 3


@pytest.mark.parametrize(("side", "place", "least"), [(16, 203, 0.5), (30, 9, 0.5), (10, 300, 0.1)])
def test_what_little_has_data_is_found(side: int, place: int, least: float, tmp_path: Path) -> None:
    """In a place as large as a patch at least half of one; of less all that there is."""
    batches = sample_patches(manifest_of(np.float32), [sparse(tmp_path, side, place)], 4, seed=0)
    assert len(batches) == 4
    assert all(batch.patch.any(axis=1).mean() > least for batch in batches)


def test_images_that_show_nothing_give_way_to_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = write_geotiff(tmp_path / "scene.tif", SCENE.astype(np.float32))
    flat = write_geotiff(tmp_path / "flat.tif", np.full((64, 64, 3), 0.2, np.float32))
    empty = write_geotiff(tmp_path / "empty.tif", np.full((64, 64, 3), np.nan, np.float32))
    batches = sample_patches(manifest_of(np.float32), [flat, scene, empty], 5, seed=0)
    assert len(batches) == 5 and all(batch.patch.std() > 0.2 for batch in batches)
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == f"{flat}, {empty}: nothing to see (one colour, or no data): no patches are taken there"


def test_flat_images_alone_are_taken_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flat = write_geotiff(tmp_path / "flat.tif", np.full((64, 64, 3), 0.2, np.float32))
    assert len(sample_patches(manifest_of(np.float32), [flat], 3, seed=0)) == 3
    assert f"{flat}: nothing to see (one colour, or no data): comparing on it says little" in caplog.text


@pytest.mark.parametrize("nodata", [0, None])
def test_images_without_data_are_refused_in_one_line(nodata: float | None, tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), np.nan if nodata is None else nodata, np.float32)
    images: Sequence[Path] = [write_geotiff(tmp_path / f"{name}.tif", pixels, nodata=nodata) for name in "ab"]
    with pytest.raises(
        InputError, match=r"^expected patches with data, found none in \S*a\.tif, \S*b\.tif; give other"
    ):
        sample_patches(manifest_of(np.float32), images, 3, seed=0)


def test_calibration_takes_no_blank_patches_of_floats(tmp_path: Path) -> None:
    """Beside a scene, all that rounding makes of one colour: its colours differ."""
    pixels = SCENE.astype(np.float32).repeat(2, 1)
    pixels[:, 64:] = np.float32(0.3) * (1 + np.random.default_rng(1).integers(0, 2, (64, 64, 3)) * np.float32(6e-8))
    source = ArraySource(pixels)
    assert (choose._usable(source, LEFT), choose._usable(source, RIGHT)) == (True, False)
