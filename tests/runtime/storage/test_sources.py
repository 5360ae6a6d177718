"""Images on servers, as `fctl-run` takes them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fctl.runtime.cli.run import run_app
from fctl.runtime.raster.files import pinned
from fctl.runtime.raster.fingerprint import fingerprint
from fctl.runtime.storage.amazon import endpoint, for_gdal
from fctl.runtime.storage.places import storage_of
from fctl.runtime.storage.states import state_of
from tests.conftest import InProcess, write_geotiff
from tests.runtime import raster as raster_tests
from tests.runtime import tiny
from tests.runtime.naive import slope_of

ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime", "--no-preview")
AWS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING")


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    (tmp_path / "here").mkdir()
    noise = np.random.default_rng(0).integers(0, 40, (100, 70, 3)).astype(np.uint8)
    path = write_geotiff(tmp_path / "here" / "scene.tif", slope_of(100, 70) // 2 + noise, tiled=True, blockxsize=32,
                         blockysize=32)  # fmt: skip
    earlier = time.time() - 100
    os.utime(path, (earlier, earlier))
    return path


@pytest.fixture(params=["http", "vsicurl", "s3", "vsis3"])
def remote(request: pytest.FixtureRequest, image: Path) -> str:
    """What an image on a server is called; a copy of it is here."""
    kind = request.param
    if kind in ("http", "vsicurl"):
        address = request.getfixturevalue("web")
        (Path("web") / "scene.tif").write_bytes(image.read_bytes())
        os.utime(Path("web") / "scene.tif", (image.stat().st_mtime, image.stat().st_mtime))
        return f"{'/vsicurl/' if kind == 'vsicurl' else ''}{address}/scene.tif"
    url: str = request.getfixturevalue("s3")
    storage_of(url).put(image, "scene.tif")
    return (url if kind == "s3" else url.replace("s3://", "/vsis3/")) + "/scene.tif"


def replace_remote(remote: str, image: Path) -> None:
    """Put another image in its place."""
    if "http" in remote:
        (Path("web") / "scene.tif").write_bytes(image.read_bytes())
        later = time.time() + 100
        os.utime(Path("web") / "scene.tif", (later, later))
    else:
        storage_of(remote.rpartition("/")[0]).put(image, "scene.tif")


def mask_of(folder: str) -> bytes:
    return (Path(folder) / "scene_mask.tif").read_bytes()


def test_an_image_on_a_server_gives_the_mask_of_its_copy(remote: str, image: Path, in_process: InProcess) -> None:
    Path("list.txt").write_text(f"# one image\n{remote}\n")
    for argument, folder in ((remote, "direct"), ("list.txt", "listed")):
        done = in_process(run_app, argument, *ON_TINY, "-o", folder, "--allow-remote", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["outputs"] == {"mask": f"{folder}/scene_mask.tif"}
    assert in_process(run_app, image, *ON_TINY, "-o", "copy").returncode == 0
    assert mask_of("direct") == mask_of("listed") == mask_of("copy")


def test_a_server_is_asked_nothing_unless_that_is_allowed(remote: str, in_process: InProcess) -> None:
    for more in ([], ["--skip-existing"], ["--resume"], ["--dry-run"]):
        done = in_process(run_app, remote, *ON_TINY, "-o", "out", *more)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {remote}: remote images are not read by default; download it, or, ")
        assert done.stderr.endswith("lift this check with --allow-remote\n")
        assert done.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_no_connection_is_made_unless_that_is_allowed(in_process: InProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/scene.tif"
        for more in ([], ["--skip-existing"], ["--resume"], ["--dry-run"], ["--mosaic"]):
            assert in_process(run_app, address, *ON_TINY, "-o", "out", *more).returncode == 1
            with pytest.raises(BlockingIOError):  # nobody waits to be accepted
                server.accept()


@pytest.mark.parametrize("remote", ["http", "s3"], indirect=True)
def test_what_is_there_is_passed_over_unless_the_image_is_newer(
    remote: str, image: Path, in_process: InProcess
) -> None:
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return in_process(run_app, remote, *ON_TINY, "-o", "out", "--allow-remote", "--skip-existing", *more)

    assert run().returncode == 0
    later = time.time() + 10
    os.utime("out/scene_mask.tif", (later, later))  # as the servers here are no older than a moment
    for companion in ("qml", "tif.aux.xml"):
        os.utime(f"out/scene_mask.{companion}", (later, later))
    assert run().returncode == 4
    earlier = time.time() - 1000
    os.utime("out/scene_mask.tif", (earlier, earlier))
    assert run().returncode == 1
    assert run("--overwrite").returncode == 0


def test_the_fingerprint_of_an_image_tells_its_state(remote: str, image: Path) -> None:
    """Another image of the same header, as a service may put in its place."""
    before = fingerprint(remote)
    assert before == fingerprint(remote)
    assert before.size == image.stat().st_size
    assert abs(before.mtime_ns / 1e9 - time.time()) < 200
    assert [name for name, _ in before.others] == ["ETag"]
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    replace_remote(remote, image)
    after = fingerprint(remote)
    assert after.sha256 == before.sha256  # its header and the places of its blocks are the same
    assert after != before
    assert before.difference(after)


@pytest.mark.parametrize("remote", ["http", "s3"], indirect=True)
def test_a_run_goes_on_unless_its_image_was_exchanged(remote: str, image: Path, in_process: InProcess) -> None:
    code = f"""
import sys
from fctl.runtime.cli.run import run_app
from fctl.runtime.segment import memory
from fctl.runtime.segment.shards import folder, plan
plan._TILES, memory.PANEL = 6, 36
add = folder.RunFolder.add
def add_and_end(run, done):
    add(run, done)
    if done.shard == 2:
        raise KeyboardInterrupt
if sys.argv[1:]:
    folder.RunFolder.add = add_and_end
arguments = [{remote!r}, "--bundle", {str(tiny.TINY)!r}, "--backend", "onnxruntime", "--no-preview", "-o", "out"]
run_app([*arguments, "--allow-remote", "--resume", "--json"])
"""

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, check=False)

    assert run("end").returncode == 130
    assert len(list(Path("out/scene_mask.fctl-run").glob("shard-*.npz"))) == 3
    shutil.copytree("out", "kept")
    resumed = run()
    assert resumed.returncode == 0, resumed.stderr
    assert in_process(run_app, image, *ON_TINY, "-o", "copy").returncode == 0
    assert mask_of("out") == mask_of("copy")

    shutil.rmtree("out")
    shutil.copytree("kept", "out")
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    replace_remote(remote, image)
    refused = run()
    assert refused.returncode == 1
    assert "the image is not the one of the run to resume" in refused.stderr
    assert not Path("out/scene_mask.tif").exists()


@pytest.mark.parametrize("way", ["drop", "500"])
def test_a_server_that_breaks_off_is_one_line_and_leaves_nothing(way: str, in_process: InProcess) -> None:
    write_geotiff(Path("here/large.tif"), slope_of(200, 200))
    script = Path(raster_tests.__file__).with_name("bad_server.py")
    with subprocess.Popen([sys.executable, str(script), "here"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}/{way}/large.tif"
        done = in_process(run_app, address, *ON_TINY, "-o", "out", "--allow-remote")
        process.kill()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert re.search(r"large\.tif: cannot read .*the server does not send all of it.*; try again later", line)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.tif", r"gone\.tif: expected an image that GDAL reads, found none \(.*404"),
        ("notes.txt", r"notes\.txt: expected an image that GDAL reads, found none"),
    ],
)
def test_what_a_server_does_not_have_is_one_line(web: str, name: str, told: str, in_process: InProcess) -> None:
    (Path("web") / "notes.txt").write_text("no image" * 1000)
    done = in_process(run_app, f"{web}/{name}", *ON_TINY, "-o", "out", "--allow-remote")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert re.search(told, line)
    assert not Path("out").exists()


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/scene.tif", "/vsicurl/http://127.0.0.1:1/scene.tif"])
def test_a_server_that_is_not_there_is_one_line(address: str, in_process: InProcess) -> None:
    done = in_process(run_app, address, *ON_TINY, "-o", "out", "--allow-remote")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1
    assert line.startswith(f"error: {address}: expected an image that GDAL reads")
    assert line.endswith("look whether the address opens in a browser, and try again later")


def test_a_bucket_or_an_object_that_is_not_there_is_one_line(s3: str, in_process: InProcess) -> None:
    for name in (f"{s3}/gone.tif", "/vsis3/no-such-bucket/scene.tif"):
        done = in_process(run_app, name, *ON_TINY, "-o", "out", "--allow-remote")
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 1
        assert line.startswith(f"error: {name}: expected an image that GDAL reads")


def test_a_server_that_says_nothing_of_a_file_has_no_state(web: str) -> None:
    assert state_of(f"{web}/gone.tif") is None
    assert state_of("http://127.0.0.1:1/scene.tif") is None
    assert state_of("/vsizip/a.zip/scene.tif") is None
    assert state_of("here/scene.tif") is None


def test_an_image_in_a_store_goes_to_a_store(s3: str, image: Path, in_process: InProcess) -> None:
    storage = storage_of(s3)
    storage.put(image, "scene.tif")
    done = in_process(run_app, f"{s3}/scene.tif", *ON_TINY, "-o", f"{s3}/masks", "--allow-remote")
    assert done.returncode == 0, done.stderr
    assert in_process(run_app, image, *ON_TINY, "-o", "copy").returncode == 0
    assert storage_of(f"{s3}/masks").read("scene_mask.tif") == mask_of("copy")


# S3 of others than Amazon


@pytest.fixture
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AWS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        (
            {"AWS_ENDPOINT_URL": "http://10.0.0.1:9000"},
            {"AWS_S3_ENDPOINT": "10.0.0.1:9000", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "NO"},
        ),
        (
            {"AWS_ENDPOINT_URL": "http://other", "AWS_ENDPOINT_URL_S3": "https://store.example/s3/"},
            {"AWS_S3_ENDPOINT": "store.example/s3", "AWS_HTTPS": "YES", "AWS_VIRTUAL_HOSTING": "NO"},
        ),
        ({"AWS_ENDPOINT_URL": "http://other", "AWS_S3_ENDPOINT": "mine"}, {}),
        (
            {"AWS_ENDPOINT_URL": "http://other", "AWS_VIRTUAL_HOSTING": "YES"},
            {"AWS_S3_ENDPOINT": "other", "AWS_HTTPS": "NO"},
        ),
    ],
)
def test_gdal_asks_the_server_that_the_environment_names(
    no_endpoint: None, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert for_gdal() == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"AWS_S3_ENDPOINT": "store.example"}, "https://store.example"),
        ({"AWS_S3_ENDPOINT": "10.0.0.1:9000", "AWS_HTTPS": "NO"}, "http://10.0.0.1:9000"),
        ({"AWS_S3_ENDPOINT": "mine", "AWS_ENDPOINT_URL": "http://other"}, "http://other"),
    ],
)
def test_so_does_botocore(
    no_endpoint: None, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert endpoint() == expected


def test_images_of_this_machine_are_opened_without_any_server(s3: str) -> None:
    """Neither the server nor credentials are GDAL's options while a stranger's file is read."""
    from rasterio._env import get_gdal_config
    from rasterio.env import getenv

    with pinned("local"):
        assert not [name for name in getenv() if name.startswith("AWS_")]
        assert get_gdal_config("AWS_S3_ENDPOINT") is None
    with pinned("any"):
        assert get_gdal_config("AWS_S3_ENDPOINT") is not None
    assert get_gdal_config("AWS_S3_ENDPOINT") is None
