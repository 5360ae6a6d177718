"""Who makes the outputs of images: this process, several others, or nobody where parts are only put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from .live import LivePage, live_page
from .options import How, batch_size
from .outputs import Outputs
from .refine import refine
from .reports import name_of
from .run_options import EngineOptions, Limits, Segmentation
from .spread import SpreadOptions, leading, made_by
from .tables import progress_bars

if TYPE_CHECKING:
    from ..raster.places import Place
    from ..segment.jobs import FileJob
    from ..segment.maker import Maker
    from ..segment.results import Estimate, Paths, Report
    from ..segment.segmenter import Segmenter
    from ..storage.destination import Destination

_Action = Callable[["Place", "Paths"], "Report | Estimate"]
Outcome = tuple["Place", "Paths", Callable[[], "tuple[Report | Estimate, Maker]"]]
"""An image, where its outputs go, and what gives its report or raises what went wrong."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of each image.

    Attributes:
        how: What is read of it.
        outputs: What is written.
        limits: What a run may take.
        destination: Where outputs go when they are complete.
        live: Whether a page shows the runs.
    """

    how: How
    outputs: Outputs
    limits: Limits
    destination: Destination
    live: bool = False

    def job(self, image: Place, paths: Paths) -> FileJob:
        """What is asked of one image."""
        from ..segment.jobs import FileJob

        how, outputs, limits = self.how, self.outputs, self.limits
        return FileJob(
            image=image, paths=paths, bands=how.bands, overwrite=outputs.overwrite, resume=outputs.resume,
            memory=limits.memory_size(), on_bad_block=limits.on_bad_block, scale_range=how.scale_range,
            resolution=how.resolution, where=how.where, coarse=how.coarse, access=limits.access(),
        )  # fmt: skip

    def parts(self, paths: Paths) -> str | None:
        """Where parts go that other jobs make; None for beside the mask."""
        from ..segment.parts import parts_folder_of

        return self.destination.named(parts_folder_of(paths.mask)) if self.destination.staged else None

    def shared(self, job: FileJob) -> str | None:
        """Where workers on other machines put the shards of an image; None for beside the mask."""
        from ..segment.shards.folder import folder_of

        return self.destination.named(folder_of(job.paths.mask)) if self.destination.staged else None


def outcomes_of(
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, spread: SpreadOptions, asked: Asked
) -> Iterator[Outcome]:
    """The outcome of each image; whoever does the work is held meanwhile.

    Args:
        left: By image, where its outputs go.
        segmentation: How it is segmented.
        engine: What runs the network.
        spread: Who does the work.
        asked: What is asked of each image.

    Yields:
        Outcomes, in the order in which they can be asked for.
    """
    if segmentation.refine:
        yield from _refined(left, segmentation, engine, asked)
    elif asked.outputs.dry_run or not (spread.led or spread.assemble):
        yield from _here(left, segmentation, engine, spread, asked)
    elif spread.assemble:
        yield from _assembled(left, segmentation, asked)
    else:
        yield from _by_others(left, segmentation, engine, spread, asked)


def _here(
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, spread: SpreadOptions, asked: Asked
) -> Iterator[Outcome]:
    """Images that this process segments, or makes a part of."""
    from ..segment.jobs import maker_of
    from ..segment.refining import check_refiner

    with _segmenter(segmentation, engine, asked.limits) as segmenter, live_page(asked.live) as page:
        check_refiner(segmenter.manifest, asked.how.coarse)
        action = _estimator(segmenter, asked) if asked.outputs.dry_run else _runner(segmenter, asked, spread.part, page)

        def outcome(image: Place, paths: Paths) -> tuple[Report | Estimate, Maker]:
            return action(image, paths), maker_of(segmenter)

        for image, paths in left.items():
            yield image, paths, partial(outcome, image, paths)


def _refined(
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, asked: Asked
) -> Iterator[Outcome]:
    """Images that one bundle segments, and another one refines."""
    from ..segment.jobs import maker_of

    with (
        _segmenter(segmentation.first, engine, asked.limits) as segmenter,
        _segmenter(segmentation.last, engine, asked.limits) as refiner,
    ):

        def outcome(image: Place, paths: Paths) -> tuple[Report | Estimate, Maker]:
            return refine(segmenter, refiner, asked.job(image, paths)), maker_of(refiner)

        for image, paths in left.items():
            yield image, paths, partial(outcome, image, paths)


def _assembled(left: dict[Place, Paths], segmentation: Segmentation, asked: Asked) -> Iterator[Outcome]:
    """Images of which other jobs made all parts."""
    from ..segment.opening import bundle_of
    from ..segment.parts import assemble_parts

    bundle = bundle_of(segmentation.bundle, segmentation.scene_size)
    for image, paths in left.items():
        yield image, paths, partial(assemble_parts, bundle, replace(asked.job(image, paths), parts=asked.parts(paths)))


def _by_others(
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, spread: SpreadOptions, asked: Asked
) -> Iterator[Outcome]:
    """Images that other processes segment."""
    from ..spread.orders import Setup

    setup = Setup(
        bundle=segmentation.bundle, backend=engine.backend, precision=engine.precision, batch=batch_size(engine.batch),
        tta=segmentation.tta, scene_size=segmentation.scene_size, build_engines=engine.build_engines,
        contexts=segmentation.contexts, isolate=engine.isolate, access=asked.limits.access(),
    )  # fmt: skip
    images = list(left.items())
    jobs = {number: asked.job(image, paths) for number, (image, paths) in enumerate(images)}
    with leading(spread, setup) as lead:
        shared = asked.shared if spread.dask else lambda job: None

        def outcome(report: Callable[[], Report]) -> tuple[Report, Maker]:
            return report(), lead.introduction.maker

        for number, report in made_by(lead, jobs, shared):
            yield *images[number], partial(outcome, report)


def _segmenter(segmentation: Segmentation, engine: EngineOptions, limits: Limits) -> Segmenter:
    from ..segment.segmenter import Segmenter

    return Segmenter(
        segmentation.bundle,
        backend=engine.backend,
        precision=engine.precision,
        batch=batch_size(engine.batch),
        build_engines=engine.build_engines,
        tta=segmentation.tta,
        scene_size=segmentation.scene_size,
        contexts=segmentation.contexts,
        isolate=engine.isolate,
        sources=limits.access(),
    )


def _runner(segmenter: Segmenter, asked: Asked, part: str | None, page: LivePage) -> _Action:
    """What segments one image, or makes a part of it."""
    how, outputs, limits = asked.how, asked.outputs, asked.limits

    def action(image: Place, paths: Paths) -> Report:
        page.begin(image, paths, paths.options.classes(segmenter.manifest.classes), how.bands)
        with progress_bars("patches") as advance:

            def progress(done: int, total: int) -> None:
                advance(name_of(image), done, total)
                page.advance(done, total)

            report = segmenter.segment_file(
                image, paths, bands=how.bands, overwrite=outputs.overwrite, resume=outputs.resume,
                memory=limits.memory_size(), on_bad_block=limits.on_bad_block, scale_range=how.scale_range,
                resolution=how.resolution, where=how.where, coarse=how.coarse, part=part,
                parts=asked.parts(paths) if part else None, progress=progress,
            )  # fmt: skip
        page.end(paths)
        return report

    return action


def _estimator(segmenter: Segmenter, asked: Asked) -> _Action:
    """What tells how much one image would take."""
    how, outputs = asked.how, asked.outputs

    def action(image: Place, paths: Paths) -> Estimate:
        return segmenter.estimate(
            image, paths, bands=how.bands, overwrite=outputs.overwrite, resume=outputs.resume,
            memory=asked.limits.memory_size(), scale_range=how.scale_range, resolution=how.resolution, where=how.where,
            coarse=how.coarse, trial=True,
        )  # fmt: skip

    return action
