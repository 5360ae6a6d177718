"""Parts of a run that many jobs make, each by itself, and the one job that assembles them (docs/scale.md)."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from ..bundle.store import Bundle
from ..errors import OutputError
from ..raster.source import open_raster
from ..storage.base import Storage
from ..storage.places import storage_of
from ..tiling.windows import Window
from .assemble import Subject, report_of, warn_of, write_outputs
from .frame import frame_of
from .jobs import FileJob, request_of
from .maker import Maker, told
from .outputs import check_outputs
from .refining import check_refining
from .results import Report
from .shards.folder import JOURNAL, Elsewhere, bring, check_same, run_folder
from .shards.journal import Done, Journal
from .shards.parts import Part
from .shards.plan import ShardPlan
from .shards.share import Share

_SUFFIX = ".fctl-parts"
_DIFFERENT = "run all parts in the same way, or remove the folders of those that differ"


def parts_folder_of(mask: Path) -> Path:
    """The folder in which the parts of a run are kept, beside the mask."""
    return mask.with_name(mask.stem + _SUFFIX)


def folder_of_part(mask: Path, share: Share) -> Path:
    """The folder of one part of a run."""
    return parts_folder_of(mask) / f"{share.index}-of-{share.count}"


def kept_in(store: Storage, share: Share, folder: Path) -> Elsewhere:
    """What keeps a part in a store. What an earlier job of the part wrote down comes from there, if it is not here.

    Args:
        store: The store, in which all parts of a run lie.
        share: The part.
        folder: Its folder on this machine.

    Returns:
        The place of its shards.
    """
    if not (folder / JOURNAL).exists():
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            store.get(_journal_name(share), folder / JOURNAL)
    return Elsewhere(store=store, journal=_journal_name(share))


def _journal_name(share: Share) -> str:
    return f"part-{share.index}-of-{share.count}"


def _brought(mask: Path, store: Storage) -> None:
    """Bring what parts left in a store into the folders in which they would lie on this machine."""
    journals = list[Journal | None]()
    for name in store.names("part-"):
        if match := re.fullmatch(r"part-(\d+)-of-(\d+)", name):
            folder = folder_of_part(mask, Share(int(match[1]), int(match[2])))
            folder.mkdir(parents=True, exist_ok=True)
            store.get(name, folder / JOURNAL)
            journals.append(Journal.read(folder / JOURNAL))
    there = set(store.names("shard-"))  # once: there may be many thousands
    files = [journal.file(shard) for journal in journals if journal for shard in journal.done]
    bring([file for file in files if file.name in there and not file.exists()], store)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What jobs left of a run, as far as it goes together.

    Attributes:
        journals: By the number of a part, what its jobs wrote down.
        count: How many parts the run has.
    """

    journals: dict[int, Journal]
    count: int

    @classmethod
    def found(cls, mask: Path) -> Parts:
        """What lies beside a mask.

        Args:
            mask: The mask that the run is to write.

        Returns:
            The parts, of which at least one is there.

        Raises:
            OutputError: There are none, or parts that do not go together.
        """
        folder = parts_folder_of(mask)
        shares = dict[Share, Journal]()
        for place in sorted(folder.glob("*-of-*")):
            match = re.fullmatch(r"(\d+)-of-(\d+)", place.name)
            journal = Journal.read(place / JOURNAL)
            if match and journal:
                shares[Share(int(match[1]), int(match[2]))] = journal
        counts = sorted({share.count for share in shares})
        if not counts:
            raise OutputError(
                subject=folder, expected="parts of a run", found="none", remedy="make them with `part` 1/N to N/N first"
            )
        if len(counts) > 1:
            found = " and ".join(f"{len([s for s in shares if s.count == count])} of {count}" for count in counts)
            raise OutputError(
                subject=folder, expected="parts of one run", found=found, remedy="remove those that are not wanted"
            )
        first = next(iter(shares.values()))
        for journal in shares.values():
            check_same(folder, first.request, journal.request, who="another part", remedy=_DIFFERENT)
            check_same(folder, first.plan, journal.plan, who="another part", remedy=_DIFFERENT)
        return cls(journals={share.index: journal for share, journal in shares.items()}, count=counts[0])

    @property
    def first(self) -> Journal:
        """The journal of a part; all were asked the same."""
        return next(iter(self.journals.values()))

    def done(self) -> dict[int, tuple[Journal, Done]]:
        """By index, the shards that are done and whose files are there."""
        return {index: (journal, journal.done[index]) for journal in self.journals.values() for index in journal.there}

    def check_complete(self, done: Sequence[int], shards: int) -> None:
        """See that no shard is missing.

        Raises:
            OutputError: Some are; it names their parts.
        """
        missing = set(range(shards)).difference(done)
        if missing:
            parts = Share(1, self.count).holding(missing, shards)
            raise OutputError(
                f"part {_ranges(parts)} of {self.count} is missing or not finished",
                subject=self.first.path.parent.parent,
                remedy="run it with `part`, then assemble once more",
            )


def assemble_parts(bundle: Bundle, job: FileJob) -> tuple[Report, Maker]:
    """Make the outputs of a run whose parts were made by other jobs, and remove the parts.

    Parts in a store stay there: this machine may be gone before the outputs are where they belong.

    Args:
        bundle: The bundle that they ran, whose engine is not needed here.
        job: What was asked of them.

    Returns:
        What came of the image, and what computed it.

    Raises:
        RasterError: The image is missing, or another one.
        InputError: An argument does not fit.
        OutputError: Parts are missing, do not go together or were asked something else; or a file cannot be written.
    """
    started, manifest, mask = time.monotonic(), bundle.manifest, job.paths.mask
    job.paths.options.classes(manifest.classes)  # raises where a colour is for no class
    check_refining(manifest, job)
    check_outputs(job.image, job.paths, overwrite=job.overwrite, resume=True, remote=job.remote)
    store = storage_of(job.parts) if job.parts else None
    if store:
        _brought(mask, store)
    parts = Parts.found(mask)
    first = parts.first
    maker = Maker.of_request(first.request)
    asked = request_of(replace(maker, bundle=told(bundle)), manifest, job)
    check_same(parts_folder_of(mask), first.request, asked, who="the parts", remedy="ask for the same")
    with open_raster(
        job.image, manifest.image, job.bands, access=job.access, cache=0, scale_range=job.scale_range
    ) as raster:
        frame = frame_of(job, manifest, raster)
        subject = Subject.of(raster, frame)
    plan = ShardPlan.over(frame.grid).as_in(first.plan)
    done = parts.done()
    parts.check_complete(tuple(done), len(plan.shards))
    with run_folder(mask, asked, first.plan, resume=True) as folder:
        opened = [_opened(done, n, window) for n, window in enumerate(subject.windows(plan)) if window]
        with folder.writing(), job.stopwatch.stage("write"):
            write_outputs(manifest, maker, job, subject, opened, folder)
        shutil.rmtree(parts_folder_of(mask), ignore_errors=True)
    report = report_of(job, manifest.class_names, frame, [one for _, one in done.values()], 0)
    report = replace(report, seconds=time.monotonic() - started, computed=0)
    warn_of(report)
    return report, maker


def _opened(done: dict[int, tuple[Journal, Done]], shard: int, window: Window) -> Part:
    journal, _ = done[shard]
    return Part(journal.file(shard), window)


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in order, in words: those that follow each other as a range."""
    runs = [list(group) for _, group in groupby(enumerate(numbers), key=lambda item: item[1] - item[0])]
    spans = [(run[0][1], run[-1][1]) for run in runs]
    return ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in spans)
