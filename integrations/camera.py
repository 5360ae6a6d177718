"""A camera or a video, segmented frame after frame: python integrations/camera.py SOURCE [--out overlaid.mp4].

SOURCE is a video file, or a camera as Linux names it (/dev/video0). Frames are decoded with PyAV (pip install av) in a
thread of their own while the engine works. Masks of a camera are never late: frames for which the engine has no time
are dropped. Of a video, every frame is segmented.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from fctl.runtime import Segmenter
from fctl.runtime.tiling.resampling import Pixels

Frame = NDArray[np.uint8]  # (height, width, 3), red, green and blue


def main() -> None:
    """Segment, write the masks over the frames, and tell how long frames waited."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a video file, or a camera such as /dev/video0")
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--frames", type=int, help="stop after so many masks; a camera goes on until Ctrl-C")
    parser.add_argument("--out", type=Path, help="a video of the frames with their masks laid over them")
    arguments = parser.parse_args()
    live = arguments.source.startswith("/dev/")
    with ExitStack() as stack:
        segmenter = stack.enter_context(Segmenter(arguments.bundle, backend=arguments.backend))
        colours = np.array([info.colour for info in segmenter.manifest.classes], np.uint8)
        stream = stack.enter_context(
            segmenter.stream(frames_of(arguments.source, live), policy="drop-oldest" if live else "block")
        )
        film = stack.enter_context(Film(arguments.out)) if arguments.out else None
        done = 0
        try:
            for found in islice(stream, arguments.frames):
                done += 1
                if film:
                    film.add(overlaid(found.pixels, found.ids, colours))
        except KeyboardInterrupt:
            pass
        waits = ", ".join(f"p{percentile:g} {1e3 * s:.0f} ms" for percentile, s in stream.latency().items())
        print(f"{done} masks, {stream.dropped} frames dropped; from frame to mask: {waits or 'no frames'}")


def frames_of(source: str, live: bool) -> Iterator[Frame]:
    """The frames of a video or of a camera.

    Args:
        source: The file, or the device.
        live: Whether it is a device.

    Yields:
        Frames (height, width, 3) uint8.
    """
    with av.open(source, format="v4l2" if live else None) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def overlaid(frame: Pixels, ids: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Frame:
    """A frame (height, width, 3) uint8 under the half-transparent colours (classes, 3) of its ids (height, width)."""
    return ((frame.astype(np.uint16) + colours[ids]) // 2).astype(np.uint8)


class Film:
    """A video that is written frame by frame. A context manager."""

    def __init__(self, path: Path) -> None:
        self._container = av.open(str(path), "w")
        self._video: av.VideoStream | None = None

    def add(self, frame: Frame) -> None:
        """Append a frame (height, width, 3) of even height and width; the first one says how large all are."""
        if self._video is None:
            self._video = self._container.add_stream("h264", rate=Fraction(25), options={"crf": "20"})
            self._video.height, self._video.width, self._video.pix_fmt = *frame.shape[:2], "yuv420p"
        for packet in self._video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
            self._container.mux(packet)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *error: object) -> None:
        if self._video is not None:
            self._container.mux(self._video.encode())
        self._container.close()


if __name__ == "__main__":
    main()
