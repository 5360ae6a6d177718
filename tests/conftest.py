"""Fixtures that several test files share. Nothing here imports torch: the runtime's tests run without it."""

from __future__ import annotations

import gc
import logging
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

InProcess = Callable[..., "subprocess.CompletedProcess[str]"]

SHARED = Path(__file__).parents[2] / "shared"
"""Imagery that only the developers have; tests that need it skip without it."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Python seldom looks for garbage: modules, tests and traced networks are many objects, and most stay alive."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither use nor fill what this machine keeps between runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the developers' shared imagery")
    return SHARED / "data"


def write_geotiff(path: Path, pixels: NDArray[np.generic], **profile: object) -> Path:
    """A small GeoTIFF of (height, width, bands) in UTM zone 40 north, 0.5 m a pixel."""
    height, width, bands = pixels.shape
    settings = {"crs": "EPSG:32640", "transform": from_origin(300000, 2780000, 0.5, 0.5), **profile}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=pixels.dtype, **settings
    ) as dataset:
        dataset.write(pixels.transpose(2, 0, 1))
    return path


@pytest.fixture
def in_process(capsys: pytest.CaptureFixture[str]) -> Iterator[InProcess]:
    """Runs a command line in this process, and leaves logging as it was."""
    logger = logging.getLogger("fctl")
    handlers, level = list(logger.handlers), logger.level

    def run(app: Callable[..., Any], *arguments: object) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            app(list(map(str, arguments)), prog_name="fctl")
        code = end.value.code
        return subprocess.CompletedProcess(arguments, code if isinstance(code, int) else 0, *capsys.readouterr())

    yield run
    logger.handlers[:] = handlers
    logger.setLevel(level)
