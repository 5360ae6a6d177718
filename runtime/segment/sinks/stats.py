"""Statistics: how many pixels each class has, and how much ground they cover."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...raster.areas import STEP, PixelAreas
from ...tiling.merge import NODATA
from ...tiling.windows import Window
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster

_ENDINGS = (".csv", ".json")
_COLUMNS = ("id", "class", "pixels", "share", "hectares")


class StatsSink:
    """A table with pixels, share and hectares of each class, as CSV or JSON by its name.

    Shares are those of the pixels that have data. Hectares are left out where the raster lies nowhere.
    """

    name = "stats"
    suffix = "_stats.csv"
    needs_probabilities = False
    needs_picture = False

    def check(self, path: Path) -> None:
        """Refuse an ending of another format."""
        if path.suffix.lower() not in _ENDINGS:
            raise InputError(subject="`stats`", expected=" or ".join(_ENDINGS), found=path.name)

    def disk(self, height: int, width: int, classes: int) -> int:
        """A line for each class."""
        return 200 * classes

    @contextmanager
    def open(self, path: Path, raster: MaskedRaster) -> Iterator[BlockWriter]:
        """Start a table, see `Sink.open`."""
        areas = PixelAreas(raster.georeference)
        pixels: NDArray[np.int64] = np.zeros(NODATA + 1, np.int64)
        metres: NDArray[np.float64] = np.zeros(NODATA + 1)

        def write(block: Block) -> None:
            pixels[:] += np.bincount(block.ids.ravel(), minlength=NODATA + 1)
            if areas.known and areas.uniform is None:
                for x in range(0, block.ids.shape[1], STEP):
                    metres[:] += _areas(block, x, areas)

        yield write
        if areas.uniform is not None:
            metres[:] = pixels * areas.uniform
        total = max(int(pixels[:NODATA].sum()), 1)
        rows = [
            (
                index, info.name, int(pixels[index]), round(int(pixels[index]) / total, 6),
                round(float(metres[index]) / 10_000, 6) if areas.known else None,
            )
            for index, info in enumerate(raster.classes)
        ]  # fmt: skip
        if path.suffix.lower() == ".json":
            table = {"classes": [dict(zip(_COLUMNS, row, strict=True)) for row in rows], "nodata": int(pixels[NODATA])}
            path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])


def _areas(block: Block, x: int, areas: PixelAreas) -> NDArray[np.float64]:
    """Square metres of each class id in some columns of a block."""
    ids = block.ids[:, x : x + STEP]
    rows = areas.of_rows(Window(block.y, block.x + x, *ids.shape))
    found = np.bincount(ids.ravel(), weights=np.repeat(rows, ids.shape[1]), minlength=NODATA + 1)
    return found.astype(np.float64, copy=False)
