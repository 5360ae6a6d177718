"""How fast fctl-view makes tiles, and what it takes: python -m benchmarks.view [MASK IMAGE] [--tiles 400].

Without a mask, `samples/dubai.tif` is repeated to a raster of --side pixels, with ids made of its brightness. The
server runs as a program of its own; a client asks for tiles of random places and zooms, as many at a time as browsers.
Printed are the weight of the page, the time to the first tile, tiles a second, processor time a tile, and the highest
memory of the server.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from fctl.runtime.view import page

_AT_ONCE = 6  # requests; browsers keep so many connections to a host


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rasters", nargs="*", type=Path, metavar="MASK IMAGE")
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--side", type=int, default=12_000, help="of the raster that is made, in pixels")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fctl-") as folder:
        mask, image = arguments.rasters or _made(Path(folder), arguments.side)
        print("| what | |\n|---|---:|")
        for what, found in (*_weights(), *_served(mask, image, arguments.tiles)):
            print(f"| {what} | {found} |")


def _weights() -> list[tuple[str, str]]:
    """What a browser loads before any tile."""
    files = [path.read_bytes() for path in page.files().values()] + [page.live_page().encode()]
    small = sum(len(gzip.compress(data)) for data in files)
    return [
        ("page with its library", f"{sum(map(len, files)) / 1e6:.2f} MB (gzip would make {small / 1e6:.2f} MB of it)")
    ]


def _served(mask: Path, image: Path, count: int) -> list[tuple[str, str]]:
    """What a server of two rasters takes."""
    code = "from fctl.runtime.cli.view import view_app; view_app(prog_name='fctl-view')"
    began = time.perf_counter()
    command = [sys.executable, "-c", code, str(mask), str(image), "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert address is not None
            port = int(address[1])
            view = json.loads(_get(port, "/view.json"))
            tiles = _places(view["bounds"], {layer["name"]: layer["maxzoom"] for layer in view["layers"]}, count)
            _get(port, tiles[0])
            first = time.perf_counter() - began
            _get(port, "/counts")
            counted = time.perf_counter() - began
            used, start = _processor(process.pid), time.perf_counter()
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                sizes = list(pool.map(lambda tile: len(_get(port, tile)), tiles))
            seconds, processor = time.perf_counter() - start, _processor(process.pid) - used
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory, highest = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        finally:
            process.terminate()
    return [
        ("raster", f"{view['width']} x {view['height']} pixels, {view['system']}"),
        ("from the command to the first tile", f"{first:.2f} s"),
        ("until shares and areas are counted", f"{counted:.2f} s"),
        (
            f"{count} tiles of mask and image",
            f"{count / seconds:.0f} a second, {sum(sizes) / count / 1000:.0f} kB each",
        ),
        ("processor time of a tile", f"{processor / count * 1000:.1f} ms"),
        ("memory of the server", f"{memory / 1e6:.0f} MB, {highest / 1e6:.0f} MB at most"),
    ]


def _processor(number: int) -> float:
    """Seconds of processors that a process took, by its number."""
    fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == 200, data
    connection.close()
    return data


def _places(bounds: tuple[float, float, float, float], zooms: dict[str, int], count: int) -> list[str]:
    """Tiles at random places and zooms, of each layer by turns; none twice where there are enough."""
    rng = random.Random(0)
    west, south, east, north = bounds
    found: dict[str, None] = {}
    for number in range(100 * count):
        name = list(zooms)[number % len(zooms)]
        side = 1 << max(0, zooms[name] - rng.choice((0, 0, 0, 1, 1, 2, 3)))
        longitude, latitude = rng.uniform(west, east), rng.uniform(south, north)
        down = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2
        x, y = int((longitude + 180) / 360 * side), int(down * side)
        found[f"/tiles/{name}/{side.bit_length() - 1}/{x}/{y}"] = None
        if len(found) == count:
            break
    return list(found)


def _made(folder: Path, side: int) -> tuple[Path, Path]:
    """The sample repeated, and ids made of its brightness; both with overviews, as fctl's masks have them."""
    with rasterio.open("samples/dubai.tif") as dataset:
        pixels, place = dataset.read((1, 2, 3)), {"crs": dataset.crs, "transform": dataset.transform}
    image, mask = folder / "image.tif", folder / "mask.tif"
    _write(image, pixels, side, Resampling.average, place | {"photometric": "RGB"})
    ids = np.minimum(pixels.mean(axis=0) // 52, 4).astype(np.uint8)[None]
    _write(mask, ids, side, Resampling.mode, place | {"nodata": 255})
    return mask, image


def _write(path: Path, pixels: NDArray[np.uint8], side: int, smaller: Resampling, place: dict[str, object]) -> None:
    """Write pixels (bands, rows, columns), repeated to a square."""
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=side, height=side, count=bands, dtype="uint8", tiled=True, blockxsize=512,
        blockysize=512, compress="deflate", **place,
    ) as dataset:  # fmt: skip
        for y in range(0, side, height):
            strip = np.tile(pixels, (1, 1, -(-side // width)))[:, : side - y, :side]
            dataset.write(strip, window=Window(0, y, side, strip.shape[1]))
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8, 16, 32], smaller)


if __name__ == "__main__":
    main()
