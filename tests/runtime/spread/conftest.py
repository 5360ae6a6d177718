from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fctl.runtime import Paths
from fctl.runtime.bundle.store import Bundle
from fctl.runtime.segment.jobs import FileJob
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.spread.crew import Crew
from fctl.runtime.spread.lead import Lead
from fctl.runtime.spread.orders import Setup
from fctl.runtime.spread.processes import Processes
from tests.conftest import write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.storage.conftest import gate, s3, s3_server

__all__ = ["gate", "s3", "s3_server"]  # fixtures of another folder

TROUBLE = Path(__file__).with_name("trouble")


@pytest.fixture(scope="module")
def trouble_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that tells processes which are started what is to go wrong; all of them end by the end."""
    folder = tmp_path_factory.mktemp("trouble")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FCTL_TROUBLE", str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TROUBLE), *filter(None, [os.environ.get("PYTHONPATH")])]))
        yield folder


@pytest.fixture
def trouble(trouble_of_module: Path) -> Iterator[Path]:
    """The same folder, which is empty before and after each test."""
    yield trouble_of_module
    for order in trouble_of_module.iterdir():
        order.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two rows of tiles at most, as in the processes that make trouble."""
    monkeypatch.setattr(plans, "_HIGHEST", 2)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_geotiff(tmp_path / "image.tif", slope_of(100, 70))


@pytest.fixture(scope="module")
def processes(trouble_of_module: Path) -> Iterator[Processes]:
    """Two processes of this machine."""
    crew = Processes(2)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def cluster(trouble_of_module: Path) -> Iterator[Crew]:
    """Two workers of a Dask cluster on this machine."""
    pytest.importorskip("distributed", reason="needs distributed")
    from fctl.runtime.spread.dask import Dask

    crew = Dask("local:2")
    yield crew
    crew.close()


@pytest.fixture(params=["processes", "cluster"])
def crew(request: pytest.FixtureRequest) -> Crew:
    """Either of them."""
    found: Crew = request.getfixturevalue(request.param)
    return found


def lead(crew: Crew, bundle: Path | Bundle = tiny.TINY, **options: object) -> Lead:
    """Whoever leads a crew with a bundle in ONNX Runtime."""
    return Lead(crew, Setup(bundle=str(bundle), **{"backend": "onnxruntime", **options}))  # type: ignore[arg-type]


def job(image: Path, paths: Paths, **options: object) -> FileJob:
    return FileJob(image=image, paths=paths, **options)  # type: ignore[arg-type]


def order(trouble: Path, *names: str) -> None:
    """Let as many workers meet trouble, one each."""
    for number, name in enumerate(names):
        (trouble / f"{name}-{number}").touch()


def release(trouble: Path) -> None:
    """Let those who are held go on, and nobody meet trouble from now on."""
    for pattern in ("hold-*", "later-*", "die-*", "held-*"):
        for file in trouble.glob(pattern):
            file.unlink(missing_ok=True)


def held(trouble: Path) -> list[int]:
    """The processes that are in the middle of a shard, and stay there."""
    return [int(file.name.partition("-")[2]) for file in trouble.glob("held-*")]


def living(trouble: Path) -> list[str]:
    """Command lines of processes that were told what is to go wrong, as Linux knows them.

    This process is none of them, and neither is the tracker that Python starts beside it.
    """
    found, wanted = [], f"FCTL_TROUBLE={trouble}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            told = wanted in (process / "environ").read_bytes().split(b"\0")
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        except OSError:
            continue
        ours = process.name == str(os.getpid()) or (parent == str(os.getpid()) and "resource_tracker" in line)
        if told and not ours:
            found.append(line)
    return found


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something; that it does not come is an error."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
