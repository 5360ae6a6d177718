from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch")

from fctl.model.train.cli import train_app
from fctl.model.train.run import run_training
from tests.conftest import InProcess
from tests.model.helpers import shallow_backbones

from .helpers import STAGES, Train, write_config, write_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a data set of three images in data/."""
    write_data(tmp_path / "data")
    return tmp_path


@pytest.fixture
def call(in_process: InProcess) -> Train:
    """fctl-train in this process."""
    return partial(in_process, train_app)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training with its config and data."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data")
    run_training(write_config(folder, {"stages": STAGES, "epoch": 6}))
    return folder


@pytest.fixture
def shallow(one_registry: None) -> Iterator[None]:
    """Backbones of few blocks, for networks that are exported: one of all blocks is the one that is trained above."""
    with shallow_backbones():
        yield
