"""Kill workers and leaders of runs that are spread, and compare the outputs byte for byte with those of one process.

    python -m benchmarks.crew_kills --runs 20

In each run a worker or the leader gets `kill -9` at a random moment of the time that a run takes. A run whose worker
was killed must end by itself; one whose leader was killed must leave no process behind, and is resumed. In both cases
all outputs must have the bytes of a run of one process, and nothing else may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .parts.nothing import program
from .parts.rasters import write_raster
from .parts.ways import ONE, Took, Way, digests, run_once

_BUNDLE = str(Path(__file__).parents[1] / "tests" / "data" / "tiny_wide.fctl")
_CREWS = {"`--workers 2`": ("--workers", "2"), "`--dask local:2`": ("--dask", "local:2")}
_PATIENCE = 20.0  # seconds in which workers must end once their leader is gone
_LONGEST = 300.0  # seconds that a run may take


@dataclass(frozen=True)
class Kill:
    """What one kill did.

    Attributes:
        victim: "worker" or "leader".
        shards: Shards that were finished when it came.
        alone: Whether the run ended well without anybody's help.
        left: Processes that were still there a while after their leader's end.
        same: Whether the outputs have the bytes of a run of one process, and nothing else is left.
        said: The last line of a run that did not end well.
    """

    victim: str
    shards: int
    alone: bool
    left: int
    same: bool
    said: str = ""


def main() -> None:
    """Run, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="with each kind of workers")
    parser.add_argument(
        "--height", type=int, default=12000, help="of the raster, in pixels: tall ones have more shards"
    )
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="fctl-kills-") as name:
        image = Path(name) / "image.tif"
        write_raster(image, np.random.default_rng(0), arguments.height, arguments.width)
        expected = run_once(Way(name=ONE), image, _BUNDLE, Path(name) / "whole")
        kills = dict[str, list[Kill]]()
        for crew, options in _CREWS.items():
            took = Took()
            run_once(Way(name=crew, options=options), image, _BUNDLE, Path(name) / "whole", took)
            print(f"{crew}: {took.median:.1f} s without a kill", flush=True)
            kills[crew] = []
            while len(kills[crew]) < arguments.runs:
                out, moment = Path(name) / f"out-{chance.random()}", chance.uniform(0, took.median)
                found = _kill(options, image, out, moment, chance.choice(("worker", "leader")), expected)
                if found:
                    kills[crew].append(found)
                    print(f"{len(kills[crew])}: {moment:.1f} s {found}", flush=True)
    _print(kills)


def _print(kills: Mapping[str, list[Kill]]) -> None:
    print("\n| | killed | runs | after shards | ended by themselves | resumed | processes left | outputs that differ |")
    print("|---|---|---|---|---|---|---|---|")
    for crew, all_of_them in kills.items():
        for victim in ("worker", "leader"):
            found = [kill for kill in all_of_them if kill.victim == victim]
            if found:
                shards = [kill.shards for kill in found]
                print(
                    f"| {crew} | a {victim} | {len(found)} | {min(shards)} to {max(shards)} "
                    f"| {sum(kill.alone for kill in found)} | {sum(not kill.alone for kill in found)} "
                    f"| {sum(kill.left for kill in found)} | {sum(not kill.same for kill in found)} |"
                )


def _kill(
    options: tuple[str, ...], image: Path, out: Path, moment: float, victim: str, expected: Mapping[str, str]
) -> Kill | None:
    """Run, kill somebody, and look at what came of it; None where there was nobody to kill any more."""
    log = out.with_suffix(".log")
    leader = _started(options, image, out, log)
    time.sleep(moment)
    workers = _workers(leader.pid)
    pid = leader.pid if victim == "leader" else random.Random(moment).choice(workers) if workers else 0
    shards = len(list(out.glob("*.fctl-run/shard-*.npz")))
    if leader.poll() is not None or not pid:
        leader.wait()
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    alone = leader.wait(_LONGEST) == 0
    left = [] if alone else _left(workers)
    said = "" if alone else log.read_text(errors="replace").strip().rpartition("\n")[2]
    if not alone and _started((*options, "--resume"), image, out, log).wait(_LONGEST):
        print(log.read_text(errors="replace"), flush=True)
    return Kill(victim, shards, alone, len(left), digests(out) == expected, said)


def _started(options: tuple[str, ...], image: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a run whose messages go into a file."""
    run = (program("fctl-run"), image, "--bundle", _BUNDLE, "--backend", "onnxruntime", "--out", out, "--quiet")
    with log.open("ab") as file:
        return subprocess.Popen([*map(str, run), *options], stdout=file, stderr=file)


def _workers(leader: int) -> list[int]:
    """The processes that a leader started to work."""
    found = list[int]()
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1]) if place.name.isdigit() else 0
            if parent == leader and b"spawn_main" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


def _left(workers: list[int]) -> list[int]:
    """Those of some processes that do not end."""
    until = time.monotonic() + _PATIENCE
    while (alive := [pid for pid in workers if _lives(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    return alive


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    main()
