"""Streams: frames are fetched ahead of the engine, in order, and what has no room waits or is dropped."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from fctl.runtime import Segmentation, Segmenter, Stream
from fctl.runtime.choices import StreamPolicy
from fctl.runtime.errors import InputError
from tests.runtime import tiny

_PATIENCE = 10.0  # seconds for what another thread must have done

Frame = NDArray[np.uint8]


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter(tiny.TINY, backend="onnxruntime") as found:
        yield found


@pytest.fixture
def frames(rng: np.random.Generator) -> list[Frame]:
    return [rng.integers(0, 256, (20 + 5 * index, 30, 3), np.uint8) for index in range(6)]


class Engine:
    """Segments a frame only once it may."""

    def __init__(self) -> None:
        self.begun, self.allowed = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, pixels: Frame) -> Segmentation:
        self.begun.release()
        assert self.allowed.acquire(timeout=_PATIENCE)
        return Segmentation(ids=pixels[:, :, 0], probabilities=None)


class Camera:
    """Gives its frames, and knows how many were fetched and whether it was let go."""

    def __init__(self, frames: list[Frame], asked: int) -> None:
        self._frames, self._asked = frames, asked
        self.given, self.all_asked, self.closed = 0, threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        try:
            for frame in self._frames:
                self.given += 1
                if self.given == self._asked:
                    self.all_asked.set()
                yield frame
        finally:
            self.closed.set()


def test_frames_come_in_order_each_as_segment_gives_it(segmenter: Segmenter, frames: list[Frame]) -> None:
    stream = segmenter.stream(iter(frames))
    for index, found in enumerate(stream):
        assert found.index == index
        assert found.pixels is frames[index]
        assert 0 <= found.waited <= found.latency
        np.testing.assert_array_equal(found.ids, segmenter.segment(frames[index]).ids)
    assert (index, stream.dropped) == (len(frames) - 1, 0)
    assert next(stream, None) is None


def test_a_stream_gives_probabilities(segmenter: Segmenter, frames: list[Frame]) -> None:
    (found,) = segmenter.stream(frames[:1], probabilities=True)
    np.testing.assert_array_equal(found.probabilities, segmenter.segment(frames[0], probabilities=True).probabilities)


def test_frames_are_fetched_while_the_engine_works_and_wait(frames: list[Frame]) -> None:
    engine, camera = Engine(), Camera(frames, asked=4)
    stream = Stream(camera, engine, 2, "block")
    taken = list[int]()
    reader = threading.Thread(target=lambda: taken.extend(found.index for found in stream))
    reader.start()
    assert engine.begun.acquire(timeout=_PATIENCE)  # it works on the first, two wait, and the fourth has no room
    assert camera.all_asked.wait(_PATIENCE)
    assert (camera.given, stream.dropped, taken) == (4, 0, [])
    for _ in frames:
        engine.allowed.release()
    reader.join(_PATIENCE)
    assert (taken, stream.dropped) == ([0, 1, 2, 3, 4, 5], 0)


def test_the_oldest_frames_are_dropped_where_masks_may_not_be_late(frames: list[Frame]) -> None:
    engine, camera = Engine(), Camera(frames, asked=len(frames))
    stream = Stream(camera, engine, 2, "drop-oldest")
    taken = list[int]()
    reader = threading.Thread(target=lambda: taken.extend(found.index for found in stream))
    reader.start()
    assert engine.begun.acquire(timeout=_PATIENCE)
    assert camera.closed.wait(_PATIENCE)  # all frames came while the engine worked on one of the first
    for _ in frames:
        engine.allowed.release()
    reader.join(_PATIENCE)
    assert taken[-2:] == [4, 5]
    assert taken == sorted(taken)
    assert stream.dropped == len(frames) - len(taken) > 0


def test_latency_is_that_of_frames_that_were_segmented(segmenter: Segmenter, frames: list[Frame]) -> None:
    stream = segmenter.stream(frames)
    assert stream.latency() == {}
    seconds = [found.latency for found in stream]
    assert stream.latency((0, 50, 100)) == {
        0: min(seconds), 50: pytest.approx(float(np.median(seconds))), 100: max(seconds)
    }  # fmt: skip


def test_an_error_of_the_frames_comes_after_the_frames_before_it(segmenter: Segmenter, frames: list[Frame]) -> None:
    def camera() -> Iterator[Frame]:
        yield from frames[:2]
        raise OSError("the cable")

    stream = segmenter.stream(camera())
    assert [next(stream).index, next(stream).index] == [0, 1]
    with pytest.raises(OSError, match="the cable"):
        next(stream)
    assert next(stream, None) is None


def _segmented(pixels: Frame) -> Segmentation:
    return Segmentation(ids=pixels[:, :, 0], probabilities=None)


def test_a_closed_stream_lets_its_frames_go(frames: list[Frame]) -> None:
    camera = Camera(frames, asked=1)
    with Stream(camera, _segmented, 1, "block") as stream:
        assert next(stream).index == 0
    assert camera.closed.wait(_PATIENCE)
    assert camera.given <= 3
    assert next(stream, None) is None


def test_a_forgotten_stream_lets_its_frames_go(frames: list[Frame]) -> None:
    camera = Camera(frames, asked=1)
    for _ in Stream(camera, _segmented, 1, "block"):
        break
    gc.collect()
    assert camera.closed.wait(_PATIENCE)
    assert camera.given <= 3


@pytest.mark.parametrize(("ahead", "policy", "named"), [(0, "block", "`ahead`"), (2, "newest", "`policy`")])
def test_what_a_stream_cannot_do_is_refused(
    segmenter: Segmenter, frames: list[Frame], ahead: int, policy: StreamPolicy, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        segmenter.stream(frames, ahead=ahead, policy=policy)
