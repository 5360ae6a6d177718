"""The folder of a run, beside its mask: the journal, the shards that are done, and outputs that are being made."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ...atomic import as_output_error, empty_folders_removed, sync
from ...errors import OutputError
from ...raster.fingerprint import Fingerprint
from ...stopwatch import STOPPED, Stopwatch
from ...storage.base import Storage
from ...tiling.windows import Window
from ..levels import KEEP_ALL, Keep
from ..notices import counted
from .journal import Done, Journal
from .parts import Part, PartWriter

log = logging.getLogger(__name__)

SOURCE = "source"
"""The name under which a request has the fingerprint of the image."""

JOURNAL = "journal"
"""The name of a run's journal in its folder."""

_SUFFIX = ".fctl-run"
_COPYING = 8  # shards at a time that are copied from elsewhere
_LOCK, _OUTPUTS, _REPLACED, _TEMPORARY = "lock", "outputs", "replaced", "temporary"
_LIVE: set[RunFolder] = set()
_NONE: Mapping[str, Sequence[Path]] = {}


def folder_of(mask: Path) -> Path:
    """The folder of the run that writes a mask."""
    return mask.with_name(mask.stem + _SUFFIX)


def leave_live_folders() -> None:
    """Leave the folders of all runs of this process as an interrupted run leaves them, at once."""
    for folder in list(_LIVE):
        folder.leave()
        (folder.path / _LOCK).unlink(missing_ok=True)  # the lock itself ends with the process
        with contextlib.suppress(OSError):  # not empty: shards are kept
            folder.path.rmdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """Where shards lie that are not kept in the folder of a run. There they stay until its outputs are delivered.

    Attributes:
        store: The place, which other runs and machines see too.
        journal: The name under which the journal is kept there as well, after each shard; None where it is not.
    """

    store: Storage
    journal: str | None = None


class RunFolder:
    """The folder of a run that is under way; `run_folder` makes it.

    Args:
        mask: The mask that the run writes.
        journal: The run's journal.
        quiet: Whether nothing is said of finished shards that are kept, since whoever made them leaves them on purpose.
        shards: Where shards lie, if not in the folder itself.

    Attributes:
        path: The folder.
        journal: The run's journal.
    """

    def __init__(self, mask: Path, journal: Journal, *, quiet: bool = False, shards: Elsewhere | None = None) -> None:
        self.path, self.journal = journal.path.parent, journal
        self._mask, self._done, self._quiet, self._shards = mask, False, quiet, shards

    def writing(self) -> AbstractContextManager[None]:
        """Turn errors of the file system into OutputError, where files of the run are written."""
        return _written(self._mask, kept=bool(self.journal.done))

    def writer(self, shard: int, keep: Keep = KEEP_ALL, stopwatch: Stopwatch = STOPPED) -> PartWriter:
        """Start the file of a shard, which keeps so much of probabilities; raises OSError where that fails."""
        return PartWriter(self.journal.file(shard), keep, stopwatch)

    def parts(self, finished: Sequence[Window | None]) -> list[Part]:
        """The files of all shards.

        Args:
            finished: By shard, the pixels that it must cover; None for one that is not needed.

        Returns:
            The files, of which those that lie elsewhere are copied into the folder.

        Raises:
            OutputError: One is damaged, or cannot be copied.
        """
        wanted = {self.journal.file(shard): window for shard, window in enumerate(finished) if window}
        if self._shards:
            bring([path for path in wanted if not path.exists()], self._shards.store)
        return [Part(path, window) for path, window in wanted.items()]

    def add(self, done: Done) -> None:
        """Note that a shard is done, once its file is complete. One that belongs elsewhere is taken there first.

        Raises:
            OSError: The journal cannot be written.
            OutputError: The shard cannot be taken there.
        """
        file = self.journal.file(done.shard)
        if self._shards and file.exists():  # else whoever made it put it there
            self._shards.store.put(file, file.name)
            file.unlink()
        self.journal.add(done)
        if self._shards and self._shards.journal:
            self._shards.store.put(self.journal.path, self._shards.journal)

    @property
    def done(self) -> frozenset[int]:
        """Indices of the shards that are done and whose files are there."""
        if self._shards is None:
            return self.journal.there
        names = set(self._shards.store.names("shard-"))
        return frozenset(index for index in self.journal.done if self.journal.file(index).name in names)

    def place(self, sink: str, output: Path) -> Path:
        """Where an output is made, before it moves to its place, by the name of its sink."""
        made = self.path / _OUTPUTS / sink / output.name
        made.parent.mkdir(parents=True, exist_ok=True)
        return made

    @property
    def temporary(self) -> Path:
        """A folder for what the run needs for a while."""
        return self.path / _TEMPORARY

    def commit(self, outputs: Mapping[str, Path], companions: Mapping[str, Sequence[Path]] = _NONE) -> None:
        """Move all outputs to their places: all of them, or none.

        Args:
            outputs: The places, by the name of their sink. A file that is there is replaced.
            companions: The places of further files of a sink, in the folder of its output; they move with it.

        Raises:
            OSError: One of them cannot be moved; what was there before is there again.
        """
        files = [(sink, file) for sink, path in outputs.items() for file in (path, *companions.get(sink, ()))]
        for sink, output in files:
            sync(self.place(sink, output))  # what the shards are removed for must be on the disk
        self.journal.note_assembled([str(output.resolve()) for _, output in files])
        undo: list[tuple[Path, Path]] = []
        try:
            for number, (sink, output) in enumerate(files):
                output.parent.mkdir(parents=True, exist_ok=True)
                made, replaced = self.place(sink, output), self._replaced(number)
                if output.exists():
                    undo.append((replaced, output))
                    _move(output, replaced)
                if made.exists() or output in outputs.values():  # a sink may do without a companion
                    undo.append((output, made))
                    _move(made, output)
            for folder in {output.parent for _, output in files}:
                sync(folder)
        except BaseException:
            for now, before in reversed(undo):
                if now.exists():  # else it did not come to that
                    _move(now, before)
            raise
        self._done = True

    def clean(self) -> None:
        """Remove everything but the journal and finished shards; outputs are made of these once more."""
        self._put_back()
        for entry in self.path.iterdir():
            if entry.suffix == ".part":
                entry.unlink(missing_ok=True)
            elif entry.name in (_TEMPORARY, _OUTPUTS):
                shutil.rmtree(entry, ignore_errors=True)

    def leave(self) -> None:
        """End the run: keep what `resume` needs if there is any, else empty the folder; the lock stays."""
        _LIVE.discard(self)
        with contextlib.suppress(OSError):
            kept = len(self.done)
            if self._done or not kept:
                if not self._done:
                    self._put_back()
                _empty(self.path)
                if self._shards and not self._quiet and not self._done:
                    self._shards.store.clear()
            else:
                self.clean()
                if self._quiet:
                    return
                shards = counted(kept, "finished shard is", "finished shards are")
                log.info("%s kept in %s: go on with `resume`, or remove the folder", shards, self.path)

    def _replaced(self, number: int) -> Path:
        """Where a file that an output replaces waits until all outputs are in their places."""
        return self.path / f"{_REPLACED}-{number}"

    def _put_back(self) -> None:
        """Put back what was to be replaced by a run that was killed before its outputs were in their places."""
        for number, place in enumerate(self.journal.outputs):
            if self._replaced(number).exists() and not Path(place).exists():
                _move(self._replaced(number), Path(place))


def bring(files: Sequence[Path], store: Storage) -> None:
    """Copy files of the same names from a store, several at a time.

    Args:
        files: The files to write.
        store: Where they are.

    Raises:
        OutputError: One is not there, or cannot be copied.
    """

    def one(file: Path) -> None:
        try:
            store.get(file.name, file)
        except FileNotFoundError:
            raise OutputError(
                "a finished shard is gone", subject=f"{store.name}/{file.name}", remedy="go on with `resume`"
            ) from None

    with ThreadPoolExecutor(_COPYING, "fctl-copy") as threads:
        for _ in threads.map(one, files):
            pass


@contextmanager
def run_folder(
    mask: Path,
    request: Mapping[str, object],
    plan: Mapping[str, int],
    *,
    resume: bool,
    path: Path | None = None,
    shards: Elsewhere | None = None,
) -> Iterator[RunFolder]:
    """Work in the folder of a run, which no other run may use meanwhile.

    The folder is removed when the block ends well, or when no shard was finished. Else it stays, for `resume`.

    Args:
        mask: The mask that the run writes.
        request: What is asked, by name; values that JSON keeps as they are.
        plan: How the raster is cut into shards. A run that is resumed keeps to the plan in its journal.
        resume: Whether to go on where an earlier run ended. Otherwise its shards are removed.
        path: The folder, of a run that makes but a part of the shards and leaves them there; None for that of the mask.
        shards: Where shards lie, if not in the folder itself.

    Yields:
        The folder.

    Raises:
        OutputError: Another run writes this mask, the earlier run was asked something else, or the folder cannot be
            written.
    """
    quiet, path = path is not None, path or folder_of(mask)
    with empty_folders_removed(path.parents):
        with _written(mask):
            path.mkdir(parents=True, exist_ok=True)
        try:
            with _locked(path, mask), _opened(mask, path, request, plan, resume, quiet, shards) as folder:
                yield folder
        finally:
            with contextlib.suppress(OSError):  # not empty: shards are kept
                path.rmdir()


@contextmanager
def _opened(
    mask: Path,
    path: Path,
    request: Mapping[str, object],
    plan: Mapping[str, int],
    resume: bool,
    quiet: bool,
    shards: Elsewhere | None,
) -> Iterator[RunFolder]:
    """The folder, once it is ready for work; it is left as it must be, however the block ends."""
    with _written(mask):
        folder = RunFolder(mask, _journal(mask, path, request, plan, resume, quiet), quiet=quiet, shards=shards)
    _LIVE.add(folder)
    try:
        with _written(mask):
            folder.clean()
            folder.temporary.mkdir()
        yield folder
    finally:
        folder.leave()


def unfinished_commit(mask: Path) -> bool:
    """Whether a run was killed while it moved its outputs to their places."""
    journal = Journal.read(folder_of(mask) / JOURNAL)
    return journal is not None and bool(journal.outputs)


def _journal(
    mask: Path, path: Path, request: Mapping[str, object], plan: Mapping[str, int], resume: bool, part: bool
) -> Journal:
    """The journal of the run to go on with, or a new one in a folder that is cleared."""
    old = Journal.read(path / JOURNAL, mend=True)
    if resume and old:
        remedy = f"ask for the same, or {'remove the folder' if part else 'start anew without `resume`'}"
        check_same(path, old.request, request, remedy=remedy)
        return old
    if old and old.done:
        log.warning("%d finished shards of an earlier run are removed: it was not asked to `resume`", len(old.done))
    if old:
        RunFolder(mask, old).clean()
    _empty(path)
    return Journal.begin(path / JOURNAL, request, plan)


def _empty(path: Path) -> None:
    """Remove everything in a folder but the lock, which is held."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOCK:
            entry.unlink(missing_ok=True)


def check_same(
    subject: object,
    before: Mapping[str, object],
    now: Mapping[str, object],
    *,
    remedy: str,
    who: str = "the run to resume",
) -> None:
    """See that two requests are the same.

    Args:
        subject: What the error is about.
        before: One request.
        now: The other one.
        remedy: What to do about a difference.
        who: Who was asked the former.

    Raises:
        OutputError: They differ; it names the first difference.
    """
    for name in [*now, *(name for name in before if name not in now)]:
        if before.get(name) != now.get(name):
            raise OutputError(_difference(name, before.get(name), now.get(name), who), subject=subject, remedy=remedy)


def _difference(name: str, before: object, now: object, who: str) -> str:
    """What differs, in words."""
    if isinstance(before, dict) and isinstance(now, dict) and name == SOURCE:
        with contextlib.suppress(KeyError, ValueError):
            changed = Fingerprint.from_dict(before).difference(Fingerprint.from_dict(now))
            return f"the image is not the one of {who}: {changed}"
    return f"{who} had {name} {before}, now it is {now}"


@contextmanager
def _locked(path: Path, mask: Path) -> Iterator[None]:
    """Hold the lock of a run, which the system releases when the process dies."""
    lock = FileLock(path / _LOCK)
    with _written(mask):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"{mask} is being written by another run", remedy="wait for its end, or choose another `out`"
            ) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (path / _LOCK).unlink(missing_ok=True)  # while it is held: the file may be another run's afterwards
        lock.release()


def _written(mask: Path, *, kept: bool = False) -> AbstractContextManager[None]:
    """Turn errors of the file system into ours; the remedy depends on whether shards are kept."""

    def remedy(error: OSError) -> str:
        found = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another `out`"
        return f"mend that and go on with `resume`, or {found}" if kept else found

    return as_output_error(f"cannot write {mask}", remedy)


def _move(made: Path, place: Path) -> None:
    """Rename a file; where the place lies on another disk, copy it first."""
    try:
        made.replace(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = place.with_name(f".{place.name}.part")
        try:
            shutil.copyfile(made, beside)
            sync(beside)
            beside.replace(place)
        finally:
            beside.unlink(missing_ok=True)
        made.unlink()
