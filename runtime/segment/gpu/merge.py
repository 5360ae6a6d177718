"""Overlapping tiles of scores on a GPU -> finished rows: what `merge` does on the host, number by number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...cuda.driver import Device
from ...cuda.kernels import Sums
from ...tiling.merge import WEIGHTS, Merger, Scores, Strip, covered
from ...tiling.windows import Grid, Window

if TYPE_CHECKING:
    from ...cuda.tensors import Tensor
    from .network import DeviceNetwork


@dataclass(frozen=True, slots=True)
class Target:
    """Where to leave the mask of a whole image on the GPU: ids (height, width), and shares (classes, height, width)."""

    ids: Tensor
    shares: Tensor | None


class DeviceMerger:
    """Adds tiles on the compute stream; finished rows are averaged there, and copied out beside the next batch.

    The sums are a ring: row y of the raster lies in row y modulo the tile. target: leave rows there, hand out none.
    Raises DeviceMemoryError where the sums do not fit.
    """

    def __init__(self, network: DeviceNetwork, grid: Grid, probabilities: bool, target: Target | None = None) -> None:
        manifest, device = network.manifest, network.device
        self._network, self._grid, self._target = network, grid, target
        self._classes, self._softmax = len(manifest.classes), manifest.scores == "logits"
        self._bytes = 1 + 4 * self._classes if probabilities else 1  # of a finished pixel
        weight = WEIGHTS[manifest.merge](grid.tile)
        lines = (weight, covered(grid.rows, grid.height, weight), covered(grid.columns, grid.width, weight))
        nbytes = 4 * self._classes * grid.tile * grid.width
        with device.active():
            self._memory = [device.allocate(size) for size in (nbytes, *(line.nbytes for line in lines))]
            network.compute.fill(self._memory[0].pointer, 0, nbytes)
            for memory, line in zip(self._memory[1:], lines, strict=True):
                network.compute.copy_in(memory.pointer, line)
            network.compute.synchronize()  # the lines may go
        sums, weights, rows, columns = (memory.pointer for memory in self._memory)
        self._sums = Sums(
            sums=sums, weight=weights, rows=rows, columns=columns,
            classes=self._classes, tile=grid.tile, height=grid.height, width=grid.width,
        )  # fmt: skip
        self._y = 0
        # For the rows in work and those on their way out; here, so that what does not fit shows before the first tile.
        most = grid.tile * grid.width * self._bytes
        self._idle = [_Buffer(device, most, on_host=target is None) for _ in range(1 if target else 2)]

    def add(self, tiles: Sequence[Window], scores: Tensor) -> Iterator[DeviceStrip]:
        """Add the scores (N, classes, tile, tile) of at most N tiles; yields the rows that lie above them."""
        size = scores.nbytes // scores.shape[0]
        for index, tile in enumerate(tiles):
            if tile.y > self._y:
                yield from self._finish(tile.y - self._y)
            with self._network.device.active():
                at = scores.pointer + index * size
                self._network.kernels.add_tile(self._network.compute, self._sums, tile, at)

    def flush(self) -> Iterator[DeviceStrip]:
        """The rows that are left after the last tile."""
        yield from self._finish(self._grid.height - self._y)

    def _finish(self, rows: int) -> Iterator[DeviceStrip]:
        """Queue the averaging of the next rows, and their copy to wherever they go."""
        network, width, y = self._network, self._grid.width, self._y
        with network.device.active():
            buffer = self._buffer(rows * width * self._bytes)
            shares = buffer.memory.pointer if self._bytes > 1 else None
            ids = buffer.memory.pointer + rows * width * (self._bytes - 1)
            network.kernels.finish(network.compute, self._sums, y, rows, ids, shares, self._softmax)
            self._y += rows
            if self._target:
                self._keep(self._target, buffer, y, rows, ids)
                return
            buffer.merged.record(network.compute)
            network.drain.wait(buffer.merged)
            found = buffer.host(rows * width * self._bytes)
            network.drain.copy_out(found, buffer.memory.pointer)
            buffer.copied.record(network.drain)
        yield DeviceStrip(y, (self._classes, rows, width), found, buffer, self._idle)

    def _keep(self, target: Target, buffer: _Buffer, y: int, rows: int, ids: int) -> None:
        stream, width = self._network.compute, self._grid.width
        stream.copy(target.ids.pointer + y * width, ids, rows * width)
        if target.shares:
            for index in range(self._classes):
                to = target.shares.pointer + 4 * width * (index * self._grid.height + y)
                stream.copy(to, buffer.memory.pointer + 4 * rows * width * index, 4 * rows * width)
        self._idle.append(buffer)  # the stream itself keeps the order

    def _buffer(self, nbytes: int) -> _Buffer:
        """One that is idle and large enough, or a new one."""
        for buffer in self._idle:
            if buffer.memory.nbytes >= nbytes:
                self._idle.remove(buffer)
                return buffer
        return _Buffer(self._network.device, nbytes, on_host=self._target is None)


class _Buffer:
    """Finished rows on the GPU and on the host: shares, then ids. merged, copied: they are there."""

    def __init__(self, device: Device, nbytes: int, *, on_host: bool) -> None:
        self._pinned = device.pinned(nbytes) if on_host else None
        self.memory = device.allocate(nbytes)
        self.merged, self.copied = device.event(), device.event()

    def host(self, nbytes: int) -> NDArray[np.uint8]:
        """The first bytes of page-locked memory of the host."""
        assert self._pinned is not None
        return self._pinned.array(nbytes, np.uint8)


class DeviceStrip:
    """Finished rows that are on their way to the host; whoever asks waits for them."""

    def __init__(
        self, y: int, shape: tuple[int, int, int], coming: NDArray[np.uint8], buffer: _Buffer, idle: list[_Buffer]
    ) -> None:
        self.y, self.rows = y, shape[1]
        self._shape, self._coming, self._buffer, self._idle = shape, coming, buffer, idle
        self._bytes: NDArray[np.uint8] | None = None

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, width)."""
        return self._fetched()[-math.prod(self._shape[1:]) :].reshape(self._shape[1:])

    def shares(self) -> Scores:
        """Probabilities (classes, rows, width) float32, where they were asked for."""
        return self._fetched()[: 4 * math.prod(self._shape)].view(np.float32).reshape(self._shape)

    def _fetched(self) -> NDArray[np.uint8]:
        if self._bytes is None:
            self._buffer.copied.synchronize()
            self._bytes = self._coming.copy()
            self._idle.append(self._buffer)
        return self._bytes


class DownloadingMerger:
    """Copies the scores out and merges on the host: for GPUs whose memory the sums of a wide raster do not fit."""

    def __init__(self, network: DeviceNetwork, grid: Grid) -> None:
        manifest = network.manifest
        self._network = network
        self._merger = Merger(grid, len(manifest.classes), manifest.merge, manifest.scores)

    def add(self, tiles: Sequence[Window], scores: Tensor) -> Iterator[Strip]:
        """Add the scores (N, classes, tile, tile) of at most N tiles; yields the rows that lie above them."""
        return self._merger.add(tiles, self._network.on_host(scores))

    def flush(self) -> Iterator[Strip]:
        """The rows that are left after the last tile."""
        return self._merger.flush()
