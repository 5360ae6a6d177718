"""Networks that are shown the whole image, through `fctl-train` and on into a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import numpy as np

from fctl.export.card import ExportOptions, completed_card
from fctl.export.pipeline import export_bundle
from fctl.model.geometry import apply_separable, crop_matrix
from fctl.model.presets import preset
from fctl.model.train.networks import side_of
from fctl.model.train.run import run_training
from fctl.model.train.sampling import Sampler
from fctl.model.weights.checkpoints import read_checkpoint
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.errors import CheckpointError, InputError
from fctl.runtime.tiling.contexts import context_window
from tests.model.helpers import small_preset

from .helpers import RECIPE, batches, ramp, rows, stage, write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SMALL = small_preset("unet-whole")
WHOLE: dict[str, Any] = {"name": "whole", "factor": "global", "size": 64}
NETWORK: dict[str, Any] = {
    "preset": "unet-whole",
    "overrides": {
        "width": SMALL.width, "patch": 64, "channels": SMALL.channels, "decoder_channels": SMALL.decoder_channels,
        "stage": SMALL.stage, "contexts": [WHOLE], "lcf": None,
    },
    "serving": {"overlap": 0, "scene": None},
}  # fmt: skip


def configured(folder: Path, changes: dict[str, Any] | None = None, **fields: Any) -> Path:
    return write_config(folder, {"network": NETWORK | (changes or {}), **fields})


@pytest.mark.parametrize("scene", [None, 100])
@pytest.mark.parametrize("axis", [0, 1])
def test_labels_of_the_whole_image_lie_where_it_is_shown(axis: int, scene: int | None) -> None:
    window = context_window("global", size=64, resampling="box", scene=scene)
    recipe = replace(RECIPE, scale=1.5, context_dropout=1.0)
    source = Sampler([ramp(axis)], replace(SMALL, patch=48), {"whole": window}, recipe)
    for batch in batches(source, 2):
        rows, columns = batch.positions["whole"].unbind(1)
        seen = apply_separable(crop_matrix(rows, 64), batch.contexts["whole"].float(), crop_matrix(columns, 64))
        assert (batch.labels != 255).all() and seen.any()  # nothing is dropped: there is nothing else to see
        assert (seen[:, 0] - batch.labels).abs().max() <= 240 / 48  # pixels of the image in one of the labels
        shown = batch.labels.flatten(1)
        assert (shown.amax(1) - shown.amin(1)).min() > 0.9 * min(scene or 240, 180)


def test_it_trains_on_patches_then_on_whole_images_and_exports(folder: Path) -> None:
    config = configured(
        folder,
        epoch=8,
        stages=[stage(name="near", network="patch", epochs=1), stage(epochs=2)],
        optimisation={"batch": 2, "accumulate": 1, "average": 0},
    )
    run_training(config)
    log = rows(folder / "run" / "log.csv")[1:]
    losses = [float(row[3]) for row in log]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    scores = rows(folder / "run" / "validation.csv")[1:]
    assert [row[0] for row in scores] == ["8", "16", "24"]
    assert float(scores[-1][4]) > 0.5  # accuracy, of three classes
    export_bundle(folder / "run" / "last.pt", folder / "net.fctl", ExportOptions())
    manifest = read_bundle(folder / "net.fctl").manifest
    assert (manifest.plan.kind, manifest.plan.overlap) == ("whole", 0)
    assert [tensor.name for tensor in manifest.segmenter.inputs] == ["features_whole", "positions_whole"]
    _assert_whole_on_request(folder / "run" / "near.pt")


def _assert_whole_on_request(path: Path) -> None:
    """What was trained on patches alone can be shown the whole image at their size."""
    card = completed_card(read_checkpoint(path), path, ExportOptions(arch="unet-whole"))
    assert card.network == replace(SMALL, contexts=(replace(SMALL.contexts[0], size=64),))
    assert (card.serving.scene, card.serving.overlap, card.serving.merge) == (2448, 0, "uniform")
    with pytest.raises(CheckpointError, match="its network differs from icnet-r50-whole in backbone, decoder"):
        completed_card(read_checkpoint(path), path, ExportOptions(arch="icnet-r50-whole"))


def test_an_epoch_shows_every_label_once() -> None:
    model = preset("unet-whole", classes=3)
    assert (side_of(model, "whole"), side_of(model, "patch"), side_of(preset("unet", classes=3), "whole")) == (
        2448, 512, 512,
    )  # fmt: skip


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "overlap": ({"serving": {"overlap": 16}}, {}, r"network\.serving\.overlap: expected 0: a network .*, found 16"),
    "no context": (
        {"overrides": NETWORK["overrides"] | {"contexts": []}}, {}, r"network: .*'whole' needs one context, .* none",
    ),
    "size": (
        {"overrides": NETWORK["overrides"] | {"contexts": [WHOLE | {"size": 70}]}}, {}, "divisible by 16, found 70",
    ),
    "patches that the network does not take": (
        {"overrides": NETWORK["overrides"] | {"patch": 70}}, {"stages": [stage(name="one", network="patch"), stage()]},
        r"stages\[0\]: .*divisible by 16, found 70",
    ),
    "a context alone": (
        {}, {"stages": [stage(name="one", network="global"), stage()]}, r"stages\[0\]\.network: expected whole, patch",
    ),
    "shared contexts": ({}, {"contexts": "shared"}, "contexts: expected 'exact': no context of this network"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_config_that_cannot_be_is_told_in_one_line(case: str, folder: Path) -> None:
    network, fields, told = WRONG[case]
    with pytest.raises(InputError, match=told) as error:
        run_training(configured(folder, network, **fields))
    assert "\n" not in str(error.value)
    assert not (folder / "run").exists()
