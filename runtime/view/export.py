"""The page as one file with all its tiles, to be sent to somebody."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from pathlib import Path

from ..atomic import atomic_write
from ..errors import InputError
from ..progress import TileProgress
from .counts import whole_table
from .description import described
from .layers import View
from .page import lone_page
from .tiles import Tile, picture_of

MOST = 1600
"""Tiles of the deepest zoom, for each layer: 100 million pixels."""

_LAYERS = ("image", "mask")


def export_page(view: View, path: Path, zoom: int | None = None, progress: TileProgress | None = None) -> int:
    """Write the image and the mask as one page that needs no server and no network.

    Args:
        view: What is shown.
        path: The file to write.
        zoom: The deepest zoom; None takes that of the mask's pixels, or the deepest that fits.
        progress: Called as tiles are made.

    Returns:
        The zoom.

    Raises:
        InputError: There would be too many tiles.
        OutputError: The file cannot be written.
        RasterError: A raster cannot be read.
    """
    deepest, native = view.mask.frame.zoom, view.mask.frame.nearest_zoom
    chosen = zoom if zoom is not None else next(z for z in range(native, -1, -1) if _count(view, z) <= MOST)
    if not 0 <= chosen <= deepest or _count(view, chosen) > MOST:
        raise InputError(
            subject="`zoom`", expected=f"at most {deepest}, that of the mask's pixels, and {MOST} tiles a layer",
            found=f"{chosen}, with {_count(view, chosen)} tiles", remedy="leave it out for the deepest that fits",
        )  # fmt: skip
    description = described(view)
    layers = description["layers"]
    assert isinstance(layers, list)
    kept = [{**layer, "maxzoom": chosen, "minzoom": 0} for layer in layers if layer["name"] in _LAYERS]
    wanted = [(layer["name"], tile) for layer in kept for z in range(chosen + 1) for tile in _tiles(view, z)]
    tiles = {}
    for done, (name, tile) in enumerate(wanted, 1):
        picture = picture_of(view, name, tile)
        tiles[f"{name}/{tile.zoom}/{tile.x}/{tile.y}"] = base64.b64encode(picture.data).decode()
        if progress:
            progress(done, len(wanted))
    content = {"view": {**description, "layers": kept}, "counts": whole_table(view), "tiles": tiles}
    with atomic_write(path, "export") as temporary:
        temporary.write_text(lone_page(content), encoding="utf-8")
    return chosen


def _count(view: View, zoom: int) -> int:
    """How many tiles of a zoom the mask touches."""
    columns, rows = _spans(view, zoom)
    return len(columns) * len(rows)


def _tiles(view: View, zoom: int) -> Iterator[Tile]:
    columns, rows = _spans(view, zoom)
    for y in rows:
        for x in columns:
            yield Tile(zoom, x, y)


def _spans(view: View, zoom: int) -> tuple[range, range]:
    """Columns and rows of the tiles that the mask touches."""
    west, south, east, north = view.mask.frame.bounds
    side = 1 << zoom

    def column(longitude: float) -> int:
        return min(max(math.floor((longitude + 180) / 360 * side), 0), side - 1)

    def row(latitude: float) -> int:
        across = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2
        return min(max(math.floor(across * side), 0), side - 1)

    return range(column(west), column(east) + 1), range(row(north), row(south) + 1)
