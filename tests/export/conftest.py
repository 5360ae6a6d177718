"""Fixtures of the tests that need torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..model.conftest import one_registry, one_thread

__all__ = ["one_registry", "one_thread"]


@pytest.fixture(scope="package", autouse=True)
def shallow(one_registry: None) -> Iterator[None]:
    """Backbones of few blocks: what is exported here is traced."""
    from ..model.helpers import shallow_backbones

    with shallow_backbones():
        yield


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with two images of noise, 90 x 130 pixels each."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (90, 130, 3), np.uint8)).save(folder / f"{name}.png")
    return folder
