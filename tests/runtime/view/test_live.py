"""A run that is looked at while it goes on."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

for package in ("rio_tiler", "starlette", "uvicorn", "shapely"):
    pytest.importorskip(package)

from fctl.runtime import Paths, Segmenter  # noqa: E402
from fctl.runtime.bundle.manifest import ClassInfo  # noqa: E402
from fctl.runtime.cli.run import run_app  # noqa: E402
from fctl.runtime.errors import OutputError  # noqa: E402
from fctl.runtime.raster.georeference import georeference_of  # noqa: E402
from fctl.runtime.raster.source import open_any  # noqa: E402
from fctl.runtime.segment.shards import plan  # noqa: E402
from fctl.runtime.segment.shards.parts import ids_in  # noqa: E402
from fctl.runtime.tiling.windows import Window  # noqa: E402
from fctl.runtime.view import canvas  # noqa: E402
from tests.conftest import InProcess  # noqa: E402
from tests.runtime import tiny  # noqa: E402
from tests.runtime.view.conftest import HEIGHT, WIDTH, Run  # noqa: E402

CLASSES = tuple(ClassInfo(name=f"c{index}", colour=(index, 0, 0)) for index in range(4))


@pytest.mark.parametrize("step", [1, 3])
def test_a_canvas_holds_every_nth_pixel(step: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvas, "MOST", HEIGHT * WIDTH // step**2)
    rng = np.random.default_rng(4)
    ids = rng.integers(0, 4, (HEIGHT, WIDTH), np.uint8)
    with open_any(run.mask) as dataset:
        found = canvas.Canvas(HEIGHT, WIDTH, georeference_of(dataset), CLASSES)
        place = dataset.transform
    assert found.step == step
    cuts = [(y, x) for y in range(0, HEIGHT, 64) for x in range(0, WIDTH, 50)]
    for y, x in rng.permutation(cuts)[:-5].tolist():
        part = ids[y : y + 64, x : x + 50]
        found.place(Window(y, x, *part.shape), part)
    for y, x in cuts:  # twice is no harm
        part = ids[y : y + 64, x : x + 50]
        found.place(Window(y, x, *part.shape), part)
    found.save(tmp_path / "so_far.tif")
    with rasterio.open(tmp_path / "so_far.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), ids[::step, ::step])
        assert tuple(dataset.transform)[:6] == (place.a * step, 0, place.c, 0, place.e * step, place.f)
        assert json.loads(dataset.tags()["FCTL_CLASSES"])["3"] == "c3"


def test_a_shard_that_is_damaged_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "shard.npz"
    path.write_bytes(b"PK\3\4 nothing")
    with pytest.raises(OutputError, match="a finished shard cannot be read"):
        list(ids_in(path))
    assert path.exists()


def stopping(stop_at: int) -> Callable[[int, int], None]:
    """Progress that interrupts a run at its n-th call."""
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == stop_at:
            raise KeyboardInterrupt

    return progress


def get(address: str) -> bytes:
    with urllib.request.urlopen(address) as answer:
        found: bytes = answer.read()
    return found


def until(fits: Callable[[], bool]) -> None:
    for _ in range(300):
        if fits():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come")


def test_finished_shards_appear_and_then_the_mask(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_TILES", 30)
    mask = tmp_path / "mask.tif"
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=16) as segmenter, pytest.raises(KeyboardInterrupt):
        segmenter.segment_file(run.image, Paths(mask=mask), progress=stopping(8))
    folder = mask.with_suffix(".fctl-run")
    assert list(folder.glob("shard-*.npz"))
    with rasterio.open(run.mask) as dataset:
        whole, colours = dataset.read(1), dataset.colormap(1)
    classes = [(f"class {index}", colours[index][:3]) for index in range(3)]
    order = {"image": str(run.image), "folder": str(folder), "bands": None, "classes": classes, "process": os.getpid()}
    (tmp_path / "pictures").mkdir()
    command = [sys.executable, "-m", "fctl.runtime.view.live", str(tmp_path / "pictures")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def tell(**line: object) -> None:
            assert process.stdin is not None
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()

        tell(**order)
        tell(done=8, total=20)
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        until(lambda: json.loads(get(f"{address}counts"))["nodata"] < HEIGHT * WIDTH)
        counts = json.loads(get(f"{address}counts"))
        done = sum(row["pixels"] for row in counts["classes"])
        assert 0 < done < HEIGHT * WIDTH
        finished = whole.ravel()[:done]  # shards are rows from the top
        assert [row["pixels"] for row in counts["classes"]] == np.bincount(finished, minlength=3).tolist()
        told = json.loads(get(f"{address}run"))
        assert (told["done"], told["total"], told["over"], told["image"]) == (8, 20, False, "image.tif")
        assert told["memory"] > 1_000_000
        assert json.loads(get(f"{address}view.json"))["running"]
        zoom = 17
        tell(mask=str(run.mask))
        until(lambda: json.loads(get(f"{address}counts"))["nodata"] == 0)
        assert json.loads(get(f"{address}run"))["over"]
        assert json.loads(get(f"{address}view.json"))["title"] == "mask.tif"
        assert Image.open(io.BytesIO(get(f"{address}tiles/mask/{zoom}/0/0"))).size == (256, 256)
        process.stdin.close()
        assert process.wait(30) == 0
    assert not (tmp_path / "pictures").exists()


def test_a_run_tells_its_page_and_ends_it(run: Run, tmp_path: Path) -> None:
    code = "from fctl.runtime.cli.run import run_app; run_app(prog_name='fctl-run')"
    command = [
        sys.executable,
        "-c",
        code,
        run.image,
        "--bundle",
        tiny.TINY,
        "--out",
        tmp_path,
        "--live",
        "--no-preview",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    with rasterio.open(tmp_path / "image_mask.tif") as dataset, rasterio.open(run.mask) as expected:
        np.testing.assert_array_equal(dataset.read(1), expected.read(1))


@pytest.mark.parametrize("other", [["--memory", "2G"], ["--workers", "2"], ["--mosaic"], ["--dry-run"]])
def test_what_a_page_cannot_show_is_refused(run: Run, in_process: InProcess, tmp_path: Path, other: list[str]) -> None:
    done = in_process(run_app, run.image, "--out", tmp_path, "--live", *other)
    assert done.returncode == 2
    assert f"--live does not go with {other[0]}: leave one of them out" in done.stderr
    assert list(tmp_path.iterdir()) == []
