"""One shard as a file: a ZIP archive with an array for each layer of each block, as NumPy's `.npz` files are."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, OutputError
from ...stopwatch import STOPPED, Stopwatch, timed
from ...tiling.windows import Window
from ..levels import KEEP_ALL, Keep, as_bytes, as_floats, confidence_of
from ..picture import PicturePart
from ..pipeline import Block

_Scalar = TypeVar("_Scalar", bound=np.generic)

_IDS, _PROBABILITIES, _CONFIDENCE, _SUMS, _WEIGHTS = "ids", "probabilities", "confidence", "sums", "weights"
_DAMAGED = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, NotImplementedError,
    zipfile.BadZipFile, zlib.error, InputError,
)  # fmt: skip
_OF_THE_SYSTEM = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOMEM)  # which say nothing of the file


class PartWriter:
    """Writes the blocks of one shard.

    The file has a temporary name until it is whole and on the disk.

    Args:
        path: The file.
        keep: What is kept of probabilities.
        stopwatch: What takes the time of writing.

    Raises:
        OSError: The file cannot be written.

    Attributes:
        stopwatch: What takes the time of writing.
    """

    def __init__(self, path: Path, keep: Keep = KEEP_ALL, stopwatch: Stopwatch = STOPPED) -> None:
        self._path, self._keep, self.stopwatch = path, keep, stopwatch
        self._temporary = path.with_suffix(f".{secrets.token_hex(4)}.part")  # two may write the same shard
        self._file = self._temporary.open("wb")
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)

    @timed("write")
    def add(self, block: Block) -> None:
        """Append a block, whose window becomes the name of its arrays."""
        window = block.window
        place = f"{window.y}-{window.x}-{window.height}-{window.width}"
        self._store(_IDS, place, block.ids)
        if block.agreement is not None:
            self._store(_CONFIDENCE, place, block.agreement)
        if (found := block.probabilities) is not None:
            if self._keep.probabilities:
                self._store(_PROBABILITIES, place, as_bytes(found) if self._keep.probabilities == "uint8" else found)
            elif self._keep.confidence and not self._keep.votes:
                self._store(_CONFIDENCE, place, confidence_of(found))
        if block.picture is not None:
            corner = (
                f"{block.picture.y}-{block.picture.x}-{block.picture.weights.shape[0]}-{block.picture.weights.shape[1]}"
            )
            self._store(_SUMS, corner, block.picture.sums, unique=place)
            self._store(_WEIGHTS, corner, block.picture.weights, unique=place)

    @timed("write")
    def finish(self) -> int:
        """Complete the file.

        Returns:
            Its size in bytes.
        """
        self._archive.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        self._temporary.replace(self._path)
        return size

    def abandon(self) -> None:
        """Remove what was written."""
        with contextlib.suppress(OSError, ValueError):
            self._file.close()
        self._archive.fp = None  # else it would write its directory to the closed file when it is collected
        self._temporary.unlink(missing_ok=True)

    def _store(self, layer: str, place: str, array: NDArray[np.generic], unique: str = "") -> None:
        name = f"{layer}/{place}" + (f"@{unique}" if unique else "")
        packed = array.dtype == np.uint8 or _is_constant(array)  # floats hardly shrink, but where there is no data
        entry: str | zipfile.ZipInfo = name if packed else zipfile.ZipInfo(name)  # of which the latter is stored
        with self._archive.open(entry, "w", force_zip64=array.nbytes > 1 << 30) as file:
            np.lib.format.write_array(cast(BinaryIO, file), np.ascontiguousarray(array), allow_pickle=False)


class WriterBehind:
    """Writes the blocks of one shard in a thread, one at a time, while the caller makes the next one.

    An error of a block is raised by the call that follows.

    Args:
        writer: What writes.
        thread: The thread, an executor of one worker.
    """

    def __init__(self, writer: PartWriter, thread: ThreadPoolExecutor) -> None:
        self._writer, self._thread = writer, thread
        self._adding: Future[None] | None = None

    def add(self, block: Block) -> None:
        """Append a block, once the one before it was."""
        self._wait()
        self._adding = self._thread.submit(self._writer.add, block)

    def finish(self) -> int:
        """Complete the file, see `PartWriter.finish`."""
        self._wait()
        return self._writer.finish()

    def abandon(self) -> None:
        """Remove what was written."""
        if self._adding:
            wait([self._adding])
        self._writer.abandon()

    def _wait(self) -> None:
        with self._writer.stopwatch.stage("wait"):
            if self._adding:
                self._adding.result()


def _is_constant(array: NDArray[np.generic]) -> bool:
    """Whether all elements are the same to the last bit, NaN included."""
    bits = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize)
    return bool((bits[0] == bits[-1]).all() and (bits == bits[0]).all())


@dataclass(frozen=True, slots=True)
class _Entry:
    """An array of a shard: its name in the archive, and the window that it covers."""

    name: str
    window: Window


def ids_in(path: Path) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """The class ids of a finished shard, for whoever looks on while the run goes on.

    Args:
        path: The file. It is left where it is, also if it is damaged.

    Yields:
        The window of each block in its raster, and the ids (rows, columns).

    Raises:
        OutputError: The file is damaged, or not there any more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                layer, _, place = name.partition("/")
                if layer == _IDS:
                    with archive.open(name) as file:
                        ids = np.lib.format.read_array(cast(BinaryIO, file), allow_pickle=False)
                    yield Window(*map(int, place.split("-"))), ids.astype(np.uint8, copy=False)
    except _DAMAGED as error:
        raise OutputError(f"a finished shard cannot be read ({error})", subject=path) from error


class Part:
    """Reads the file of one shard.

    Args:
        path: The file.
        finished: The pixels that its blocks must cover.

    Raises:
        OutputError: The file is damaged.
    """

    def __init__(self, path: Path, finished: Window) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        self._layers: dict[str, list[_Entry]] = {
            layer: [] for layer in (_IDS, _PROBABILITIES, _CONFIDENCE, _SUMS, _WEIGHTS)
        }
        with self._damage(), zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                layer, _, place = name.partition("/")
                self._layers[layer].append(_Entry(name, Window(*map(int, place.partition("@")[0].split("-")))))
            self._check(finished)

    def _check(self, finished: Window) -> None:
        """Raise ValueError unless the blocks cover the shard: no checksum guards the directory of an archive."""
        inside = [window for window in self.windows if window.within(finished.bottom, finished.right) == window]
        covered = sum(window.height * window.width for window in inside if window.y >= finished.y)
        if len(set(inside)) < len(self.windows) or covered != finished.height * finished.width:
            raise ValueError("blocks are missing")
        if any(len(entries) not in (0, len(inside)) for entries in self._layers.values()):
            raise ValueError("arrays are missing")

    @property
    def windows(self) -> list[Window]:
        """The windows of the blocks in it, in the order in which they were written."""
        return [entry.window for entry in self._layers[_IDS]]

    def ids(self, index: int) -> NDArray[np.uint8]:
        """Class ids (rows, columns) of a block, by its index in `windows`."""
        return self._read(self._layers[_IDS][index].name, np.uint8)

    def probabilities(self, index: int) -> NDArray[np.float32]:
        """Probabilities (classes, rows, columns) of a block, by its index in `windows`."""
        found = self._array(self._layers[_PROBABILITIES][index].name)
        levels = found.dtype == np.uint8
        return as_floats(found.astype(np.uint8, copy=False)) if levels else found.astype(np.float32, copy=False)

    @property
    def has_confidence(self) -> bool:
        """Whether confidence is kept beside probabilities."""
        return bool(self._layers[_CONFIDENCE])

    def confidence(self, index: int) -> NDArray[np.uint8]:
        """The confidence (rows, columns) of a block in 254ths, by its index in `windows`."""
        if self._layers[_CONFIDENCE]:
            return self._read(self._layers[_CONFIDENCE][index].name, np.uint8)
        return confidence_of(self.probabilities(index))

    def picture(self) -> Iterator[PicturePart]:
        """What the blocks add to the picture of the raster."""
        for sums, weights in zip(self._layers[_SUMS], self._layers[_WEIGHTS], strict=True):
            y, x = sums.window.y, sums.window.x
            yield PicturePart(y, x, self._read(sums.name, np.float32), self._read(weights.name, np.float32))

    def close(self) -> None:
        """Close the file, until it is read again."""
        if self._archive:
            self._archive.close()
            self._archive = None

    def _read(self, name: str, dtype: type[_Scalar]) -> NDArray[_Scalar]:
        return self._array(name).astype(dtype, copy=False)

    def _array(self, name: str) -> NDArray[np.generic]:
        with self._damage():
            self._archive = self._archive or zipfile.ZipFile(self._path)
            with self._archive.open(name) as file:
                array: NDArray[np.generic] = np.lib.format.read_array(cast(BinaryIO, file), allow_pickle=False)
                file.read(1)  # the checksum is compared at the end
        return array

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            if getattr(error, "errno", None) not in _OF_THE_SYSTEM:
                self._path.unlink(missing_ok=True)  # a run that is resumed makes it anew
            raise OutputError(
                f"a finished shard cannot be read back ({error})", subject=self._path, remedy="go on with `resume`"
            ) from error
