"""``fctl-run`` with workers, with parts, and with what cannot be: many images, stores, and wrong calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from fctl.runtime.cli.run import run_app
from fctl.runtime.spread.orders import absolute, relative
from fctl.runtime.storage.base import Storage
from fctl.runtime.storage.places import storage_of
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime", "--stats", "csv")
NEEDS_DASK = pytest.mark.skipif(not find_spec("distributed"), reason="needs distributed")
BY = [("--workers", "2"), pytest.param(("--dask", "local:2"), marks=NEEDS_DASK)]


@pytest.fixture
def run(in_process: InProcess, image: Path, tmp_path: Path, trouble: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``fctl-run`` in the folder of image.tif."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: in_process(run_app, *arguments, *ON_TINY, "--log-level", "warning")


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def lines(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
    """What is told of each image, but for times."""
    told = {found["image"]: found for found in map(json.loads, done.stdout.splitlines())}
    for found in told.values():
        found.pop("seconds", None)
        found.pop("outputs", None)
    return told


@pytest.mark.parametrize("by", BY, ids=lambda by: by[0][2:])
def test_many_images(by: tuple[str, str], run: Run, trouble: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones are segmented whole, one by each worker; a large one is cut; one that is bad fails alone."""
    monkeypatch.setattr("fctl.runtime.spread.lead._SMALL", 40)
    Path("scenes").mkdir()
    for number in range(6):
        write_geotiff(Path(f"scenes/{number}.tif"), slope_of(40 + number, 50))
    Path("scenes/bad.tif").write_bytes(Path("scenes/0.tif").read_bytes()[:900])
    write_geotiff(Path("scenes/large.tif"), slope_of(120, 80))
    whole = run("scenes", "-o", "whole", "--json")
    spread = run("scenes", "-o", "spread", "--json", *by)
    assert (whole.returncode, spread.returncode) == (3, 3)
    assert lines(spread) == lines(whole)
    assert files("spread") == files("whole")
    assert [line for line in spread.stderr.splitlines() if line.startswith("error")] == [
        line for line in whole.stderr.splitlines() if line.startswith("error")
    ]
    made = (trouble / "makers").read_text().split()
    assert len(made) == 6 + 5  # a shard for each small image; and those of the large one, two rows of tiles in each
    earlier = time.time() - 100
    for image in Path("scenes").iterdir():
        os.utime(image, (earlier, earlier))
    Path("scenes/bad.tif").unlink()
    again = run("scenes", "-o", "spread", "--json", "--skip-existing", *by)
    assert again.returncode == 4, again.stderr
    Path("spread/3_stats.csv").unlink()
    mended = run("scenes", "-o", "spread", "--skip-existing", "--overwrite", *by)
    assert mended.returncode == 0, mended.stderr
    assert files("spread") == files("whole")


_VRT = """<VRTDataset rasterXSize="{side}" rasterYSize="{side}">
  <VRTRasterBand dataType="Byte" band="1"><NoDataValue>0.5</NoDataValue>
    <SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
  </VRTRasterBand>
</VRTDataset>"""


@pytest.mark.parametrize("by", BY, ids=lambda by: by[0][2:])
def test_warnings(by: tuple[str, str], tmp_path: Path) -> None:
    """What workers warn of is told by the command, once: of a large image, which it opens too, and of a small one."""
    for name, side in (("large", 700), ("small", 60)):
        write_geotiff(tmp_path / f"{name}.tif", slope_of(side, side))
        (tmp_path / f"{name}.vrt").write_text(_VRT.format(name=name, side=side), "utf-8")
    code = "from fctl.runtime.cli.run import run_app; run_app(prog_name='fctl-run')"

    def run(*options: str) -> list[str]:
        words = [sys.executable, "-c", code, "large.vrt", "small.vrt", "--bands", "1,1,1", *map(str, ON_TINY)]
        done = subprocess.run([*words, *by, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [line for line in done.stderr.splitlines() if "patches/s" not in line]

    told = "warning: {}.vrt: its nodata value 0.5 is none that uint8 can hold: all pixels have data"
    assert sorted(run()) == [told.format("large"), told.format("small")]
    assert run("--quiet", "--overwrite") == []


@pytest.mark.parametrize("folder", ["/", None], ids=["root", "folder"])
def test_paths_are_told_as_they_were_given(folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what only holds the folder's name, as URLs and names of GDAL may, is left as it is."""
    monkeypatch.chdir(folder or tmp_path)
    image = absolute(Path("scenes/a.tif"))
    told = f"{image}: as s3://bucket//a.tif and /vsitar/{image}, near {image}"
    assert relative(told) == f"scenes/a.tif: as s3://bucket//a.tif and /vsitar/{image}, near scenes/a.tif"


# Stores


@pytest.fixture
def store(s3: str) -> Storage:
    return storage_of(s3)


def in_store(store: Storage) -> dict[str, bytes]:
    return {name: store.read(name) for name in store.names()}


def everything(s3: str) -> list[str]:
    """All that lies below a folder of a bucket."""
    import s3fs

    return sorted(s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], skip_instance_cache=True).find(s3))


@NEEDS_DASK
def test_shards_go_through_a_store(run: Run, s3: str, store: Storage, trouble: Path) -> None:
    assert run("image.tif", "-o", "whole").returncode == 0
    done = run("image.tif", "-o", s3, "--staging", "staging", "--dask", "local:2")
    assert done.returncode == 0, done.stderr
    assert len((trouble / "makers").read_text().split()) >= 4
    assert in_store(store) == files("whole")
    assert len(everything(s3)) == len(files("whole"))  # neither shards nor probes are left
    assert list(Path("staging").rglob("*")) == []


def test_parts_go_through_a_store(run: Run, s3: str, store: Storage) -> None:
    """Each of them on another machine, of which nothing but the store is seen elsewhere."""
    assert run("image.tif", "-o", "whole").returncode == 0
    for number in (2, 1):
        part = run("image.tif", "-o", s3, "--staging", f"machine{number}", "--part", f"{number}/2")
        assert part.returncode == 0, part.stderr
    assert store.names() == []
    missing = run("image.tif", "-o", s3, "--staging", "machine4", "--part", "1/3")
    assert missing.returncode == 0
    mixed = run("image.tif", "-o", s3, "--staging", "machine5", "--assemble")
    assert mixed.returncode == 1
    assert "expected parts of one run, found 2 of 2 and 1 of 3" in mixed.stderr
    for name in everything(s3):
        if name.endswith("part-1-of-3"):
            storage_of(f"s3://{name.rpartition('/')[0]}").remove("part-1-of-3")
    done = run("image.tif", "-o", s3, "--staging", "machine3", "--assemble")
    assert done.returncode == 0, done.stderr
    assert in_store(store) == files("whole")
    assert len(everything(s3)) == len(files("whole"))


def test_a_part_goes_on_on_another_machine(run: Run, s3: str, store: Storage) -> None:
    assert run("image.tif", "-o", "whole").returncode == 0
    assert run("image.tif", "-o", s3, "--staging", "machine1", "--part", "1/2").returncode == 0
    again = run("image.tif", "-o", s3, "--staging", "machine2", "--part", "1/2")
    assert "0 tiles inferred" in again.stdout
    missing = run("image.tif", "-o", s3, "--staging", "machine3", "--assemble")
    assert missing.returncode == 1
    assert "part 2 of 2 is missing or not finished" in missing.stderr
    assert run("image.tif", "-o", s3, "--staging", "machine2", "--part", "2/2").returncode == 0
    done = run("image.tif", "-o", s3, "--staging", "machine3", "--assemble")
    assert done.returncode == 0, done.stderr
    assert in_store(store) == files("whole")


# Wrong calls


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--workers", "2", "--dask", "local:2"], 2, "--workers and --dask: expected one of them, found 2"),
        (["--part", "1/2", "--assemble"], 2, "--part and --assemble: expected one of them, found 2"),
        (["--workers", "3", "--part", "1/2", "--assemble"], 2, "expected one of them, found 3"),
        (["--workers", "0"], 2, "--workers"),
        (["--part", "21/20"], 1, "--part: expected a number from 1 to 20 before the stroke, found 21/20"),
        (["--part", "0/3"], 1, "--part: expected a number from 1 to 3 before the stroke, found 0/3"),
        (["--part", "x"], 1, "--part: expected a part and how many there are, as in 3/20, found 'x'"),
        (["--part", ""], 1, "--part: expected a part"),
        (["--assemble"], 1, "out/image_mask.fctl-parts: expected parts of a run, found none"),
        pytest.param(["--dask", "nobody"], 1, "--dask: expected tcp://HOST:PORT of a scheduler", marks=NEEDS_DASK),
        pytest.param(["--dask", ""], 1, "--dask: expected tcp://HOST:PORT of a scheduler", marks=NEEDS_DASK),
    ],
)
def test_wrong_calls_are_one_line_and_leave_nothing(options: list[str], code: int, told: str, run: Run) -> None:
    done = run("image.tif", "-o", "out", *options)
    assert done.returncode == code, done.stderr
    assert told in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    if code == 1:
        assert done.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_a_missing_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [
        name for name in sys.modules if name.partition(".")[0] == "distributed" or name.endswith("spread.dask")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = run("image.tif", "-o", "out", "--dask", "local:2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --dask needs the package distributed, which is missing; ")
    assert "dask" in done.stderr.rpartition(";")[2]


@pytest.mark.parametrize(
    "options", [["--workers", "2"], ["--dask", "tcp://127.0.0.1:1"], ["--part", "1/2"], ["--assemble"]]
)
def test_nothing_is_started_for_an_estimate(options: list[str], run: Run) -> None:
    done = run("image.tif", "-o", "out", "--dry-run", *options)
    assert done.returncode == 0, done.stderr
    assert "out/image_mask.tif" in done.stdout
    assert not Path("out").exists()


def test_one_worker_is_this_process(run: Run, trouble: Path) -> None:
    assert run("image.tif", "-o", "out", "--workers", "1").returncode == 0
    assert not (trouble / "makers").exists()


def test_workers_do_not_replace_what_is_there(run: Run) -> None:
    assert run("image.tif", "-o", "out").returncode == 0
    before = files("out")
    done = run("image.tif", "-o", "out", "--workers", "2")
    assert done.returncode == 1
    assert done.stderr == run("image.tif", "-o", "out").stderr
    assert files("out") == before


def test_the_help_has_a_panel_of_its_own(in_process: InProcess) -> None:
    told = in_process(run_app, "--help").stdout
    panel = told[told.index("More than one process or machine") :]
    for option in ("--workers", "--dask", "--part", "--assemble"):
        assert option in panel
