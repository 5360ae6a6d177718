"""``fctl-run``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import Backend, ContextEncoding, OnBadBlock, PrecisionChoice
from .area import AreaOptions
from .console import command
from .destinations import out_of
from .groups import OptionGroup
from .images import images_of
from .interrupts import ending_at_once
from .live import LivePage, check_live, live_page
from .options import Bands, BatchOrAuto, BuildEngines, How, Resolution, ScaleRange, band_numbers, batch_size, one_of
from .outputs import SPELLINGS, Outputs
from .refine import check_alone, refine
from .reports import Results, name_of
from .spellings import Spellings
from .spread import SpreadOptions, leading, made_by
from .tables import progress_bars
from .targets import scene_of, targets_of

if TYPE_CHECKING:
    from ..raster.access import Access
    from ..raster.places import Place
    from ..segment.jobs import FileJob
    from ..segment.maker import Maker
    from ..segment.results import Estimate, Paths, Report
    from ..segment.segmenter import Segmenter
    from ..storage.destination import Destination

_Action = Callable[["Place", "Paths"], "Report | Estimate"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions(OptionGroup):
    """What runs the network."""

    panel = "Engine"

    backend: Annotated[
        Backend,
        typer.Option(metavar="ENGINE", help=f"{one_of(Backend)}. auto: the fastest that is installed and ready."),
    ] = "auto"
    precision: Annotated[
        PrecisionChoice,
        typer.Option(
            metavar="PRECISION",
            help=f"{one_of(PrecisionChoice)}. bf16 needs OpenVINO and a processor that can; fp16 and int8 a bundle "
            "that has them. auto: the fastest here of those that the bundle was validated for.",
        ),
    ] = "fp32"
    batch: BatchOrAuto = "4"
    build_engines: BuildEngines = False
    isolate: Annotated[
        bool,
        typer.Option("--isolate", help="Run the engine in a child process, which a graph of a stranger may crash."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ManyImages(OptionGroup):
    """How many images are found, passed over and reported."""

    panel = "Many images"

    mosaic: Annotated[
        bool,
        typer.Option("--mosaic", help="Take all images, tiles of one grid, as one: contexts see across their borders."),
    ] = False
    recursive: Annotated[bool, typer.Option("--recursive", help="Take the images of folders within folders too.")] = (
        False
    )
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Pass over images whose outputs are there, made in the same way.")
    ] = False
    json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each image on standard output, and no tables.")
    ] = False
    live: Annotated[
        bool,
        typer.Option("--live", help="Serve a page that fills while the run goes on, with progress (docs/view.md)."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Limits(OptionGroup):
    """What an image may be, and what a run may take."""

    panel = "Limits"

    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most memory of the whole process, as 600M or 2G: kept to, or refused."),
    ] = None
    on_bad_block: Annotated[
        OnBadBlock,
        typer.Option(help="A block of an image that cannot be read: fail, or nodata to leave it out and go on."),
    ] = "fail"
    allow_remote: Annotated[
        bool,
        typer.Option("--allow-remote", help="Open whatever GDAL opens, also what names other files: trust the images."),
    ] = False
    max_pixels: Annotated[int, typer.Option(min=1, help="Most pixels of an image.")] = 40_000_000_000
    max_bands: Annotated[int, typer.Option(min=1, help="Most bands of an image.")] = 1000
    max_block: Annotated[
        str, typer.Option(metavar="SIZE", help="Most memory of one block of an image, as GDAL decodes it.")
    ] = "2G"

    def memory_size(self) -> int | None:
        """Most bytes of memory, or None."""
        from ..segment.memory import parsed_size

        return None if self.memory is None else parsed_size("`memory`", self.memory)

    def access(self) -> Access:
        """Which images may be opened."""
        from ..raster.access import Access
        from ..segment.memory import parsed_size

        return Access(
            sources="any" if self.allow_remote else "local", max_pixels=self.max_pixels, max_bands=self.max_bands,
            max_block=parsed_size("`max_block`", self.max_block),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Segmentation(OptionGroup):
    """How images are segmented."""

    panel = "Segmentation"

    bundle: Annotated[str, typer.Option(help="A bundle folder, or 'default' for the one shipped with fctl.")] = (
        "default"
    )
    tta: Annotated[
        bool, typer.Option("--tta", help="Segment every patch in all 8 turns and average: better, 8 times the work.")
    ] = False
    contexts: Annotated[
        ContextEncoding,
        typer.Option(
            metavar="auto|exact|shared",
            help="Encode contexts once a patch (exact) or once a raster (shared: much faster, few pixels differ); "
            "auto: shared where the bundle was validated for it.",
        ),
    ] = "auto"
    scene_size: Annotated[
        int | None,
        typer.Option(min=1, help="Side in pixels of the blocks that a global context shows of large rasters."),
    ] = None
    refine: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="A bundle that refines the masks that --bundle makes (docs/refining.md)."),
    ] = None
    coarse: Annotated[
        Path | None,
        typer.Option(metavar="MASK", help="For a --bundle that refines masks: the mask of the one image."),
    ] = None
    bands: Bands = None
    scale_range: ScaleRange = None
    resolution: Resolution = "auto"

    @property
    def last(self) -> Segmentation:
        """How the bundle is opened that makes the outputs: the one that refines masks, where there is one."""
        if self.refine is None:
            return self
        return replace(self, bundle=self.refine, refine=None, contexts="auto", resolution="auto")

    @property
    def first(self) -> Segmentation:
        """How the bundle is opened whose masks are refined."""
        return replace(self, refine=None, scene_size=None)

    def check(self, images: int) -> None:
        """Refuse what cannot be refined, before any image is opened.

        Raises:
            InputError: The bundles do not go together, or one mask is given for several images.
            BundleError: A bundle is missing or damaged.
        """
        from ..bundle.store import read_bundle
        from ..errors import InputError
        from ..segment.refining import check_pair, check_refiner

        if self.coarse is not None and images > 1:
            raise InputError(
                subject="`coarse`", expected="one image, whose mask it is", found=f"{images} images",
                remedy="name the bundle that makes masks, and the one that refines them with `refine`",
            )  # fmt: skip
        if self.coarse is not None and self.refine is not None:
            raise InputError(
                "`coarse` is a mask that is there, `refine` is for one that `bundle` makes", remedy="give one of them"
            )
        if self.refine is not None:
            check_pair(read_bundle(self.bundle).manifest, read_bundle(self.refine).manifest)
        elif self.coarse is not None:
            check_refiner(read_bundle(self.bundle).manifest, self.coarse)


def run(
    images: Annotated[  # no paths: names of parts of containers may hold "//"
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Files, folders, patterns, lists (.txt), or parts of containers as GDAL names them."
        ),
    ],
    segmentation: Segmentation,
    area: AreaOptions,
    engine: EngineOptions,
    outputs: Outputs,
    limits: Limits,
    many: ManyImages,
    spread: SpreadOptions,
) -> None:
    """Segment images into masks with class ids, colours and the image's georeference.

    Writes <name>_mask.tif with its colours (.qml) and names (.aux.xml), and <name>_preview.jpg; see docs/outputs.md.
    """
    from ..raster.resolution import Resolution

    Resolution.parsed(segmentation.resolution)  # raises before anything is read
    batch_size(engine.batch)  # likewise
    spread.check()
    if many.live:
        check_live({
            "--memory": limits.memory, "--mosaic": many.mosaic, "--allow-remote": limits.allow_remote,
            "--workers": spread.workers, "--dask": spread.dask, "--part": spread.part, "--assemble": spread.assemble,
            "--dry-run": outputs.dry_run, "--refine": segmentation.refine,
        })  # fmt: skip
    how = How(
        bands=band_numbers(segmentation.bands), scale_range=segmentation.scale_range,
        resolution=segmentation.resolution, where=area.where(), coarse=segmentation.coarse,
    )  # fmt: skip
    named = images_of(images, recursive=many.recursive)
    out = out_of(outputs.out, outputs.staging)
    targets = targets_of([scene_of(images, named)] if many.mosaic else named, outputs, out)
    segmentation.check(len(targets))
    if segmentation.refine:
        check_alone(spread, dry_run=outputs.dry_run)
    results = Results(len(targets), as_json=many.json, named=out.destination.named)
    with ending_at_once():
        left = dict(
            _left_to_do(targets, segmentation, how, engine, outputs, limits, many, results, out.destination, spread)
        )
        if left:
            asked = _Asked(
                how=how, outputs=out.here(outputs), limits=limits, destination=out.destination, live=many.live
            )
            for image, paths, outcome in _outcomes(left, segmentation, engine, spread, asked):
                with results.of(image):
                    found, maker = outcome()
                    if not outputs.dry_run and not spread.part:
                        _deliver(paths, out.destination, spread)
                    results.add(found, maker)
    if code := results.finish():
        raise typer.Exit(code)


@dataclass(frozen=True, kw_only=True)
class _Asked:
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


_Outcome = tuple["Place", "Paths", Callable[[], "tuple[Report | Estimate, Maker]"]]


def _outcomes(
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, spread: SpreadOptions, asked: _Asked
) -> Iterator[_Outcome]:
    """For each image, what gives its report or raises what went wrong; whoever does the work is held meanwhile."""
    if segmentation.refine:
        yield from _refined(left, segmentation, engine, asked)
    elif asked.outputs.dry_run or not (spread.led or spread.assemble):
        yield from _here(left, segmentation, engine, spread, asked)
    elif spread.assemble:
        yield from _assembled(left, segmentation, asked)
    else:
        yield from _by_others(left, segmentation, engine, spread, asked)


def _here(
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, spread: SpreadOptions, asked: _Asked
) -> Iterator[_Outcome]:
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
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, asked: _Asked
) -> Iterator[_Outcome]:
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


def _assembled(left: dict[Place, Paths], segmentation: Segmentation, asked: _Asked) -> Iterator[_Outcome]:
    """Images of which other jobs made all parts."""
    from ..segment.opening import bundle_of
    from ..segment.parts import assemble_parts

    bundle = bundle_of(segmentation.bundle, segmentation.scene_size)
    for image, paths in left.items():
        yield image, paths, partial(assemble_parts, bundle, replace(asked.job(image, paths), parts=asked.parts(paths)))


def _by_others(
    left: dict[Place, Paths], segmentation: Segmentation, engine: EngineOptions, spread: SpreadOptions, asked: _Asked
) -> Iterator[_Outcome]:
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


def _left_to_do(
    targets: dict[Place, Paths],
    segmentation: Segmentation,
    how: How,
    engine: EngineOptions,
    outputs: Outputs,
    limits: Limits,
    many: ManyImages,
    results: Results,
    destination: Destination,
    spread: SpreadOptions,
) -> Iterator[tuple[Place, Paths]]:
    """The images whose outputs can be written and are not there yet; looked at before the engine is opened."""
    from ..segment.outputs import check_outputs, is_finished

    asked: dict[str, str] = {}
    if many.skip_existing or destination.staged:
        asked = _asked_of(segmentation, how, engine, limits)
    for image, paths in targets.items():
        with results.of(image):
            remote = limits.allow_remote
            if many.skip_existing and is_finished(
                image, paths, asked, remote=remote, destination=destination, coarse=how.coarse
            ):
                results.skip(image)
                continue
            waits = destination.staged and is_finished(image, paths, asked, remote=remote, coarse=how.coarse)
            check_outputs(
                image, paths, overwrite=outputs.overwrite or (waits and destination.is_begun(paths.mask)),
                resume=outputs.resume, remote=remote, destination=destination,
            )  # fmt: skip
            if waits and not outputs.dry_run:
                _deliver(paths, destination, spread)
                results.upload(image, paths)
            else:
                yield image, paths


def _asked_of(segmentation: Segmentation, how: How, engine: EngineOptions, limits: Limits) -> dict[str, str]:
    """What the tags of a mask say that is made as is asked."""
    from ..segment.opening import bundle_of, encodes_once
    from ..segment.outputs import asked_tags
    from ..segment.refining import coarse_tags, told_of
    from ..segment.where import EVERYWHERE

    def tags(one: Segmentation, how: How) -> dict[str, str]:
        bundle, turns = bundle_of(one.bundle, one.scene_size), 8 if one.tta else 1
        return asked_tags(
            bundle.manifest, engine.precision, turns, how.bands, how.scale_range, where=how.where,
            resolution=one.resolution, once=encodes_once(bundle, one.contexts),
        )  # fmt: skip

    if not segmentation.refine:
        return tags(segmentation, how) | coarse_tags(how.coarse, limits.access())
    return tags(segmentation.last, how) | told_of(tags(segmentation.first, replace(how, where=EVERYWHERE)))


def _deliver(paths: Paths, destination: Destination, spread: SpreadOptions) -> None:
    """Take outputs where they go. Only then nobody needs any more what workers on other machines put there."""
    from ..segment.outputs import deliver
    from ..segment.parts import parts_folder_of
    from ..segment.shards.folder import folder_of
    from ..storage.places import storage_of

    deliver(paths, destination)
    if destination.staged and (spread.assemble or spread.dask):
        folder = parts_folder_of(paths.mask) if spread.assemble else folder_of(paths.mask)
        storage_of(destination.named(folder)).clear()


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


def _runner(segmenter: Segmenter, asked: _Asked, part: str | None, page: LivePage) -> _Action:
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


def _estimator(segmenter: Segmenter, asked: _Asked) -> _Action:
    """What tells how much one image would take."""
    how, outputs = asked.how, asked.outputs

    def action(image: Place, paths: Paths) -> Estimate:
        return segmenter.estimate(
            image, paths, bands=how.bands, overwrite=outputs.overwrite, resume=outputs.resume,
            memory=asked.limits.memory_size(), scale_range=how.scale_range, resolution=how.resolution, where=how.where,
            coarse=how.coarse, trial=True,
        )  # fmt: skip

    return action


run_app = command(
    run,
    examples=("image.tif", "scenes/*.tif --bundle city.fctl -o masks/ --probabilities"),
    spellings=Spellings(options={"--sources": "--allow-remote"}, values=SPELLINGS.values),
)
