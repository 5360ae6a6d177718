"""Statistics: how many pixels each class has, and how much ground they cover."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...raster.areas import STEP, PixelAreas
from ...tiling.merge import NODATA
from ...tiling.windows import Window
from ..pipeline import Block
from .base import BlockWriter, MaskedRaster

if TYPE_CHECKING:
    from ...raster.georeference import Georeference
    from ...raster.outlines import Outlines
    from ..area import Area

_Number = TypeVar("_Number", np.int64, np.float64)
_ENDINGS = (".csv", ".json")
_COLUMNS = ("id", "class", "pixels", "share", "hectares")
_OF_POLYGON = ("polygon", "name")
_Row = tuple[int, str, int, float, "float | None"]


class StatsSink:
    """A table with pixels, share and hectares of each class, as CSV or JSON by its name.

    Shares are those of the pixels that have data. Hectares are left out where the raster lies nowhere. Where polygons
    say what is wanted, the same follows for each of them.
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
        tally = Tally(raster.georeference, [info.name for info in raster.classes], raster.area)
        yield tally.add
        if path.suffix.lower() == ".json":
            path.write_text(json.dumps(tally.table(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(tally.lines())


class Tally:
    """Counts blocks of a mask, and those of each polygon where polygons say what is wanted.

    Args:
        georeference: Where the mask lies.
        names: Names of the classes, by id.
        area: Which part of a raster the mask is; None for all of it.
    """

    def __init__(self, georeference: Georeference, names: Sequence[str], area: Area | None) -> None:
        self._outlines: Outlines | None = area.outlines if area else None
        self._names, areas = names, PixelAreas(georeference)
        self._total = _Counts(1, areas)
        self._each = _Counts(len(self._outlines.names), areas) if self._outlines else None

    def add(self, block: Block) -> None:
        """Count a block; see `BlockWriter` for where blocks begin."""
        for x in range(0, block.ids.shape[1], STEP):
            ids = block.ids[:, x : x + STEP]
            self._total.add_all(ids, Window(block.y, block.x + x, *ids.shape))
        if self._outlines and self._each:
            _count(self._outlines, self._each, block)

    def table(self) -> dict[str, object]:
        """What was counted so far, as values that JSON knows: `classes`, `nodata`, and `polygons` where there are."""
        rows, nodata = next(self._total.tables(self._names))
        table: dict[str, object] = {"classes": _dicts(rows), "nodata": nodata}
        if self._each:
            table["polygons"] = [
                {"polygon": number, "name": name, "classes": _dicts(found), "nodata": without}
                for number, (name, (found, without)) in enumerate(self._polygons(), 1)
            ]
        return table

    def lines(self) -> list[tuple[object, ...]]:
        """The same as lines of a table, the names of its columns first."""
        rows, _ = next(self._total.tables(self._names))
        if self._each is None:
            return [_COLUMNS, *rows]
        lines: list[tuple[object, ...]] = [(*_OF_POLYGON, *_COLUMNS), *(("", "", *row) for row in rows)]
        for number, (name, (found, _)) in enumerate(self._polygons(), 1):
            lines += [(number, name, *row) for row in found]
        return lines

    def _polygons(self) -> Iterator[tuple[str, tuple[list[_Row], int]]]:
        """The name of each polygon, its rows, and how many of its pixels have no data."""
        if self._outlines and self._each:
            yield from zip(self._outlines.names, self._each.tables(self._names), strict=True)


class _Counts:
    """Pixels and square metres by class of one thing or several, such as polygons.

    Args:
        number: How many things are counted.
        areas: Areas of the raster's pixels.
    """

    def __init__(self, number: int, areas: PixelAreas) -> None:
        self._areas, self._number = areas, number
        self._pixels: dict[int, NDArray[np.int64]] = {}  # by class id, for there may be many things and few classes
        self._metres: dict[int, NDArray[np.float64]] = {}

    def add(self, numbers: NDArray[np.integer], ids: NDArray[np.uint8], window: Window) -> None:
        """Count some pixels.

        Args:
            numbers: Which thing each pixel belongs to, (rows, columns) from 0; those below 0 belong to none.
            ids: Class ids (rows, columns).
            window: Where they lie in the raster, at most 256 columns.
        """
        belongs = numbers >= 0
        things, places = _distinct(numbers[belongs])
        self._add(things, places * (NODATA + 1) + ids[belongs], belongs, window)

    def add_all(self, ids: NDArray[np.uint8], window: Window) -> None:
        """Count some pixels, all of which belong to the first thing."""
        self._add(np.zeros(1, np.int64), ids.ravel(), np.True_, window)

    def _add(
        self,
        things: NDArray[np.integer],
        keys: NDArray[np.integer],
        belongs: NDArray[np.bool_] | np.bool_,
        window: Window,
    ) -> None:
        """Count pixels by key, which is 256 times the place of a thing in `things`, and the class id."""
        length = len(things) * (NODATA + 1)
        self._take(self._pixels, things, np.bincount(keys, minlength=length).astype(np.int64))
        if self._areas.known and self._areas.uniform is None:
            metres = np.repeat(self._areas.of_rows(window), window.width).reshape(window.height, window.width)[belongs]
            sums = np.bincount(keys, weights=metres.ravel(), minlength=length).astype(np.float64)
            self._take(self._metres, things, sums)

    def _take(self, table: dict[int, NDArray[_Number]], things: NDArray[np.integer], sums: NDArray[_Number]) -> None:
        """Add sums, (things * 256,), to a table."""
        by_class = sums.reshape(len(things), NODATA + 1)
        for index in np.flatnonzero(by_class.any(axis=0)).tolist():
            table.setdefault(index, np.zeros(self._number, sums.dtype))[things] += by_class[:, index]

    def tables(self, names: Sequence[str]) -> Iterator[tuple[list[_Row], int]]:
        """For each thing, a row for each class, and how many pixels have no data."""
        none = np.zeros(self._number, np.int64)
        for thing in range(self._number):
            counts = [int(self._pixels.get(index, none)[thing]) for index in range(len(names))]
            total = max(sum(counts), 1)
            hectares = [self._hectares(index, thing, count) for index, count in enumerate(counts)]
            shares = [round(count / total, 6) for count in counts]
            rows = list(zip(range(len(names)), names, counts, shares, hectares, strict=True))
            yield rows, int(self._pixels.get(NODATA, none)[thing])

    def _hectares(self, index: int, thing: int, pixels: int) -> float | None:
        if not self._areas.known:
            return None
        uniform, table = self._areas.uniform, self._metres.get(index)
        metres = pixels * uniform if uniform is not None else 0.0 if table is None else float(table[thing])
        return round(metres / 10_000, 6)


def _distinct(numbers: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.intp]]:
    """The numbers that occur, and which of them each is; as a rule it is one number."""
    if len(numbers) and numbers.min() == numbers.max():
        return numbers[:1], np.zeros(len(numbers), np.intp)
    return np.unique(numbers, return_inverse=True)


def _count(outlines: Outlines, each: _Counts, block: Block) -> None:
    """Count the pixels of a block for each polygon that they lie in."""
    box = outlines.box
    for cell in outlines.cells(block.window.moved(box.y, box.x)):
        here = cell.moved(-box.y, -box.x)
        ids = block.ids[here.inside(block.window)]
        for numbers in outlines.layers(cell):
            each.add(numbers - 1, ids, here)


def _dicts(rows: list[_Row]) -> list[dict[str, object]]:
    return [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
