"""Measures what the model of cost is fed with."""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fctl.runtime.bundle.manifest import Manifest
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.processor import name as processor
from fctl.runtime.segment.opening import bundle_of
from fctl.runtime.segment.shards.journal import Done, Journal
from fctl.runtime.segment.shards.parts import Part
from fctl.runtime.segment.shards.plan import ShardPlan
from fctl.runtime.storage.places import storage_of
from fctl.runtime.tiling.windows import Grid

from .figures import Parameters
from .ways import CHEAP, DEFAULT, Took, one_core, prepared, run, run_once, ways

_SIDES = {CHEAP: (2000, 6000), DEFAULT: (1700, 3000)}  # whose previews are of full size
_SMALL = 600  # pixels: side of a raster that takes next to nothing
_FILES = 1000


def measure(rounds: int, sides: dict[str, tuple[int, int]] | None = None) -> Parameters:
    """Measure all of them.

    Args:
        rounds: How often each run is timed; medians count.
        sides: By network, sides of two rasters; what a tile takes is the difference of both.

    Returns:
        The parameters.
    """
    found = Parameters(
        processor=processor(), fixed={}, tile={}, tile_on_all={}, preview={}, assemble={}, part=0, note=0, listing=0,
        get=0, kept={}, image={},
    )  # fmt: skip
    for network, both in (sides or _SIDES).items():
        with tempfile.TemporaryDirectory(prefix="fctl-cost-") as name:
            folder = Path(name)
            found.fixed[network] = _fixed(network, folder, rounds)
            _slopes(found, network, both, folder, rounds)
    with tempfile.TemporaryDirectory(prefix="fctl-cost-") as name:
        found.note = _note(Path(name))
    found.listing, found.get = _store()
    return found


def manifest_of(bundle: str) -> Manifest:
    """The manifest of a bundle."""
    return bundle_of(bundle, None).manifest if bundle == DEFAULT else read_bundle(bundle).manifest


def grid_of(manifest: Manifest, side: int) -> Grid:
    """The tiles of a square raster."""
    return Grid.over(side, side, manifest.tile, manifest.plan)


def _fixed(network: str, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of a run of a small raster by way, and of assembling one."""
    image = folder / "small.tif"
    bundle = prepared(network, image, _SMALL)
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way in ways((1, 2, 4)):
            took = Took()
            run_once(way, image, bundle, folder / "out", took)
            seconds.setdefault(way.name, []).extend(took.clock)
        run(image, bundle, folder / "out", ("--part", "1/1"))
        seconds.setdefault("assemble", []).append(run(image, bundle, folder / "out", ("--assemble",))[0])
        shutil.rmtree(folder / "out")
    shutil.rmtree(folder / "nothing.fctl", ignore_errors=True)
    return {name: statistics.median(one) for name, one in seconds.items()}


def _slopes(found: Parameters, network: str, sides: tuple[int, int], folder: Path, rounds: int) -> None:
    """What a tile and a megapixel take: a large raster less a small one, so that start and end drop out."""
    (few, first), (many, last) = (_made(found, network, side, folder / str(side), rounds) for side in (*sides,))
    pixels = [side**2 / 1e6 for side in sides]
    found.tile[network] = (last["one"] - first["one"]) / (many - few)
    found.tile_on_all[network] = (last["all"] - first["all"]) / (many - few)
    found.assemble[network] = (last["assemble"] - first["assemble"]) / (pixels[1] - pixels[0])
    without = first["assemble"] - found.assemble[network] * pixels[0]
    found.preview[network] = max(without - found.fixed[network]["assemble"], 0.0)


def _made(found: Parameters, network: str, side: int, folder: Path, rounds: int) -> tuple[int, dict[str, float]]:
    """Make the shards of a raster as one part, and assemble them; gives its tiles, and seconds by what was done."""
    folder.mkdir()
    image, out = folder / "image.tif", folder / "out"
    parts, taken = out / "image_mask.fctl-parts", dict[str, list[float]]()
    bundle = prepared(network, image, side)
    manifest = manifest_of(bundle)
    for _ in range(rounds):
        for name, cores in (("one", one_core()), ("all", None)):
            shutil.rmtree(out, ignore_errors=True)
            taken.setdefault(name, []).append(run(image, bundle, out, ("--part", "1/1"), cores)[0])
        found.part = _opened(parts / "1-of-1", manifest, side)
        taken.setdefault("assemble", []).append(run(image, bundle, out, ("--assemble",))[0])
    shutil.rmtree(out)
    run(image, bundle, out, ("--part", "1/1", "--no-preview"))
    kept = sum(file.stat().st_size for file in parts.rglob("shard-*.npz"))
    found.kept[network], found.image[network] = kept / side**2, image.stat().st_size / side**2
    return len(grid_of(manifest, side)), {name: statistics.median(one) for name, one in taken.items()}


def _opened(folder: Path, manifest: Manifest, side: int) -> float:
    """Seconds to open the file of a shard."""
    journal = Journal.read(folder / "journal")
    assert journal
    plan = ShardPlan.over(grid_of(manifest, side)).as_in(journal.plan)
    files = {journal.file(index): shard.finished for index, shard in enumerate(plan.shards)}
    return _each(lambda: [Part(file, window) for file, window in files.items()], 20) / len(files)


def _note(folder: Path) -> float:
    """Seconds to note a shard in a journal."""
    journal, numbers = Journal.begin(folder / "journal", {}, {}), iter(range(10**6))
    pixels = dict.fromkeys(range(6), 10**7)
    return _each(lambda: journal.add(Done(shard=next(numbers), size=1, pixels=pixels)), 500)


def _store() -> tuple[float, float]:
    """Seconds to list a thousand names in a store of this machine, and to fetch a small file."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        _make_bucket()
        store = storage_of("s3://bucket/shards")
        for number in range(_FILES):
            store.write(f"shard-{number:06d}", b"")
        with tempfile.TemporaryDirectory(prefix="fctl-cost-") as name:
            file = Path(name) / "file"
            return _each(lambda: store.names("shard-"), 5), _each(lambda: store.get("shard-000000", file), 50)
    finally:
        server.stop()


def _make_bucket() -> None:
    import s3fs

    s3fs.S3FileSystem().mkdir("bucket")


def _each(step: Callable[[], object], times: int) -> float:
    """Seconds of one of many steps."""
    started = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - started) / times
