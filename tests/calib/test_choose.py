"""Patches for calibration. TINY's classes follow the colours: 0 is red, 1 is green, 2 is blue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fctl.calib import choose
from fctl.calib.choose import Chosen, choose_patches, cut_patches
from fctl.calib.sample import shipped_images
from fctl.calib.stand_in import open_image
from fctl.runtime.bundle.manifest import Context
from fctl.runtime.bundle.store import Bundle, read_bundle
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.raster.source import open_raster
from fctl.runtime.segment.batches import PatchBatch, cut_batch, cut_scene
from fctl.runtime.segment.host import HostNetwork
from fctl.runtime.segment.pipeline import segment_rows
from fctl.runtime.tiling.resampling import Pixels
from fctl.runtime.tiling.turns import Windows
from fctl.runtime.tiling.windows import Window

from ..conftest import write_geotiff
from ..runtime import tiny

pytest.importorskip("onnxruntime")

TILE = 16
RED, GREEN, BLUE = range(3)


class Encoding(HostNetwork):
    """Counts what it encodes."""

    encoded = 0

    def encode(self, context: Context, windows: Windows) -> Any:
        self.encoded += 1
        return super().encode(context, windows)


def network_of(bundle: Path | str | Bundle, batch: int = 4) -> Encoding:
    bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    return Encoding(bundle, choose_engine("onnxruntime", "fp32"), batch)


@pytest.fixture(scope="module")
def network() -> Encoding:
    return network_of(tiny.TINY)


def noise(rng: np.random.Generator, height: int, width: int, bands: int = 3) -> Pixels:
    return rng.integers(1, 256, (height, width, bands), np.uint8)


def coloured(rng: np.random.Generator, height: int, width: int, band: int) -> Pixels:
    """Noise, strong in one band."""
    pixels = rng.integers(1, 30, (height, width, 3), np.uint8)
    pixels[:, :, band] += 200
    return pixels


@pytest.fixture
def noisy(tmp_path: Path, rng: np.random.Generator) -> list[Path]:
    return [write_geotiff(tmp_path / f"{name}.tif", noise(rng, 70, 80)) for name in "abc"]


def per_image(chosen: Sequence[Chosen]) -> dict[str, int]:
    return dict(Counter(Path(patch.image).stem for patch in chosen))


def assert_same(first: PatchBatch, second: PatchBatch) -> None:
    assert (first.tiles, first.scenes) == (second.tiles, second.scenes)
    np.testing.assert_array_equal(first.patch, second.patch)
    for of_first, of_second in ((first.contexts, second.contexts), (first.positions, second.positions)):
        assert of_first.keys() == of_second.keys()
        for name, array in of_first.items():
            np.testing.assert_array_equal(array, of_second[name])
    for name in first.shared:
        np.testing.assert_array_equal(first.pixels_of(name), second.pixels_of(name))


# Which images


def test_each_image_gives_the_same_number_and_the_seed_says_which_one_more(
    network: Encoding, noisy: list[Path]
) -> None:
    found = [per_image(choose_patches(network, noisy, 10, seed)) for seed in range(6)]
    assert all(sorted(quotas.values()) == [3, 3, 4] for quotas in found)
    assert all(list(quotas) == ["a", "b", "c"] for quotas in found)
    assert {max(quotas, key=lambda name: quotas[name]) for quotas in found} == {"a", "b", "c"}


def test_what_a_small_image_cannot_give_the_others_give(
    network: Encoding, noisy: list[Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    small = write_geotiff(tmp_path / "small.tif", noise(rng, TILE, TILE + 1))
    images = [*noisy[:2], small]
    chosen = choose_patches(network, images, 20, seed=1)
    assert per_image(chosen) == {"a": 9, "b": 9, "small": 2}
    assert {patch.x for patch in chosen if patch.image == str(small)} == {0, 1}


def test_nearly_all_may_come_from_one_image(
    network: Encoding, noisy: list[Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    """With as many candidates as if it had been so from the beginning."""
    small = [write_geotiff(tmp_path / f"small{index}.tif", noise(rng, 9, 9)) for index in range(9)]
    told: list[tuple[int, int]] = []
    chosen = choose_patches(network, [*small, noisy[0]], 40, 1, lambda done, total: told.append((done, total)))
    assert Counter(per_image(chosen).values()) == {1: 9, 31: 1}
    assert told[-1] == (102, 102)


def test_no_window_is_chosen_twice_and_fewer_are_fine(
    network: Encoding, tmp_path: Path, rng: np.random.Generator
) -> None:
    image = write_geotiff(tmp_path / "a.tif", noise(rng, TILE + 2, TILE + 3))
    chosen = choose_patches(network, [image], 50, seed=1)
    assert [(patch.y, patch.x) for patch in chosen] == [(y, x) for y in range(3) for x in range(4)]


def test_an_image_named_twice_is_one(network: Encoding, noisy: list[Path]) -> None:
    once = choose_patches(network, noisy[:1], 4, seed=1)
    assert len(once) == 4
    assert choose_patches(network, noisy[:1] * 2, 4, seed=1) == once


def test_of_more_images_than_patches_only_those_drawn_are_opened(
    network: Encoding, noisy: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def recording(path: Path, *rest: Any) -> Any:
        opened.append(path)
        return open_image(path, *rest)

    monkeypatch.setattr(choose, "open_image", recording)
    images = sorted([*noisy, *(noisy[0].with_name(f"{index}.tif") for index in range(2000))])  # which do not exist
    seed = next(s for s in range(10000) if images[np.random.default_rng(s).permutation(2003)[0]] in noisy)
    (chosen,) = choose_patches(network, images, 1, seed)
    assert {Path(chosen.image)} == set(opened)


def test_more_images_than_patches_give_one_each(network: Encoding, noisy: list[Path]) -> None:
    found = [per_image(choose_patches(network, noisy, 2, seed)) for seed in range(6)]
    assert all(list(quotas.values()) == [1, 1] for quotas in found)
    assert {name for quotas in found for name in quotas} == {"a", "b", "c"}


def test_another_image_is_drawn_for_an_empty_one(network: Encoding, noisy: list[Path], tmp_path: Path) -> None:
    black = [write_geotiff(tmp_path / f"black{index}.tif", np.zeros((40, 40, 3), np.uint8)) for index in range(5)]
    assert per_image(choose_patches(network, [*black, *noisy], 3, seed=1)) == {"a": 1, "b": 1, "c": 1}


# Which places


def test_at_least_half_of_a_patch_has_data(network: Encoding, tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = noise(rng, TILE, 60)
    pixels[:, 20:] = 0
    image = write_geotiff(tmp_path / "a.tif", pixels, nodata=0)
    chosen = choose_patches(network, [image], 50, seed=1)
    assert [patch.x for patch in chosen] == list(range(13))
    assert all(sum(patch.shares) == pytest.approx(1) for patch in chosen)


def test_what_little_has_data_is_found(network: Encoding, tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = np.zeros((200, 200, 3), np.uint8)
    pixels[20:50, 150:180] = noise(rng, 30, 30)
    image = write_geotiff(tmp_path / "a.tif", pixels, nodata=0)
    assert len(choose_patches(network, [image], 20, seed=1)) == 20


def test_places_of_one_colour_are_avoided(network: Encoding, tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = np.tile(np.array([10, 90, 200], np.uint8), (40, 200, 1))
    pixels[:, :50] = noise(rng, 40, 50)
    chosen = choose_patches(network, [write_geotiff(tmp_path / "a.tif", pixels)], 30, seed=1)
    assert len(chosen) == 30
    assert max(patch.x for patch in chosen) < 50


def test_dark_floats_are_not_one_colour(tmp_path: Path, rng: np.random.Generator) -> None:
    """What is flat does not depend on the range of values."""
    network = network_of(tiny.TINY)
    spec = replace(network.manifest.input, dtype="float32")
    manifest = replace(network.manifest, input=spec)
    image = write_geotiff(tmp_path / "a.tif", rng.random((40, 40, 3), np.float32) / 100)
    with open_raster(image, manifest.input, None, TILE) as source:
        assert choose._usable(source, Window(3, 4, TILE, TILE))


def test_an_image_smaller_than_a_patch_gives_itself(
    network: Encoding, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Only its own pixels count: all around is black."""
    image = write_geotiff(tmp_path / "a.tif", coloured(rng, 5, 7, BLUE))
    (chosen,) = choose_patches(network, [image], 4, seed=1)
    assert (chosen.y, chosen.x) == (0, 0)
    assert chosen.shares[BLUE] == 1


def test_an_image_smaller_along_one_side(network: Encoding, tmp_path: Path, rng: np.random.Generator) -> None:
    chosen = choose_patches(network, [write_geotiff(tmp_path / "a.tif", noise(rng, 5, 60))], 6, seed=1)
    assert len({patch.x for patch in chosen}) == 6
    assert {patch.y for patch in chosen} == {0}


# Which classes


def test_shares_are_what_the_runtime_predicts(tmp_path: Path, rng: np.random.Generator) -> None:
    """With no data in the upper quarter of the patch. The raster is one tile: the mask is the patch's."""
    pixels = noise(rng, 20, TILE)
    pixels[:8] = 0
    image = write_geotiff(tmp_path / "a.tif", pixels[4:], nodata=0)
    network = network_of(tiny.TINY, 1)
    (chosen,) = choose_patches(network, [image], 1, seed=1)
    with open_raster(image, network.manifest.input, None, TILE) as source:
        ids = np.concatenate([rows.ids for rows in segment_rows(network, source)])
    assert (ids[:4] == 255).all()
    assert chosen.shares == tuple(float((ids[4:] == index).mean()) for index in range(3))
    assert len([share for share in chosen.shares if share]) > 1


def test_classes_are_more_even_than_in_the_image(network: Encoding, tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = coloured(rng, 160, 160, RED)
    pixels[100:, :48] = coloured(rng, 60, 48, BLUE)  # a ninth
    pixels[:40, 120:] = coloured(rng, 40, 40, GREEN)  # a sixteenth
    image = write_geotiff(tmp_path / "a.tif", pixels)
    chosen = np.mean([patch.shares for patch in choose_patches(network, [image], 30, seed=1)], axis=0)
    with open_raster(image, network.manifest.input, None, TILE) as source:
        ids = np.concatenate([rows.ids for rows in segment_rows(network, source)])
    drawn = np.array([(ids == index).mean() for index in range(3)])
    assert drawn[BLUE] < 0.13
    assert drawn[GREEN] < 0.08
    assert chosen[BLUE] > 2 * drawn[BLUE]
    assert chosen[GREEN] > 1.5 * drawn[GREEN]


Shares = tuple[float, ...]


def seen(shares: dict[tuple[Path, Window], Shares]) -> dict[tuple[Path, Window], choose.Chosen]:
    """Candidates that are all data."""
    return {
        (path, tile): choose.Chosen(image=str(path), y=tile.y, x=tile.x, valid=1.0, shares=share)
        for (path, tile), share in shares.items()
    }


def test_a_rare_class_is_taken_wherever_it_is_a_candidate() -> None:
    """One of them in each image, among patches of the first class; quotas hold."""
    tiles = tuple(Window(0, x, TILE, TILE) for x in range(6))
    drawn = {Path(name): choose._Drawn(quota=2, tiles=tiles) for name in "ab"}
    shares: dict[tuple[Path, Window], Shares] = {(path, tile): (1.0, 0.0) for path in drawn for tile in tiles}
    shares |= {(path, tiles[4]): (0.4, 0.6) for path in drawn}
    chosen = choose._pick(drawn, seen(shares))
    assert [patch.image for patch in chosen] == ["a", "a", "b", "b"]
    assert [patch.shares for patch in chosen].count((0.4, 0.6)) == 2


def test_stray_pixels_of_a_class_do_not_decide() -> None:
    tiles = tuple(Window(0, x, TILE, TILE) for x in range(12))
    mixed = {tile: (0.99, 0.0, 0.01) if tile.x < 6 else (0.0, 1.0, 0.0) for tile in tiles}
    path = Path("a")
    drawn = {path: choose._Drawn(quota=4, tiles=tiles)}
    chosen = choose._pick(drawn, seen({(path, tile): share for tile, share in mixed.items()}))
    assert sum(patch.shares[1] for patch in chosen) == 2


def test_of_equal_candidates_the_first_drawn_are_taken() -> None:
    tiles = tuple(Window(y, 0, TILE, TILE) for y in (7, 3, 9, 1))
    path = Path("a")
    candidates = seen({(path, tile): (0.5, 0.5) for tile in tiles})
    chosen = choose._pick({path: choose._Drawn(quota=2, tiles=tiles)}, candidates)
    assert [patch.y for patch in chosen] == [3, 7]


# The same again


@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL, tiny.TINY_FUSED, tiny.TINY_GLOBAL_FUSED])
def test_the_seed_decides_and_the_batch_does_not(bundle: Path, noisy: list[Path]) -> None:
    first, *others = (choose_patches(network_of(bundle, batch), noisy, 6, seed=5) for batch in (1, 4, 64))
    assert others == [first, first]
    assert choose_patches(network_of(bundle), noisy, 6, seed=6) != first


@pytest.mark.parametrize("bundle", [tiny.TINY_PLAIN, tiny.TINY_FIXED, tiny.TINY_SHARES])
def test_bundles_without_contexts(bundle: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """They are one network: in batches of 3 and no other, and with probabilities instead of logits."""
    image = write_geotiff(tmp_path / "a.tif", rng.integers(1, 4000, (60, 60, 4), np.uint16))
    expected = choose_patches(network_of(tiny.TINY_PLAIN, 1), [image], 5, seed=2)
    assert choose_patches(network_of(bundle, 4), [image], 5, seed=2) == expected
    assert len({patch.shares for patch in expected}) > 1


def test_a_scene_is_encoded_once_a_batch(noisy: list[Path]) -> None:
    network = network_of(tiny.TINY_GLOBAL, 9)
    choose_patches(network, noisy, 9, seed=1)
    assert network.encoded == 3


def test_progress(network: Encoding, noisy: list[Path]) -> None:
    told: list[tuple[int, int]] = []
    choose_patches(network, noisy[:2], 3, 1, lambda done, total: told.append((done, total)))
    assert told == [(4, 9), (8, 9), (9, 9)]


# What is cut


@pytest.mark.parametrize(("bundle", "scene"), [(tiny.TINY, None), (tiny.TINY_GLOBAL, None), (tiny.TINY_GLOBAL, 40)])
def test_patches_are_cut_as_the_runtime_cuts_them(bundle: Path, scene: int | None, noisy: list[Path]) -> None:
    network = network_of(bundle)
    manifest = network.manifest
    if scene:
        manifest = replace(manifest, contexts=(replace(manifest.contexts[0], scene=scene),))
        network.manifest = manifest
    chosen = choose_patches(network, noisy, 8, seed=1)
    cut = list(cut_patches(manifest, chosen))
    for patch, batch in zip(chosen, cut, strict=True):
        with open_raster(Path(patch.image), manifest.input, None, TILE) as source:
            expected = cut_batch(manifest, source, (Window(patch.y, patch.x, TILE, TILE),), 1)
            for context in manifest.contexts:
                if context.window.shared:
                    block = cut_scene(source, expected.scenes[context.name][0], context)
                    np.testing.assert_array_equal(batch.pixels_of(context.name), block)
        assert_same(batch, expected)
    if scene:
        assert len({batch.scenes["global"] for batch in cut}) > 2


def test_each_image_is_opened_once_and_patches_are_cut_when_they_are_needed(
    network: Encoding, noisy: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose_patches(network, noisy, 8, seed=1)
    assert [patch.image for patch in chosen] == sorted(patch.image for patch in chosen)
    opened = []

    def recording(path: Path, *rest: Any) -> Any:
        opened.append(path)
        return open_image(path, *rest)

    monkeypatch.setattr(choose, "open_image", recording)
    patches = cut_patches(network.manifest, chosen)
    next(patches)
    assert opened == noisy[:1]
    assert len(list(patches)) == 7
    assert opened == noisy


def test_the_shipped_bundle_sees_several_classes_in_its_images() -> None:
    network = network_of("default", 3)
    chosen = choose_patches(network, shipped_images(), 2, seed=1)
    assert len({patch.image for patch in chosen}) == 2
    assert (np.sum([patch.shares for patch in chosen], axis=0) > 0.05).sum() >= 3


# What is refused


def test_images_without_data_are_named(network: Encoding, tmp_path: Path) -> None:
    empty = [write_geotiff(tmp_path / f"{name}.tif", np.zeros((40, 40, 3), np.uint8), nodata=0) for name in "abcde"]
    with pytest.raises(InputError, match=r"a\.tif, .*b\.tif, .*c\.tif and 2 more; give other images$"):
        choose_patches(network, empty, 3, seed=1)
    with pytest.raises(InputError, match=r"expected patches with data, found none in \S*a\.tif; give other images$"):
        choose_patches(network, empty[:1], 3, seed=1)


def test_an_image_that_does_not_fit_is_refused(network: Encoding, noisy: list[Path], rng: np.random.Generator) -> None:
    wrong = write_geotiff(noisy[0].with_name("wrong.tif"), noise(rng, 40, 40, 5))
    with pytest.raises(RasterError, match=r"wrong\.tif: expected 3 bands"):
        choose_patches(network, [*noisy, wrong], 4, seed=1)
