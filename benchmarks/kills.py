"""Kill runs at random moments, go on with them, and compare the outputs byte for byte with an uninterrupted run's.

    python -m benchmarks.kills --kills 60 --assembling 10

A kill is `kill -9`, which no handler sees. The moments are uniform over the time that an uninterrupted run takes; some
kills aim at the time in which the outputs are assembled. What a kill costs is counted in tiles: those that were done
when it came, less those that the resumed run did not have to do again.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .parts.rasters import write_raster
from .parts.ways import digests

_BUNDLE = Path(__file__).parents[1] / "tests" / "data" / "tiny_wide.fctl"
_SIDE = 3000  # of the raster, in pixels
_RUN = """
import sys
from pathlib import Path
from fctl.runtime import Paths, Segmenter
out, resume = Path(sys.argv[3]), sys.argv[4] == "resume"
paths = Paths(mask=out / "mask.tif", probabilities=out / "prob.tif", preview=out / "preview.png")
with Segmenter(sys.argv[2], backend="onnxruntime", batch=8) as segmenter:
    print("ready", flush=True)
    segmenter.segment_file(sys.argv[1], paths, resume=resume, progress=lambda done, _: print(done, flush=True))
"""


@dataclass(frozen=True)
class Kill:
    """What one kill did.

    Attributes:
        done: Tiles that were done when it came.
        kept: Tiles of them that the resumed run did not do again.
        shards: Shards that were finished.
        assembling: Whether it came while the outputs were made.
        same: Whether the outputs have the bytes of an uninterrupted run's, and nothing else is left.
    """

    done: int
    kept: int
    shards: int
    assembling: bool
    same: bool


def _start(image: Path, out: Path, how: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a run whose progress goes into a file."""
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", _RUN, image, _BUNDLE, out, how], stdout=file, stderr=file)


def _progress(log: Path) -> list[int]:
    """The tiles that a run told to be done, as it went on."""
    return [int(line) for line in log.read_text(errors="replace").splitlines() if line.isdigit()]


def _wait(until: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something holds, or the process ends."""
    while process.poll() is None and not until():
        time.sleep(0.002)


def _kill(image: Path, out: Path, log: Path, expected: dict[str, str], delay: float, assembling: bool) -> Kill | None:
    """Kill a run, go on with it, and look at what came of it; None where the run ended before the kill."""
    run = out / "mask.fctl-run"
    process = _start(image, out, "new", log)
    _wait(lambda: b"ready" in log.read_bytes(), process)
    if assembling:
        _wait((run / "outputs").is_dir, process)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        return None
    done, shards, made = _progress(log), len(list(run.glob("shard-*.npz"))), (run / "outputs").is_dir()
    process = _start(image, out, "resume", log)
    process.wait()
    again = _progress(log)
    kept = max(done, default=0) if not again else again[0] - 8  # the first batch is told once it is done
    same = process.returncode == 0 and digests(out) == expected
    return Kill(max(done, default=0), kept, shards, made, same)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="how many kills in all")
    parser.add_argument("--assembling", type=int, default=10, help="how many of them while outputs are assembled")
    arguments = parser.parse_args()
    chance, kills = random.Random(0), list[Kill]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, log = folder / "image.tif", folder / "log.txt"
        write_raster(image, np.random.default_rng(0), _SIDE, _SIDE)
        started = time.monotonic()
        first = _start(image, folder / "whole", "new", log)
        _wait(lambda: b"ready" in log.read_bytes(), first)
        started = time.monotonic()
        _wait((folder / "whole" / "mask.fctl-run" / "outputs").is_dir, first)
        segmenting = time.monotonic() - started
        first.wait()
        whole, tiles = time.monotonic() - started, max(_progress(log))
        expected = digests(folder / "whole")
        print(f"uninterrupted: {tiles} tiles, {whole:.1f} s, of which {whole - segmenting:.1f} s of assembling")
        while len(kills) < arguments.kills:
            aimed = len(kills) < arguments.assembling
            delay = chance.uniform(0, whole - segmenting if aimed else whole)
            found = _kill(image, folder / f"run-{len(kills)}-{chance.random()}", log, expected, delay, aimed)
            if found and (found.assembling or not aimed):
                kills.append(found)
                print(f"{len(kills)}: {found}", flush=True)
    lost = [kill.done - kill.kept for kill in kills]
    print(f"{len(kills)} kills, {sum(kill.assembling for kill in kills)} of them while outputs were assembled")
    print(f"outputs that differ: {sum(not kill.same for kill in kills)}")
    print(f"tiles lost to a kill: at most {max(lost)} of {tiles}, {sum(lost) / len(lost):.0f} in the mean")


if __name__ == "__main__":
    main()
