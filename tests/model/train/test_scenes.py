from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np
from PIL import Image
from rasterio.transform import Affine

from fctl.model.serving.manifest import input_spec
from fctl.model.train.config import read_config
from fctl.model.train.images import check_images, class_labels, open_images
from fctl.model.train.run import run_training
from fctl.model.train.scenes import decode_scenes, plan_scenes
from fctl.runtime.errors import InputError
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.metrics import IGNORE
from tests.conftest import write_geotiff
from tests.model.helpers import small_config
from tests.runtime import labelled

from .helpers import write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_sizes_that_differ_are_told(folder: Path) -> None:
    labelled.save(folder / "data" / "masks" / "0.png", labelled.coloured(np.zeros((9, 9), int), labelled.COLOURS))
    with pytest.raises(InputError, match=r"0\.png: expected 150 x 130 pixels as .*0\.png, found 9 x 9"):
        run_training(write_config(folder))


def test_colours_that_are_not_described_are_told(folder: Path) -> None:
    mask = folder / "data" / "masks" / "2.png"
    pixels = np.asarray(Image.open(mask)).copy()
    pixels[50, 60:63] = (1, 2, 3)
    labelled.save(mask, pixels)
    with pytest.raises(InputError, match=r"2\.png: expected the ids or colours of tiny, found 3 pixels of others"):
        run_training(write_config(folder))


def test_nothing_labelled_is_told(folder: Path) -> None:
    for index, shape in enumerate(((150, 130), (96, 160))):
        grey = labelled.coloured(np.full(shape, IGNORE), labelled.COLOURS)
        labelled.save(folder / "data" / "masks" / f"{index}.png", grey)
    with pytest.raises(InputError, match=r"data\.training: expected labelled pixels, found none"):
        run_training(write_config(folder))


def scenes_of(folder: Path, **changes: Any) -> list[Any]:
    config = read_config(write_config(folder, {"data": changes}))
    images = open_images(config.data, folder)
    spec = input_spec(small_config(), None)
    plans = plan_scenes(images.training, config.data.mosaic)
    return decode_scenes(images.training, plans, spec, config.data.bands, folder / "scenes", None)


@pytest.mark.parametrize("form", ["deepglobe", "inria", "release"])
def test_every_form_is_read(tmp_path: Path, form: str) -> None:
    root, image, truth = tmp_path / "data", labelled.image_of(20, 30), labelled.truth_of(20, 30, 2)
    for name in ("1", "2"):
        if form == "inria":
            labelled.save_tif(root / "images" / f"{name}.tif", image)
            labelled.save_tif(root / "gt" / f"{name}.tif", np.where(truth == 1, 255, 0).astype(np.uint8)[:, :, None])
        else:
            sat, gt = (root, root) if form == "deepglobe" else (root / "Sat", root / "Label")
            labelled.save(sat / f"{name}_sat.jpg", image)
            labelled.save(gt / f"{name}_mask.png", labelled.coloured(truth % 255, labelled.DEEPGLOBE))
    (scene,) = scenes_of(tmp_path)
    expected = (truth == 1).astype(int) if form == "inria" else truth % 255
    assert np.array_equal(scene.labels, expected)
    assert scene.pixels.shape == (20, 30, 3)
    assert form != "inria" or np.array_equal(scene.pixels, image)


def test_scenes_are_mapped_and_as_labelled(folder: Path) -> None:
    scenes = scenes_of(folder)
    assert [scene.name for scene in scenes] == ["0", "1"]
    for index, scene in enumerate(scenes):
        assert isinstance(scene.pixels, np.memmap)
        assert np.array_equal(scene.pixels, np.asarray(Image.open(folder / "data" / "images" / f"{index}.png")))
        assert (scene.labels[:5, :7] == IGNORE).all() and (scene.labels[5:] < 3).all()


def test_pixels_without_data_are_not_labelled(tmp_path: Path) -> None:
    pixels = labelled.image_of(20, 20)
    pixels[:4] = 0
    labelled.write_description(tmp_path / "data" / "dataset.json", images="images/*.tif")
    for name in ("1", "2"):
        path = tmp_path / "data" / "images" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        labelled.write_geotiff(path, pixels, nodata=0)
        labelled.save(
            tmp_path / "data" / "masks" / f"{name}.png", labelled.coloured(np.ones((20, 20), int), labelled.COLOURS)
        )
    (scene,) = scenes_of(tmp_path)
    assert (scene.labels[:4] == IGNORE).all() and (scene.labels[4:] == 1).all()


def test_labels_lie_where_their_georeference_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Both masks run from south to north, and the second lies 3 columns further east."""
    truth, root = labelled.truth_of(20, 30, 3), tmp_path / "data"
    names = ("red", "green", "blue")
    classes = [{"name": name, "values": [index], "counted": True} for index, name in enumerate(names)]
    labelled.write_description(
        root / "dataset.json", images="images/*.tif", masks="masks/*.tif", classes=classes, ignore=[255]
    )
    for index, name in enumerate(("1", "2", "3")):
        labelled.save_tif(root / "images" / f"{name}.tif", labelled.image_of(20, 30))
        (root / "masks").mkdir(exist_ok=True)
        transform = Affine(0.5, 0, 300000 + 1.5 * (index == 1), 0, 0.5, 2780000 - 10)
        write_geotiff(root / "masks" / f"{name}.tif", truth[::-1, :, None], transform=transform)
    upright, shifted = scenes_of(tmp_path, validation="3")
    assert np.array_equal(upright.labels, truth)
    assert np.array_equal(shifted.labels[:, 3:], truth[:, :-3]) and (shifted.labels[:, :3] == IGNORE).all()
    config = read_config(write_config(tmp_path))
    check_images(open_images(config.data, tmp_path), input_spec(small_config(), None), None, None)
    assert "2.tif (20 x 30 pixels) lies 3 columns right of" in caplog.text


def test_parts_are_put_together(tmp_path: Path) -> None:
    labelled.write_description(tmp_path / "data" / "dataset.json", images="*/images/*.png", masks="*/masks/*.png")
    for number, shape in {1: (20, 31), 2: (21, 30), 4: (20, 30), 5: (20, 30)}.items():
        folder = tmp_path / "data" / "a"
        labelled.save(folder / "images" / f"part_{number:03}.png", np.full((*shape, 3), number, np.uint8))
        truth = np.full(shape, number % 3)
        labelled.save(folder / "masks" / f"part_{number:03}.png", labelled.coloured(truth, labelled.COLOURS))
    (scene,) = scenes_of(tmp_path, mosaic={"columns": 3, "first": 1}, validation="*005")
    assert scene.name == "a/part"
    assert scene.pixels.shape == (40, 60, 3)
    assert scene.pixels[10::20, 15::30, 0].tolist() == [[1, 2], [4, 0]]
    assert scene.labels[10::20, 15::30].tolist() == [[1, 2], [1, IGNORE]]


def test_classes_of_ids_have_colours_of_their_own(tmp_path: Path) -> None:
    labels = class_labels(open_inria(tmp_path).description)
    assert [label.name for label in labels] == ["background", "building"]
    assert labels[0].colour != labels[1].colour


def open_inria(root: Path) -> Any:
    labelled.save_tif(root / "images" / "1.tif", labelled.image_of(8, 8))
    return open_dataset(root)
