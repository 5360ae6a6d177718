from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from rasterio._env import del_gdal_config

from fctl.runtime import Segmenter

from . import tiny


@pytest.fixture(scope="session")
def segmenter() -> Iterator[Segmenter]:
    """Three bands of uint8, two contexts, three classes."""
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=16) as segmenter:
        yield segmenter


@pytest.fixture(scope="session")
def plain() -> Iterator[Segmenter]:
    """Four bands of uint16, no contexts, two classes."""
    with Segmenter(tiny.TINY_PLAIN, backend="onnxruntime", batch=16) as segmenter:
        yield segmenter


@pytest.fixture
def set_in_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Sets options of GDAL in the environment for one test.

    rasterio makes those that it finds there its own when an ``Env`` ends, so they must be taken back from GDAL too.
    """
    names: list[str] = []

    def set_option(name: str, value: str) -> None:
        names.append(name)
        monkeypatch.setenv(name, value)

    yield set_option
    for name in names:
        del_gdal_config(name)
