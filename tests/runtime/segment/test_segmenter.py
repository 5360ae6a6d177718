from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from fctl.runtime import Paths, Segmenter
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import BundleError, InputError, OutputError, RasterError
from tests.conftest import write_geotiff
from tests.runtime import tiny

Array = NDArray[Any]


@pytest.fixture
def image(rng: np.random.Generator) -> Array:
    return rng.integers(1, 256, (37, 50, 3), np.uint8)


def test_an_array_gives_ids(segmenter: Segmenter, image: Array) -> None:
    found = segmenter.segment(image)
    assert (found.ids.shape, found.ids.dtype) == ((37, 50), np.uint8)
    assert set(np.unique(found.ids)) == {0, 1, 2}
    assert found.probabilities is None


def test_probabilities_agree_with_the_ids(segmenter: Segmenter, image: Array) -> None:
    found = segmenter.segment(image, probabilities=True)
    assert found.probabilities is not None
    assert (found.probabilities.shape, found.probabilities.dtype) == ((3, 37, 50), np.float32)
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        found.probabilities.max(axis=0), np.take_along_axis(found.probabilities, found.ids[None], 0)[0]
    )


def test_an_array_is_not_changed(segmenter: Segmenter, image: Array) -> None:
    before = image.copy()
    segmenter.segment(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("view", [np.s_[::2], np.s_[:, ::-1], np.s_[:, :, ::-1]])
def test_a_view_gives_what_its_copy_gives(segmenter: Segmenter, image: Array, view: Any) -> None:
    np.testing.assert_array_equal(segmenter.segment(image[view]).ids, segmenter.segment(image[view].copy()).ids)


def test_a_read_only_array_will_do(segmenter: Segmenter, image: Array) -> None:
    expected = segmenter.segment(image).ids
    image.flags.writeable = False
    np.testing.assert_array_equal(segmenter.segment(image).ids, expected)


def test_the_default_bundle_segments_a_small_image(rng: np.random.Generator) -> None:
    with Segmenter(backend="onnxruntime", batch=1) as segmenter:
        found = segmenter.segment(rng.integers(0, 256, (60, 90, 3), np.uint8), probabilities=True)
        classes = len(segmenter.manifest.classes)
    assert found.ids.shape == (60, 90)
    assert found.ids.max() < classes
    assert found.probabilities is not None
    assert np.isfinite(found.probabilities).all()


def test_a_bundle_that_was_read_will_do(image: Array, segmenter: Segmenter) -> None:
    with Segmenter(read_bundle(tiny.TINY), backend="onnxruntime") as other:
        np.testing.assert_array_equal(other.segment(image).ids, segmenter.segment(image).ids)


def test_a_closed_segmenter_refuses(tmp_path: Path, image: Array) -> None:
    with Segmenter(tiny.TINY, backend="onnxruntime") as segmenter:
        pass
    with pytest.raises(InputError, match="closed"):
        segmenter.segment(image)
    with pytest.raises(InputError, match="closed"):
        list(segmenter.stream([image]))
    with pytest.raises(InputError, match="closed"):
        segmenter.segment_file(write_geotiff(tmp_path / "a.tif", image), Paths(mask=tmp_path / "m.tif"))
    segmenter.close()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((20, 20, 4), np.uint8),
        np.zeros((20, 20), np.uint8),
        np.zeros((3, 20, 20), np.uint8),
        np.zeros((20, 20, 3), np.uint16),
        np.zeros((20, 20, 3), np.float32),
        np.zeros((0, 20, 3), np.uint8),
        np.zeros((20, 0, 3), np.uint8),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
def test_an_array_that_does_not_fit(segmenter: Segmenter, wrong: Array) -> None:
    with pytest.raises(RasterError, match=r"expected an image \(height, width, 3\) of uint8, found") as caught:
        segmenter.segment(wrong)
    assert f"{wrong.shape} of {wrong.dtype}" in str(caught.value)


@pytest.mark.parametrize("batch", [0, -1, "fast"])
def test_a_batch_of_nothing_is_refused(batch: Any) -> None:
    with pytest.raises(InputError, match=f'`batch`: expected a number from 1, or "auto", found {batch!r}'):
        Segmenter(tiny.TINY, backend="onnxruntime", batch=batch)


def test_a_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="found nothing"):
        Segmenter(tmp_path / "none.fctl")


def test_the_engine_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fctl"), Segmenter(tiny.TINY, backend="onnxruntime") as segmenter:
        assert (segmenter.engine.name, segmenter.engine.precision) == ("onnxruntime", "fp32")
    assert "bundle tiny runs on onnxruntime, CPU, fp32" in caplog.text


def test_a_file_gives_a_report(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    path, paths = write_geotiff(tmp_path / "a.tif", image), Paths(mask=tmp_path / "new" / "m.tif")
    steps: list[tuple[int, int]] = []
    report = segmenter.segment_file(path, paths, progress=lambda done, total: steps.append((done, total)))
    counts = np.bincount(segmenter.segment(image).ids.ravel(), minlength=3)
    assert (report.image, report.paths, report.height, report.width) == (path, paths, 37, 50)
    assert report.tiles == 3 * 4
    assert report.pixels == dict(zip(("red", "green", "blue"), counts.tolist(), strict=True))
    assert steps == [(12, 12)]
    assert paths.mask.is_file()


def test_outputs_are_those_asked_for_and_nothing_else(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    path, out = write_geotiff(tmp_path / "a.tif", image), tmp_path / "out"
    paths = Paths(mask=out / "m.tif", probabilities=out / "p.tif", preview=out / "v.png")
    segmenter.segment_file(path, paths)
    assert sorted(out.iterdir()) == sorted([*paths.wanted(), out / "m.qml", out / "m.tif.aux.xml"])
    assert paths.wanted() == (out / "m.tif", out / "p.tif", out / "v.png")


@pytest.mark.parametrize("taken", ["m.tif", "p.tif", "v.png"])
def test_an_output_that_exists_is_kept(tmp_path: Path, segmenter: Segmenter, image: Array, taken: str) -> None:
    path = write_geotiff(tmp_path / "a.tif", image)
    (tmp_path / taken).write_bytes(b"precious")
    paths = Paths(mask=tmp_path / "m.tif", probabilities=tmp_path / "p.tif", preview=tmp_path / "v.png")
    with pytest.raises(OutputError, match=f"{taken} exists already"):
        segmenter.segment_file(path, paths)
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / taken])
    assert (tmp_path / taken).read_bytes() == b"precious"
    segmenter.segment_file(path, paths, overwrite=True)
    assert all(file.stat().st_size > 100 for file in paths.wanted())


def test_an_output_that_exists_is_kept_when_overwriting_fails(tmp_path: Path, segmenter: Segmenter) -> None:
    path, mask = tmp_path / "a.tif", tmp_path / "m.tif"
    write_geotiff(path, np.full((300, 300, 3), 9, np.uint8))
    path.write_bytes(path.read_bytes()[:100_000])
    mask.write_bytes(b"precious")
    with pytest.raises(RasterError):
        segmenter.segment_file(path, Paths(mask=mask), overwrite=True)
    assert mask.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == sorted([path, mask])


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_image_is_never_an_output(tmp_path: Path, segmenter: Segmenter, image: Array, overwrite: bool) -> None:
    path = write_geotiff(tmp_path / "a.tif", image)
    before = path.read_bytes()
    for paths in (Paths(mask=path), Paths(mask=tmp_path / "m.tif", probabilities=tmp_path / "x" / ".." / "a.tif")):
        with pytest.raises(InputError, match="is the image itself"):
            segmenter.segment_file(path, paths, overwrite=overwrite)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_callers_progress_leaves_nothing(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    path = write_geotiff(tmp_path / "a.tif", image)

    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmenter.segment_file(path, Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.png"), progress=progress)
    assert list(tmp_path.iterdir()) == [path]


def test_estimate_counts_what_a_run_takes(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    path, paths = write_geotiff(tmp_path / "a.tif", image), Paths(mask=tmp_path / "m.tif")
    estimate = segmenter.estimate(path, paths)
    assert (estimate.image, estimate.height, estimate.width, estimate.tiles) == (path, 37, 50, 12)
    assert estimate.disk == 37 * 50
    assert estimate.memory > 0
    assert list(tmp_path.iterdir()) == [path]


def test_estimate_adds_the_probabilities(tmp_path: Path, segmenter: Segmenter, image: Array) -> None:
    path = write_geotiff(tmp_path / "a.tif", image)
    estimate = segmenter.estimate(path, Paths(mask=tmp_path / "m.tif", probabilities=tmp_path / "p.tif"))
    assert estimate.disk == 37 * 50 * (1 + 3 * 4)


def test_memory_of_the_estimate_does_not_grow_with_the_raster(tmp_path: Path, segmenter: Segmenter) -> None:
    paths = Paths(mask=tmp_path / "m.tif")
    sizes = {"large": (12_500, 20_000), "tall": (100_000, 20_000), "wide": (12_500, 160_000)}
    memory = {
        name: segmenter.estimate(sparse_geotiff(tmp_path / f"{name}.tif", *size), paths).memory
        for name, size in sizes.items()
    }
    assert memory["tall"] == memory["large"]
    held = 3 * segmenter.manifest.tile * (160_000 - 20_000)  # whole rows of class ids, while outputs are made
    assert memory["large"] < memory["wide"] < memory["large"] + held


def test_a_trial_tells_time_and_memory(tmp_path: Path, segmenter: Segmenter) -> None:
    image, paths = sparse_geotiff(tmp_path / "a.tif", 300, 400), Paths(mask=tmp_path / "m.tif")
    plain, tried = segmenter.estimate(image, paths), segmenter.estimate(image, paths, trial=True)
    assert (plain.process, plain.seconds) == (None, None)
    assert tried.process is not None
    assert tried.process > tried.memory == plain.memory
    assert tried.seconds is not None
    assert tried.seconds > 0
    assert sorted(tmp_path.iterdir()) == [image]


def sparse_geotiff(path: Path, height: int, width: int) -> Path:
    """A GeoTIFF without a single block."""
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", tiled=True, sparse_ok=True,
        bigtiff="yes", crs="EPSG:32640", transform=rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 2.7e6),
    ):  # fmt: skip
        pass
    return path


def test_estimate_refuses_what_a_run_would(tmp_path: Path, segmenter: Segmenter) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.zeros((20, 20, 5), np.uint8))
    with pytest.raises(RasterError, match="expected 3 bands, found 5"):
        segmenter.estimate(path, Paths(mask=tmp_path / "m.tif"))


@pytest.mark.parametrize(("height", "width"), [(37, 50), (300, 500), (3, 400), (5, 1)])
def test_a_preview_shows_the_image_above_a_legend(
    tmp_path: Path, segmenter: Segmenter, rng: np.random.Generator, height: int, width: int
) -> None:
    path = write_geotiff(tmp_path / "a.tif", rng.integers(0, 256, (height, width, 3), np.uint8))
    segmenter.segment_file(path, Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.png"))
    with Image.open(tmp_path / "v.png") as preview:
        assert preview.format == "PNG"
        assert preview.width == max(width, 260)
        assert height + 28 <= preview.height <= height + 200


def test_a_preview_of_sixteen_bits_is_stretched(tmp_path: Path, plain: Segmenter, rng: np.random.Generator) -> None:
    path = write_geotiff(tmp_path / "a.tif", rng.integers(300, 400, (40, 300, 4)).astype(np.uint16))
    plain.segment_file(path, Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.png"))
    with Image.open(tmp_path / "v.png") as preview:
        shown = np.asarray(preview)[:40]
    assert shown.std() > 20


def test_a_preview_of_a_raster_without_data_is_drawn(tmp_path: Path, segmenter: Segmenter) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.zeros((40, 300, 3), np.uint8), nodata=0)
    report = segmenter.segment_file(path, Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.png"))
    assert set(report.pixels.values()) == {0}
    with Image.open(tmp_path / "v.png") as preview:
        assert (np.asarray(preview)[:40] == 0).all()


def test_a_preview_lays_the_colours_over_the_image_where_there_is_data(
    tmp_path: Path, segmenter: Segmenter, rng: np.random.Generator
) -> None:
    image = rng.integers(1, 256, (40, 300, 3), np.uint8)
    image[:, :30] = 0
    path, paths = tmp_path / "a.tif", Paths(mask=tmp_path / "m.tif", preview=tmp_path / "v.png")
    segmenter.segment_file(write_geotiff(path, image, nodata=0), paths)
    ids = np.where((image == 0).all(axis=2), 255, segmenter.segment(image).ids)
    with Image.open(tmp_path / "v.png") as preview:
        shown = np.asarray(preview)[:40]
    np.testing.assert_array_equal(shown[ids == 255], image[ids == 255])
    for index, info in enumerate(segmenter.manifest.classes):
        towards = np.array(info.colour) - image[ids == index].astype(float)
        moved = shown[ids == index] - image[ids == index].astype(float)
        assert moved.size > 0
        share = (moved * towards).sum() / (towards**2).sum()
        assert 0.2 < share < 0.8


def test_two_outputs_of_one_name_are_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "image.tif", np.zeros((20, 20, 3), np.uint8))
    paths = Paths(mask=tmp_path / "same.tif", probabilities=tmp_path / "." / "same.tif")
    with pytest.raises(InputError, match=r"same\.tif is the name of two outputs; give each a name of its own"):
        segmenter.segment_file(image, paths)
    assert [path.name for path in tmp_path.iterdir()] == ["image.tif"]


def test_a_folder_in_the_place_of_an_output_is_refused_before_the_run(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "image.tif", np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "preview.png").mkdir()
    paths = Paths(mask=tmp_path / "mask.tif", preview=tmp_path / "preview.png")
    for attempt in (segmenter.segment_file, segmenter.estimate):
        with pytest.raises(OutputError, match=r"preview\.png: expected a file to write, found a folder"):
            attempt(image, paths, overwrite=True)
    assert not (tmp_path / "mask.tif").exists()


def test_an_estimate_refuses_what_the_run_would_refuse(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "image.tif", np.zeros((20, 20, 3), np.uint8))
    paths = Paths(mask=tmp_path / "mask.tif")
    segmenter.segment_file(image, paths)
    with pytest.raises(OutputError, match=r"mask\.tif exists already"):
        segmenter.estimate(image, paths)
    assert segmenter.estimate(image, paths, overwrite=True).disk == 20 * 20


def test_a_segmenter_at_work_says_so_to_the_thread_that_comes_again(tmp_path: Path, segmenter: Segmenter) -> None:
    """A lock alone would wait for itself."""
    image = write_geotiff(tmp_path / "image.tif", np.zeros((20, 20, 3), np.uint8))

    def again(done: int, total: int) -> None:
        segmenter.close()

    with pytest.raises(InputError, match="this segmenter is at work in this thread"):
        segmenter.segment_file(image, Paths(mask=tmp_path / "mask.tif"), progress=again)
    assert not (tmp_path / "mask.tif").exists()
    assert segmenter.segment(np.zeros((5, 5, 3), np.uint8)).ids.shape == (5, 5)
