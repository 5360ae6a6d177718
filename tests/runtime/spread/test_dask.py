"""Workers of a Dask cluster that are killed, stopped, or make other bytes than others would."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fctl.runtime import Segmenter
from fctl.runtime.engines.kept import cache_root
from fctl.runtime.errors import EngineError, FctlError, InputError
from fctl.runtime.spread.crew import Crew
from tests.runtime import tiny
from tests.runtime.segment.test_jobs import digests, paths_in

from .conftest import held, job, lead, order, release, until

pytest.importorskip("distributed", reason="needs distributed")
import dask

from fctl.runtime.spread.dask import Dask


@pytest.fixture(scope="module")
def cluster(trouble_of_module: Path) -> Iterator[Dask]:
    """Two workers, each of which is started again where it dies; two deaths are enough for a task."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        crew = Dask("local:2")
    yield crew
    crew.close()


@pytest.fixture
def whole(image: Path, tmp_path: Path, segmenter: Segmenter) -> dict[str, str]:
    """Digests of the outputs of one process."""
    segmenter.segment_file(image, paths_in(tmp_path / "whole"))
    return digests(tmp_path / "whole")


def change(module: str, name: str, value: object) -> object:
    """Change what a module holds, in this process; gives what was there."""
    from importlib import import_module

    found = import_module(module)
    before = getattr(found, name)
    setattr(found, name, value)
    return before


@pytest.fixture
def one_has(cluster: Dask) -> Iterator[Callable[[str, str, object], str]]:
    """Changes what a module holds in one worker, whose address it gives, until the test ends."""
    undo: list[Callable[[], object]] = []

    def do(module: str, name: str, value: object) -> str:
        address = sorted(cluster._workers())[0]
        before = cluster._client.run(change, module, name, value, workers=[address])[address]
        undo.append(lambda: cluster._client.run(change, module, name, before, workers=[address]))
        return address

    yield do
    for step in undo:
        step()


# Workers that die, or take long


def test_a_worker_that_is_killed_in_the_middle_changes_no_byte(
    cluster: Dask, image: Path, tmp_path: Path, trouble: Path, whole: dict[str, str]
) -> None:
    order(trouble, "die")
    lead(cluster).segment_file(job(image, paths_in(tmp_path / "run")))
    assert list(trouble.glob("die-*")) == []
    assert digests(tmp_path / "run") == whole


def test_work_that_kills_its_workers_ends_the_run_which_can_be_resumed(
    cluster: Dask, image: Path, tmp_path: Path, trouble: Path, whole: dict[str, str], segmenter: Segmenter
) -> None:
    leader, out, told = lead(cluster), paths_in(tmp_path / "run"), list[int]()

    def progress(done: int, total: int) -> None:
        if not told:
            order(trouble, *["die"] * 20)
        told.append(total)

    with pytest.raises(EngineError, match=r"^2 workers ended in the middle of the same work: .*`resume`$"):
        leader.segment_file(job(image, out, progress=progress))
    release(trouble)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"m.fctl-run"}
    report = segmenter.segment_file(image, out, resume=True)  # alone
    assert report.computed < told[0]
    assert digests(tmp_path / "run") == whole


@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
def test_what_a_worker_that_stopped_does_not_come_to_is_done_by_another(
    cluster: Dask, image: Path, tmp_path: Path, trouble: Path, whole: dict[str, str]
) -> None:
    leader = lead(cluster)
    order(trouble, "hold")
    stopped = list[int]()

    def progress(done: int, total: int) -> None:
        if not stopped:
            until(lambda: held(trouble))
            stopped.extend(held(trouble))
            os.kill(stopped[0], signal.SIGSTOP)
            release(trouble)

    try:
        leader.segment_file(job(image, paths_in(tmp_path / "run"), progress=progress))
        assert digests(tmp_path / "run") == whole
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)


# Workers that differ

BATCHES = count(5)


def refused(cluster: Crew, image: Path, out: Path) -> str:
    """The line that ends a run, of which nothing is left."""
    with pytest.raises(FctlError) as error:  # in a batch of its own, so that each worker opens the bundle now
        lead(cluster, batch=next(BATCHES)).segment_file(job(image, paths_in(out)))
    assert not out.exists()
    return str(error.value)


def nine(name: str) -> str:
    return "9.9.9"


@pytest.mark.parametrize(
    ("module", "name", "told"),
    [
        ("fctl.runtime.segment.maker", "engine_version", "had engine onnxruntime .*, now it is onnxruntime "),
        ("fctl.runtime.segment.maker", "described", "had processor .*, now it is "),
        ("fctl.runtime.spread.tasks", "version", "expected fctl .*, as where the run is led, found 9.9.9; install"),
    ],
)
def test_workers_that_differ_are_refused(
    module: str, name: str, told: str, cluster: Dask, image: Path, tmp_path: Path, one_has: Any
) -> None:
    one_has(module, name, nine if name != "described" else partial(nine, ""))
    line = refused(cluster, image, tmp_path / "run")
    assert re.match(rf"worker tcp://\S+: .*{told}", line), line
    assert "9.9.9" in line


def elsewhere(place: object, folder: str) -> object:
    from fctl.runtime.storage.places import storage_of

    return storage_of(folder)


def test_workers_that_see_another_folder_are_refused(cluster: Dask, image: Path, tmp_path: Path, one_has: Any) -> None:
    address = one_has("fctl.runtime.spread.tasks", "storage_of", partial(elsewhere, folder=str(tmp_path / "other")))
    line = refused(cluster, image, tmp_path / "run")
    assert line.startswith(
        f"worker {address}: cannot see {tmp_path}/run/m.fctl-run; name a folder that all machines see"
    )
    assert not (tmp_path / "other").exists()


# Bundles that workers lack


class Blind:
    """Reads bundles, but not from one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, place: Path | str) -> object:
        from fctl.runtime.bundle.store import read_bundle

        if Path(place) == self._folder:
            raise FileNotFoundError(place)
        return read_bundle(place)


def test_a_bundle_that_workers_lack_is_sent_once_and_kept(
    cluster: Dask, image: Path, tmp_path: Path, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny.variant(tiny.TINY, tmp_path, lambda manifest: None)
    before = cluster._client.run(change, "fctl.runtime.spread.bundles", "read_bundle", Blind(bundle))
    sent = list[str]()
    send = cluster.send
    monkeypatch.setattr(cluster, "send", lambda digest, data: (sent.append(digest), send(digest, data)))
    try:
        for number in range(3):
            kept = list((cache_root() / "bundles").glob("*.fctl"))
            if number == 2:  # what is kept may be damaged one day
                (graph,) = [path for path in kept[0].iterdir() if path.name.startswith("encoder_large")]
                graph.write_bytes(graph.read_bytes()[:-1] + b"x")
            lead(cluster, bundle).segment_file(job(image, paths_in(tmp_path / f"run{number}")))
            assert len(sent) == (1, 1, 2)[number]
    finally:
        for address, function in before.items():
            cluster._client.run(change, "fctl.runtime.spread.bundles", "read_bundle", function, workers=[address])
    from fctl.runtime.bundle.store import read_bundle

    (kept_bundle,) = (cache_root() / "bundles").glob("*.fctl")
    assert {graph.sha256 for graph in read_bundle(kept_bundle).manifest.graphs} == {
        graph.sha256 for graph in read_bundle(bundle).manifest.graphs
    }


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("nobody", "`dask`: expected tcp://HOST:PORT of a scheduler, or local:N for N workers here, found 'nobody'"),
        ("local:0", "`dask`: expected at least one worker, found local:0"),
        ("local:x", "`dask`: expected tcp://HOST:PORT of a scheduler, .* found 'local:x'"),
        ("ftp://host:1", "no scheduler answers at ftp://host:1; start one"),
        ("tcp://127.0.0.1:1", "no scheduler answers at tcp://127.0.0.1:1; start one"),
        ("tcp://nohost.invalid:8786", "no scheduler answers at tcp://nohost.invalid:8786; start one"),
    ],
)
def test_addresses_where_nobody_answers(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fctl.runtime.spread import dask as spread

    monkeypatch.setattr(spread, "_CONNECTING", 1.0)
    with pytest.raises((InputError, EngineError), match=f"^{told}"):
        Dask(address)
