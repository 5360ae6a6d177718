"""``fctl-run``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ..choices import Backend, ContextEncoding, OnBadBlock, PrecisionChoice
from .area import AreaOptions
from .console import command
from .destinations import out_of
from .groups import OptionGroup
from .images import images_of
from .interrupts import ending_at_once
from .options import Bands, BatchOrAuto, BuildEngines, How, Resolution, ScaleRange, band_numbers, batch_size, one_of
from .outputs import SPELLINGS, Outputs
from .reports import Results, name_of
from .spellings import Spellings
from .tables import progress_bars
from .targets import scene_of, targets_of

if TYPE_CHECKING:
    from ..raster.places import Place
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
    bands: Bands = None
    scale_range: ScaleRange = None
    resolution: Resolution = "auto"


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
) -> None:
    """Segment images into masks with class ids, colours and the image's georeference.

    Writes <name>_mask.tif with its colours (.qml) and names (.aux.xml), and <name>_preview.jpg; see docs/outputs.md.
    """
    from ..raster.resolution import Resolution
    from ..segment.outputs import deliver

    Resolution.parsed(segmentation.resolution)  # raises before anything is read
    batch_size(engine.batch)  # likewise
    how = How(
        bands=band_numbers(segmentation.bands), scale_range=segmentation.scale_range,
        resolution=segmentation.resolution, where=area.where(),
    )  # fmt: skip
    named = images_of(images, recursive=many.recursive)
    out = out_of(outputs.out, outputs.staging)
    targets = targets_of([scene_of(images, named)] if many.mosaic else named, outputs, out)
    results = Results(len(targets), as_json=many.json, named=out.destination.named)
    with ending_at_once():
        left = dict(_left_to_do(targets, segmentation, how, engine, outputs, limits, many, results, out.destination))
        if left:
            with _segmenter(segmentation, engine, limits) as segmenter:
                action = (_estimator if outputs.dry_run else _runner)(segmenter, how, out.here(outputs), limits)
                for image, paths in left.items():
                    with results.of(image):
                        found = action(image, paths)
                        if not outputs.dry_run:
                            deliver(paths, out.destination)
                        results.add(found, segmenter.engine)
    if code := results.finish():
        raise typer.Exit(code)


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
) -> Iterator[tuple[Place, Paths]]:
    """The images whose outputs can be written and are not there yet; looked at before the engine is opened."""
    from ..bundle.store import read_bundle
    from ..segment.opening import encodes_once, with_scene_size
    from ..segment.outputs import asked_tags, check_outputs, deliver, is_finished

    asked: dict[str, str] = {}
    if many.skip_existing or destination.staged:
        bundle = read_bundle(segmentation.bundle)
        if segmentation.scene_size:
            bundle = with_scene_size(bundle, segmentation.scene_size)
        turns, once = 8 if segmentation.tta else 1, encodes_once(bundle, segmentation.contexts)
        asked = asked_tags(
            bundle.manifest, engine.precision, turns, how.bands, how.scale_range, where=how.where,
            resolution=how.resolution, once=once,
        )  # fmt: skip
    for image, paths in targets.items():
        with results.of(image):
            remote = limits.allow_remote
            if many.skip_existing and is_finished(image, paths, asked, remote=remote, destination=destination):
                results.skip(image)
                continue
            waits = destination.staged and is_finished(image, paths, asked, remote=remote)
            check_outputs(
                image, paths, overwrite=outputs.overwrite or (waits and destination.is_begun(paths.mask)),
                resume=outputs.resume, remote=remote, destination=destination,
            )  # fmt: skip
            if waits and not outputs.dry_run:
                deliver(paths, destination)
                results.upload(image, paths)
            else:
                yield image, paths


def _segmenter(segmentation: Segmentation, engine: EngineOptions, limits: Limits) -> Segmenter:
    from ..raster.access import Access
    from ..segment.memory import parsed_size
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
        sources=Access(
            sources="any" if limits.allow_remote else "local",
            max_pixels=limits.max_pixels,
            max_bands=limits.max_bands,
            max_block=parsed_size("`max_block`", limits.max_block),
        ),
    )


def _runner(segmenter: Segmenter, how: How, outputs: Outputs, limits: Limits) -> _Action:
    """What segments one image."""
    from ..segment.memory import parsed_size

    memory = None if limits.memory is None else parsed_size("`memory`", limits.memory)

    def action(image: Place, paths: Paths) -> Report:
        with progress_bars("patches") as advance:
            report = segmenter.segment_file(
                image, paths, bands=how.bands, overwrite=outputs.overwrite, resume=outputs.resume, memory=memory,
                on_bad_block=limits.on_bad_block, scale_range=how.scale_range, resolution=how.resolution,
                where=how.where, progress=partial(advance, name_of(image)),
            )  # fmt: skip
        return report

    return action


def _estimator(segmenter: Segmenter, how: How, outputs: Outputs, limits: Limits) -> _Action:
    """What tells how much one image would take."""
    from ..segment.memory import parsed_size

    memory = None if limits.memory is None else parsed_size("`memory`", limits.memory)

    def action(image: Place, paths: Paths) -> Estimate:
        return segmenter.estimate(
            image, paths, bands=how.bands, overwrite=outputs.overwrite, resume=outputs.resume, memory=memory,
            scale_range=how.scale_range, resolution=how.resolution, where=how.where, trial=True,
        )  # fmt: skip

    return action


run_app = command(
    run,
    examples=("image.tif", "scenes/*.tif --bundle city.fctl -o masks/ --probabilities"),
    spellings=Spellings(options={"--sources": "--allow-remote"}, values=SPELLINGS.values),
)
