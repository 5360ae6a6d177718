"""A program that shows runs while they go on: ``python -m fctl.runtime.view.live``, started by ``fctl-run``.

Its argument is a folder for pictures, which it removes at the end. Whoever starts it writes a line of JSON for each
thing that there is to tell, see `Told`; the program ends when nothing more can come. It prints the address of its page,
or why there is none, and looks into the folder of the run by itself.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..bundle.manifest import ClassInfo
from ..errors import FctlError
from ..raster.georeference import georeference_of
from ..raster.source import open_any
from ..segment.memory import resident_of
from ..segment.shards.folder import JOURNAL
from ..segment.shards.journal import Journal
from ..segment.shards.parts import ids_in
from .app import Exhibit
from .canvas import Canvas
from .layers import View, open_view
from .serve import serve

_EVERY = 1.0  # seconds between two looks
_LEISURE = 10  # times as long as the last picture took to write, until the next one


class Told:
    """What is known of the run that goes on.

    Lines are: ``{"image", "folder", "bands", "classes", "process"}`` for a run that begins, ``{"done", "total"}`` for
    its tiles, and ``{"mask"}`` for outputs that are in their places.

    Args:
        order: The line of the run that begins.
    """

    def __init__(self, order: dict[str, object]) -> None:
        self.order, self._mask, self._is_over = order, "", False
        self._done, self._total, self._first = 0, 0, -1
        self._began = self._since = time.monotonic()

    def heed(self, line: dict[str, object]) -> None:
        """Take over a line that tells of tiles or outputs."""
        if "mask" in line:
            self._mask, self._is_over = str(line["mask"]), True
            return
        self._done, self._total = int(str(line["done"])), int(str(line["total"]))
        if self._first < 0:
            self._first, self._since = self._done, time.monotonic()

    def taken_mask(self) -> Path | None:
        """The finished mask, once; None before and after."""
        mask, self._mask = self._mask, ""
        return Path(mask) if mask else None

    def now(self) -> dict[str, object]:
        """The same for the page: how much is done, how fast, how long it will take, and the memory of the run."""
        seconds, new = time.monotonic() - self._since, self._done - max(self._first, 0)
        speed = new / seconds if new and seconds else 0.0
        left = (self._total - self._done) / speed if speed else None
        return {
            "image": Path(str(self.order["image"])).name, "done": self._done, "total": self._total, "speed": speed,
            "left": left, "seconds": time.monotonic() - self._began, "over": self._is_over,
            "memory": resident_of(str(self.order["process"])),
        }  # fmt: skip


class Watch:
    """Looks into the folder of a run, and draws its finished shards.

    Args:
        told: The run.
        folder: A folder of its own for pictures.

    Attributes:
        view: What can be shown at first: the image, and nothing on it.

    Raises:
        FctlError: The image cannot be read.
    """

    def __init__(self, told: Told, folder: Path) -> None:
        self._told, self._folder, self._number = told, folder, 0
        self._image, self._run = Path(str(told.order["image"])), Path(str(told.order["folder"]))
        self._seen: set[str] = set()
        with open_any(self._image) as dataset:
            classes = _classes(told.order["classes"])
            self._canvas = Canvas(int(dataset.height), int(dataset.width), georeference_of(dataset), classes)
        self._next = 0.0
        self.view = self._drawn()

    def look(self) -> View | None:
        """What is to be shown now; None where nothing is new, or a picture was made a moment ago."""
        if mask := self._told.taken_mask():
            return self._opened(mask)
        journal = Journal.read(self._run / JOURNAL)
        if journal is None or time.monotonic() < self._next:
            return None
        files = {file.name: file for file in map(journal.file, sorted(journal.there))}
        new = [file for name, file in files.items() if name not in self._seen]
        for file in new:
            for window, ids in ids_in(file):
                self._canvas.place(window, ids)
            self._seen.add(file.name)
        return self._drawn() if new else None

    def _drawn(self) -> View:
        """The canvas as a file; the one before the last is removed."""
        started = time.monotonic()
        path = self._picture(self._number)
        self._canvas.save(path)
        self._picture(self._number - 2).unlink(missing_ok=True)
        self._number += 1
        self._next = time.monotonic() + _LEISURE * (time.monotonic() - started)
        return self._opened(path)

    def _picture(self, number: int) -> Path:
        return self._folder / f"{self._image.stem}_so_far_{number}.tif"

    def _opened(self, mask: Path) -> View:
        bands = self._told.order["bands"]
        try:
            return open_view({"mask": mask, "image": self._image}, bands if isinstance(bands, list) else None)
        except FctlError:  # other bands than a screen has, or without a place and too large for the canvas
            return open_view({"mask": mask})


def main() -> None:
    """Serve the page until standard input ends."""
    folder = Path(sys.argv[1])
    lines = map(json.loads, sys.stdin)
    try:
        first = next(lines, None)
        if first is not None:
            _show(first, lines, folder)
    except FctlError as error:
        print(error, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _show(first: dict[str, object], lines: Iterable[dict[str, object]], folder: Path) -> None:
    """Serve the page of the first run, and of those that follow."""
    ended = threading.Event()
    stage = _Stage(first, folder)

    def listen() -> None:
        with suppress(ValueError):  # a line that was cut off: whoever wrote it died
            for line in lines:
                stage.heed(line)
        ended.set()

    def watch() -> None:
        while not ended.wait(_EVERY):
            with suppress(FctlError, OSError):  # a shard that went away, a disk that is full: the next look may do
                stage.look()

    for work in (listen, watch):
        threading.Thread(target=work, daemon=True).start()
    serve(stage.exhibit, "127.0.0.1", None, opens=False, tell=lambda text: print(text, flush=True), ended=ended)


class _Stage:
    """The run that is shown."""

    def __init__(self, order: dict[str, object], folder: Path) -> None:
        self._folder, self._lock, self._runs = folder, threading.Lock(), 0
        self._begin(order)
        self.exhibit = Exhibit(self._watch.view, self.told)

    def told(self) -> dict[str, object]:
        """What is known of the run, for the page."""
        return self._told.now()

    def heed(self, line: dict[str, object]) -> None:
        """Take over a line."""
        if "image" not in line:
            self._told.heed(line)
            return
        with self._lock, suppress(FctlError):  # what cannot be shown leaves the run before on the page
            self._begin(line)
            self.exhibit.show(self._watch.view)

    def look(self) -> None:
        """Show what is new."""
        with self._lock:
            view = self._watch.look()
            if view:
                self.exhibit.show(view)

    def _begin(self, order: dict[str, object]) -> None:
        self._runs += 1
        folder = self._folder / str(self._runs)
        folder.mkdir()
        told = Told(order)
        self._watch, self._told = Watch(told, folder), told


def _classes(listed: object) -> tuple[ClassInfo, ...]:
    assert isinstance(listed, list)
    return tuple(ClassInfo(name=name, colour=tuple(colour)) for name, colour in listed)


if __name__ == "__main__":
    main()
