"""Labels are aligned with their images by georeference: turned, shifted, or refused."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine, from_origin

from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import InputError
from fctl.runtime.evaluate import labels
from fctl.runtime.evaluate.checks import check_masks
from fctl.runtime.evaluate.datasets import Dataset, open_dataset
from fctl.runtime.evaluate.evaluation import evaluate, mask_file
from fctl.runtime.evaluate.pairs import open_labels
from fctl.runtime.evaluate.report import write_report
from fctl.runtime.evaluate.results import Pick
from fctl.runtime.evaluate.runs import plan_runs
from tests.runtime import labelled, tiny

UTM = "EPSG:32640"
WEST, NORTH = 300_000.0, 2_780_000.0
NORTH_UP = from_origin(WEST, NORTH, 0.5, 0.5)


def write(path: Path, pixels: labelled.Array, transform: Affine | None = NORTH_UP, crs: object = UTM) -> Path:
    """A GeoTIFF of (height, width) or (height, width, bands)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype="uint8", crs=crs, transform=transform
    ) as file:
        file.write(bands)
    return path


def dataset_of(
    root: Path, truth: labelled.Array, transform: Affine | None, crs: object = UTM, size: tuple[int, int] = (30, 40)
) -> Dataset:
    """One image of that size at `NORTH_UP`, and one mask."""
    classes = [
        {"name": name, "values": [index], "counted": True} for index, name in enumerate(("red", "green", "blue"))
    ]
    labelled.write_description(
        root / "dataset.json", images="images/*.tif", masks="masks/*.tif", classes=classes, ignore=[255]
    )
    write(root / "images" / "0.tif", labelled.image_of(*size))
    write(root / "masks" / "0.tif", truth, transform, crs)
    return open_dataset(root)


def read(dataset: Dataset, rows: int = 7) -> labelled.Array:
    """All labels, strip by strip."""
    with open_labels(dataset.samples[0], dataset.description.labels) as mask:
        strips = [mask.read(y, min(rows, mask.height - y)) for y in range(0, mask.height, rows)]
    return np.concatenate(strips)


def expected_of(truth: labelled.Array, size: tuple[int, int], transform: Affine) -> labelled.Array:
    """Pixel by pixel: the label at the centre of every pixel of the image."""
    found = np.full(size, 255, np.uint8)
    for row, column in np.ndindex(*size):
        x = (WEST + 0.5 * (column + 0.5) - transform.c) / transform.a
        y = (NORTH - 0.5 * (row + 0.5) - transform.f) / transform.e
        if 0 <= y < truth.shape[0] and 0 <= x < truth.shape[1]:
            found[row, column] = truth[int(y), int(x)]
    return found


def turned(truth: labelled.Array, upside_down: bool, mirrored: bool) -> tuple[labelled.Array, Affine]:
    """A mask at the image's place, written from south to north or from east to west, and its transform."""
    height, width = truth.shape
    transform = Affine(
        -0.5 if mirrored else 0.5, 0, WEST + (0.5 * width if mirrored else 0),
        0, 0.5 if upside_down else -0.5, NORTH - (0.5 * height if upside_down else 0),
    )  # fmt: skip
    return truth[:: -1 if upside_down else 1, :: -1 if mirrored else 1], transform


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_labels_are_turned_back(tmp_path: Path, upside_down: bool, mirrored: bool) -> None:
    truth = labelled.truth_of(30, 40, 3)
    np.testing.assert_array_equal(read(dataset_of(tmp_path, *turned(truth, upside_down, mirrored))), truth)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 50), width=st.integers(1, 60), y=st.integers(-45, 25), x=st.integers(-55, 35),
    upside_down=st.booleans(), mirrored=st.booleans(),
)  # fmt: skip
def test_labels_are_read_where_they_lie(
    tmp_path_factory: pytest.TempPathFactory,
    height: int, width: int, y: int, x: int, upside_down: bool, mirrored: bool,
) -> None:  # fmt: skip
    truth, transform = turned(labelled.truth_of(height, width, 3), upside_down, mirrored)
    a, b, c, d, e, f = transform[:6]
    transform = Affine(a, b, c + 0.5 * x, d, e, f - 0.5 * y)
    dataset = dataset_of(tmp_path_factory.mktemp("placed"), truth, transform)
    if not (-height < y < 30 and -width < x < 40):
        with pytest.raises(InputError, match="expected labels that lie on the image"):
            read(dataset)
        return
    expected = expected_of(truth, (30, 40), transform)
    np.testing.assert_array_equal(read(dataset), expected)
    with open_labels(dataset.samples[0], dataset.description.labels) as mask:
        np.testing.assert_array_equal(mask.thumbnail(30, 40), expected)
        np.testing.assert_array_equal(mask.thumbnail(15, 20), expected[1::2, 1::2])
    counts = np.bincount(expected.ravel(), minlength=256)[:3]
    assert check_masks(dataset) == tuple(counts.tolist())


def test_a_shift_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = labelled.truth_of(30, 40, 3)
    dataset = dataset_of(tmp_path / "data", truth, from_origin(WEST + 10, NORTH - 2.5, 0.5, 0.5))
    runs = plan_runs([read_bundle(tiny.TINY)], backends=("onnxruntime",))
    (tmp_path / "kept").mkdir()
    with caplog.at_level(logging.WARNING):
        found = evaluate(dataset, runs, tmp_path / "kept")
    notes = [record.getMessage() for record in caplog.records if "by their georeferences" in record.getMessage()]
    (image,), sample = found.results[0].images, dataset.samples[0]
    assert notes == [
        f"by their georeferences, {sample.mask} (30 x 40 pixels) lies 5 rows down and 20 columns right of "
        f"{sample.image} (30 x 40); pixels without labels count for nothing"
    ]
    assert image.confusion.counts.sum() == np.count_nonzero(truth[:25, :20] != 255)


def test_labels_at_their_place_are_not_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth, transform = turned(labelled.truth_of(30, 40, 3), upside_down=True, mirrored=False)
    dataset = dataset_of(tmp_path / "data", truth, transform)
    (tmp_path / "kept").mkdir()
    with caplog.at_level(logging.WARNING):
        evaluate(dataset, plan_runs([read_bundle(tiny.TINY)], backends=("onnxruntime",)), tmp_path / "kept")
    assert "georeference" not in caplog.text


def test_what_a_network_gave_scores_100_from_south_to_north_too(tmp_path: Path) -> None:
    """The labels are the network's own mask, as an evaluation wrote it, so that every pixel is right."""
    runs = plan_runs([read_bundle(tiny.TINY)], backends=("onnxruntime",))
    kept, first = tmp_path / "kept", dataset_of(tmp_path / "first", np.zeros((30, 40), np.uint8), NORTH_UP)
    kept.mkdir()
    evaluate(first, runs, kept, pick=Pick(order="first", count=1))
    with rasterio.open(mask_file(kept, 0, 0)) as file:
        given = file.read(1)
    assert len(np.unique(given)) == 3
    pictures = []
    for name, upside_down in (("north", False), ("south", True)):
        dataset = dataset_of(tmp_path / name, *turned(given, upside_down, mirrored=False))
        found = evaluate(dataset, runs, kept, pick=Pick(order="first", count=1))
        assert found.results[0].confusion.miou(dataset.description.counted) == 1
        write_report(found, kept, tmp_path / f"report of {name}")
        (picture,) = (tmp_path / f"report of {name}" / "pictures").iterdir()
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1]


def rotated(degrees: float) -> Affine:
    """`NORTH_UP`, turned around its origin."""
    cosine, sine = 0.5 * math.cos(math.radians(degrees)), 0.5 * math.sin(math.radians(degrees))
    return Affine(cosine, -sine, WEST, -sine, -cosine, NORTH)


REFUSED = {
    "half a pixel": (from_origin(WEST + 0.25, NORTH, 0.5, 0.5), UTM, "a shift by whole pixels", "0.50 columns"),
    "tenth of a pixel": (from_origin(WEST, NORTH + 0.05, 0.5, 0.5), UTM, "a shift by whole pixels", "and 0.10 rows"),
    "other pixels": (from_origin(WEST, NORTH, 1, 1), UTM, "pixels of 0.5 x 0.5 as", "pixels of 1 x 1"),
    "nearly the same pixels": (from_origin(WEST, NORTH, 0.501, 0.501), UTM, "pixels of 0.5 x 0.5", "0.501 x 0.501"),
    "turned": (rotated(30), UTM, "pixels of 0.5 x 0.5 as", "pixels of 0.5 x 0.5 in turned rows"),
    "a quarter turn": (rotated(90), UTM, "pixels of 0.5 x 0.5 as", "0.5 x 0.5 in turned rows"),
    "elsewhere": (from_origin(WEST + 100, NORTH, 0.5, 0.5), UTM, "labels that lie on the image", "200 columns right"),
    "other system": (NORTH_UP, "EPSG:32639", "EPSG:32640", "EPSG:32639"),
    "degrees": (from_origin(55.0, 25.1, 5e-6, 5e-6), "EPSG:4326", "EPSG:32640", "EPSG:4326"),
}  # fmt: skip


@pytest.mark.parametrize(("transform", "crs", "expected", "found"), REFUSED.values(), ids=REFUSED)
def test_labels_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, transform: Affine, crs: str, expected: str, found: str
) -> None:
    dataset = dataset_of(tmp_path, labelled.truth_of(30, 40, 3), transform, crs)
    with pytest.raises(InputError) as caught:
        read(dataset)
    line = str(caught.value)
    assert line.startswith(f"{dataset.samples[0].mask}: expected {expected}") and found in line.partition(", found ")[2]
    assert "warp the labels onto the image's grid" in line and "\n" not in line


def test_rounded_georeferences_fit(tmp_path: Path) -> None:
    truth = labelled.truth_of(30, 40, 3)
    dataset = dataset_of(tmp_path, truth, from_origin(WEST + 0.004, NORTH - 0.004, 0.50001, 0.49999))
    np.testing.assert_array_equal(read(dataset), truth)


@pytest.mark.parametrize(
    "crs",
    [CRS.from_epsg(32640).to_wkt(version="WKT1_ESRI"), "+proj=utm +zone=40 +datum=WGS84", "EPSG:32640+5773"],
    ids=["ESRI", "PROJ", "with heights"],
)
def test_a_system_may_be_written_in_another_way(tmp_path: Path, crs: str) -> None:
    truth, transform = turned(labelled.truth_of(30, 40, 3), upside_down=True, mirrored=False)
    np.testing.assert_array_equal(read(dataset_of(tmp_path, truth, transform, crs))[::-1], truth)


@pytest.mark.parametrize(("transform", "crs"), [(None, None), (None, UTM)], ids=["nothing", "no transform"])
def test_without_a_georeference_rows_and_columns_belong_together(
    tmp_path: Path, transform: Affine | None, crs: str | None
) -> None:
    truth = labelled.truth_of(30, 40, 3)
    np.testing.assert_array_equal(read(dataset_of(tmp_path / "same", truth, transform, crs)), truth)
    with pytest.raises(InputError, match=r"expected 30 x 40 pixels as .*, found 31 x 40"):
        read(dataset_of(tmp_path / "other", labelled.truth_of(31, 40, 3), transform, crs))


def test_a_transform_without_a_system_counts_if_it_fits(tmp_path: Path) -> None:
    truth, transform = turned(labelled.truth_of(30, 40, 3), upside_down=True, mirrored=False)
    np.testing.assert_array_equal(read(dataset_of(tmp_path / "fits", truth, transform, None))[::-1], truth)
    np.testing.assert_array_equal(read(dataset_of(tmp_path / "not", truth, from_origin(0, 30, 1, 1), None)), truth)


def test_two_transforms_without_a_system_must_fit(tmp_path: Path) -> None:
    truth, transform = turned(labelled.truth_of(30, 40, 3), upside_down=True, mirrored=False)
    dataset = dataset_of(tmp_path, truth, transform, None)
    write(dataset.samples[0].image, labelled.image_of(30, 40), NORTH_UP, None)
    np.testing.assert_array_equal(read(dataset)[::-1], truth)
    write(dataset.samples[0].mask, truth, from_origin(WEST + 0.2, NORTH, 0.5, 0.5), None)
    with pytest.raises(InputError, match=r"a shift by whole pixels as .*, found one by 0\.40 columns"):
        read(dataset)


def test_unknown_labels_beyond_the_image_do_not_matter(tmp_path: Path) -> None:
    truth = np.full((60, 40), 77, np.uint8)
    truth[30:] = labelled.truth_of(30, 40, 3)
    dataset = dataset_of(tmp_path, truth, from_origin(WEST, NORTH + 15, 0.5, 0.5))
    np.testing.assert_array_equal(read(dataset), truth[30:])
    assert check_masks(dataset) == tuple(np.bincount(truth[30:].ravel(), minlength=256)[:3].tolist())


def test_turned_masks_are_read_in_strips_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, transform = turned(labelled.truth_of(400, 40, 3), upside_down=True, mirrored=False)
    dataset = dataset_of(tmp_path, truth, transform, size=(400, 40))
    rows, raw = list[int](), labels.MaskReader._raw

    def record(self: labels.MaskReader, **options: object) -> labelled.Array:
        found = raw(self, **options)
        rows.append(found.shape[1])
        return found

    monkeypatch.setattr(labels.MaskReader, "_raw", record)
    read(dataset, rows=10)
    assert rows == [10] * 40
