from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fctl.calib.sample import cut_each, find_images, sample_patches, shipped_images, shown
from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.segment.batches import on_host
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window
from tests.conftest import write_geotiff
from tests.runtime import tiny


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_bundle(tiny.TINY).manifest


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, ...]:
    """Every pixel of one is below 100, every pixel of the other above."""
    dark = write_geotiff(tmp_path / "dark.tif", rng.integers(1, 100, (70, 80, 3), np.uint8))
    light = write_geotiff(tmp_path / "light.tif", rng.integers(101, 256, (70, 80, 3), np.uint8))
    return dark, light


def pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_shipped_images_are_three_bands_of_bytes() -> None:
    shipped = shipped_images()
    assert shipped
    assert {(pixels(path).ndim, pixels(path).shape[-1], str(pixels(path).dtype)) for path in shipped} == {
        (3, 3, "uint8")
    }


def test_images_are_found_in_folders_and_named_ones_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("b.tif", "a.PNG", "c.jpeg", "notes.txt"):
        (folder / name).touch()
    single = tmp_path / "scan.img"
    assert find_images([folder, single]) == (folder / "a.PNG", folder / "b.tif", folder / "c.jpeg", single)


def test_hidden_files_and_folders_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.tif", "._a.tif", ".x.part.tif", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tif").mkdir()
    assert find_images([tmp_path]) == (tmp_path / "a.tif",)
    assert find_images([tmp_path / ".hidden.png"]) == (tmp_path / ".hidden.png",)  # it was named


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=f"{tmp_path}: expected images .* found none"):
        find_images([tmp_path])


def test_samples_come_from_each_image_in_turn(manifest: Manifest, images: tuple[Path, ...]) -> None:
    batches = sample_patches(manifest, images, 5, seed=1)
    assert [bool(batch.patch.max() < 100) for batch in batches] == [True, False, True, False, True]


def test_a_sample_is_one_patch_with_all_its_contexts(manifest: Manifest, images: tuple[Path, ...]) -> None:
    (batch,) = sample_patches(manifest, images, 1, seed=1)
    assert (batch.patch.shape, batch.patch.dtype) == ((1, 3, 16, 16), np.uint8)
    assert {name: window.shape for name, window in batch.contexts.items()} == {
        "medium": (1, 3, 16, 16),
        "large": (1, 3, 8, 8),
    }
    assert batch.positions == {}


def test_a_sample_holds_the_global_context_and_where_it_lies(images: tuple[Path, ...]) -> None:
    (batch,) = sample_patches(read_bundle(tiny.TINY_GLOBAL).manifest, images, 1, seed=1)
    assert batch.pixels_of("global").shape == (1, 3, 8, 8)
    assert batch.positions["global"].shape == (1, 2, 4)


def test_a_sample_is_cut_at_its_tile(manifest: Manifest, images: tuple[Path, ...]) -> None:
    (batch,) = sample_patches(manifest, images, 1, seed=3)
    (tile,) = batch.tiles
    cut = pixels(images[0])[tile.y : tile.bottom, tile.x : tile.right]
    np.testing.assert_array_equal(batch.patch[0].transpose(1, 2, 0), cut)


def test_a_sample_of_a_large_image_shows_its_scene_block(images: tuple[Path, ...]) -> None:
    manifest = read_bundle(tiny.TINY_GLOBAL).manifest
    manifest = replace(manifest, contexts=(replace(manifest.contexts[0], scene=40),))
    (batch,) = sample_patches(manifest, images[:1], 1, seed=1)
    (tile,), (block,) = batch.tiles, batch.scenes["global"]
    assert (block.height, block.width) == (40, 40)
    inside = pixels(images[0])[block.y : block.bottom, block.x : block.right]
    expected = np.asarray(Image.fromarray(inside).resize((8, 8), Image.Resampling.BOX))
    np.testing.assert_array_equal(batch.pixels_of("global")[0].transpose(1, 2, 0), expected)
    centres = np.array([[tile.y - block.y], [tile.x - block.x]]) + 4 * np.arange(4) + 2
    np.testing.assert_allclose(batch.positions["global"][0], (centres * 8 / 40 - 1) / 2, rtol=1e-6)


def test_the_seed_decides(manifest: Manifest, images: tuple[Path, ...]) -> None:
    first, again, other = (
        [batch.tiles for batch in sample_patches(manifest, images, 4, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_places_that_show_something_are_preferred(manifest: Manifest, tmp_path: Path, rng: np.random.Generator) -> None:
    image = np.full((40, 200, 3), 50, np.uint8)
    image[:, 100:] = rng.integers(1, 256, (40, 100, 3), np.uint8)
    path = write_geotiff(tmp_path / "half.tif", image)
    assert all(batch.patch.std() > 1 for batch in sample_patches(manifest, [path], 10, seed=1))


def test_places_with_data_are_preferred(manifest: Manifest, tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(1, 256, (40, 200, 3), np.uint8)
    image[:, :100] = 0
    path = write_geotiff(tmp_path / "half.tif", image, nodata=0)
    batches = sample_patches(manifest, [path], 10, seed=1)
    assert all((batch.patch > 0).mean() > 0.5 for batch in batches)


def test_an_image_smaller_than_a_patch_will_do(manifest: Manifest, tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "small.tif", np.full((5, 7, 3), 9, np.uint8))
    (batch,) = sample_patches(manifest, [path], 1, seed=1)
    assert (batch.patch[0, :, :5, :7] == 9).all()
    assert batch.patch.sum() == 5 * 7 * 3 * 9


def test_an_image_that_does_not_fit_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "four.tif", np.zeros((20, 20, 5), np.uint8))
    with pytest.raises(RasterError, match="expected 3 bands"):
        sample_patches(manifest, [path], 1, seed=1)


def test_what_a_network_of_whole_images_is_shown_of_a_patch() -> None:
    """The pixels of the shrunken image there: patches themselves are not cut."""
    manifest = read_bundle(tiny.TINY_WHOLE).manifest
    image = np.kron(np.arange(24, dtype=np.uint8)[:, None] + 3 * np.arange(24, dtype=np.uint8), np.ones((4, 4)))
    source = ArraySource(np.dstack([image] * 3).astype(np.uint8))  # 96 pixels: whole squares of 4 in each of 24
    (batch,) = cut_each(manifest, source, [Window(16, 40, 16, 16)])
    found = shown(manifest, batch)
    assert found.shape == (3, 16, 16) and not on_host(batch.patch).any()
    np.testing.assert_array_equal(found[1], image[16:32, 40:56])
    plain = read_bundle(tiny.TINY).manifest
    (batch,) = cut_each(plain, source, [Window(16, 40, 16, 16)])
    np.testing.assert_array_equal(shown(plain, batch), on_host(batch.patch)[0])
