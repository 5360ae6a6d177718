"""U-Net, SegNet, PSPNet, DeepLab v3+ and ICNet through `fctl-train` and on into a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np

from fctl.export.card import ExportOptions
from fctl.export.pipeline import export_bundle
from fctl.model.train.run import run_training
from fctl.runtime.bundle.store import read_bundle
from tests.model.helpers import small_preset

from .helpers import rows, stage, write_config

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize("name", ["unet", "segnet-vgg16", "pspnet-r50", "deeplabv3plus-r50", "icnet-r50"])
@pytest.mark.usefixtures("shallow")
def test_a_system_trains_patch_by_patch_and_exports(name: str, folder: Path) -> None:
    """One patch at a time: the mean of a patch is then a single value, which batch norm cannot normalise."""
    small = small_preset(name)
    overrides = {
        "width": small.width, "patch": small.patch, "channels": small.channels, "stage": small.stage,
        "decoder_channels": small.decoder_channels, "contexts": [], "lcf": None,
    }  # fmt: skip
    config = write_config(
        folder,
        {
            "epoch": 6,
            "stages": [stage(epochs=1)],
            "network": {"preset": name, "overrides": overrides},
            "optimisation": {"batch": 1, "accumulate": 2, "average": 0},
            "augmentation": {"context_dropout": 0},
        },
    )
    run_training(config)
    losses = [float(row[3]) for row in rows(folder / "run" / "log.csv")[1:]]
    assert np.isfinite(losses).all() and len(losses) == 6
    assert [row[0] for row in rows(folder / "run" / "validation.csv")[1:]] == ["6"]
    export_bundle(folder / "run" / "last.pt", folder / "net.fctl", ExportOptions())
    assert {verdict.passed for verdict in read_bundle(folder / "net.fctl").manifest.engines} == {True}
