"""Outputs that go to a store: made here, uploaded whole, and what is left where that fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fctl.runtime import Paths, Segmenter, Upload, deliver
from fctl.runtime.cli.run import run_app
from fctl.runtime.errors import OutputError
from fctl.runtime.segment import memory
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.storage.base import Storage
from fctl.runtime.storage.places import storage_of
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of

ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime")
ALL = ["image_mask.qml", "image_mask.tif", "image_mask.tif.aux.xml", "image_preview.jpg", "image_stats.csv"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_geotiff(tmp_path / "image.tif", slope_of(100, 70))


@pytest.fixture
def run(in_process: InProcess, s3: str) -> Run:
    """``fctl-run image.tif`` into the folder of the bucket, all staged in "staging"."""
    return lambda *arguments: in_process(
        run_app, "image.tif", *ON_TINY, "-o", s3, "--stats", "csv", "--staging", "staging", *arguments
    )


@pytest.fixture
def store(s3: str) -> Storage:
    return storage_of(s3)


def staged() -> list[str]:
    """What waits, by the names of the files."""
    return sorted(path.name for path in Path("staging").rglob("*") if path.is_file())


def in_folder(in_process: InProcess, *arguments: object) -> dict[str, bytes]:
    """The outputs of the same run into a folder."""
    assert in_process(run_app, "image.tif", *ON_TINY, "-o", "local", "--stats", "csv", *arguments).returncode == 0
    return {path.name: path.read_bytes() for path in Path("local").iterdir()}


def test_outputs_go_to_a_store_with_the_bytes_of_those_in_a_folder(
    run: Run, store: Storage, s3: str, in_process: InProcess
) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert f"wrote {s3}/image_mask.tif" in done.stdout
    assert "staging" not in done.stdout
    expected = in_folder(in_process)
    assert sorted(expected) == store.names() == ALL
    assert {name: store.read(name) for name in ALL} == expected
    assert list(Path("staging").iterdir()) == []


@pytest.mark.parametrize("place", ["s3", "vsis3", "memory", "file"])
def test_a_name_for_the_mask_itself(
    place: str, in_process: InProcess, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if place == "memory":
        pytest.importorskip("fsspec")
    url = {"memory": f"memory://{tmp_path.name}", "file": (tmp_path / "masks").as_uri()}.get(place)
    url = url or request.getfixturevalue("s3").replace("s3://", "s3://" if place == "s3" else "/vsis3/")
    done = in_process(run_app, "image.tif", *ON_TINY, "-o", f"{url}/water.tif", "--json", "--no-preview")
    assert done.returncode == 0, done.stderr
    assert storage_of(url).names() == ["water.qml", "water.tif", "water.tif.aux.xml"]
    shown = {"vsis3": url.replace("/vsis3/", "s3://"), "file": str(tmp_path / "masks")}.get(place, url)
    assert json.loads(done.stdout)["outputs"] == {"mask": f"{shown}/water.tif"}


def test_what_is_there_is_kept_unless_told_otherwise(run: Run, store: Storage, s3: str) -> None:
    store.write("image_stats.csv", b"precious")
    refused = run()
    assert refused.returncode == 1
    assert refused.stderr == f"error: {s3}/image_stats.csv exists already; use --overwrite to replace it\n"
    assert store.names() == ["image_stats.csv"]
    assert run("--dry-run").returncode == 1
    foreseen = run("--dry-run", "--overwrite")
    assert foreseen.returncode == 0
    assert f"{s3}/image_mask.tif" in foreseen.stdout
    assert (store.names(), store.read("image_stats.csv")) == (["image_stats.csv"], b"precious")
    assert run("--overwrite").returncode == 0
    assert store.read("image_stats.csv") != b"precious"
    assert store.names() == ALL


def test_what_is_there_and_made_in_the_same_way_is_passed_over(run: Run, store: Storage, image: Path) -> None:
    earlier = time.time() - 100
    os.utime(image, (earlier, earlier))  # stores tell times in whole seconds
    assert run("--skip-existing").returncode == 0
    changed = store.changed("image_mask.tif")
    again = run("--skip-existing")
    assert (again.returncode, again.stdout) == (4, "image.tif: its outputs are there already\n")
    assert store.changed("image_mask.tif") == changed
    assert run("--skip-existing", "--tta").returncode == 1  # made in another way
    store.remove("image_stats.csv")
    assert run("--skip-existing", "--overwrite").returncode == 0
    assert store.names() == ALL
    later = time.time() + 100
    os.utime(image, (later, later))  # the image is newer than its mask
    assert run("--skip-existing").returncode == 1
    assert list(Path("staging").iterdir()) == []


@pytest.mark.parametrize("resumed", [[], ["--resume"], ["--overwrite"], ["--skip-existing"]])
def test_an_upload_that_fails_is_one_line_and_is_made_up_for(
    run: Run, store: Storage, gate: Path, s3: str, resumed: list[str], in_process: InProcess
) -> None:
    gate.write_text("image_mask.tif")
    failed = run()
    assert failed.returncode == 1
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {s3}/image_mask.tif")
    assert "Access Denied" in line
    assert "run again, which uploads the finished outputs that are kept in" in line
    assert "Traceback" not in failed.stderr
    assert "image_mask.tif" not in store.names()
    assert {"image_mask.tif", "image_preview.jpg"} < set(staged())
    gate.unlink()
    kept = next(Path("staging").rglob("image_mask.tif")).read_bytes()
    mended = run(*resumed)
    assert mended.returncode == 0, mended.stderr
    assert "uploaded what an earlier run had finished" in mended.stdout
    assert "bundle tiny runs on" not in mended.stderr  # nothing was computed
    assert store.names() == ALL
    assert store.read("image_mask.tif") == kept
    assert staged() == []


def test_what_waits_and_was_asked_otherwise_is_not_uploaded(
    run: Run, store: Storage, gate: Path, in_process: InProcess
) -> None:
    gate.write_text("image_")
    assert run().returncode == 1
    gate.unlink()
    other = run("--tta", "--json")
    assert other.returncode == 0, other.stderr
    assert json.loads(other.stdout)["status"] == "done"
    expected = in_folder(in_process, "--tta")
    assert {name: store.read(name) for name in store.names()} == expected
    assert staged() == []


def test_files_of_others_are_not_replaced_by_what_waits(run: Run, store: Storage, gate: Path) -> None:
    """An upload that began may go on; what it began with is no longer so once it is asked for something else."""
    gate.write_text("image_mask.tif")
    assert run().returncode == 1
    gate.unlink()
    refused = run("--bands", "3,2,1")
    assert refused.returncode == 1
    assert "exists already; use --overwrite" in refused.stderr
    assert "image_mask.tif" not in store.names()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_run_that_is_killed_while_it_uploads_goes_on(run: Run, store: Storage, gate: Path, s3: str) -> None:
    gate.write_text("hang image_preview")
    words = ["image.tif", *ON_TINY, "-o", s3, "--stats", "csv", "--staging", "staging"]
    code = f"from fctl.runtime.cli.run import run_app; run_app({list(map(str, words))!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while not list(Path("staging").rglob(".*.fctl-upload")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        elsewhere = run()
        assert "another run uploads it" in elsewhere.stderr
        process.kill()
    assert "image_mask.tif" not in store.names()
    gate.unlink()
    assert "uploaded what an earlier run had finished" in run("--resume").stdout
    assert store.names() == ALL
    assert staged() == []


def test_a_run_that_is_interrupted_goes_on_with_its_shards(
    s3: str, store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an application does it."""
    monkeypatch.setattr(plans, "_TILES", 6)
    monkeypatch.setattr(memory, "PANEL", 36)
    destination = Upload(s3, staging=tmp_path / "staging")
    assert destination.folder == Upload(s3.replace("s3://", "/vsis3/") + "/", staging=tmp_path / "staging").folder
    paths = Paths(mask=destination.folder / "m.tif", preview=destination.folder / "v.jpg")
    told: list[int] = []

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with Segmenter(tiny.TINY, backend="onnxruntime", batch=3) as segmenter:
        with pytest.raises(KeyboardInterrupt):
            segmenter.segment_file("image.tif", paths, progress=stop)
        assert list(destination.folder.rglob("shard-*.npz"))
        assert store.names() == []
        segmenter.segment_file("image.tif", paths, resume=True, progress=lambda done, total: told.append(done))
        deliver(paths, destination)
        segmenter.segment_file("image.tif", Paths(mask=tmp_path / "m.tif"))
    assert told[0] > 3
    assert store.names() == ["m.qml", "m.tif", "m.tif.aux.xml", "v.jpg"]
    assert store.read("m.tif") == (tmp_path / "m.tif").read_bytes()
    assert not destination.folder.exists()


def test_outputs_that_are_gone_are_no_success(s3: str, tmp_path: Path) -> None:
    destination = Upload(s3, staging=tmp_path)
    destination.folder.mkdir()
    with pytest.raises(OutputError, match=r"m\.tif: it is gone, though nobody uploaded it; run again"):
        deliver(Paths(mask=destination.folder / "m.tif"), destination)


def test_one_store_for_many_images(in_process: InProcess, s3: str, store: Storage) -> None:
    for name in ("b.tif", "c.tif"):
        write_geotiff(Path(name), slope_of(40, 30))
    done = in_process(run_app, "b.tif", "gone.tif", "c.tif", *ON_TINY, "-o", f"{s3}/", "--no-preview")
    assert done.returncode == 3
    assert [name for name in store.names() if name.endswith(".tif")] == ["b_mask.tif", "c_mask.tif"]
    refused = in_process(run_app, "b.tif", "c.tif", *ON_TINY, "-o", f"{s3}/mask.tif")
    assert refused.returncode == 2
    assert f"expected a folder for 2 images, found {s3}/mask.tif" in " ".join(refused.stderr.split())


@pytest.fixture
def staged_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FCTL_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "staging"


def test_outputs_wait_in_the_cache_folder_by_default(
    in_process: InProcess, s3: str, gate: Path, staged_by_default: Path
) -> None:
    gate.write_text("preview")
    assert in_process(run_app, "image.tif", *ON_TINY, "-o", s3).returncode == 1
    assert list(staged_by_default.glob("*/image_mask.tif"))


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["-o", "https://127.0.0.1/masks"], 1, "files cannot be put behind an address of the web"),
        (["-o", "/vsicurl/https://127.0.0.1/masks"], 1, "expected a folder, a URL such as s3://bucket/folder"),
        (["-o", "abc://host/masks"], 1, "Protocol not known: abc"),
        (["-o", "s3:///"], 1, "expected s3://BUCKET/FOLDER, found no bucket"),
        (["-o", "s3://no-such-bucket/masks"], 1, "s3://no-such-bucket/masks: cannot write to it"),
        (["-o", "out", "--staging", "here"], 2, "--staging is for outputs that go to a URL"),
        (["--stats", "s3://bucket/s.csv"], 2, "--stats: expected a file of this machine"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(
    in_process: InProcess, s3: str, arguments: list[str], code: int, told: str
) -> None:
    done = in_process(run_app, "image.tif", *ON_TINY, *arguments)
    assert done.returncode == code
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert "bundle tiny runs on" not in done.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["image.tif"]


def test_a_store_that_does_not_answer_is_one_line(
    in_process: InProcess, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    done = in_process(run_app, "image.tif", *ON_TINY, "-o", s3)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "127.0.0.1:1" in done.stderr


def test_an_image_of_a_store_is_not_replaced_by_its_mask(in_process: InProcess, s3: str, store: Storage) -> None:
    store.put(Path("image.tif"), "image.tif")
    vsi = s3.replace("s3://", "/vsis3/")
    done = in_process(run_app, f"{vsi}/image.tif", *ON_TINY, "-o", f"{s3}/image.tif", "--overwrite", "--allow-remote")
    assert done.returncode == 2
    assert "is one of the images" in " ".join(done.stderr.replace("│", " ").split())
    assert store.read("image.tif") == Path("image.tif").read_bytes()


def test_parts_stay_until_the_outputs_are_there(run: Run, store: Storage, gate: Path, s3: str) -> None:
    """A machine whose upload fails may be gone, with all that waits on it, when others go on."""
    for part in ("2/2", "1/2"):
        assert run("--part", part).returncode == 0
    shutil.rmtree("staging")
    gate.write_text("image_mask.tif")
    assert run("--assemble").returncode == 1
    gate.unlink()
    assert staged() != []
    shutil.rmtree("staging")
    assert len(storage_of(f"{s3}/image_mask.fctl-parts").names("part-")) == 2
    mended = run("--assemble", "--overwrite")
    assert mended.returncode == 0, mended.stderr
    assert store.names() == ALL
    assert storage_of(f"{s3}/image_mask.fctl-parts").names() == []
