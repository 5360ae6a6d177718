"""Scores of tiles on a GPU, averaged over turns and merged there into finished rows.

This does what `HostAccumulator` and `Merger` do on the host, number by number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...bundle.manifest import Manifest
from ...cuda.driver import Device
from ...cuda.kernels import Sums
from ...cuda.tensors import Tensor
from ...tiling.merge import WEIGHTS, covered
from ...tiling.turns import UPRIGHT, Turn
from ...tiling.windows import Region, Window
from ..network import Scores
from .work import GpuWork


@dataclass(frozen=True, slots=True)
class Target:
    """Where the mask of a whole image is left on the GPU.

    Attributes:
        ids: Class ids (height, width) uint8.
        probabilities: Probabilities (classes, height, width) float32, or None.
        lost: A count (1,) uint32 of pixels whose scores are not finite, which starts at 0.
    """

    ids: Tensor
    probabilities: Tensor | None
    lost: Tensor


class DeviceAccumulator:
    """Adds tiles on the compute stream; finished rows are averaged there, and copied out beside the next batch.

    The sums are a ring: row y of the raster lies in row y modulo the tile.

    Args:
        work: The GPU and its streams.
        manifest: Classes, scores and the rule of merging.
        region: The part of the raster that is wanted, and its tiles.
        turns: The ways in which each batch is segmented.
        probabilities: Whether rows will be asked for probabilities.
        target: Where to leave all rows on the GPU instead of handing them out; for a region that is the whole image.

    Raises:
        DeviceMemoryError: The sums do not fit into the GPU's memory.
    """

    at_once = False

    def __init__(
        self,
        work: GpuWork,
        manifest: Manifest,
        region: Region,
        turns: tuple[Turn, ...],
        probabilities: bool,
        target: Target | None = None,
    ) -> None:
        self._work, self._region, self._turns, self._target = work, region, turns, target
        self._finished, self._computed = region.finished, region.computed
        self._classes, self._softmax = len(manifest.classes), manifest.scores == "logits"
        self._bytes = 1 + 4 * self._classes if probabilities else 1  # of a finished pixel
        self._total: Tensor | None = None
        grid, device, compute = region.grid, work.device, work.compute
        weight = WEIGHTS[manifest.merge](grid.tile)
        width, columns_sum = self._computed.width, covered(grid.columns, grid.width, weight)
        here = np.ascontiguousarray(columns_sum[self._computed.x : self._computed.right])
        lines = (weight, covered(grid.rows, grid.height, weight), here)
        nbytes = 4 * self._classes * grid.tile * width
        with work.active():
            self._memory = [device.allocate(size) for size in (nbytes, *(line.nbytes for line in lines))]
            compute.fill(self._memory[0].pointer, 0, nbytes)
            for memory, line in zip(self._memory[1:], lines, strict=True):
                compute.copy_in(memory.pointer, line)
            compute.synchronize()  # the lines may go
        sums, weights, rows, columns = (memory.pointer for memory in self._memory)
        self._sums = Sums(
            sums=sums, weight=weights, rows=rows, columns=columns,
            classes=self._classes, tile=grid.tile, height=grid.height, width=width,
        )  # fmt: skip
        self._y = self._computed.y
        # For the rows in work and those on their way out; here, so that what does not fit shows before the first tile.
        most = grid.tile * width * self._bytes
        self._idle = [_Buffer(device, most, on_host=target is None) for _ in range(1 if target else 2)]

    def add(self, tiles: Sequence[Window], infer: Callable[[Turn], Scores]) -> Iterator[DeviceStrip]:
        """Add a batch; yields what lies above its tiles."""
        scores = self._averaged(infer)
        size = scores.nbytes // scores.shape[0]
        for index, tile in enumerate(tiles):
            yield from self._advance(tile.y)
            with self._work.active():
                at = scores.pointer + index * size
                here = replace(tile, x=tile.x - self._computed.x)  # the sums begin at the first column that is computed
                self._work.kernels.add_tile(self._work.compute, self._sums, here, at)

    def flush(self) -> Iterator[DeviceStrip]:
        """What is left of the region after its last tile."""
        yield from self._advance(self._finished.bottom)

    def _averaged(self, infer: Callable[[Turn], Scores]) -> Tensor:
        """Scores (N, classes, tile, tile) of a batch in each turn, turned back and averaged."""
        if self._turns == (UPRIGHT,):
            return _tensor(infer(UPRIGHT))
        kernels, stream, total = self._work.kernels, self._work.compute, None
        for turn in self._turns:
            scores = _tensor(infer(turn))
            with self._work.active():
                total = total or self._sum_of_turns(scores)
                begin = turn == self._turns[0]
                kernels.add_turned(stream, total.pointer, scores.pointer, total.shape, turn, begin=begin)
        assert total is not None
        with self._work.active():
            kernels.divide(stream, total.pointer, math.prod(total.shape), len(self._turns))
        return total

    def _sum_of_turns(self, like: Tensor) -> Tensor:
        """Memory for the sum over the turns, made when it is first needed."""
        self._total = self._total or Tensor.allocate(self._work.device, like.shape, str(like.dtype))
        return self._total

    def _advance(self, y: int) -> Iterator[DeviceStrip]:
        """Move on to a row of the raster; rows above the region were computed for its sake and are dropped."""
        for until in self._region.steps(self._y, y):  # rows of tiles may have been left out
            yield from self._finish(until - self._y)

    def _finish(self, rows: int) -> Iterator[DeviceStrip]:
        """Queue the averaging of the next rows, and their copy to wherever they go."""
        work, width, y = self._work, self._computed.width, self._y
        with work.active():
            buffer = self._buffer(rows * width * self._bytes)
            probabilities = buffer.memory.pointer if self._bytes > 1 else None
            ids = buffer.memory.pointer + rows * width * (self._bytes - 1)
            lost = self._target.lost.pointer if self._target else None
            work.kernels.finish(work.compute, self._sums, y, rows, ids, probabilities, self._softmax, lost)
            self._y += rows
            if self._target or y < self._finished.y:
                if self._target:
                    self._keep(self._target, buffer, y, rows, ids)
                self._idle.append(buffer)  # the stream itself keeps the order
                return
            buffer.merged.record(work.compute)
            work.drain.wait(buffer.merged)
            coming = buffer.host(rows * width * self._bytes)
            work.drain.copy_out(coming, buffer.memory.pointer)
            buffer.copied.record(work.drain)
        wanted = replace(self._finished, y=y, height=rows)
        first = wanted.x - self._computed.x
        yield DeviceStrip(
            wanted, slice(first, first + wanted.width), (self._classes, rows, width), coming, buffer, self._idle
        )

    def _keep(self, target: Target, buffer: _Buffer, y: int, rows: int, ids: int) -> None:
        """Queue the copy of finished rows to the mask of the whole image."""
        stream, grid = self._work.compute, self._region.grid
        stream.copy(target.ids.pointer + y * grid.width, ids, rows * grid.width)
        if target.probabilities:
            for index in range(self._classes):
                to = target.probabilities.pointer + 4 * grid.width * (index * grid.height + y)
                stream.copy(to, buffer.memory.pointer + 4 * rows * grid.width * index, 4 * rows * grid.width)

    def _buffer(self, nbytes: int) -> _Buffer:
        """A buffer that is idle and large enough, or a new one."""
        for buffer in self._idle:
            if buffer.memory.nbytes >= nbytes:
                self._idle.remove(buffer)
                return buffer
        return _Buffer(self._work.device, nbytes, on_host=self._target is None)


def _tensor(scores: Scores) -> Tensor:
    assert isinstance(scores, Tensor)
    return scores


class _Buffer:
    """Finished rows on the GPU and on the host: probabilities, then ids. The events tell when each place has them."""

    def __init__(self, device: Device, nbytes: int, *, on_host: bool) -> None:
        self._pinned = device.pinned(nbytes) if on_host else None
        self.memory = device.allocate(nbytes)
        self.merged, self.copied = device.event(), device.event()

    def host(self, nbytes: int) -> NDArray[np.uint8]:
        """The first bytes of page-locked memory of the host."""
        assert self._pinned is not None
        return self._pinned.array(nbytes, np.uint8)


class DeviceStrip:
    """Finished rows that are on their way to the host; whoever asks waits for them.

    Args:
        window: Where the pixels that are wanted lie in the raster.
        columns: Which of the columns on their way are wanted.
        shape: Classes, rows and columns on their way.
        coming: The host's memory that they are copied to.
        buffer: The buffer that is busy until they have arrived.
        idle: Where the buffer goes then.

    Attributes:
        agreement: None: votes of tiles are counted on the host alone.
    """

    agreement: NDArray[np.uint8] | None = None

    def __init__(
        self,
        window: Window,
        columns: slice,
        shape: tuple[int, int, int],
        coming: NDArray[np.uint8],
        buffer: _Buffer,
        idle: list[_Buffer],
    ) -> None:
        self.window, self._columns = window, columns
        self._shape, self._coming, self._buffer, self._idle = shape, coming, buffer, idle
        self._bytes: NDArray[np.uint8] | None = None

    def ids(self) -> NDArray[np.uint8]:
        """Class ids (rows, columns)."""
        ids = self._fetched()[-math.prod(self._shape[1:]) :].reshape(self._shape[1:])
        return ids[:, self._columns]

    def probabilities(self) -> NDArray[np.float32]:
        """Probabilities (classes, rows, columns) float32, where they were asked for."""
        found = self._fetched()[: 4 * math.prod(self._shape)].view(np.float32).reshape(self._shape)
        return found[:, :, self._columns]

    def _fetched(self) -> NDArray[np.uint8]:
        if self._bytes is None:
            self._buffer.copied.synchronize()
            self._bytes = self._coming.copy()
            self._idle.append(self._buffer)
        return self._bytes
