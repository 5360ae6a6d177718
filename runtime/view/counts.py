"""What is counted over a mask, by the code of ``--stats``: classes of all of it and in polygons, and what differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..evaluate.metrics import IGNORE, Confusion
from ..raster.files import reading
from ..raster.placing import drawn, outlines_on
from ..raster.source import OpenFile, open_any
from ..segment.area import Area
from ..segment.pipeline import Block
from ..segment.sinks.stats import Tally
from ..tiling.windows import Window
from .layers import View

_ROWS, _COLUMNS = 512, 8192  # of what is read at a time; multiples of 256, as blocks are
_CORNERS = 10_000  # of a polygon
_POLYGONS = 100


def whole_table(view: View) -> dict[str, object]:
    """Count the classes of the whole mask.

    Args:
        view: What is shown.

    Returns:
        What the statistics of a run hold: `classes` and `nodata`.

    Raises:
        RasterError: The mask is damaged.
    """
    mask = view.mask
    tally = Tally(view.georeference, view.names, None)
    with open_any(mask.path) as dataset:
        for window in _windows(Window(0, 0, mask.frame.height, mask.frame.width)):
            tally.add(Block(y=window.y, x=window.x, ids=_ids(dataset, mask.path, window)))
    return tally.table()


def polygon_tables(view: View, rings: Sequence[Sequence[tuple[float, float]]]) -> dict[str, object]:
    """Count the classes of the pixels with their centres in polygons.

    Args:
        view: What is shown.
        rings: The corners of each polygon, longitude and latitude.

    Returns:
        What the statistics of a run with these polygons hold: `polygons`, each with `classes` and `nodata`.

    Raises:
        InputError: They are too many, or none holds a pixel of the mask.
        RasterError: The mask is damaged.
    """
    _check(rings)
    mask, frame = view.mask, view.mask.frame
    outlines = outlines_on(drawn(rings), frame.georeference, frame.height, frame.width)
    box = outlines.box
    tally = Tally(view.georeference.moved(box.y, box.x), view.names, Area(box=box, outlines=outlines))
    with open_any(mask.path) as dataset:
        for window in _windows(box):
            if outlines.touched([window]):
                tally.add(Block(y=window.y - box.y, x=window.x - box.x, ids=_ids(dataset, mask.path, window)))
    return {"polygons": tally.table()["polygons"]}


def comparison(view: View, role: str) -> dict[str, object] | None:
    """Compare the mask with another one of the same grid.

    Args:
        view: What is shown.
        role: "other" or "labels".

    Returns:
        `pixels` that both have, how many of them are `different`, and for labels `accuracy` and `miou`; None where the
        grids differ.

    Raises:
        RasterError: A raster is damaged.
    """
    one, two = view.mask, view.layers[role]
    if not _same_grid(one.frame.georeference.transform, two.frame.georeference.transform) or (
        (one.frame.height, one.frame.width, one.frame.system) != (two.frame.height, two.frame.width, two.frame.system)
    ):
        return None
    confusion = Confusion.empty(IGNORE)
    with open_any(one.path) as mine, open_any(two.path) as theirs:
        for window in _windows(Window(0, 0, one.frame.height, one.frame.width)):
            confusion += Confusion.of(_ids(theirs, two.path, window), _ids(mine, one.path, window), IGNORE)
    found: dict[str, object] = {
        "pixels": confusion.pixels,
        "different": confusion.pixels - int(np.trace(confusion.counts)),
    }
    if role == "labels" and confusion.pixels:
        found |= {"accuracy": round(confusion.accuracy(), 6), "miou": round(confusion.miou(), 6)}
    return found


def _same_grid(one: Sequence[float] | None, two: Sequence[float] | None) -> bool:
    return one is not None and two is not None and np.allclose(one, two, rtol=1e-9, atol=1e-9)


def _check(rings: Sequence[Sequence[tuple[float, float]]]) -> None:
    corners = [corner for ring in rings for corner in ring]
    if not 1 <= len(rings) <= _POLYGONS or len(corners) > _CORNERS or any(len(ring) < 3 for ring in rings):
        raise InputError(
            subject="polygons", expected=f"up to {_POLYGONS} with 3 corners or more, {_CORNERS} in all",
            found=f"{len(rings)} with {len(corners)} in all",
        )  # fmt: skip
    if not all(math.isfinite(number) for corner in corners for number in corner):
        raise InputError(subject="polygons", expected="longitudes and latitudes", found="no numbers")


def _windows(box: Window) -> Iterator[Window]:
    """Parts of a box in reading order; they begin at multiples of 256 from its corner."""
    for y in range(box.y, box.bottom, _ROWS):
        for x in range(box.x, box.right, _COLUMNS):
            yield Window(y, x, min(_ROWS, box.bottom - y), min(_COLUMNS, box.right - x))


def _ids(dataset: OpenFile, path: Path, window: Window) -> NDArray[np.uint8]:
    """Class ids of a window of a raster."""
    with reading(path, "class ids"):
        ids: NDArray[np.uint8] = dataset.read(1, window=((window.y, window.bottom), (window.x, window.right)))
    return ids
