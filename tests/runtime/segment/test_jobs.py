"""Runs over files that are interrupted, go on, meet faults, and keep to their limits."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fctl.runtime import Paths, Segmenter
from fctl.runtime.engines.base import Session
from fctl.runtime.errors import DeviceMemoryError, EngineError, FctlError, InputError, OutputError, RasterError
from fctl.runtime.raster.source import RasterSource
from fctl.runtime.segment import memory
from fctl.runtime.segment.batches import grid_of
from fctl.runtime.segment.pipeline import Pipeline
from fctl.runtime.segment.shards import plan as plans
from fctl.runtime.segment.shards.parts import PartWriter
from fctl.runtime.segment.shards.plan import ShardPlan
from fctl.runtime.segment.sinks import SINKS
from fctl.runtime.tiling.merge import Merger
from tests.conftest import write_geotiff
from tests.runtime import tiny
from tests.runtime.naive import slope_of
from tests.runtime.raster.decoding import counted
from tests.runtime.raster.test_blocks import corrupt

HEIGHT, WIDTH = 100, 70


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two rows of tiles, in panels of three columns."""
    monkeypatch.setattr(plans, "_TILES", 6)
    monkeypatch.setattr(memory, "PANEL", 36)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_geotiff(tmp_path / "image.tif", slope_of(HEIGHT, WIDTH))


def paths_in(folder: Path) -> Paths:
    others = {"confidence": folder / "c.tif", "stats": folder / "s.json"}
    others |= {"vector": folder / "g.geojson"} if find_spec("pyogrio") and find_spec("shapely") else {}
    return Paths(mask=folder / "m.tif", probabilities=folder / "p.tif", preview=folder / "v.jpg", others=others)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def steps(stop_at: int) -> Callable[[int, int], None]:
    """Progress that is interrupted at its n-th call."""
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == stop_at:
            raise KeyboardInterrupt

    return progress


def test_shards_and_panels_change_no_byte(
    tmp_path: Path, image: Path, segmenter: Segmenter, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = segmenter.segment_file(image, paths_in(tmp_path / "many"))
    shards = ShardPlan.over(grid_of(segmenter.manifest, HEIGHT, WIDTH), 36).shards
    assert len(shards) > 6
    monkeypatch.undo()
    whole = segmenter.segment_file(image, paths_in(tmp_path / "one"))
    assert (report.pixels, report.tiles, report.not_finite) == (whole.pixels, whole.tiles, whole.not_finite)
    many, one = digests(tmp_path / "many"), digests(tmp_path / "one")
    assert many == one


@pytest.mark.once
def test_a_run_goes_on_from_wherever_it_was_interrupted(tmp_path: Path, image: Path, small_shards: None) -> None:
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=3) as segmenter:
        calls: list[int] = []
        segmenter.segment_file(image, paths_in(tmp_path / "whole"), progress=lambda done, total: calls.append(done))
        expected = digests(tmp_path / "whole")
        begun = []
        for stop in range(1, len(calls) + 1, 2):
            out = tmp_path / f"run{stop}"
            with pytest.raises(KeyboardInterrupt):
                segmenter.segment_file(image, paths_in(out), progress=steps(stop))
            kept = len(list(out.glob("m.fctl-run/shard-*.npz")))
            assert not [name for name in digests(out) if not name.startswith("m.fctl-run/")]
            told: list[tuple[int, int]] = []
            segmenter.segment_file(
                image, paths_in(out), resume=True, progress=lambda done, total, told=told: told.append((done, total))
            )
            assert digests(out) == expected
            assert told[-1][0] == told[-1][1]
            begun.append((kept, told[0][0]))
    assert begun == sorted(begun)
    assert begun[0][0] == 0
    assert begun[-1][0] > 5  # the last ones had little left to do
    assert begun[-1][1] > 0.5 * calls[-1]


def test_the_report_counts_what_earlier_runs_did(tmp_path: Path, small_shards: None) -> None:
    pixels = np.random.default_rng(1).random((HEIGHT, WIDTH, 3)).astype(np.float32)
    pixels[3, 4:9], pixels[80, 20] = -4, -3.4e38  # scores that are not finite, and a value that nobody declared
    image = write_geotiff(tmp_path / "image.tif", pixels)
    with Segmenter(tiny.TINY_FLOAT, backend="onnxruntime", batch=4) as segmenter:
        whole = segmenter.segment_file(image, paths_in(tmp_path / "whole"))
        with pytest.raises(KeyboardInterrupt):
            segmenter.segment_file(image, paths_in(tmp_path / "run"), progress=steps(12))
        resumed = segmenter.segment_file(image, paths_in(tmp_path / "run"), resume=True)
    assert (whole.not_finite, whole.implausible) == (5, 1)
    for name in ("pixels", "not_finite", "implausible", "tiles", "height", "width"):
        assert getattr(resumed, name) == getattr(whole, name)


@pytest.mark.once
def test_a_killed_process_loses_a_shard_at_most_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGKILL, which no handler sees; `python -m benchmarks.kills` does this at many moments."""
    image = write_geotiff(tmp_path / "image.tif", slope_of(500, 400))
    code = (
        "import sys\n"
        "from fctl.runtime.segment.shards import plan\n"
        "plan._TILES = 68\n"
        "from fctl.runtime import Paths, Segmenter\n"
        "from pathlib import Path\n"
        "out = Path(sys.argv[2])\n"
        "paths = Paths(mask=out / 'm.tif', probabilities=out / 'p.tif', preview=out / 'v.png')\n"
        "with Segmenter(sys.argv[1], backend='onnxruntime') as segmenter:\n"
        "    segmenter.segment_file(sys.argv[3], paths, resume=True, progress=lambda *_: print(flush=True))\n"
    )

    def run(out: Path, kill_when: Callable[[], bool]) -> int:
        process = subprocess.Popen([sys.executable, "-c", code, tiny.TINY, out, image], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if kill_when():
                process.kill()
            time.sleep(0.005)
        return process.wait()

    assert run(tmp_path / "whole", lambda: False) == 0
    expected, out = digests(tmp_path / "whole"), tmp_path / "run"
    folder = out / "m.fctl-run"
    for shards in (2, 5):
        assert run(out, lambda shards=shards: len(list(folder.glob("shard-*.npz"))) >= shards) == -signal.SIGKILL
    assert run(out, (folder / "outputs" / "mask").is_dir) == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*.npz")}
    assert len(finished) > 5
    assert run(out, lambda: False) == 0
    assert digests(out) == expected


@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="signals as Linux has them")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_within_a_second(tmp_path: Path, number: int, code: int) -> None:
    image = write_geotiff(tmp_path / "image.tif", slope_of(600, 500))
    slow = (  # an engine that does not come back, as in a large batch: it waits for a lock that nobody opens
        "import ctypes, math, os, sys\n"
        "from fctl.runtime.engines.base import Session\n"
        "from fctl.runtime.engines.processor import cores\n"
        "from fctl.runtime.segment.shards import plan\n"
        "plan._TILES = 42\n"
        "calls, real = [], Session.run\n"
        "def run(self, arrays):\n"
        "    size = len(next(iter(arrays.values())))\n"
        "    calls.extend([1] * (size == 4))\n"
        "    if len(calls) == 150 and size == 4 // math.gcd(4, cores()):\n"  # a part of a batch, on several cores
        "        os.write(1, b'stuck\\n')\n"  # in one piece, for another part may do so at the same moment
        "        mutex, system = ctypes.create_string_buffer(64), ctypes.CDLL(None)\n"
        "        system.pthread_mutex_lock(mutex)\n"
        "        system.pthread_mutex_lock(mutex)\n"
        "    return real(self, arrays)\n"
        "Session.run = run\n"
        "from fctl.runtime.cli.run import run_app\n"
        "run_app()\n"
    )
    command = [
        sys.executable,
        "-c",
        slow,
        image,
        "--bundle",
        tiny.TINY,
        "--backend",
        "onnxruntime",
        "-o",
        tmp_path / "out",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "stuck\n"
    started = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - started < 20  # far less than the engine would take; a second where the machine is idle
    assert process.returncode == code
    assert [line for line in stderr.splitlines() if line.startswith("error")] == ["error: interrupted"]
    left = digests(tmp_path / "out")
    assert all(name.startswith("image_mask.fctl-run/") for name in left)
    assert {name.rpartition("/")[2].partition("-")[0] for name in left} == {"journal", "shard"}


# Faults


@contextmanager
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def failing(real: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    """A function that fails at its n-th call."""
    calls = []

    def function(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise error
        return real(*args, **options)

    return function


FAULTS: list[tuple[str, object, str, int, BaseException]] = [
    ("reading", RasterSource, "_read", 60, RasterError("damaged")),
    ("looking", RasterSource, "valid", 70, RasterError("damaged")),
    ("engine", Session, "run", 31, EngineError("broken")),
    ("bug in the engine", Session, "run", 31, ZeroDivisionError("bug")),
    ("merger", Merger, "_add", 50, ZeroDivisionError("bug")),
    ("strip", Merger, "_strip", 9, ZeroDivisionError("bug")),
    ("shard", PartWriter, "add", 9, OSError(28, "No space left on device")),
    ("end of a shard", PartWriter, "finish", 2, OSError(28, "No space left on device")),
    ("source", RasterSource, "check_unchanged", 3, RasterError("it changed")),
    *[
        (f"sink {name}", type(SINKS[name]), "open", 1, OSError(28, "No space left on device"))
        for name in paths_in(Path()).by_sink()
    ],
]


@pytest.mark.once
@pytest.mark.parametrize(("place", "name", "at", "error"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_leaves_nothing_half_written_and_the_run_goes_on(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None,
    place: Any, name: str, at: int, error: BaseException,
) -> None:  # fmt: skip
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=3) as segmenter:
        segmenter.segment_file(image, paths_in(tmp_path / "whole"))
        expected, out = digests(tmp_path / "whole"), tmp_path / "out"
        with monkeypatch.context() as patch, no_thread_stays():
            patch.setattr(place, name, failing(getattr(place, name), at, error))
            with pytest.raises(
                OutputError if isinstance(error, OSError) and not isinstance(error, FctlError) else type(error)
            ):
                segmenter.segment_file(image, paths_in(out))
        left = digests(out)
        assert left
        assert all(file == "m.fctl-run/journal" or file.startswith("m.fctl-run/shard-") for file in left)
        segmenter.segment_file(image, paths_in(out), resume=True)
    assert digests(out) == expected


def test_an_image_that_changes_meanwhile_ends_the_run_and_is_not_resumed(
    tmp_path: Path, image: Path, segmenter: Segmenter, small_shards: None
) -> None:
    def progress(done: int, total: int) -> None:
        if done >= total // 2:
            os.utime(image, ns=(1, 1))

    with pytest.raises(RasterError, match=r"image\.tif"):
        segmenter.segment_file(image, paths_in(tmp_path / "out"), progress=progress)
    with pytest.raises(OutputError, match="the image is not the one of the run to resume: it was written anew"):
        segmenter.segment_file(image, paths_in(tmp_path / "out"), resume=True)
    report = segmenter.segment_file(image, paths_in(tmp_path / "out"))
    assert report.tiles == len(grid_of(segmenter.manifest, HEIGHT, WIDTH))


def test_a_run_is_resumed_by_the_same_bundle_and_options_alone(
    tmp_path: Path, image: Path, segmenter: Segmenter, small_shards: None
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        segmenter.segment_file(image, paths_in(out), progress=steps(3))
    before = digests(out)
    with pytest.raises(OutputError, match=r"had bands None, now it is \[3, 2, 1\]"):
        segmenter.segment_file(image, paths_in(out), bands=[3, 2, 1], resume=True)
    with pytest.raises(OutputError, match="had outputs "):
        segmenter.segment_file(image, Paths(mask=out / "m.tif"), resume=True)
    with (
        Segmenter(tiny.TINY_FUSED, backend="onnxruntime") as other,
        pytest.raises(OutputError, match="had bundle tiny "),
    ):
        other.segment_file(image, paths_in(out), resume=True)
    with (
        Segmenter(tiny.TINY, backend="onnxruntime", tta=True) as other,
        pytest.raises(OutputError, match="had turns 1, now it is 8"),
    ):
        other.segment_file(image, paths_in(out), resume=True)
    assert digests(out) == before


@pytest.mark.once
def test_blocks_that_cannot_be_read_are_left_without_data(
    tmp_path: Path, segmenter: Segmenter, small_shards: None, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = (np.indices((300, 300, 3)).sum(axis=0) % 255 + 1).astype(np.uint8)
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "interleave": "pixel"}
    image = corrupt(write_geotiff(tmp_path / "image.tif", pixels, **profile), 7)
    with pytest.raises(RasterError, match="cannot read rows"):
        segmenter.segment_file(image, paths_in(tmp_path / "fail"))
    with pytest.raises(KeyboardInterrupt):
        segmenter.segment_file(image, paths_in(tmp_path / "out"), on_bad_block="nodata", progress=steps(20))
    report = segmenter.segment_file(image, paths_in(tmp_path / "out"), on_bad_block="nodata", resume=True)
    (bad,) = report.bad_blocks
    assert 300 * 300 - sum(report.pixels.values()) == bad.height * bad.width
    assert caplog.text.count("1 block cannot be read and is left without data: rows") == 1


@pytest.mark.once
@pytest.mark.parametrize("bundle", [tiny.TINY, tiny.TINY_GLOBAL], ids=lambda path: path.stem)
def test_tiles_without_data_are_not_inferred(
    tmp_path: Path, small_shards: None, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The raster has data in two places, far apart; whole rows of tiles have none."""
    pixels = slope_of(150, 140)
    pixels[pixels == 0] = 1
    pixels[:20], pixels[40:120], pixels[:, :30], pixels[:, 70:] = 0, 0, 0, 0
    image = write_geotiff(tmp_path / "image.tif", pixels, nodata=0)
    with Segmenter(bundle, backend="onnxruntime", batch=3) as segmenter:
        report = segmenter.segment_file(image, paths_in(tmp_path / "skipping"))
        tiles = list(grid_of(segmenter.manifest, 150, 140))
        empty = [tile for tile in tiles if not pixels[tile.y : tile.bottom, tile.x : tile.right].any()]
        assert report.skipped >= len(empty) > len(tiles) / 2  # those that two panels share count twice
        monkeypatch.setattr(Pipeline, "_has_data", lambda self, tile: True)
        whole = segmenter.segment_file(image, paths_in(tmp_path / "all"))
    assert whole.skipped == 0
    assert digests(tmp_path / "skipping") == digests(tmp_path / "all")


def test_a_raster_without_any_data_is_nodata(tmp_path: Path, segmenter: Segmenter) -> None:
    image = write_geotiff(tmp_path / "image.tif", np.zeros((90, 80, 3), np.uint8), nodata=0)
    report = segmenter.segment_file(image, paths_in(tmp_path / "out"))
    assert report.skipped == report.tiles
    assert sum(report.pixels.values()) == 0


@pytest.mark.once
def test_a_resumed_run_judges_alpha_as_the_whole_run_does(tmp_path: Path, small_shards: None) -> None:
    """Opaque above, soft below: what is left to do is soft alone."""
    pixels = np.dstack([slope_of(240, 100), np.full((240, 100), 255, np.uint8)])
    pixels[150:, :, 3] = 100
    image = write_geotiff(tmp_path / "image.tif", pixels, photometric="RGB", alpha="unspecified")
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=4) as segmenter:
        calls: list[int] = []
        segmenter.segment_file(image, paths_in(tmp_path / "whole"), progress=lambda done, total: calls.append(done))
        with pytest.raises(KeyboardInterrupt):
            segmenter.segment_file(image, paths_in(tmp_path / "out"), progress=steps(len(calls) - 3))
        segmenter.segment_file(image, paths_in(tmp_path / "out"), resume=True)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


# Limits


@pytest.mark.once
def test_each_block_of_the_image_is_decoded_twice_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: Segmenter
) -> None:
    """All outputs are made: the preview is made of the pixels that pass by."""
    pixels = np.indices((400, 700, 3)).sum(axis=0).astype(np.uint8)  # not noise, of which each pixel is a polygon
    image = write_geotiff(
        tmp_path / "image.tif", pixels, tiled=True, blockxsize=64, blockysize=64, compress="deflate", interleave="pixel"
    )
    monkeypatch.setattr(memory, "PANEL", 240)
    monkeypatch.setattr(memory, "_LEAST_CACHE", 0)  # no larger than is needed
    with counted(image, monkeypatch) as counts:
        segmenter.segment_file(image, paths_in(tmp_path))
    assert len(counts) == 7 * 11
    assert max(counts.values()) <= 2
    assert sum(counts.values()) < 1.5 * len(counts)  # twice only where two panels meet


def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_written(
    tmp_path: Path, image: Path, segmenter: Segmenter
) -> None:
    with pytest.raises(InputError, match=r"`memory`: expected .* MB more than what the engine takes, at least"):
        segmenter.segment_file(image, paths_in(tmp_path / "out"), memory=10_000_000)
    assert not (tmp_path / "out").exists()
    segmenter.segment_file(image, paths_in(tmp_path / "out"), memory=20_000_000_000)


def test_a_run_that_exceeds_its_limit_ends_and_goes_on(
    tmp_path: Path, image: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=3) as segmenter, monkeypatch.context() as patch:
        held = []

        def progress(done: int, total: int) -> None:
            held.append(done)
            patch.setattr(memory, "resident", lambda: 30_000_000_000 if len(held) > 1 else 1)

        with pytest.raises(InputError, match=r"expected at most 20,000 MB, found 30,000 MB; go on with `resume`"):
            segmenter.segment_file(image, paths_in(tmp_path / "out"), memory=20_000_000_000, progress=progress)
        assert len(list((tmp_path / "out").glob("m.fctl-run/shard-*.npz"))) == 1
        segmenter.segment_file(image, paths_in(tmp_path / "out"), resume=True)


def test_a_resumed_run_keeps_to_its_limit_with_the_panels_that_it_has(
    tmp_path: Path, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fctl.runtime.raster.source import open_raster
    from tests.runtime.segment.test_segmenter import sparse_geotiff

    load = memory.Load(manifest=segmenter.manifest, batch=4, probabilities=False, picture=False)
    with open_raster(sparse_geotiff(tmp_path / "wide.tif", 40, 30_000), segmenter.manifest.input, None) as raster:
        grid = grid_of(segmenter.manifest, 40, 30_000)
        plan = ShardPlan.over(grid)
        needed = memory.footprint(load, raster, plan).most
        assert memory.fitting(load, raster, grid, needed, plan).plan == plan
        with pytest.raises(InputError, match="`memory`: expected"):
            memory.fitting(load, raster, grid, needed - 1, plan)


def test_an_estimate_refuses_the_limit_that_a_run_refuses(tmp_path: Path, image: Path, segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match=r"`memory`: expected .* MB more than what the engine takes, at least"):
        segmenter.estimate(image, paths_in(tmp_path / "out"), memory=10_000_000)


def test_narrower_panels_are_taken_where_memory_is_scarce(segmenter: Segmenter, tmp_path: Path) -> None:
    from fctl.runtime.raster.source import open_raster
    from tests.runtime.segment.test_segmenter import sparse_geotiff

    load = memory.Load(manifest=segmenter.manifest, batch=4, probabilities=False, picture=False)
    with open_raster(sparse_geotiff(tmp_path / "wide.tif", 40, 200_000), segmenter.manifest.input, None) as raster:
        grid = grid_of(segmenter.manifest, 40, 200_000)
        free = memory.fitting(load, raster, grid, None)
        tight = memory.fitting(load, raster, grid, free.most)
        assert tight == free
        limit = max(free.assembling, free.segmenting // 4)
        narrow = memory.fitting(load, raster, grid, limit)
    assert narrow.most <= limit
    assert narrow.segmenting <= free.segmenting
    assert narrow.plan.panel <= free.plan.panel


@pytest.mark.parametrize(("text", "size"), [("600M", 600_000_000), ("2.5 GB", 2_500_000_000), ("7", 7), ("1KiB", 1000)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert memory.parsed_size("`memory`", text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "M", "3 parsecs", "1e9", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="`memory`: expected a size such as 600M or 2G, found"):
        memory.parsed_size("`memory`", text)


# Memory that runs out


@pytest.mark.parametrize("error", [MemoryError("no memory"), DeviceMemoryError("Failed to allocate memory")])
def test_a_batch_that_does_not_fit_is_halved(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    small_shards: None, error: MemoryError,
) -> None:  # fmt: skip
    real, sizes = Session.run, list[int]()

    def run(self: Session, arrays: dict[str, Any]) -> Any:
        sizes.append(len(next(iter(arrays.values()))))
        if sizes[-1] > 3 and len(sizes) > 12:  # not at the first batch, nor when the network is loaded
            raise error
        return real(self, arrays)

    with Segmenter(tiny.TINY, backend="onnxruntime", batch=8) as segmenter:
        segmenter.segment_file(image, paths_in(tmp_path / "whole"))
        pixels = slope_of(HEIGHT, WIDTH)
        expected = segmenter.segment(pixels).ids
        monkeypatch.setattr(Session, "run", run)
        with caplog.at_level(logging.WARNING):
            segmenter.segment_file(image, paths_in(tmp_path / "out"))
        assert "out of memory at batch 8, going on with 4" in caplog.text
        assert "out of memory at batch 4, going on with 2" in caplog.text
        assert segmenter.batch == 2
        np.testing.assert_array_equal(segmenter.segment(pixels).ids, expected)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_memory_that_is_too_small_for_one_patch_is_an_error(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Segmenter(tiny.TINY, backend="onnxruntime", batch=2) as segmenter:
        monkeypatch.setattr(Session, "run", failing(Session.run, 0, MemoryError()))

        def run(self: Session, arrays: object) -> Any:
            raise DeviceMemoryError("Failed to allocate memory")

        monkeypatch.setattr(Session, "run", run)
        with pytest.raises(DeviceMemoryError):
            segmenter.segment_file(image, paths_in(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
