"""GLNet's three trainings, one after the other, through `fctl-train`, and what they leave alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from fctl.model.backbones import resnet50
from fctl.model.glnet import GLNet
from fctl.model.serving.manifest import draft_manifest
from fctl.model.serving.module_network import ModuleNetwork
from fctl.model.train.lattices import context_windows
from fctl.model.train.optimise import Training, predict
from fctl.model.train.run import run_training
from fctl.model.train.sampling import Sampler
from fctl.model.train.start import network_of_stage
from fctl.model.weights.checkpoints import Card
from fctl.runtime.errors import InputError
from fctl.runtime.segment.batches import cut_batch
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window
from tests.model.glnet_naive import SIZE, glnet_card, small_glnet

from .helpers import RECIPE, coloured, rows, stage, state_of, write_config, write_data

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SCENE, STEPS = 150, 3
PARTS = {"globally": "scene", "locally": "patch", "both": "whole"}


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Iterator[None]:
    """One block a stage: what ResNet-50 has more of them is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet50, "_BLOCKS", (1, 1, 1, 1))
        yield


def settings(network: GLNet) -> dict[str, Any]:
    config = network.config
    contexts = [{"name": c.name, "factor": "global", "size": SIZE, "gathers": c.gathers} for c in config.contexts]
    overrides = {
        "width": config.width, "patch": config.patch, "channels": config.channels, "stage": config.stage,
        "decoder_channels": config.decoder_channels, "contexts": contexts, "lcf": None,
    }  # fmt: skip
    return {
        "epoch": STEPS,
        "network": {"preset": "glnet-r50", "overrides": overrides, "serving": {"scene": SCENE}},
        "stages": [
            stage(name=name, network=part, epochs=1, changes={"accumulate": 1, "average": 0.0})
            for name, part in PARTS.items()
        ],
        "augmentation": {"context_dropout": 0, "scale": 1.2},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training in three stages."""
    folder = tmp_path_factory.mktemp("glnet-r50")
    write_data(folder / "data")
    return run_training(write_config(folder, settings(small_glnet("glnet-r50")))).out


def test_every_training_is_logged_and_validated(trained: Path) -> None:
    log = rows(trained / "log.csv")[1:]
    for name in PARTS:
        losses = [float(row[3]) for row in log if name in row]
        assert len(losses) == STEPS and np.isfinite(losses).all()
    assert [name for row in rows(trained / "validation.csv")[1:] for name in PARTS if name in row] == list(PARTS)


@pytest.mark.parametrize("part", PARTS.values())
@pytest.mark.parametrize("name", ["glnet-r50", "glnet-r50-noshare"])
def test_the_loss_falls(name: str, part: str) -> None:
    """On one batch that is shown again and again."""
    whole = small_glnet(name)
    network = network_of_stage(whole.config, part, whole.state_dict())
    windows = context_windows(network.config, glnet_card(whole, SCENE).serving, once=False)
    recipe = replace(RECIPE, batch=2, stem=None, colour=0.0, encoder_rate=1e-3)
    batch, training = Sampler([coloured()], network.config, windows, recipe).batch(0), Training(network, recipe)
    before = {key: one.clone() for key, one in network.state_dict().items()}
    losses = [training.step([batch]) for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]
    for key, one in network.state_dict().items():
        if f"{key}.".startswith(tuple(f"{part}." for part in network.fixed)):
            assert torch.equal(one, before[key]), key


def test_each_training_leaves_alone_what_those_before_have_trained(trained: Path) -> None:
    first, second, last = (state_of(trained / name) for name in ("globally.pt", "locally.pt", "last.pt"))

    def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], part: str) -> bool:
        keys = [key for key in one if key.startswith(f"{part}.")]
        assert keys, part
        return all(torch.equal(one[key], other[key]) for key in keys)

    assert alike(second, last, "encoder") and alike(second, last, "pyramids.local")
    for part in ("context_encoders.scene", "pyramids.scene"):
        assert alike(first, last, part) and alike(first, second, part)
    merged = {key.replace(".merged.", ".scene."): one for key, one in last.items() if ".merged." in key}
    assert not alike({key: one for key, one in first.items() if key in merged}, merged, "context_encoders.scene")


def test_the_branch_that_gathers_starts_from_the_one_alone(tmp_path: Path) -> None:
    """Only frozen parts follow, so that its encoder is that of the first training to the bit."""
    write_data(tmp_path / "data")
    config = settings(small_glnet("glnet-r50")) | {"epoch": 2}
    config["stages"] = [config["stages"][0], config["stages"][2] | {"frozen": ["context_encoders.merged"]}]
    out = run_training(write_config(tmp_path, config)).out
    first, last = state_of(out / "globally.pt"), state_of(out / "last.pt")
    start = "context_encoders.{}."
    for key in (key for key in first if key.startswith(start.format("scene")) and "num_batches" not in key):
        assert torch.equal(first[key], last[key.replace(".scene.", ".merged.")]), key


def card_of(network: GLNet) -> Card:
    return glnet_card(network, SCENE)


def test_training_sees_what_serving_does() -> None:
    """A patch that is drawn, with all patches of its scene, has the scores that the runtime gives it."""
    network, scene = small_glnet("glnet-r50"), coloured()
    card = card_of(network)
    recipe = replace(RECIPE, turns=False, scale=1.0, balance=0.0, batch=1, stem=None)
    windows = context_windows(network.config, card.serving, once=False)
    sampler = Sampler([scene], network.config, windows, recipe)
    batch = sampler.batch(0)
    with torch.inference_mode():
        found = predict(network, batch, colour=0.0)
    encoders = {name: name for name in network.config.context_names}
    module = ModuleNetwork(draft_manifest("net", card, encoders), network, batch=1)
    patch = batch.patch[0].permute(1, 2, 0).numpy()
    places = [
        (y, x)
        for y in range(scene.pixels.shape[0] - 63)
        for x in range(scene.pixels.shape[1] - 63)
        if np.array_equal(scene.pixels[y : y + 64, x : x + 64], patch)
    ]
    served = []
    for y, x in places:  # blocks of one colour look alike
        cut = cut_batch(module.manifest, ArraySource(scene.pixels), (Window(y, x, 64, 64),), 1)
        if all(torch.equal(torch.from_numpy(cut.positions[n])[0], batch.positions[n][0]) for n in cut.positions):
            served.append(module.on_host(module.run(cut)))
    (expected,) = served
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert np.ptp(expected) > 1


def test_windows_with_fewer_patches_are_filled_up_with_nothing() -> None:
    """Scenes of two sizes in a batch give what each gives alone."""
    network = small_glnet("glnet-r50")
    card, large = card_of(network), coloured()
    small = replace(large, pixels=large.pixels[:100, :90], labels=large.labels[:100, :90])
    recipe = replace(RECIPE, scale=1.0, balance=0.0, batch=1, stem=None)
    windows = context_windows(network.config, card.serving, once=False)
    window = windows["merged"]
    place = Window(8, 16, 64, 64)
    drawn = [window.draw(ArraySource(one.pixels), place) for one in (large, small)]  # type: ignore[union-attr]
    assert len(drawn[0].pixels) > len(drawn[1].pixels)
    filled = drawn[1].filled(len(drawn[0].pixels))
    batches = [Sampler([one], network.config, windows, recipe).batch(0).scenes["merged"] for one in (small,)]
    for name, (rows_of, columns_of) in filled.shares.items():
        reached = np.einsum("nHh,nWw->HW", rows_of, columns_of)
        np.testing.assert_allclose(reached, 1, atol=1e-5, err_msg=name)
        assert batches[0].rows[name].shape[2:] == rows_of.shape[1:]


def test_the_loss_counts_both_branches_and_their_distance() -> None:
    network, scene = small_glnet("glnet-r50"), coloured()
    windows = context_windows(network.config, card_of(network).serving, once=False)
    recipe = replace(RECIPE, batch=2, stem=None)
    batch = Sampler([scene], network.config, windows, recipe).batch(0)
    training = Training(network, recipe)
    before = training.step([batch])
    with torch.no_grad():
        for name in ("merged", "aggregate"):
            head = network.decoder.heads[name]
            head.weight.zero_()
            head.bias.zero_()
    # Even scores of 3 classes: focal loss (1 - 1/3)^2 log 3, twice, and what both branches differ by.
    even = 2 * (2 / 3) ** 2 * np.log(3)
    assert training.step([batch]) > even
    assert before != pytest.approx(even)


def test_two_passes_need_to_know_a_scene(folder: Path) -> None:
    config = settings(small_glnet("glnet-r50"))
    config["network"]["serving"]["scene"] = None
    with pytest.raises(InputError, match=re.escape("network.serving.scene")):
        run_training(write_config(folder, config))


def test_a_branch_that_gathers_is_no_stage(folder: Path) -> None:
    config = settings(small_glnet("glnet-r50"))
    config["stages"][0]["network"] = "merged"
    with pytest.raises(InputError, match=re.escape("stages[0].network")):
        run_training(write_config(folder, config))
