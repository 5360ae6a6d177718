"""Finished shards -> the outputs of a run, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from ..bundle.manifest import Manifest
from ..raster.georeference import Georeference
from ..raster.source import RasterSource
from ..tiling.windows import Window
from .frame import Frame
from .jobs import FileJob
from .maker import Maker
from .notices import warn_of_blocks, warn_of_scores, warn_of_values
from .outputs import asked_tags, made_tags, scene_tags
from .picture import PictureScale
from .refining import coarse_tags
from .results import Report
from .shards.folder import RunFolder
from .shards.journal import Done
from .shards.mosaic import Mosaic
from .shards.parts import Part
from .shards.plan import ShardPlan
from .sinks import MaskedRaster, companions_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The raster of a run, as its outputs tell of it.

    Attributes:
        frame: How it is worked at.
        georeference: Where the wanted part of it lies.
        tags: What was measured over all of it, as text by the name of a tag.
    """

    frame: Frame
    georeference: Georeference
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, raster: RasterSource, frame: Frame) -> Subject:
        """What the outputs of an open raster tell of it."""
        box = frame.area.box
        return cls(
            frame=frame, georeference=raster.georeference.moved(box.y, box.x),
            tags={"FCTL_SCALE_BOUNDS": str(raster.scaling)} if raster.scaling else {},
        )  # fmt: skip

    def windows(self, plan: ShardPlan) -> list[Window | None]:
        """By shard, the pixels of the raster that it finishes; None for one that finishes none."""
        return [self.frame.rescale.raster_window(shard.finished) for shard in plan.shards]


def write_outputs(
    manifest: Manifest, maker: Maker, job: FileJob, subject: Subject, parts: Sequence[Part], folder: RunFolder
) -> None:
    """Make all outputs of finished shards, and move them to their places together.

    Args:
        manifest: The manifest of the bundle.
        maker: What computed the shards.
        job: What is asked.
        subject: The raster.
        parts: All of its shards, open.
        folder: Where outputs are made.

    Raises:
        OSError: An output cannot be written, or not moved to its place.
        OutputError: A shard is damaged.
    """
    box = subject.frame.area.box
    mosaic, scale = Mosaic(box, parts), PictureScale.of(box)
    raster = MaskedRaster(
        height=box.height, width=box.width, georeference=subject.georeference, area=subject.frame.area,
        classes=job.paths.options.classes(manifest.classes), options=job.paths.options,
        tags=asked_tags(
            manifest, maker.precision, maker.turns, job.bands, job.scale_range, where=job.where,
            resolution=job.resolution, once=maker.once,
        )
        | coarse_tags(job.coarse, job.access)
        | made_tags(manifest, maker)
        | dict(subject.tags)
        | scene_tags(job.image)
        | job.paths.options.tags(),
        picture=lambda: scale.picture(mosaic.picture(), manifest.input.dtype),
    )  # fmt: skip
    with ExitStack() as stack:
        places = [(sink, folder.place(sink.name, path)) for sink, path in job.sinks]
        writers = [stack.enter_context(sink.open(place, raster)) for sink, place in places]
        for block in mosaic.blocks(probabilities=job.keep.probabilities is not None, confidence=job.keep.confidence):
            for write in writers:
                write(block)
    beside = {sink.name: companions_of(sink, path) for sink, path in job.sinks}
    folder.commit({sink.name: path for sink, path in job.sinks}, beside)


def report_of(job: FileJob, names: Sequence[str], frame: Frame, done: Collection[Done], implausible: int) -> Report:
    """What came of all shards, those of earlier runs included.

    Args:
        job: What was asked.
        names: The names of the classes.
        frame: How the raster was worked at.
        done: What came of each shard.
        implausible: Pixels without data for a value that nobody declared, which were seen before there were shards.

    Returns:
        The report, but for what this run took.
    """
    bad = {window for shard in done for window in shard.bad_blocks}
    return Report(
        image=job.image, paths=job.paths, height=frame.area.box.height, width=frame.area.box.width,
        tiles=len(frame.grid), seconds=0, area=frame.part, coarse=job.coarse,
        pixels={name: sum(shard.pixels.get(index, 0) for shard in done) for index, name in enumerate(names)},
        not_finite=sum(shard.not_finite for shard in done),
        implausible=implausible + sum(shard.implausible for shard in done),
        bad_blocks=tuple(Window(*window) for window in sorted(bad)),
    )  # fmt: skip


def warn_of(report: Report) -> None:
    """Log warnings of what is odd in an image."""
    name = str(report.image)
    warn_of_values(name, report.implausible)
    warn_of_scores(name, report.not_finite)
    warn_of_blocks(name, report.bad_blocks)
