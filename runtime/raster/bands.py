"""Which bands of a raster are used, and whether one marked alpha is opacity or data.

GDAL marks the fourth band of R, G, B, NIR as alpha when nobody says what it is. Opacity is nearly everywhere 0 or the
maximum of a bit depth; near infrared is not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ..errors import RasterError
from .blocks import Blocks
from .palette import Palette, palette_of
from .places import Place

log = logging.getLogger(__name__)

_SAMPLES = 16  # blocks
_SIDE = 512  # of what is looked at in a block, in pixels
_DOUBT = 1000  # pixels
_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_UNNAMED = {ColorInterp.undefined, ColorInterp.gray}

_AS_MASK = "as a mask with soft edges (if it is data, name the bands to use with `bands`)"
_AS_DATA = "as data that is not used (name other `bands`, or make it a mask with gdal_translate -mask {})"


@dataclass(frozen=True, slots=True)
class Bands:
    """The bands of a raster that are used, by number from 1.

    Attributes:
        used: Those that the network sees, in its order. A grey band or a palette's is named three times where three are
            wanted.
        alpha: The one that tells where the raster is transparent; None if none does.
        palette: The colours that the samples stand for; None where samples are what they are.
        opaque: Pixels of samples of the alpha band, all over the raster, that are opaque.
        between: Pixels of these samples that are neither opaque nor transparent.
    """

    used: tuple[int, ...]
    alpha: int | None
    palette: Palette | None = None
    opaque: int = 0
    between: int = 0

    @property
    def distinct(self) -> int:
        """How many bands are read, alpha among them."""
        return len({*self.used, self.alpha} - {None})

    def dtypes(self, dataset: DatasetReader) -> list[str]:
        """NumPy's names of the dtypes of the bands in use; that of colours where there is a palette."""
        return [self.palette.dtype.name] if self.palette else [dataset.dtypes[band - 1] for band in self.used]


class Opacity:
    """What the values of a band marked alpha say of it, as far as they were seen.

    Attributes:
        opaque: Pixels that are the maximum of a bit depth: 1, 3, ..., 255, ..., 65535.
        between: Pixels that are neither that nor 0.
    """

    def __init__(self, opaque: int = 0, between: int = 0) -> None:
        self.opaque, self.between = opaque, between

    def add(self, values: NDArray[np.generic]) -> None:
        """Count more values."""
        between = _between(values)
        self.between += between
        self.opaque += int(np.count_nonzero(values)) - between

    @property
    def is_mask(self) -> bool:
        """Whether the band is opacity. Soft edges and lossy compression leave few values between."""
        return self.between <= self.opaque

    @property
    def is_refuted(self) -> bool:
        """Whether the band is surely no opacity, once it was taken for that."""
        return self.between > self.opaque + _DOUBT


def choose_bands(blocks: Blocks, path: Place, wanted: int, named: Sequence[int] | None) -> Bands:
    """Choose the bands to use.

    A band that is named is data, whatever its colour interpretation. Where none is named, the choice is all bands but
    opacity; or all but one marked alpha which is no opacity, if so many are wanted. If three are wanted, they are those
    marked red, green and blue, in this order; of four bands that nothing is known of the first three; and three times
    the only one, in the colours of its palette if it has one.

    Args:
        blocks: The open raster.
        path: Its name, for messages.
        wanted: How many bands are wanted.
        named: Numbers of the bands, from 1; None to choose.

    Returns:
        The bands.

    Raises:
        RasterError: There are others than wanted.
    """
    dataset = blocks.dataset
    marked = _marked_alpha(dataset)
    if named and marked in named:
        marked = None
    opacity = _opacity_of(blocks, marked) if marked else Opacity()
    is_mask = marked is not None and opacity.is_mask
    used = tuple(named) if named else dataset.indexes
    if not named and marked and (is_mask or len(used) - 1 == wanted):
        used = tuple(band for band in used if band != marked)
    palette = None
    if not named and wanted == len(_COLOURS):
        used, palette = _colours_of(dataset, path, used)
    _check(dataset, path, wanted, used, named=bool(named), masked=is_mask)
    if marked and marked not in used and opacity.between:
        _tell(f"{path}: band {marked}", _AS_MASK if is_mask else _AS_DATA.format(marked))
    return Bands(used, marked if is_mask else None, palette, opacity.opaque, opacity.between)


def has_opacity(dataset: DatasetReader) -> bool:
    """Whether a raster has a band marked alpha that is opacity, by samples of it; it may be data."""
    marked = _marked_alpha(dataset)
    return marked is not None and _opacity_of(Blocks(dataset, "fail"), marked).is_mask


def refuted(path: Place, alpha: int) -> RasterError:
    """The error for a band that passed for opacity until more of it was read."""
    return RasterError(
        f"band {alpha} is marked alpha, and holds opacity in some places and data in others",
        subject=path,
        remedy=f"name it with `bands`, or say with gdal_edit.py -colorinterp_{alpha} undefined that it is data",
    )


def sample_windows(dataset: DatasetReader) -> Iterator[Window]:
    """Parts of at most 16 blocks, spread over a raster; each block is decoded once, and small rasters are seen whole.

    Args:
        dataset: The open raster.

    Yields:
        Windows of at most 512 x 512 pixels.
    """
    height, width = dataset.block_shapes[0]
    rows, columns = -(-dataset.height // height), -(-dataset.width // width)
    across = min(columns, max(4, _SAMPLES // rows))
    down = min(rows, _SAMPLES // across)
    for row in np.unique(np.linspace(0, rows - 1, down).astype(int)).tolist():
        for column in np.unique(np.linspace(0, columns - 1, across).astype(int)).tolist():
            y, x = row * height, column * width
            inside = min(height, dataset.height - y), min(width, dataset.width - x)
            seen = min(inside[0], _SIDE), min(inside[1], _SIDE)
            yield Window(x + (inside[1] - seen[1]) // 2, y + (inside[0] - seen[0]) // 2, seen[1], seen[0])


@lru_cache(maxsize=1000)
def _tell(band: str, taken: str) -> None:
    """Log once what a band is taken as: some commands open an image again and again."""
    log.warning("%s is marked alpha, but holds more than opaque and transparent: it is taken %s", band, taken)


def _colours_of(dataset: DatasetReader, path: Place, used: tuple[int, ...]) -> tuple[tuple[int, ...], Palette | None]:
    """Red, green and blue among some bands, as far as the raster tells; the same bands where it does not."""
    marks = {band: dataset.colorinterp[band - 1] for band in used}
    if len(used) == 1:
        palette = palette_of(dataset, used[0])
        if palette is None:
            _note(f"{path}: its one band of grey is taken as red, green and blue alike")
        return used * 3, palette
    if sorted(mark for mark in marks.values() if mark in _COLOURS) == sorted(_COLOURS):
        bands = tuple(next(band for band, mark in marks.items() if mark == colour) for colour in _COLOURS)
        if bands != used:
            red, green, blue = bands
            _note(
                f"{path}: of its {dataset.count} bands, {red}, {green} and {blue} are used, which are marked red, "
                "green and blue (name others with `bands`)"
            )
        return bands, None
    if len(used) == 4 and set(marks.values()) <= _UNNAMED:
        _note(
            f"{path}: nothing tells what its 4 bands are: the first three are taken as red, green and blue "
            "(name others with `bands`)",
            logging.WARNING,
        )
        return used[:3], None
    return used, None


@lru_cache(maxsize=1000)
def _note(text: str, level: int = logging.INFO) -> None:
    """Log once what is taken for what: some commands open an image again and again."""
    log.log(level, "%s", text)


def _check(
    dataset: DatasetReader, path: Place, wanted: int, used: tuple[int, ...], *, named: bool, masked: bool
) -> None:
    """Raise RasterError unless the bands are as many as are wanted, and are there."""
    if len(used) != wanted:
        can_name = named or dataset.count > wanted or (masked and dataset.count == wanted)
        remedy = f"name {wanted} with `bands`" if can_name else "use another image"
        if dataset.colorinterp[0] == ColorInterp.palette:
            remedy = "expand its palette with gdal_translate -expand rgb"
        found = f"{len(used)} and alpha" if masked and not named else len(used)
        raise RasterError(subject=path, expected=f"{wanted} bands", found=found, remedy=remedy)
    missing = [band for band in used if band not in dataset.indexes]
    if missing:
        raise RasterError(f"`bands` names {missing[0]}, the image has bands 1 to {dataset.count}", subject=path)


def _marked_alpha(dataset: DatasetReader) -> int | None:
    """The number of the first band that is marked alpha."""
    interpretations = list(dataset.colorinterp)
    return interpretations.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in interpretations else None


def _opacity_of(blocks: Blocks, band: int) -> Opacity:
    """What samples of a band marked alpha say of it."""
    opacity = Opacity()
    for window in sample_windows(blocks.dataset):
        opacity.add(blocks.read([band], window))  # 0 where a block cannot be read, which counts as nothing
        if opacity.is_refuted:
            break
    return opacity


def _between(values: NDArray[np.generic]) -> int:
    """How many values are neither 0 nor the maximum of a bit depth, which is one less than a power of 2."""
    if values.dtype.kind in "iu":
        return int(np.count_nonzero(np.bitwise_and(values, np.add(values, 1, dtype=values.dtype))))
    return int(np.count_nonzero(~np.isin(values, (0, 1, 255, 65535))))
