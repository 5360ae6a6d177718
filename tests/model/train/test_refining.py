"""CascadePSP through `fctl-train`: labels that are perturbed, losses at three strides, masks of a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np
import torch
from numpy.typing import NDArray

from fctl.model.backbones import resnet50
from fctl.model.train.perturb import perturbed, perturbed_image
from fctl.model.train.refining import gradient, refinement_loss
from fctl.model.train.run import run_training
from fctl.model.train.sampling import Sampler
from fctl.model.train.scenes import Scene
from fctl.model.weights.checkpoints import read_checkpoint
from fctl.runtime.errors import InputError
from tests.model.helpers import small_preset
from tests.runtime import labelled

from .helpers import RECIPE, Train, assert_same, killed_after, rows, stage, state_of, write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

TINY = Path(__file__).parents[2] / "data" / "tiny.fctl"

Ids = NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def shallow_resnet() -> Iterator[None]:
    """ResNet-50 with one block a stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet50, "_BLOCKS", (1, 1, 1, 1))
        yield


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def disc(side: int = 96) -> Ids:
    y, x = np.mgrid[:side, :side]
    ids: Ids = (np.hypot(y - side / 2, x - side / 2) < side / 3).astype(np.uint8)
    ids[:8] = 255
    return ids


class TestPerturbedLabels:
    def test_borders_move_but_not_too_far(self) -> None:
        ids, found = disc(), []
        for seed in range(20):
            mask = perturbed(ids, np.random.default_rng(seed))
            np.testing.assert_array_equal(mask == 255, ids == 255)
            found.append(iou(mask == 1, ids == 1))
        assert 0.8 <= min(found) < 0.9 < max(found) <= 1
        grew = [((perturbed(ids, np.random.default_rng(seed)) == 1) & (ids == 0)).any() for seed in range(20)]
        shrank = [((perturbed(ids, np.random.default_rng(seed)) == 0) & (ids == 1)).any() for seed in range(20)]
        assert sum(grew) > 10 and sum(shrank) > 10

    def test_what_lies_far_from_a_border_stays(self) -> None:
        ids = np.zeros((96, 96), np.uint8)
        ids[:, 48:] = 1
        mask = perturbed(ids, np.random.default_rng(1))
        reach = 1 + 96 // 24
        assert (mask[:, : 48 - reach * 40] == 0).all()
        assert (mask != ids).any()
        np.testing.assert_array_equal(perturbed(np.full_like(ids, 1), np.random.default_rng(0)), 1)

    def test_an_image_is_perturbed_alike_each_time(self) -> None:
        ids = np.zeros((300, 280), np.uint8)
        ids[100:, 50:], ids[200:, 100:] = 1, 2
        found = perturbed_image(ids, 0)
        np.testing.assert_array_equal(found, perturbed_image(ids, 0))
        assert (found != perturbed_image(ids, 1)).any()
        for index in range(3):
            assert 0.8 <= iou(found == index, ids == index) < 1


class TestLoss:
    def test_each_stride_is_judged_as_published(self) -> None:
        torch.manual_seed(0)
        logits: dict[Any, torch.Tensor] = {stride: torch.randn(2, 1, 6, 7) for stride in (8, 4, 1)}
        labels = torch.randint(0, 2, (2, 6, 7))
        labels[:, 0] = 255
        known, target = labels != 255, (labels == 1).float()
        chance = {stride: torch.sigmoid(scores[:, 0]) for stride, scores in logits.items()}

        def entropy(stride: int) -> torch.Tensor:
            hit = torch.where(target == 1, chance[stride], 1 - chance[stride])
            return -hit.log()[known].mean()

        def distance(stride: int) -> torch.Tensor:
            missed = (chance[stride] - target)[known]
            return missed.abs().mean() + (missed**2).mean()

        edges = (gradient(chance[1][:, None]) - gradient(target[:, None])).abs()[:, 0][known].mean()
        expected = entropy(8) + (entropy(4) + distance(4)) / 2 + distance(1) + 5 * edges
        torch.testing.assert_close(refinement_loss(logits, labels), expected)

    def test_a_gradient_is_that_of_a_smoothed_mask(self) -> None:
        step = torch.zeros(1, 1, 5, 12)
        step[..., 6:] = 1
        found = gradient(step)[0, 0, 2]
        torch.testing.assert_close(found[4:8], torch.tensor([1, 2, 2, 1]) / 6, atol=1e-5, rtol=0)
        assert found[:3].max() < 1e-5
        torch.testing.assert_close(gradient(step.mT)[0, 0, :, 2], found)


def small_config(folder: Path, **changes: Any) -> Path:
    """The config of a short training."""
    small = small_preset("cascadepsp-r50")
    contexts = [{"name": "scene", "factor": "global", "size": small.patch}]
    path = write_config(folder, {
        "epoch": 12,
        "stages": [stage(epochs=2)],
        "optimisation": {"batch": 3, "accumulate": 1},
        "augmentation": {"context_dropout": 0.0, "balance": 0.0, "colour": 0.0},
    })  # fmt: skip
    config = json.loads(path.read_text())
    config["network"] = {
        "preset": "cascadepsp-r50",
        "overrides": {"width": 1 / 16, "patch": small.patch, "decoder_channels": 64, "contexts": contexts},
        "serving": {"overlap": 16, "scene": None},
        "weights": None,
    }
    for name, change in changes.items():
        config[name] = config[name] | change
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training from perturbed labels."""
    from .helpers import write_data

    folder = tmp_path_factory.mktemp("refiner")
    write_data(folder / "data")
    run_training(small_config(folder))
    return folder


def test_a_refiner_learns_from_perturbed_labels(trained: Path) -> None:
    losses = [float(row[3]) for row in rows(trained / "run" / "log.csv")[1:]]
    assert len(losses) == 24
    assert np.mean(losses[-6:]) < 0.75 * np.mean(losses[:3])
    scores = [float(row[3]) for row in rows(trained / "run" / "validation.csv")[1:]]
    assert all(0 < score < 100 for score in scores)
    card = read_checkpoint(trained / "run" / "best.pt").card
    assert card is not None and card.network.refines and card.network.bands == 3


def test_an_interrupted_training_ends_alike(trained: Path, tmp_path: Path) -> None:
    from .helpers import write_data

    write_data(tmp_path / "data")
    config = small_config(tmp_path)
    killed_after(config, "all", 17)
    run_training(config, resume=True)
    assert_same(state_of(tmp_path / "run" / "last.pt"), state_of(trained / "run" / "last.pt"))


def test_masks_of_a_bundle_are_made_once(folder: Path) -> None:
    config = small_config(folder, data={"coarse": str(TINY)}, augmentation={"perturb": 0.0})
    short = json.loads(config.read_text()) | {"epoch": 2, "stages": [stage(epochs=1)]}
    config.write_text(json.dumps(short))
    made = []
    for _ in range(2):
        run_training(config)
        masks = sorted((folder / "run" / "coarse").glob("*.tif"))
        made.append({mask.name: mask.stat().st_mtime_ns for mask in masks})
        for file in folder.glob("run/*.*"):
            file.unlink()  # all but the masks
    assert [name.partition("_")[0] for name in made[0]] == ["0", "1", "2"]
    assert made[0] == made[1]


def test_patches_come_with_the_mask_of_one_class() -> None:
    labels = np.zeros((80, 90), np.uint8)
    labels[:, 45:], labels[:4] = 1, 255
    coarse = np.ones_like(labels)
    scene = Scene(name="one", pixels=np.zeros((80, 90, 3), np.uint8), labels=labels, coarse=coarse)
    config = small_preset("cascadepsp-r50", classes=2)
    given = Sampler([scene], config, {}, replace(RECIPE, perturb=0.0)).batch(0)
    assert given.coarse is not None and given.contexts == {}
    for mask, truth in zip(given.coarse, given.labels, strict=True):
        assert set(truth.unique().tolist()) <= {0, 1, 255}
        assert mask.unique().numel() == 1  # class 1 is everywhere, class 0 nowhere
    made = Sampler([scene], config, {}, replace(RECIPE, perturb=1.0)).batch(0)
    assert made.coarse is not None
    known = made.labels != 255
    alike = ((made.coarse == made.labels) & known).sum() / known.sum()
    assert 0.85 < alike < 1


def test_masks_of_a_folder(folder: Path, call: Train) -> None:
    config = small_config(folder, data={"coarse": "masks"})
    result = call(config)
    assert result.returncode == 1
    assert "data.coarse" in result.stderr and "0_mask.tif or 0.tif or 0.png" in result.stderr
    for index, shape in enumerate(((150, 130), (96, 160), (100, 141))):
        labelled.save(folder / "masks" / f"{index}.png", np.zeros(shape, np.uint8))
    result = call(config)
    assert result.returncode == 1
    assert "expected a mask of 100 x 140 pixels, as its image has, found 100 x 141" in result.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finish": {"class_offsets": True}}, "finish.class_offsets: expected false"),
        ({"augmentation": {"perturb": 2}}, "augmentation.perturb: expected 0 to 1, found 2"),
        ({"data": {"coarse": "nowhere"}}, "expected the mask of 0"),
    ],
)
def test_what_a_refiner_cannot_be_asked(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run_training(small_config(folder, **changes))


def test_only_refiners_have_coarse_masks(folder: Path) -> None:
    with pytest.raises(InputError, match=r"data\.coarse: expected null: this network makes masks"):
        run_training(write_config(folder, {"data": {"coarse": str(TINY)}}))
