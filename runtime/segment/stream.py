"""Frame after frame: the next ones are fetched while the engine works on this one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import get_args

import numpy as np

from ..choices import StreamPolicy
from ..errors import InputError
from ..tiling.resampling import Pixels
from .results import Segmentation

_REMEMBERED = 10_000  # latest frames whose latency is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedFrame(Segmentation):
    """One frame of a stream, segmented.

    Attributes:
        index: Number of the frame among all that came, from 0.
        pixels: The frame itself, (height, width, bands).
        waited: Seconds from when the frame came until the engine was free for it.
        latency: Seconds from when the frame came until its mask was ready.
    """

    index: int
    pixels: Pixels
    waited: float
    latency: float


class Stream(Iterator[StreamedFrame]):
    """Segments frames in the order in which they come. An iterator, and a context manager.

    A thread fetches frames from the first `next` on, so that a camera or a decoder works while the engine does. It
    fetches none after `close`, but cannot be woken from a frame that it waits for.

    Args:
        frames: The frames, (height, width, bands) each; they may never end.
        segment: Segments one of them.
        ahead: How many frames may wait for the engine.
        policy: What happens when one more comes, see `fctl.runtime.choices.StreamPolicy`.

    Raises:
        InputError: There is no such policy, or no frame may wait.

    An error of `frames` is raised by `next`, after the frames that came before it.
    """

    def __init__(
        self, frames: Iterable[Pixels], segment: Callable[[Pixels], Segmentation], ahead: int, policy: StreamPolicy
    ) -> None:
        if policy not in get_args(StreamPolicy):
            expected = " or ".join(repr(known) for known in get_args(StreamPolicy))
            raise InputError(subject="`policy`", expected=expected, found=repr(policy))
        if ahead < 1:
            raise InputError(subject="`ahead`", expected="1 or more frames", found=ahead)
        self._queue, self._segment = _Queue(ahead, drops=policy == "drop-oldest"), segment
        self._frames: Iterable[Pixels] | None = frames  # until the thread has them
        self._latencies = deque[float](maxlen=_REMEMBERED)

    @property
    def dropped(self) -> int:
        """How many frames were dropped so far."""
        return self._queue.dropped

    def latency(self, percentiles: Sequence[float] = (50, 95, 99)) -> dict[float, float]:
        """Seconds from when a frame came until its mask was ready, over the latest 10,000 frames.

        Args:
            percentiles: Which percentiles, from 0 to 100.

        Returns:
            Seconds by percentile; empty before the first frame.
        """
        if not self._latencies:
            return {}
        found = np.percentile(self._latencies, percentiles)
        return {percentile: float(seconds) for percentile, seconds in zip(percentiles, found, strict=True)}

    def __next__(self) -> StreamedFrame:
        if self._frames is not None:
            frames, self._frames = self._frames, None
            threading.Thread(target=_fetch, args=(frames, self._queue), name="fctl-frames", daemon=True).start()
        frame = self._queue.take()
        if frame is None:
            raise StopIteration
        began = time.perf_counter()
        found = self._segment(frame.pixels)
        latency = time.perf_counter() - frame.came
        self._latencies.append(latency)
        return StreamedFrame(
            ids=found.ids, probabilities=found.probabilities, index=frame.index, pixels=frame.pixels,
            waited=began - frame.came, latency=latency,
        )  # fmt: skip

    def close(self) -> None:
        """Fetch no more frames; those that wait are forgotten."""
        self._queue.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_queue"):  # the thread knows the queue alone, so that a forgotten stream ends it
            self.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A frame that waits: its number, its pixels, and when it came."""

    index: int
    pixels: Pixels
    came: float


class _Queue:
    """Frames that wait, at most `ahead` of them; one thread puts them in and another takes them out."""

    def __init__(self, ahead: int, *, drops: bool) -> None:
        self.dropped = 0
        self._ahead, self._drops = ahead, drops
        self._waiting, self._changed = deque[_Waiting](), threading.Condition()
        self._ended, self._closed = False, False
        self._error: BaseException | None = None

    def put(self, frame: _Waiting) -> bool:
        """Add a frame, when or once there is room for it; False where nobody wants any more."""
        with self._changed:
            if self._drops and len(self._waiting) == self._ahead:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._ahead)
            if self._closed:
                return False
            self._waiting.append(frame)
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None) -> None:
        """Say that no more frames come, and why if that is an error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self) -> _Waiting | None:
        """The oldest frame, once there is one; None after the last.

        Raises:
            BaseException: What ended the frames, once.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._closed)
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def close(self) -> None:
        """Forget what waits, and let the other thread end."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()


def _fetch(frames: Iterable[Pixels], queue: _Queue) -> None:
    """Put frames into a queue until they end or nobody wants any more."""
    try:
        for index, pixels in enumerate(frames):
            if not queue.put(_Waiting(index, pixels, time.perf_counter())):
                return
    except BaseException as error:  # it belongs to whoever takes the frames
        queue.end(error)
    else:
        queue.end(None)
