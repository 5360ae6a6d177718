"""Parts of a run that many jobs make, in any order, and the job that assembles them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fctl.runtime.cli.run import run_app
from tests.conftest import InProcess, write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ON_TINY = ("--bundle", tiny.TINY, "--backend", "onnxruntime", "--stats", "csv")
PARTS = Path("out/image_mask.fctl-parts")


@pytest.fixture
def run(in_process: InProcess, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``fctl-run image.tif -o out``."""
    monkeypatch.chdir(tmp_path)

    def do(*arguments: object, out: str = "out") -> subprocess.CompletedProcess[str]:
        return in_process(run_app, "image.tif", "-o", out, *ON_TINY, "--log-level", "warning", *arguments)

    return do


def files(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def error(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that failed."""
    assert result.returncode == 1
    (line,) = [line for line in result.stderr.splitlines() if "patches" not in line]
    return line.removeprefix("error: ")


def test_parts_in_any_order_and_more_than_once(run: Run) -> None:
    assert run(out="whole").returncode == 0
    for part in ("3/3", "1/3", "3/3", "2/3"):
        done = run("--part", part)
        assert done.returncode == 0, done.stderr
        assert f"done: part {part} of image.tif in" in done.stdout
        assert files() == {}
    journal = (PARTS / "3-of-3" / "journal").read_bytes()
    again = run("--part", "3/3")
    assert "0 tiles inferred" in again.stdout
    assert (PARTS / "3-of-3" / "journal").read_bytes() == journal
    assembled = run("--assemble")
    assert assembled.returncode == 0, assembled.stderr
    assert "wrote out/image_mask.tif" in assembled.stdout
    assert files() == files("whole")
    assert not PARTS.exists()


def test_more_parts_than_shards(run: Run) -> None:
    assert run(out="whole").returncode == 0
    for number in range(1, 12):
        assert run("--part", f"{number}/11").returncode == 0
    done = run("--assemble", "--json")
    assert done.returncode == 0, done.stderr
    whole, assembled = (json.loads(run("--json", "--overwrite", out="whole").stdout), json.loads(done.stdout))
    assert files() == files("whole")
    assert whole.keys() == assembled.keys()
    for name in whole.keys() - {"seconds", "outputs"}:
        assert whole[name] == assembled[name]


def test_what_a_dead_job_left_of_a_part_is_kept(run: Run, trouble: Path) -> None:
    assert run(out="whole").returncode == 0
    assert run("--part", "1/2").returncode == 0
    folder = PARTS / "1-of-2"
    first, *rest = sorted(folder.glob("shard-*.npz"))
    assert rest
    lines = (folder / "journal").read_bytes().splitlines(keepends=True)
    (folder / "journal").write_bytes(b"".join(lines[:2]) + lines[2][:20])  # killed while it noted the second
    (folder / "shard-000001.npz.part").write_bytes(b"half")
    changed = first.stat().st_mtime_ns
    assert run("--part", "2/2").returncode == 0
    refused = error(run("--assemble"))
    assert refused.startswith(f"{PARTS}: part 1 of 2 is missing or not finished; run it with --part")
    assert run("--part", "1/2").returncode == 0
    assert first.stat().st_mtime_ns == changed  # nobody made it again
    assert run("--assemble").returncode == 0
    assert files() == files("whole")


def test_missing_parts_are_named(run: Run) -> None:
    told = error(run("--assemble"))
    assert told == f"{PARTS}: expected parts of a run, found none; make them with --part 1/N to N/N first"
    for number in (2, 4):
        assert run("--part", f"{number}/4").returncode == 0
    assert "part 1, 3 of 4 is missing or not finished" in error(run("--assemble"))
    for shard in (PARTS / "2-of-4").glob("shard-*.npz"):
        shard.unlink()
    assert "part 1 to 3 of 4 is missing or not finished" in error(run("--assemble"))
    assert files() == {}
    assert (PARTS / "4-of-4" / "journal").exists()  # nothing is lost by asking


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["--part", "2/3"], "expected parts of one run, found 1 of 2 and 1 of 3; remove those that are not wanted"),
        (["--part", "2/2", "--tta"], "another part had turns 1, now it is 8; run all parts in the same way"),
        (["--part", "2/2", "--bands", "3,2,1"], "another part had bands None, now it is"),
    ],
)
def test_parts_that_do_not_go_together(other: list[str], told: str, run: Run) -> None:
    assert run("--part", "1/2").returncode == 0
    assert run(*other).returncode == 0
    assert told in error(run("--assemble"))
    assert files() == {}


def test_parts_of_another_engine_or_image(run: Run) -> None:
    for number in (1, 2):
        assert run("--part", f"{number}/2").returncode == 0
    journal = PARTS / "2-of-2" / "journal"
    before = journal.read_text()
    journal.write_text(before.replace('"engine": "onnxruntime', '"engine": "onnxruntime 0.1 not'))
    assert "another part had engine onnxruntime" in error(run("--assemble"))
    journal.write_text(before)
    assert "the parts had bands None, now it is [3, 2, 1]; ask for the same" in error(
        run("--assemble", "--bands", "3,2,1")
    )
    write_geotiff(Path("image.tif"), slope_of(100, 70)[::-1])
    assert "the image is not the one of the parts" in error(run("--assemble"))
    assert "image" in error(run("--part", "1/2"))
    shutil.rmtree(PARTS)
    assert run("--part", "1/2").returncode == 0


def test_existing_outputs_and_folders_in_work(run: Run) -> None:
    assert run().returncode == 0
    before = files()
    assert "exists already" in error(run("--part", "1/2"))
    assert run("--part", "1/1", "--overwrite", "--tta").returncode == 0
    assert files() == before
    assert "exists already" in error(run("--assemble", "--tta"))
    assert run("--assemble", "--tta", "--overwrite").returncode == 0
    assert files() != before


def test_parts_of_several_images(run: Run, in_process: InProcess) -> None:
    write_geotiff(Path("second.tif"), slope_of(70, 100))
    arguments = ("image.tif", "second.tif", "-o", "out", *ON_TINY)
    for number in (1, 2):
        assert in_process(run_app, *arguments, "--part", f"{number}/2").returncode == 0
    shutil.rmtree("out/second_mask.fctl-parts/1-of-2")
    some = in_process(run_app, *arguments, "--assemble")
    assert some.returncode == 3
    assert "second_mask.fctl-parts: part 1 of 2 is missing" in some.stderr
    assert set(files()) == {
        f"image_{name}" for name in ("mask.tif", "mask.qml", "mask.tif.aux.xml", "preview.jpg", "stats.csv")
    }
