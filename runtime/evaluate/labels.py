"""Labelled masks: colours or ids on disk -> class ids, strip by strip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RasterError
from ..raster.source import open_any
from .metrics import IGNORE

UNKNOWN = 254  # the class id of pixels whose colour or id is not described
MOST_CLASSES = UNKNOWN
_PIXELS = 1 << 22  # to look at at a time

Colour = tuple[int, int, int]
Label = int | Colour


@dataclass(frozen=True)
class Labels:
    """What the pixels of a mask mean. values: by class, the ids or colours (red, green, blue) it has in masks.

    ignore: ids and colours that count for nothing. threshold: where colours were smeared by compression, every channel
    becomes 255 from this value on and 0 below it (DeepGlobe's own advice); None: colours are exact. Ids are meant for
    masks of one band, colours for those of three and for palettes.
    """

    values: tuple[tuple[Label, ...], ...]
    ignore: tuple[Label, ...] = ()
    threshold: int | None = None

    @cached_property
    def ids(self) -> dict[int, int]:
        """Class by id in a mask."""
        return {value: index for value, index in self._meanings() if isinstance(value, int)}

    @cached_property
    def colours(self) -> dict[Colour, int]:
        """Class by colour in a mask."""
        return {value: index for value, index in self._meanings() if not isinstance(value, int)}

    @cached_property
    def by_colour(self) -> NDArray[np.uint8]:
        """Class by red << 16 | green << 8 | blue."""
        table = np.full(1 << 24, UNKNOWN, np.uint8)
        for (red, green, blue), index in self.colours.items():
            table[red << 16 | green << 8 | blue] = index
        return table

    def colour_of(self, red: int, green: int, blue: int) -> Colour:
        """A colour of a mask after the threshold."""
        if self.threshold is None:
            return red, green, blue
        red, green, blue = (255 if value >= self.threshold else 0 for value in (red, green, blue))
        return red, green, blue

    def _meanings(self) -> Iterator[tuple[Label, int]]:
        yield from ((value, IGNORE) for value in self.ignore)
        yield from ((value, index) for index, values in enumerate(self.values) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What a mask holds. pixels: by class; unknown: pixels by colour or id that is not described, most first."""

    pixels: tuple[int, ...]
    unknown: tuple[tuple[Label, int], ...]


class MaskReader:
    """An open mask. Use `open_mask`; not for several threads at once."""

    def __init__(self, dataset: Any, path: Path, labels: Labels) -> None:
        self._dataset, self._path, self._labels = dataset, path, labels
        self.height, self.width = int(dataset.height), int(dataset.width)
        coloured, dtype = dataset.count > 2, dataset.dtypes[0]
        if coloured and not labels.colours:
            raise RasterError(
                f"{path}: expected class ids in one band, found {dataset.count} bands; describe the colours of the "
                "classes instead (docs/evaluation.md)"
            )
        if dtype != "uint8" and (coloured or dtype != "uint16"):
            kind = "colours of uint8" if coloured else "class ids of uint8 or uint16"
            raise RasterError(f"{path}: expected {kind}, found {dtype}; convert the mask with gdal_translate -ot Byte")
        self._bands = (1, 2, 3) if coloured else (1,)  # what is left is alpha
        self._meanings = () if coloured else self._line_of_meanings(1 << 8 * np.dtype(dtype).itemsize)

    def read(self, y: int, rows: int) -> NDArray[np.uint8]:
        """Class ids (rows, width) from row y on: 255 (IGNORE) and 254 (UNKNOWN) beside classes.

        Raises RasterError where the file is damaged.
        """
        return self._decode(self._raw(window=((y, y + rows), (0, self.width))))

    def thumbnail(self, height: int, width: int) -> NDArray[np.uint8]:
        """Class ids of the whole mask at (height, width), nearest."""
        return self._decode(self._raw(out_shape=(len(self._bands), height, width)))

    def census(self, classes: int) -> Census:
        """Count all pixels. Raises RasterError where the file is damaged."""
        rows = max(1, min(_PIXELS // self.width, self.height - 1))  # GDAL hides damage of a PNG that is read at once
        pixels, unknown = np.zeros(256, np.int64), dict[Label, int]()
        for y in range(0, self.height, rows):
            raw = self._raw(window=((y, min(y + rows, self.height)), (0, self.width)))
            ids = self._decode(raw)
            pixels += np.bincount(ids.ravel(), minlength=256)
            for label, count in self._named(raw[:, ids == UNKNOWN]):
                unknown[label] = unknown.get(label, 0) + count
        found = sorted(unknown.items(), key=lambda item: -item[1])
        return Census(pixels=tuple(map(int, pixels[:classes])), unknown=tuple(found))

    def _raw(self, **options: Any) -> NDArray[Any]:
        """(bands, rows, columns)."""
        try:
            raw: NDArray[Any] = self._dataset.read(self._bands, **options)
        except OSError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise RasterError(f"{self._path}: the mask is damaged or cut short ({reason}); get it anew") from error
        if self._labels.threshold is not None and len(raw) == 3:
            raw = np.where(raw >= self._labels.threshold, np.uint8(255), np.uint8(0))
        return raw

    def _decode(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        ids: NDArray[np.uint8] = self._table[raw[0]] if len(raw) == 1 else self._labels.by_colour[_codes(raw)]
        return ids

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        """Class by value, for masks of one band."""
        known: dict[Any, int] = {**self._labels.ids, **self._labels.colours}
        return np.asarray([known.get(meaning, UNKNOWN) for meaning in self._meanings], np.uint8)

    def _line_of_meanings(self, count: int) -> tuple[Label, ...]:
        """The id or colour that each value of a band stands for: palettes are expanded, greys are colours too."""
        if not self._labels.colours:
            return tuple(range(count))
        if self._dataset.colorinterp[0].name == "palette":
            palette = self._dataset.colormap(1)
            return tuple(self._labels.colour_of(*palette.get(value, (0, 0, 0))[:3]) for value in range(count))
        if not self._labels.ids:
            return tuple(self._labels.colour_of(value, value, value) for value in range(count))
        return tuple(range(count))

    def _named(self, raw: NDArray[Any]) -> list[tuple[Label, int]]:
        """Pixels (bands, n) as ids or colours with their counts."""
        values, counts = np.unique(raw[0] if len(raw) == 1 else _codes(raw), return_counts=True)
        names = [self._meanings[value] if len(raw) == 1 else _colour(int(value)) for value in values]
        return list(zip(names, counts.tolist(), strict=True))


@contextlib.contextmanager
def open_mask(path: Path, labels: Labels) -> Iterator[MaskReader]:
    """Open a mask of ids (one band), of colours (three bands) or of palette colours.

    Raises RasterError for a file that is missing, no image, or neither.
    """
    with open_any(path) as dataset:
        yield MaskReader(dataset, path, labels)


@contextlib.contextmanager
def open_ids(path: Path, classes: int) -> Iterator[MaskReader]:
    """Open a mask of our own: class ids, 255 where the image has no data."""
    with open_mask(path, Labels(tuple((index,) for index in range(classes)), (IGNORE,))) as mask:
        yield mask


def listed(labels: Sequence[tuple[Label, int]], most: int = 3) -> str:
    """Labels with their pixels, as words."""
    words = [f"{'id ' if isinstance(label, int) else ''}{label} {count} x" for label, count in labels[:most]]
    return ", ".join(words) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _codes(raw: NDArray[Any]) -> NDArray[np.int32]:
    """Colours (3, ...) as red << 16 | green << 8 | blue."""
    red, green, blue = raw.astype(np.int32)
    codes: NDArray[np.int32] = red << 16 | green << 8 | blue
    return codes


def _colour(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255
