"""Two batches at a time: one is computed while the one before it is merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..stopwatch import Stopwatch
from ..tiling.merge import FinishedRows
from ..tiling.turns import Turn
from ..tiling.windows import Window
from .network import HostAccumulator, Scores

_Batch: TypeAlias = "tuple[Sequence[Window], Future[NDArray[np.float32]]]"


class Beside:
    """An accumulator on the host whose batches are computed in a thread; see `Accumulator`.

    `add` starts a batch and hands out what the batch before it finishes.

    Args:
        accumulator: What averages and merges.
        thread: An executor of one worker, which alone runs the network.
        stopwatch: What takes the time of waiting for it.
    """

    at_once = True

    def __init__(self, accumulator: HostAccumulator, thread: ThreadPoolExecutor, stopwatch: Stopwatch) -> None:
        self._accumulator, self._thread, self._stopwatch = accumulator, thread, stopwatch
        self._before: _Batch | None = None

    def add(self, tiles: Sequence[Window], infer: Callable[[Turn], Scores]) -> Iterator[FinishedRows]:
        """Add a batch; yields what lies above the tiles of the one before it."""
        computing = self._thread.submit(self._accumulator.averaged, infer)
        before, self._before = self._before, (tiles, computing)
        return self._merged(before)

    def flush(self) -> Iterator[FinishedRows]:
        """What is left after the last tile."""
        yield from self._merged(self._before)
        yield from self._accumulator.flush()

    def _merged(self, batch: _Batch | None) -> Iterator[FinishedRows]:
        if batch:
            tiles, scores = batch
            with self._stopwatch.stage("wait"):
                found = scores.result()
            yield from self._accumulator.merge(tiles, found)
