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
    """An open mask; `open_mask` makes it. Only one thread at a time may use it.

    Args:
        dataset: The open raster.
        path: Its path, for error messages.
        labels: What its pixels mean.

    Raises:
        RasterError: The mask holds colours where ids are described, or pixels of another dtype.
    """

    def __init__(self, dataset: OpenFile, path: Path, labels: Labels) -> None:
        self._dataset, self._path, self._labels = dataset, path, labels
        self.height, self.width = int(dataset.height), int(dataset.width)
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
            Class ids (rows, width); 255 (IGNORE) where a pixel counts for nothing, 254 (UNKNOWN) where its id or colour
            is not described.

        Raises:
            RasterError: The file is damaged.
        """
        return self._decode(self._raw(window=((y, y + rows), (0, self.width))))

    def thumbnail(self, height: int, width: int) -> NDArray[np.uint8]:
        """The whole mask at another size: class ids (height, width), each that of the nearest pixel."""
        return self._decode(self._raw(out_shape=(len(self._bands), height, width)))

    def census(self, classes: int) -> Census:
        """Count all pixels.

        Args:
            classes: How many classes there are.

        Returns:
            The counts.

        Raises:
            RasterError: The file is damaged.
        """
        rows = max(1, min(_PIXELS // self.width, self.height - 1))  # GDAL hides damage of a PNG that is read at once
        pixels, unknown = np.zeros(256, np.int64), dict[Label, int]()
        for y in range(0, self.height, rows):
            raw = self._raw(window=((y, min(y + rows, self.height)), (0, self.width)))
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


@contextlib.contextmanager
def open_mask(path: Path, labels: Labels) -> Iterator[MaskReader]:
    """Open a mask of ids (one band), of colours (three bands) or of palette colours.

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
