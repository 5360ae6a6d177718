"""Networks that nobody here wrote: the mask of one tile is that of the network's own package, in every engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from fctl.runtime import read_bundle
from fctl.runtime.engines.choose import engine_version, installed_engines

from ..conftest import write_geotiff
from .case import Case
from .catalogue import SOURCES, Source
from .table import Table

ROOT = Path(__file__).parents[2]
LIMIT = 300  # seconds, for each of the commands
MOST_TIES = 0.005  # the share of the pixels that may have no clear class

pytestmark = pytest.mark.networks


@pytest.fixture(scope="session")
def imagery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped sample as an array (height, width, 3), for environments without rasterio."""
    path = tmp_path_factory.mktemp("imagery") / "imagery.npy"
    with rasterio.open(ROOT / "samples" / "dubai.tif") as dataset:
        np.save(path, dataset.read().transpose(1, 2, 0))
    return path


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where packages write their cases: each network once, for all of its exporters."""
    return tmp_path_factory.mktemp("cases")


def run(*command: object, environment: dict[str, str] | None = None) -> None:
    """Run a command that must end well, and in time."""
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, timeout=LIMIT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}"


def made(source: Source, networks: Path, imagery: Path, cases: Path) -> Case:
    """A case, which the network's package makes in its own environment."""
    folder = cases / f"{source.script}-{source.network}"
    if not (folder / source.case / "case.json").is_file():
        python = networks / source.environment / "bin" / "python"
        assert python.is_file(), f"{python}: no such environment; `make networks` makes it"
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        run(
            python, "-m", f"tests.networks.{source.script}", source.network, imagery, folder,
            environment=clean | {"CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
    return Case.read(folder / source.case)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{source.network}-{source.case}")
def test_every_engine_gives_the_packages_own_mask(
    source: Source, networks: Path, imagery: Path, cases: Path, tmp_path: Path, table: Table
) -> None:
    case = made(source, networks, imagery, cases)
    bands_alone = {"photometric": "MINISBLACK"}  # or GDAL marks a fourth band as alpha
    tile = write_geotiff(tmp_path / "tile.tif", case.tile, **bands_alone)
    patches = write_geotiff(tmp_path / "patches.tif", case.patches, **bands_alone)
    commands, bundle = Path(sys.executable).parent, tmp_path / "network.fctl"
    run(commands / "fctl-export", case.card.file, *case.card.options, "--patches", patches, "--out", bundle)
    engines = list[str]()
    for engine in installed_engines("fp32", read_bundle(bundle), 1):
        engines.append(engine.name)
        engine.close()
    assert "onnxruntime" in engines
    ties, cells, wrong = case.near_ties(), dict[str, str](), dict[str, int]()
    for name in engines:
        out = tmp_path / f"{name}.tif"
        run(commands / "fctl-run", tile, "--bundle", bundle, "--backend", name, "--no-preview", "--out", out)
        with rasterio.open(out) as dataset:
            differs = dataset.read(1) != case.mask
        cells[f"{name} {engine_version(name)}"] = f"{1 - differs.mean():.3%}"
        wrong[name] = int((differs & ~ties).sum())
    table.add(case, cells)
    assert not any(wrong.values()), wrong
    assert ties.mean() <= MOST_TIES
