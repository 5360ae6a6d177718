"""Labelled masks on disk, whose colours or ids become class ids strip by strip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import RasterError
from ..raster.source import OpenFile, open_any
from .metrics import IGNORE
from .placement import Placement

UNKNOWN = 254
"""The class id of pixels whose colour or id is not described."""

MOST_CLASSES = UNKNOWN
"""How many classes a data set may have."""

Colour = tuple[int, int, int]
"""Red, green and blue, each from 0 to 255."""

Label = int | Colour
"""An id or a colour of a mask."""

_PIXELS = 1 << 22  # how many are counted at a time


@dataclass(frozen=True)
class Labels:
    """What the pixels of a mask mean.

    Ids are meant for masks of one band, colours for masks of three bands and for palettes.

    Attributes:
        values: By class, the ids or colours that it has in masks.
        ignore: Ids and colours that count for nothing.
        threshold: For colours that compression smeared: every channel becomes 255 from this value on and 0 below it, as
            DeepGlobe advises. None for exact colours.
    """

    values: tuple[tuple[Label, ...], ...]
    ignore: tuple[Label, ...] = ()
    threshold: int | None = None

    @cached_property
    def ids(self) -> dict[int, int]:
        """The class of each id in a mask."""
        return {value: index for value, index in self.meanings() if isinstance(value, int)}

    @cached_property
    def colours(self) -> dict[Colour, int]:
        """The class of each colour in a mask."""
        return {value: index for value, index in self.meanings() if not isinstance(value, int)}

    @cached_property
    def by_colour(self) -> NDArray[np.uint8]:
        """The class of every colour, a table (2^24,) by ``red << 16 | green << 8 | blue``."""
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

    def meanings(self) -> Iterator[tuple[Label, int]]:
        """All ids and colours, each with its class; 255 (IGNORE) where it counts for nothing."""
        yield from ((value, IGNORE) for value in self.ignore)
        yield from ((value, index) for index, values in enumerate(self.values) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What a mask holds.

    Attributes:
        pixels: Pixels of each class.
        unknown: Ids and colours that are not described, with their pixels; the most frequent comes first.
    """

    pixels: tuple[int, ...]
    unknown: tuple[tuple[Label, int], ...]


class MaskReader:
    """An open mask on the grid of its image; `open_labels` makes it. Only one thread at a time may use it.

    Args:
        dataset: The open raster.
        path: Its path, for error messages.
        labels: What its pixels mean.
        placement: Where it lies on its image; None for a mask that has the image's rows and columns.

    Raises:
        RasterError: The mask holds colours where ids are described, or pixels of another dtype.
    """

    def __init__(self, dataset: OpenFile, path: Path, labels: Labels, placement: Placement | None = None) -> None:
        self._dataset, self._path, self._labels = dataset, path, labels
        height, width = int(dataset.height), int(dataset.width)
        self._placement = placed = placement or Placement(height=height, width=width)
        self.height, self.width = placed.height, placed.width
        self._rows = _Axis(height, placed.y, placed.height, placed.upside_down)
        self._columns = _Axis(width, placed.x, placed.width, placed.mirrored)
        coloured, dtype = dataset.count > 2, dataset.dtypes[0]
        if coloured and not labels.colours:
            raise RasterError(
                subject=path,
                expected="class ids in one band",
                found=f"{dataset.count} bands",
                remedy="describe the colours of the classes instead (docs/evaluation.md)",
            )
        if dtype != "uint8" and (coloured or dtype != "uint16"):
            kind = "colours of uint8" if coloured else "class ids of uint8 or uint16"
            remedy = "convert the mask with gdal_translate -ot Byte"
            raise RasterError(subject=path, expected=kind, found=dtype, remedy=remedy)
        self._bands = (1, 2, 3) if coloured else (1,)  # what is left is alpha
        self._meanings = () if coloured else self._meanings_of_values(1 << 8 * np.dtype(dtype).itemsize)

    def read(self, y: int, rows: int) -> NDArray[np.uint8]:
        """Read some rows.

        Args:
            y: The first row.
            rows: How many.

        Returns:
            Class ids (rows, width); 255 (IGNORE) where a pixel counts for nothing or the mask does not reach, 254
            (UNKNOWN) where its id or colour is not described.

        Raises:
            RasterError: The file is damaged.
        """
        ids = np.full((rows, self.width), IGNORE, np.uint8)
        (here, down), (across, right) = self._rows.part(y, y + rows), self._columns.part(0, self.width)
        if down.start < down.stop:
            window = ((down.start, down.stop), (right.start, right.stop))
            ids[here, across] = self._decode(self._raw(window=window))[self._rows.order, self._columns.order]
        return ids

    def thumbnail(self, height: int, width: int) -> NDArray[np.uint8]:
        """The whole image's labels at another size: class ids (height, width), each that of the nearest pixel."""
        if self._placement == Placement(height=self._dataset.height, width=self._dataset.width):
            return self._decode(self._raw(out_shape=(len(self._bands), height, width)))
        rows, columns = (((2 * np.arange(n) + 1) * side) // (2 * n) for n, side in zip(
            (height, width), (self.height, self.width), strict=True
        ))  # fmt: skip
        ids = np.empty((height, width), np.uint8)
        for row in range(height)[self._rows.order]:  # in the order of the file
            ids[row] = self.read(int(rows[row]), 1)[0, columns]
        return ids

    def census(self, classes: int) -> Census:
        """Count all pixels that lie on the image.

        Args:
            classes: How many classes there are.

        Returns:
            The counts.

        Raises:
            RasterError: The file is damaged.
        """
        down, right = self._rows.part(0, self.height)[1], self._columns.part(0, self.width)[1]
        tall, wide = down.stop - down.start, right.stop - right.start
        rows = max(1, min(_PIXELS // wide, tall - 1))  # GDAL hides damage of a PNG that is read at once
        pixels, unknown = np.zeros(256, np.int64), dict[Label, int]()
        for y in range(down.start, down.stop, rows):
            raw = self._raw(window=((y, min(y + rows, down.stop)), (right.start, right.stop)))
            ids = self._decode(raw)
            pixels += np.bincount(ids.ravel(), minlength=256)
            for label, count in self._counted(raw[:, ids == UNKNOWN]):
                unknown[label] = unknown.get(label, 0) + count
        found = sorted(unknown.items(), key=lambda item: -item[1])
        return Census(pixels=tuple(map(int, pixels[:classes])), unknown=tuple(found))

    def _raw(self, **options: object) -> NDArray[np.integer]:
        """Pixels (bands, rows, columns) as they are on disk, after the threshold; options are those of rasterio."""
        try:
            raw: NDArray[np.integer] = self._dataset.read(self._bands, **options)
        except OSError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            problem = f"the mask is damaged or cut short ({reason})"
            raise RasterError(problem, subject=self._path, remedy="get it anew") from error
        if self._labels.threshold is not None and len(raw) == 3:
            raw = np.where(raw >= self._labels.threshold, np.uint8(255), np.uint8(0))
        return raw

    def _decode(self, raw: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Class ids (rows, columns) of pixels (bands, rows, columns)."""
        ids: NDArray[np.uint8] = self._table[raw[0]] if len(raw) == 1 else self._labels.by_colour[_codes(raw)]
        return ids

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        """The class of each value, for masks of one band."""
        known = dict(self._labels.meanings())
        return np.asarray([known.get(meaning, UNKNOWN) for meaning in self._meanings], np.uint8)

    def _meanings_of_values(self, count: int) -> tuple[Label, ...]:
        """The id or colour that each value of a band stands for: palettes are expanded, greys are colours too."""
        if not self._labels.colours:
            return tuple(range(count))
        if self._dataset.colorinterp[0].name == "palette":
            palette = self._dataset.colormap(1)
            return tuple(self._labels.colour_of(*palette.get(value, (0, 0, 0))[:3]) for value in range(count))
        if not self._labels.ids:
            return tuple(self._labels.colour_of(value, value, value) for value in range(count))
        return tuple(range(count))

    def _counted(self, raw: NDArray[np.integer]) -> list[tuple[Label, int]]:
        """The ids or colours of pixels (bands, n), with their counts."""
        values, counts = np.unique(raw[0] if len(raw) == 1 else _codes(raw), return_counts=True)
        names = [self._meanings[value] if len(raw) == 1 else _colour(int(value)) for value in values]
        return list(zip(names, counts.tolist(), strict=True))


class _Axis:
    """Rows of a mask by rows of its image, or columns by columns.

    Args:
        length: Pixels of the mask.
        start: The image's pixel on which the mask's first one lies, once the mask is turned.
        side: Pixels of the image.
        turned: Whether the mask runs against the image.
    """

    def __init__(self, length: int, start: int, side: int, turned: bool) -> None:
        self._length, self._start, self._side, self._turned = length, start, side, turned
        self.order = slice(None, None, -1 if turned else 1)

    def part(self, first: int, last: int) -> tuple[slice, slice]:
        """Where a range of the image has labels, counted from its first pixel, and the mask's pixels that hold them."""
        begin = min(max(first, self._start), last)
        end = max(min(last, self._start + self._length, self._side), begin)
        inside = slice(begin - self._start, end - self._start)
        if self._turned:
            inside = slice(self._length - inside.stop, self._length - inside.start)
        return slice(begin - first, end - first), inside


@contextlib.contextmanager
def open_mask(path: Path, labels: Labels) -> Iterator[MaskReader]:
    """Open a mask of ids (one band), of colours (three bands) or of palette colours as it lies on disk.

    Args:
        path: The file.
        labels: What its pixels mean.

    Yields:
        The open mask.

    Raises:
        RasterError: The file is missing, no image, or no such mask.
    """
    with open_any(path) as dataset:
        yield MaskReader(dataset, path, labels)


@contextlib.contextmanager
def open_ids(path: Path, classes: int) -> Iterator[MaskReader]:
    """Open a mask that fctl wrote: class ids, and 255 where the image has no data. Arguments as in `open_mask`."""
    with open_mask(path, Labels(tuple((index,) for index in range(classes)), (IGNORE,))) as mask:
        yield mask


def listed(labels: Sequence[tuple[Label, int]], most: int = 3) -> str:
    """The first few labels with their pixels, in words."""
    words = [f"{'id ' if isinstance(label, int) else ''}{label} {count} x" for label, count in labels[:most]]
    return ", ".join(words) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _codes(raw: NDArray[np.integer]) -> NDArray[np.int32]:
    """Colours (3, ...) as ``red << 16 | green << 8 | blue``."""
    red, green, blue = raw.astype(np.int32)
    codes: NDArray[np.int32] = red << 16 | green << 8 | blue
    return codes


def _colour(code: int) -> Colour:
    """The colour of a code."""
    return code >> 16, code >> 8 & 255, code & 255
