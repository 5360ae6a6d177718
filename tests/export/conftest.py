"""Fixtures of the tests that need torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..model.conftest import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="package", autouse=True)
def shallow() -> Iterator[None]:
    """Backbones of few blocks: what is exported here is traced."""
    from ..model.helpers import shallow_backbones

    with shallow_backbones():
        yield


@pytest.fixture(scope="package", autouse=True)
def one_registry() -> Iterator[None]:
    """PyTorch reads its library of ONNX operators once, rather than for every graph: half a second of each trace."""
    from torch.onnx._internal.exporter import _registration

    registry = _registration.ONNXRegistry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(functools.cache(registry.from_torchlib)))
        yield


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with two images of noise, 90 x 130 pixels each."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (90, 130, 3), np.uint8)).save(folder / f"{name}.png")
    return folder
