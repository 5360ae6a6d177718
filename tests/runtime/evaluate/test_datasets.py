from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fctl.runtime.bundle.manifest import ClassInfo
from fctl.runtime.bundle.records import decode
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import InputError, RasterError
from fctl.runtime.evaluate.datasets import FORMS, Dataset, class_ids, open_dataset
from fctl.runtime.evaluate.description import Description, read_description
from fctl.runtime.evaluate.labels import UNKNOWN, open_mask
from fctl.runtime.evaluate.selection import select
from tests.runtime import labelled, tiny

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

IDS = labelled.truth_of(20, 30, 7)
KNOWN = np.where(IDS == 255, 0, IDS).astype(np.uint8)  # forms without anything to ignore


def decoded(dataset: Dataset, index: int = 0) -> labelled.Array:
    """The whole mask of one image, in strips of 7 rows."""
    with open_mask(dataset.samples[index].mask, dataset.description.labels) as mask:
        starts = range(0, mask.height, 7)
        return np.concatenate([mask.read(y, min(7, mask.height - y)) for y in starts])


def names(dataset: Dataset) -> list[str]:
    return [sample.name for sample in dataset.samples]


# Forms


def test_deepglobe_in_colours(tmp_path: Path) -> None:
    labelled.save(tmp_path / "606_sat.jpg", labelled.image_of(20, 30))
    labelled.save(tmp_path / "606_mask.png", labelled.coloured(KNOWN, labelled.DEEPGLOBE))
    dataset = open_dataset(tmp_path)
    assert (dataset.form, names(dataset)) == ("deepglobe", ["606"])
    np.testing.assert_array_equal(decoded(dataset), KNOWN)
    assert dataset.description.class_names[dataset.description.counted[0]] == "urban"
    assert dataset.description.counted == (1, 2, 3, 4, 5, 6)


def test_deepglobe_in_smeared_colours(tmp_path: Path, rng: np.random.Generator) -> None:
    labelled.save(tmp_path / "1_sat.jpg", labelled.image_of(20, 30))
    colours = labelled.coloured(KNOWN, labelled.DEEPGLOBE).astype(int)
    smeared = np.where(colours > 0, colours - rng.integers(0, 128, colours.shape), rng.integers(0, 128, colours.shape))
    labelled.save(tmp_path / "1_mask.png", smeared.astype(np.uint8))
    np.testing.assert_array_equal(decoded(open_dataset(tmp_path)), KNOWN)


def test_deepglobe_in_ids(tmp_path: Path) -> None:
    labelled.save(tmp_path / "1_sat.jpg", labelled.image_of(20, 30))
    labelled.save(tmp_path / "1_mask.png", KNOWN)
    np.testing.assert_array_equal(decoded(open_dataset(tmp_path)), KNOWN)


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    """Those of macOS, of outputs that are being written, and of caches in hidden folders."""
    pattern = {"images": "*/img/*.png", "masks": "*/lab/*.png"}
    labelled.write_description(tmp_path / "dataset.json", **pattern)
    for name in ("a/img/1.png", "a/img/._1.png", "a/img/.2.part.png", ".cache/img/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(open_dataset(tmp_path)) == ["a/1"]
    labelled.write_description(tmp_path / "dataset.json", images=".cache/img/*.png", masks=".cache/lab/*.png")
    assert names(open_dataset(tmp_path)) == ["1"]  # the pattern names the folder


def test_inria(tmp_path: Path) -> None:
    buildings = (KNOWN > 3).astype(np.uint8)
    labelled.save_tif(tmp_path / "images" / "austin1.tif", labelled.image_of(20, 30))
    labelled.save_tif(tmp_path / "gt" / "austin1.tif", 255 * buildings[:, :, None])
    dataset = open_dataset(tmp_path)
    assert (dataset.form, names(dataset)) == ("inria", ["austin1"])
    np.testing.assert_array_equal(decoded(dataset), buildings)
    assert [dataset.description.class_names[index] for index in dataset.description.counted] == ["building"]


def test_the_release_of_deepglobe(tmp_path: Path) -> None:
    labelled.save(tmp_path / "Sat" / "606_sat.jpg", labelled.image_of(20, 30))
    labelled.save(tmp_path / "Label" / "606_mask.png", KNOWN)
    dataset = open_dataset(tmp_path)
    assert (dataset.form, dataset.description.name, names(dataset)) == ("release", "DeepGlobe Land Cover", ["606"])
    np.testing.assert_array_equal(decoded(dataset), KNOWN)


@pytest.mark.parametrize("building", [1, 255])
def test_the_release_of_inria(tmp_path: Path, building: int) -> None:
    buildings = (KNOWN > 3).astype(np.uint8)
    labelled.save_tif(tmp_path / "Sat" / "vienna3_sat.tif", labelled.image_of(20, 30))
    labelled.save(tmp_path / "Label" / "vienna3_mask.png", buildings * np.uint8(building))
    dataset = open_dataset(tmp_path, form="release")
    assert (dataset.description.name, names(dataset)) == ("Inria Aerial", ["vienna3"])
    np.testing.assert_array_equal(decoded(dataset), buildings)


def test_a_folder_that_describes_itself(tmp_path: Path) -> None:
    truths = labelled.write_folder(tmp_path)
    dataset = open_dataset(tmp_path)
    assert (dataset.form, dataset.description.name, names(dataset)) == ("folder", "tiny", ["0", "1", "2"])
    for index, truth in enumerate(truths):
        np.testing.assert_array_equal(decoded(dataset, index), truth)


def test_a_description_may_lie_elsewhere(tmp_path: Path) -> None:
    labelled.write_folder(tmp_path / "data")
    (tmp_path / "data" / "dataset.json").rename(tmp_path / "other.json")
    assert len(open_dataset(tmp_path / "data", description=tmp_path / "other.json").samples) == 3


def test_stars_stand_for_the_same_in_images_and_masks(tmp_path: Path) -> None:
    for scene, part in ((2, "b"), (1, "a"), (1, "b")):
        labelled.save(tmp_path / f"tile{scene}" / f"{part}_image.png", labelled.image_of(8, 8))
    labelled.write_description(tmp_path / "dataset.json", images="tile*/*_image.png", masks="truth_*/of_*.tif")
    dataset = open_dataset(tmp_path)
    assert names(dataset) == ["1/a", "1/b", "2/b"]
    assert dataset.samples[2].mask == tmp_path / "truth_2" / "of_b.tif"


# Masks


def labels_of(**changes: Any) -> Description:
    return decode(Description, labelled.description(**changes))


TRUTH = labelled.truth_of(11, 13, 3)


def test_a_palette_is_read_as_colours(tmp_path: Path) -> None:
    swapped = np.where(TRUTH == 255, 3, 2 - np.minimum(TRUTH, 2))
    path = labelled.save_palette(tmp_path / "a.png", swapped, [*labelled.COLOURS[::-1], labelled.GREY])
    with open_mask(path, labels_of().labels) as mask:
        np.testing.assert_array_equal(mask.read(0, 11), TRUTH)


def test_a_palette_is_read_as_ids_where_only_ids_are_described(tmp_path: Path) -> None:
    path = labelled.save_palette(tmp_path / "a.png", np.where(TRUTH == 255, 9, TRUTH), [(1, 2, 3)] * 10)
    classes = [{"name": str(i), "values": [i], "counted": True} for i in range(3)]
    with open_mask(path, labels_of(classes=classes, ignore=[9]).labels) as mask:
        np.testing.assert_array_equal(mask.read(0, 11), TRUTH)


def test_ids_may_be_merged_and_wide(tmp_path: Path) -> None:
    raw = np.array([[0, 7, 1000, 65535, 3]], np.uint16)
    path = labelled.save_tif(tmp_path / "a.tif", raw[:, :, None])
    classes = [
        {"name": "a", "values": [7, 1000], "counted": True},
        {"name": "b", "values": [65535], "counted": True},
    ]
    with open_mask(path, labels_of(classes=classes, ignore=[0]).labels) as mask:
        assert mask.read(0, 1).tolist() == [[255, 0, 0, 1, UNKNOWN]]
        census = mask.census(2)
    assert (census.pixels, census.unknown) == ((2, 1), ((3, 1),))


def test_greys_are_colours_too(tmp_path: Path) -> None:
    classes = [
        {"name": "a", "values": [[0, 0, 0]], "counted": True},
        {"name": "b", "values": [[255, 255, 255]], "counted": True},
    ]
    path = labelled.save(tmp_path / "a.png", np.array([[0, 255, 155]], np.uint8))
    with open_mask(path, labels_of(classes=classes).labels) as mask:
        assert mask.read(0, 1).tolist() == [[0, 1, 255]]


def test_alpha_of_a_mask_is_nothing(tmp_path: Path) -> None:
    opaque = labelled.coloured(TRUTH, labelled.COLOURS)
    path = labelled.save(tmp_path / "a.png", np.dstack([opaque, np.zeros_like(TRUTH)]))
    with open_mask(path, labels_of().labels) as mask:
        np.testing.assert_array_equal(mask.read(0, 11), TRUTH)


def test_a_mask_is_counted_whole(tmp_path: Path) -> None:
    colours = labelled.coloured(TRUTH, labelled.COLOURS)
    colours[0, :3], colours[5, 5] = (1, 2, 3), (9, 9, 9)
    path = labelled.save(tmp_path / "a.png", colours)
    with open_mask(path, labels_of().labels) as mask:
        census = mask.census(3)
        ids = mask.read(0, 11)
    assert census.pixels == tuple(int((ids == index).sum()) for index in range(3))
    assert census.unknown == (((1, 2, 3), 3), ((9, 9, 9), 1))


@pytest.mark.parametrize(
    ("pixels", "changes", "told"),
    [
        (np.zeros((4, 4, 1), np.float32), {}, "uint8 or uint16, found float32"),
        (np.zeros((4, 4, 3), np.uint16), {}, "colours of uint8, found uint16"),
        (
            np.zeros((4, 4, 3), np.uint8),
            {"classes": [{"name": name, "values": [index], "counted": True} for index, name in enumerate("ab")]}
            | {"ignore": []},
            "class ids in one band, found 3 bands",
        ),
    ],
)
def test_a_mask_of_another_kind(tmp_path: Path, pixels: labelled.Array, changes: dict[str, Any], told: str) -> None:
    path = labelled.save_tif(tmp_path / "a.tif", pixels)
    with pytest.raises(RasterError, match=told), open_mask(path, labels_of(**changes).labels):
        pass


def test_a_damaged_mask_is_told(tmp_path: Path) -> None:
    path = labelled.save(tmp_path / "a.png", labelled.image_of(200, 200))
    path.write_bytes(path.read_bytes()[:60_000])
    with open_mask(path, labels_of().labels) as mask, pytest.raises(RasterError, match="damaged or cut short"):
        mask.census(3)


# Detection


def test_no_known_form(tmp_path: Path) -> None:
    labelled.save(tmp_path / "a.png", labelled.image_of(8, 8))
    with pytest.raises(InputError, match=r"known form .*deepglobe: \*_sat.jpg.*none of these.*`form`.*dataset.json"):
        open_dataset(tmp_path)


def test_two_forms_at_once(tmp_path: Path) -> None:
    labelled.save(tmp_path / "1_sat.jpg", labelled.image_of(8, 8))
    labelled.save(tmp_path / "images" / "a.tif", labelled.image_of(8, 8))
    with pytest.raises(InputError, match="several: deepglobe and inria; choose a `form`"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, form="inria").form == "inria"


@pytest.mark.parametrize(
    ("form", "told"), [("inria", r"images images/\*.tif \(form inria\), found none"), ("coco", "unknown form 'coco'")]
)
def test_a_form_that_is_not_there(tmp_path: Path, form: str, told: str) -> None:
    labelled.save(tmp_path / "1_sat.jpg", labelled.image_of(8, 8))
    with pytest.raises(InputError, match=told):
        open_dataset(tmp_path, form=form)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder, found nothing"):
        open_dataset(tmp_path / "gone")


def test_a_description_belongs_to_one_form(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a description is for the form folder"):
        open_dataset(tmp_path, form="inria", description=tmp_path / "a.json")


# Descriptions

ONE = {"name": "a", "values": [1], "counted": True}
TWO = {"name": "b", "values": [2], "counted": True}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"extra": 1}, "extra: unknown key"),
        ({"threshold": "high"}, "threshold: expected a whole number, found 'high'"),
        ({"threshold": 0}, "threshold: expected 1 to 255, or null, found 0"),
        ({"images": "images/a.png"}, "images: expected a pattern with stars"),
        ({"images": "../*.png"}, "images: expected a pattern inside the folder"),
        ({"images": "**/*.png"}, "images: expected a pattern inside the folder"),
        ({"masks": "*/*.png"}, "masks: expected 1 stars as in images"),
        ({"masks": "images/*.png"}, "masks: expected another pattern"),
        ({"classes": [ONE]}, "classes: expected 2 to 254 classes, found 1"),
        ({"classes": [ONE, {**TWO, "name": "A "}]}, "classes: expected distinct names"),
        ({"classes": [ONE, {**TWO, "values": []}]}, r"classes\[1\].values: expected at least one"),
        ({"classes": [ONE, {**TWO, "values": [1]}]}, r"classes\[1\].values: .* that nothing else has, found 1"),
        ({"classes": [ONE, TWO], "ignore": [2]}, "ignore: .* that nothing else has, found 2"),
        ({"ignore": [[0, 0, 256]]}, "ignore: expected ids from 0 to 65535, or colours"),
        ({"ignore": ["black"]}, "ignore"),
        ({"classes": [{**ONE, "counted": False}, {**TWO, "counted": False}]}, "at least one that is counted"),
    ],
)
def test_a_wrong_description_names_the_field(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = labelled.write_description(tmp_path / "dataset.json", **changes)
    with pytest.raises(InputError, match=told) as error:
        read_description(path)
    assert "dataset.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_description(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone.json: expected the description of a data set, found no such file"):
        read_description(tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad.json"):
        read_description(tmp_path / "bad.json")


def test_the_description_in_the_docs_is_one() -> None:
    path = Path(__file__).parents[3] / "docs" / "dubai.json"
    if not path.is_file():
        pytest.skip("needs the source tree")
    found = read_description(path)
    assert found.class_names == read_bundle("default").manifest.class_names
    assert json.loads(path.read_text("utf-8"))["ignore"] == [[155, 155, 155], [0, 0, 0]]


# Splits


@pytest.fixture
def ten(tmp_path: Path) -> Dataset:
    """Images city0 to city9, with masks."""
    labelled.write_description(tmp_path / "dataset.json")
    for index in range(10):
        labelled.save(tmp_path / "images" / f"city{index}.png", labelled.image_of(4, 4))
        labelled.save(tmp_path / "masks" / f"city{index}.png", labelled.image_of(4, 4))
    return open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, "0123456789"),
        ("every=5:0", "05"),
        ("every=4:3", "37"),
        ("city[12]", "12"),
        ("city7", "7"),
        ("*3.png", "3"),
    ],
)
def test_rules(ten: Dataset, split: str | None, expected: str) -> None:
    assert names(select(ten, split)) == [f"city{digit}" for digit in expected]


def test_a_list_may_name_files_or_stems(ten: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_text("# validation\ncity8.png\n\ncity1\ncity8\n", encoding="utf-8")
    assert names(select(ten, str(path))) == ["city1", "city8"]


def test_a_list_with_an_unknown_name(ten: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_text("city1\nrome\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"found rome \(1 of 2 are unknown\); names are like city0"):
        select(ten, str(path))


@pytest.mark.parametrize("split", ["rome*", "gone.txt", "every=2", "every=3:3", ""])
def test_an_empty_split(ten: Dataset, split: str) -> None:
    with pytest.raises(InputError, match=r"`split` .*: expected .*every=N:K"):
        select(ten, split)


def test_an_empty_list(ten: Dataset, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"none\.txt"):
        select(ten, str(tmp_path / "none.txt"))


def test_an_image_without_its_mask(ten: Dataset, tmp_path: Path) -> None:
    (tmp_path / "masks" / "city3.png").unlink()
    with pytest.raises(InputError, match=r"city3.png: expected its mask .*found no such file \(1 of 10 images"):
        select(ten, None)
    assert names(select(ten, "city[!3]")) == [f"city{digit}" for digit in "012456789"]


# Classes of bundles


def bundle_of(*classes: str) -> Any:
    found = read_bundle(tiny.TINY)
    infos = tuple(ClassInfo(name=name, colour=(0, 0, 0)) for name in classes)
    return replace(found, manifest=replace(found.manifest, classes=infos))


def dataset_of(form: str) -> Dataset:
    return Dataset(form=form, root=Path(), description=FORMS[form][0], samples=())


def test_classes_are_matched_by_name_in_any_order() -> None:
    table = class_ids(
        dataset_of("deepglobe"), bundle_of("water", "Urban", "unknown", "barren", "forest", "agriculture", "rangeland")
    )
    assert table[:7].tolist() == [5, 1, 0, 6, 4, 2, 3]
    assert set(table[7:].tolist()) == {255}


def test_a_class_that_is_not_counted_may_be_missing() -> None:
    table = class_ids(
        dataset_of("deepglobe"), bundle_of("urban", "agriculture", "rangeland", "forest", "water", "barren")
    )
    assert table[:6].tolist() == [1, 2, 3, 4, 5, 6]


def test_classes_that_do_not_match_are_named() -> None:
    with pytest.raises(InputError, match="without a match: roof, building; describe the data set"):
        class_ids(dataset_of("inria"), bundle_of("background", "roof"))
