from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from fctl.model.presets import without_contexts
from fctl.model.train.config import read_config
from fctl.model.train.networks import network_of, part_of
from fctl.model.train.start import merged_weights, network_of_stage, start_network
from fctl.runtime.errors import CheckpointError
from tests.model.helpers import LARGE, MEDIUM, WIDE, build, save_small, small_config

from .helpers import write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def test_stages_train_parts_that_fit_the_whole() -> None:
    config = small_config(width=0.25, contexts=(MEDIUM, LARGE))
    whole = build(config).state_dict()
    for part in ("medium", "large", "patch", "whole"):
        network = network_of_stage(config, part, whole)
        assert part_of(config, part) == network.config
        state = {key: value + 1 for key, value in network.state_dict().items()}
        result = merged_weights(whole, state, part)
        assert result.keys() == whole.keys()
        taken = {key.split(".")[0] for key in whole if not torch.equal(result[key], whole[key])}
        inner = {
            key.split(".")[1]
            for key in whole
            if key.startswith("context_") and not torch.equal(result[key], whole[key])
        }
        expected = {"patch": {"encoder", "decoder"}, "whole": {key.split(".")[0] for key in whole}}
        assert taken == expected.get(part, {"context_encoders"})
        assert inner == {"patch": set(), "whole": {"medium", "large"}}.get(part, {part})


def test_a_checkpoint_of_ours_is_a_start(folder: Path) -> None:
    config = read_config(write_config(folder))
    wanted = network_of(config, 3).network
    other = build(replace(wanted, classes=5), seed=7)
    save_small(folder / "other.pt", other)
    found, theirs = start_network(wanted, "other.pt", folder, 0).state_dict(), other.state_dict()
    assert {key for key in found if not torch.equal(found[key], theirs[key])} == {
        "decoder.score.weight", "decoder.score.bias",
    }  # fmt: skip
    alone = build(without_contexts(wanted), seed=8)
    save_small(folder / "alone.pt", alone)
    found, theirs = start_network(wanted, "alone.pt", folder, 0).state_dict(), alone.state_dict()
    assert all(torch.equal(found[key], value) for key, value in theirs.items())
    contexts = [key for key in found if key.startswith("context_encoders.")]
    assert contexts
    assert all(torch.equal(found[key], theirs[f"encoder.{key.split('.', 2)[2]}"]) for key in contexts)
    torch.save(build(small_config(contexts=(WIDE,))).encoder.backbone.state_dict(), folder / "bare.pt")
    with pytest.raises(CheckpointError, match=r"bare\.pt: expected a checkpoint of fctl or weights of efficientnet"):
        start_network(wanted, "bare.pt", folder, 0)
