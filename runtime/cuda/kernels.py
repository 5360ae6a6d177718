"""The kernels of kernels.cu: cutting and resampling windows, merging tiles, averaging turns, all as the host does it.

Numbers are the host's, bit by bit, but for the softmax (the exponential function has no exact one). Everything is only
enqueued; call inside `Device.active`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_float, c_int, c_int64, c_uint64
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from ..errors import InputError
from ..tiling.resampling import Resampling
from ..tiling.turns import UPRIGHT, Turn
from ..tiling.windows import Window
from .arrays import DeviceArray
from .driver import Device, Memory, Stream

PTX = Path(__file__).with_name("kernels.ptx")

DTYPES = ("uint8", "uint16", "int16", "float32")  # of images
_PRECISION = 22  # bits behind the point of Pillow's weights for uint8
_MOST_PLANES = 65535  # along a grid's z: the kernels go on in steps of it
_BLOCK = (32, 8, 1)
_MANY = 256  # lengths of sides whose tables are worth keeping


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Where the tiles of one raster are added up, by address.

    sums: (classes, tile, width) float32, zeroed to begin with; row y of the raster lies in row y % tile. weight: of a
    tile's rows and columns (tile,) float32. rows, columns: sums of the weights over each row (height,) and column
    (width,) float32.
    """

    sums: int
    weight: int
    rows: int
    columns: int
    classes: int
    tile: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Taps:
    """How a side is resampled: the first pixel and number of pixels of each new one (size, 2) int32, and their weights
    (size, taps), int32 for uint8 and float64 for the rest."""

    spans: NDArray[np.int32]
    weights: NDArray[Any]


@lru_cache(maxsize=64)
def taps(side: int, size: int, resampling: Resampling, integer: bool) -> Taps:
    """Pillow's weights, computed in its order: `precompute_coeffs` of its Resample.c."""
    if side == size:  # Pillow leaves such an axis out
        spans = np.stack([np.arange(size), np.ones(size)], axis=1)
        return Taps(spans.astype(np.int32), _fixed(np.ones((size, 1))) if integer else np.ones((size, 1)))
    scale = side / size
    stretch = max(scale, 1.0)
    support = (0.5 if resampling == "box" else 1.0) * stretch
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum(np.trunc(centre - support + 0.5), 0)
    count = np.minimum(np.trunc(centre + support + 0.5), side) - first
    tap = np.arange(int(count.max()))
    distance = (tap + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch)
    if resampling == "box":
        weights = ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)
    else:
        weights = np.maximum(1.0 - np.abs(distance), 0.0)
    weights[tap >= count[:, None]] = 0.0
    total = np.cumsum(weights, axis=1)[:, -1:]  # one after the other, as Pillow adds them
    weights = np.divide(weights, total, out=weights, where=total != 0)
    return Taps(np.stack([first, count], axis=1).astype(np.int32), _fixed(weights) if integer else weights)


def _fixed(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.trunc(0.5 + weights * (1 << _PRECISION)).astype(np.int32)


def columns_first(window: Window, size: int) -> bool:
    """Whether Pillow resamples along columns before rows: from 13.0 on, where that makes much less of a window."""
    less = window.height - size
    return int(PIL.__version__.split(".")[0]) >= 13 and less > max(0, 2 * (window.width - size))


class KernelSet:
    """The kernels, loaded into one device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kernels = device.kernels(PTX.read_bytes())
        self._upload = device.stream()
        self._tables: dict[tuple[int, int, Resampling, bool], _Table] = {}
        self._scratch: dict[int, list[Memory]] = {}  # by stream

    def cut_stack(
        self,
        stream: Stream,
        image: DeviceArray,
        windows: Sequence[Window],
        size: int,
        resampling: Resampling,
        count: int,
        target: int,
        turn: Turn = UPRIGHT,
    ) -> None:
        """Windows of an image -> (count, bands, size, size), turned, in its dtype; black where there are fewer."""
        nbytes = image.shape[2] * size * size * image.dtype.itemsize
        for index, window in enumerate(windows):
            self.resample(stream, image, window, size, resampling, target + index * nbytes, turn)
        stream.fill(target + len(windows) * nbytes, 0, (count - len(windows)) * nbytes)

    def cut(self, stream: Stream, image: DeviceArray, window: Window, target: int, turn: Turn = UPRIGHT) -> None:
        """A window of an image (height, width, bands) -> (bands, height, width), turned; black beyond the image."""
        sides = (window.width, window.height) if turn.quarters % 2 else (window.height, window.width)
        place = (c_int(window.y), c_int(window.x), c_int(window.height), c_int(window.width))
        name = f"cut_{_checked(image).dtype.itemsize}"
        self._launch(stream, name, (*sides, image.shape[2]), *_image(image), *place, *_turn(turn), c_uint64(target))

    def resample(
        self,
        stream: Stream,
        image: DeviceArray,
        window: Window,
        size: int,
        resampling: Resampling,
        target: int,
        turn: Turn = UPRIGHT,
    ) -> None:
        """A window of an image -> (bands, size, size), as `contexts.resample` of `contexts.read_padded`, turned.

        Waits for a copy to the device when a side of this length is first met.
        """
        if (window.height, window.width) == (size, size):
            self.cut(stream, image, window, target, turn)
            return
        if columns_first(window, size):  # rows of the image mirrored at its diagonal
            image, window, turn = _transposed(image), _flipped(window), _after_transposing(turn)
        dtype, bands = str(_checked(image).dtype), image.shape[2]
        integer = dtype == "uint8"
        across = self._table(window.width, size, resampling, integer)
        down = self._table(window.height, size, resampling, integer)
        between = c_uint64(self._between(stream, bands * window.height * size * (1 if integer else 4)))
        place = (c_int(window.y), c_int(window.x), c_int(window.height))
        self._launch(
            stream, f"across_{dtype}", (window.height, size, bands),
            *_image(image), *place, *across.arguments, c_int(size), between,
        )  # fmt: skip
        self._launch(
            stream, f"down_{dtype}", (size, size, bands),
            between, c_int(bands), c_int(window.height), *down.arguments, c_int(size), *_turn(turn), c_uint64(target),
        )  # fmt: skip

    def add_tile(self, stream: Stream, sums: Sums, tile: Window, scores: int) -> None:
        """Add one tile's scores (classes, tile, tile) float32: `Merger.add`."""
        rows, columns = min(tile.height, sums.height - tile.y), min(tile.width, sums.width - tile.x)
        pointers = (c_uint64(sums.sums), c_uint64(scores), c_uint64(sums.weight))
        self._launch(
            stream, "add_tile", (rows, columns, sums.classes),
            *pointers, c_int(sums.classes), c_int(sums.tile), c_int(sums.width),
            c_int(tile.y), c_int(tile.x), c_int(rows), c_int(columns),
        )  # fmt: skip

    def finish(
        self, stream: Stream, sums: Sums, y: int, rows: int, ids: int, shares: int | None = None, softmax: bool = False
    ) -> None:
        """Average the rows from y on, at most a tile's, and clear them for those to come: `Strip`.

        ids: (rows, width) uint8. shares: (classes, rows, width) float32, the scores or their softmax.
        """
        pointers = (c_uint64(sums.sums), c_uint64(sums.rows), c_uint64(sums.columns))
        self._launch(
            stream, "finish", (rows, sums.width, 1),
            *pointers, c_int(sums.classes), c_int(sums.tile), c_int(sums.width), c_int(y), c_int(rows),
            c_uint64(ids), c_uint64(shares or 0), c_int(softmax),
        )  # fmt: skip

    def add_turned(
        self, stream: Stream, total: int, scores: int, shape: tuple[int, ...], turn: Turn, *, begin: bool
    ) -> None:
        """Add scores (..., side, side) float32, turned back, to a total, or begin it with them: `Turn.back`."""
        planes, side = int(np.prod(shape[:-2])), shape[-1]
        pointers = (c_uint64(total), c_uint64(scores))
        sides = (c_int(planes), c_int(side))
        self._launch(stream, "add_turned", (side, side, planes), *pointers, *sides, *_turn(turn), c_int(begin))

    def divide(self, stream: Stream, values: int, count: int, divisor: float) -> None:
        """Divide `count` float32 values in place."""
        block = _BLOCK[0] * _BLOCK[1]
        grid = (min(-(-count // block), 1 << 20), 1, 1)
        arguments = (c_uint64(values), c_int64(count), c_float(divisor))
        stream.launch(self._kernels["divide"], grid, (block, 1, 1), arguments)

    def tidy(self) -> None:
        """Forget, when the streams are idle and images of many sizes have left a lot."""
        if len(self._tables) > _MANY:
            self.forget()

    def forget(self) -> None:
        """Free tables and working memory, when the streams are idle: every length of a side takes some."""
        for memory in (table.memory for table in self._tables.values()):
            memory.free()
        for memory in (memory for held in self._scratch.values() for memory in held):
            memory.free()
        self._tables, self._scratch = {}, {}

    def close(self) -> None:
        """Free everything, when the streams are idle."""
        self.forget()
        self._kernels.free()
        self._upload.free()

    def _launch(self, stream: Stream, name: str, extent: tuple[int, int, int], *arguments: Any) -> None:
        """extent: rows, columns, planes."""
        rows, columns, planes = extent
        grid = (-(-columns // _BLOCK[0]), -(-rows // _BLOCK[1]), min(planes, _MOST_PLANES))
        stream.launch(self._kernels[name], grid, _BLOCK, arguments)

    def _between(self, stream: Stream, nbytes: int) -> int:
        """Memory between both passes. A larger one joins those before it, which work in the queue may still need."""
        held = self._scratch.setdefault(stream.handle, [])
        if not held or held[-1].nbytes < nbytes:
            held.append(self._device.allocate(nbytes))
        return held[-1].pointer

    def _table(self, side: int, size: int, resampling: Resampling, integer: bool) -> _Table:
        key = (side, size, resampling, integer)
        if key not in self._tables:
            self._tables[key] = _Table(self._device, self._upload, taps(*key))
        return self._tables[key]


class _Table:
    """Taps on the device."""

    def __init__(self, device: Device, stream: Stream, host: Taps) -> None:
        weights = np.ascontiguousarray(host.weights)
        self.memory = device.allocate(weights.nbytes + host.spans.nbytes)
        pointer = self.memory.pointer
        stream.copy_in(pointer, weights)
        stream.copy_in(pointer + weights.nbytes, host.spans)
        stream.synchronize()
        self.arguments = (c_uint64(pointer + weights.nbytes), c_uint64(pointer), c_int(weights.shape[1]))


def _checked(image: DeviceArray) -> DeviceArray:
    """Raise InputError for what the kernels cannot read."""
    if len(image.shape) != 3 or str(image.dtype) not in DTYPES:
        found = f"{image.dtype} {image.shape}"
        raise InputError(f"expected a (height, width, bands) image of {', '.join(DTYPES)}, found {found}; convert it")
    if any(number % image.dtype.itemsize for number in (image.pointer, *image.strides)):
        raise InputError(f"expected aligned {image.dtype} values, found strides {image.strides} bytes; copy the image")
    return image


def _transposed(image: DeviceArray) -> DeviceArray:
    (height, width, bands), (row, column, band) = image.shape, image.strides
    return replace(image, shape=(width, height, bands), strides=(column, row, band))


def _flipped(window: Window) -> Window:
    return Window(window.x, window.y, window.width, window.height)


def _after_transposing(turn: Turn) -> Turn:
    """`turn`, after mirroring at the diagonal, which is to mirror and then turn by a quarter."""
    return Turn(not turn.mirrored, (turn.quarters + (-1 if turn.mirrored else 1)) % 4)


def _image(image: DeviceArray) -> tuple[Any, ...]:
    height, width, bands = image.shape
    return c_uint64(image.pointer), *map(c_int64, image.strides), c_int(height), c_int(width), c_int(bands)


def _turn(turn: Turn) -> tuple[c_int, c_int]:
    return c_int(turn.mirrored), c_int(turn.quarters)
