"""Contexts that are encoded once a raster: training cuts them as serving does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import torch

from fctl.model.config import NetworkConfig, ServingConfig
from fctl.model.network import FCtL
from fctl.model.serving.manifest import draft_manifest
from fctl.model.serving.module_network import ModuleNetwork
from fctl.model.train.lattices import LatticePlace, LatticeWindows, context_windows
from fctl.model.train.optimise import Training, predict
from fctl.model.train.run import run_training
from fctl.model.train.sampling import Sampler
from fctl.model.train.validation import validate
from fctl.model.weights.checkpoints import load_network, read_checkpoint
from fctl.runtime.errors import InputError
from fctl.runtime.evaluate.datasets import open_dataset
from fctl.runtime.evaluate.selection import select
from fctl.runtime.segment.batches import cut_batch
from fctl.runtime.tiling.sources import ArraySource
from fctl.runtime.tiling.windows import Window
from tests.model.helpers import MEDIUM, PATCH, lively, small_card, small_config

from .helpers import CONFIG, RECIPE, patterned, write_config

SERVING = ServingConfig(plan="stride", overlap=16, merge="average", resampling="box", scene=None)


def network() -> FCtL:
    return lively(small_config(stage="s8", contexts=(MEDIUM,), ale=None)).eval()


def shared(config: NetworkConfig) -> LatticeWindows:
    found = context_windows(config, SERVING, once=True)["medium"]
    assert isinstance(found, LatticeWindows)
    return found


@pytest.mark.parametrize(("y", "x"), [(0, 48), (96, 0), (48, 144), (37, 101)])
def test_features_are_those_of_a_served_raster(y: int, x: int) -> None:
    """A patch that lies in its scene where its place says sees the scene's own lattice."""
    module, scene, tile = network(), patterned(300, 280), Window(y, x, PATCH, PATCH)
    card = replace(small_card(module.config), serving=SERVING)
    manifest = draft_manifest("net", card, {"medium": "encoder_medium"})
    source = ArraySource(scene.pixels)
    served = ModuleNetwork(manifest, module, 1, once=True)
    expected = served.encode_contexts(cut_batch(manifest, source, (tile,), 1, served.lattices))["medium"]

    cut = shared(module.config)
    place = LatticePlace(cut.lattice, cut.resampling, y, x)
    windows = torch.from_numpy(np.moveaxis(place.windows(source, tile), -1, -3).copy())
    with torch.no_grad():
        found = place.features([module.encode_once("medium", window[None]) for window in windows])
    assert isinstance(expected, torch.Tensor)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_places_are_those_of_tiles_and_need_the_fewest_windows() -> None:
    cut, random = shared(network().config), np.random.default_rng(0)
    step, drawn = PATCH - SERVING.overlap, [cut.draw(random) for _ in range(50)]
    every = [len(cut.lattice.place(start).pieces) for start in range(0, step * int(cut.lattice.step), step)]
    for place in drawn:
        assert place.y % step == place.x % step == 0
        assert len(place.rows.pieces) == len(place.columns.pieces) == min(every) < max(every)
    assert len({(place.y, place.x) for place in drawn}) > 1


def test_patches_are_the_same_however_contexts_are_cut() -> None:
    config = replace(network().config)
    exact, once = (
        Sampler([patterned()], config, context_windows(config, SERVING, once=once), replace(RECIPE, scale=1.3)).batch(5)
        for once in (False, True)
    )
    assert torch.equal(exact.patch, once.patch) and torch.equal(exact.labels, once.labels)
    assert exact.contexts["medium"].shape == (RECIPE.batch, 3, PATCH, PATCH) and not exact.places
    side = once.places["medium"].lattice.side
    assert once.contexts["medium"].shape[2:] == (3, side, side) and side > PATCH


def test_all_that_sees_a_context_is_trained() -> None:
    training = Training(network(), replace(RECIPE, stem=None, steps=1))
    windows = context_windows(training.network.config, SERVING, once=True)
    batch = Sampler([patterned()], training.network.config, windows, RECIPE).batch(0)
    before = {name: value.clone() for name, value in training.network.state_dict().items()}
    training.optimizer.param_groups[1]["lr"] = 1e-2
    training.step([batch])
    moved = [name for name, value in training.network.state_dict().items() if not torch.equal(value, before[name])]
    assert any(name.startswith("context_encoders.medium.backbone") for name in moved)
    assert predict(training.network.eval(), batch, 0.0).shape == (RECIPE.batch, 3, PATCH, PATCH)


def test_a_training_is_validated_as_it_was_trained(folder: Path) -> None:
    run_training(write_config(folder, {"contexts": "shared", "finish": {"recalibrate": True, "class_offsets": True}}))
    read = read_checkpoint(folder / "run" / "last.pt")
    assert read.card is not None
    trained = load_network(read.card.network, read.state, "last.pt")
    data = select(open_dataset(folder / "data"), CONFIG["data"]["validation"])
    once, exact = (validate(trained, read.card, data, once=once).miou() for once in (True, False))
    assert read.card.training["validation_miou"] == pytest.approx(once, abs=1e-9)
    assert once != exact


def test_a_network_without_such_a_context_is_told(folder: Path) -> None:
    changes = {"contexts": "shared", "network": {"overrides": {"contexts": [], "lcf": None, "encoders": "shared"}}}
    with pytest.raises(InputError, match=r"contexts: expected 'exact': no context .* once a raster, found 'shared'"):
        run_training(write_config(folder, changes))
    assert not (folder / "run").exists()
    with pytest.raises(InputError, match="contexts: expected 'exact' or 'shared', found 'once'"):
        run_training(write_config(folder, {"contexts": "once"}))
    assert "contexts" not in json.loads(write_config(folder).read_text())  # which other tests read as "exact"
