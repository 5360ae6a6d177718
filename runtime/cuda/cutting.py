"""Cutting and resampling windows of an image on a GPU, as the host does it with Pillow.

Images are arrays (height, width, bands) of one of `DTYPES` on the GPU. Everything is only enqueued.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int, c_int64, c_uint64
from dataclasses import replace

import numpy as np

from ..errors import InputError
from .arrays import DeviceArray
from .driver import Device
from .loaded import LoadedKernels
from .provider import Argument
from .resources import Memory, Stream
from .shapes import UPRIGHT, Box, Orientation, Rectangle, Way, turn_arguments
from .taps import Resampling, Taps, columns_first, taps

DTYPES = ("uint8", "uint16", "int16", "float32")  # of images
_MANY = 256  # lengths of sides whose tables are worth keeping


class CuttingKernels(LoadedKernels):
    """The kernels that cut and resample, with the weights and the working memory that they need."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._upload = device.stream()
        self._tables: dict[tuple[int, int, Resampling, bool], _Table] = {}
        self._scratch: dict[int, list[Memory]] = {}  # by stream

    def cut_stack(
        self,
        stream: Stream,
        image: DeviceArray,
        windows: Sequence[Rectangle],
        size: int,
        resampling: Resampling,
        count: int,
        target: int,
        turn: Orientation = UPRIGHT,
    ) -> None:
        """Cut and resample windows of an image: `resample` for each of them.

        Args:
            stream: Where to enqueue the work.
            image: The image.
            windows: The windows, at most `count`.
            size: Side of each window in pixels after resampling.
            resampling: The filter.
            count: How many windows the target holds; it stays black where there are fewer.
            target: Where to write (count, bands, size, size) in the image's dtype.
            turn: How to turn each window.

        Raises:
            InputError: The kernels cannot read such an image.
        """
        nbytes = image.shape[2] * size * size * image.dtype.itemsize
        for index, window in enumerate(windows):
            self.resample(stream, image, window, size, resampling, target + index * nbytes, turn)
        stream.fill(target + len(windows) * nbytes, 0, (count - len(windows)) * nbytes)

    def cut(
        self, stream: Stream, image: DeviceArray, window: Rectangle, target: int, turn: Orientation = UPRIGHT
    ) -> None:
        """Cut a window of an image, black beyond it.

        Args:
            stream: Where to enqueue the work.
            image: The image.
            window: The window.
            target: Where to write (bands, height, width) in the image's dtype.
            turn: How to turn the window.

        Raises:
            InputError: The kernels cannot read such an image.
        """
        sides = (window.width, window.height) if turn.quarters % 2 else (window.height, window.width)
        place = (c_int(window.y), c_int(window.x), c_int(window.height), c_int(window.width))
        name = f"cut_{_checked(image).dtype.itemsize}"
        self._launch(
            stream, name, (*sides, image.shape[2]), *_image(image), *place, *turn_arguments(turn), c_uint64(target)
        )

    def resample(
        self,
        stream: Stream,
        image: DeviceArray,
        window: Rectangle,
        size: int,
        resampling: Resampling,
        target: int,
        turn: Orientation = UPRIGHT,
    ) -> None:
        """Cut a window of an image, black beyond it, and resample it to a square as Pillow does.

        The call waits for a copy to the GPU when a side of this length is first met.

        Args:
            stream: Where to enqueue the work.
            image: The image.
            window: The window.
            size: Side of the square in pixels.
            resampling: The filter.
            target: Where to write (bands, size, size) in the image's dtype.
            turn: How to turn the square.

        Raises:
            InputError: The kernels cannot read such an image.
        """
        if (window.height, window.width) == (size, size):
            self.cut(stream, image, window, target, turn)
            return
        if columns_first(window.height, window.width, size):  # rows of the image mirrored at its diagonal
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
            between, c_int(bands), c_int(window.height), *down.arguments, c_int(size),
            *turn_arguments(turn), c_uint64(target),
        )  # fmt: skip

    def tidy(self) -> None:
        """Call `forget`, when images of many sizes have left many tables; the streams must be idle."""
        if len(self._tables) > _MANY:
            self.forget()

    def forget(self) -> None:
        """Free tables and working memory, of which every length of a side takes some; the streams must be idle."""
        for memory in (table.memory for table in self._tables.values()):
            memory.free()
        for memory in (memory for held in self._scratch.values() for memory in held):
            memory.free()
        self._tables, self._scratch = {}, {}

    def close(self) -> None:
        """Free everything; the streams must be idle."""
        self.forget()
        super().close()
        self._upload.free()

    def _between(self, stream: Stream, nbytes: int) -> int:
        """Memory between both passes. A larger one joins those before it, which work in the queue may still need."""
        held = self._scratch.setdefault(stream.handle, [])
        if not held or held[-1].nbytes < nbytes:
            held.append(self._device.allocate(nbytes))
        return held[-1].pointer

    def _table(self, side: int, size: int, resampling: Resampling, integer: bool) -> _Table:
        """Weights on the GPU, copied there when they are first needed."""
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
    """The image; raises InputError where the kernels cannot read it."""
    if len(image.shape) != 3 or str(image.dtype) not in DTYPES:
        expected, found = f"a (height, width, bands) image of {', '.join(DTYPES)}", f"{image.dtype} {image.shape}"
        raise InputError(expected=expected, found=found, remedy="convert it")
    if any(number % image.dtype.itemsize for number in (image.pointer, *image.strides)):
        found = f"strides {image.strides} bytes"
        raise InputError(expected=f"aligned {image.dtype} values", found=found, remedy="copy the image")
    return image


def _transposed(image: DeviceArray) -> DeviceArray:
    (height, width, bands), (row, column, band) = image.shape, image.strides
    return replace(image, shape=(width, height, bands), strides=(column, row, band))


def _flipped(window: Rectangle) -> Rectangle:
    return Box(window.x, window.y, window.width, window.height)


def _after_transposing(turn: Orientation) -> Orientation:
    """`turn`, after mirroring at the diagonal, which is to mirror and then turn by a quarter."""
    return Way(not turn.mirrored, (turn.quarters + (-1 if turn.mirrored else 1)) % 4)


def _image(image: DeviceArray) -> tuple[Argument, ...]:
    height, width, bands = image.shape
    return c_uint64(image.pointer), *map(c_int64, image.strides), c_int(height), c_int(width), c_int(bands)
